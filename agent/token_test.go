// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/istiod-agent/istiod-agent/agent/ca"
	"github.com/istiod-agent/istiod-agent/agent/machine"
	"github.com/istiod-agent/istiod-agent/agent/notices"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// vaultOfTokens answers what Vault does about a token, and counts.
type vaultOfTokens struct {
	lookup, renew  string // answers; an error where they begin with a status
	looked, renewd int
}

func (v *vaultOfTokens) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer := v.lookup
	switch r.URL.Path {
	case "/v1/auth/token/lookup-self":
		v.looked++
	case "/v1/auth/token/renew-self":
		v.renewd++
		answer = v.renew
	default:
		http.NotFound(w, r)
		return
	}
	if rest, denied := strings.CutPrefix(answer, "403 "); denied {
		w.WriteHeader(http.StatusForbidden)
		answer = rest
	}
	_, _ = io.WriteString(w, answer)
}

func lookup(ttl, life int64, more string) string {
	return fmt.Sprintf(`{"data":{"ttl":%d,"creation_ttl":%d,"type":"service"%s}}`, ttl, life, more)
}

func TestKeepToken(t *testing.T) {
	t.Parallel()
	const (
		renewable = `,"renewable":true,"num_uses":0,"expire_time":"2030-01-02T03:04:05.6789Z"`
		fixed     = `,"renewable":false,"num_uses":0,"expire_time":"2030-01-02T03:04:05.6789Z"`
		denied    = `403 {"errors":["1 error occurred:\n\t* permission denied\n\n"]}`
		unknown   = `403 {"errors":["2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"]}`
	)
	renewed := func(seconds int64) string {
		return fmt.Sprintf(`{"auth":{"client_token":"t","lease_duration":%d,"renewable":true}}`, seconds)
	}
	for name, test := range map[string]struct {
		lookup, renew string
		renewals      int
		event         string        // of a warning or not, empty for none
		problem       string        // in the status, empty for none
		next          time.Duration // when it is looked at again
		end           bool          // in the metric
	}{
		"young":                        {lookup(86400, 86400, renewable), "", 0, "", "", time.Hour, true},
		"half of its life is over":     {lookup(43200, 86400, renewable), renewed(86400), 1, "", "", time.Hour, true},
		"short":                        {lookup(10, 20, renewable), renewed(20), 1, "", "", 10 * time.Second, true},
		"shorter than any":             {lookup(1, 1, renewable), "", 0, "", "", 5 * time.Second, true},
		"without an end":               {lookup(0, 0, `,"renewable":false,"num_uses":0,"expire_time":null`), "", 0, "", "", time.Hour, false},
		"not renewable":                {lookup(8640000, 8640000, fixed), "", 0, "TokenExpires true", "", time.Hour, true},
		"not renewable, and soon over": {lookup(86400, 8640000, fixed), "", 0, "TokenExpires true", "ends at 2030-01-02T03:04:00Z, after which no CA certificate can be renewed: it is not renewable", 5 * time.Minute, true},
		"not renewable, and short":     {lookup(900, 3600, fixed), "", 0, "TokenExpires true", "the token in Secret istio-system/vault-token ends at", 5 * time.Minute, true},
		"a batch token":                {`{"data":{"ttl":60,"creation_ttl":3600,"type":"batch","renewable":false,"num_uses":0}}`, "", 0, "TokenExpires true", "it is a batch token", 30 * time.Second, true},
		"at its longest life":          {lookup(20, 3600, renewable), renewed(20), 1, "TokenExpires true", "it has reached its maximum TTL", 10 * time.Second, true},
		"may not renew itself":         {lookup(20, 3600, renewable), denied, 1, "TokenExpires true", "may not renew itself", 10 * time.Second, true},
		"of few uses":                  {lookup(86400, 86400, `,"renewable":true,"num_uses":2`), "", 0, "TokenExpires true", "allows a limited number of calls (num_uses)", 5 * time.Minute, true},
		"of its last use":              {lookup(86400, 86400, `,"renewable":true,"num_uses":-1`), "", 0, "TokenExpires true", "num_uses", 5 * time.Minute, true},
		"of many uses":                 {lookup(86400, 86400, `,"renewable":true,"num_uses":1000`), "", 0, "TokenExpires true", "", time.Hour, true},
		"without the right to look":    {denied, "", 0, "VaultPolicyDenies false", "", time.Hour + machine.PollInterval, false},
		"not known":                    {unknown, "", 0, "VaultNotAuthorized true", "it does not know the token in Secret istio-system/vault-token", machine.PollInterval, false},
		"an answer of nothing":         {`{"data":{}}`, "", 0, "", "", machine.PollInterval, false},
		"an answer of other types":     {`{"data":{"ttl":"soon","creation_ttl":[],"renewable":"yes","type":1,"num_uses":{},"expire_time":5}}`, "", 0, "", "", time.Hour, false},
		"the largest numbers":          {lookup(1<<62, 1<<62, fixed), "", 0, "TokenExpires true", "", time.Hour, true},
		"negative numbers":             {lookup(-5, -5, renewable), "", 0, "", "", time.Hour, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			vault := &vaultOfTokens{lookup: test.lookup, renew: test.renew}
			server := httptest.NewServer(vault)
			t.Cleanup(server.Close)
			a, specifications, reporter := newAgent(t)
			cluster := &stored{secret: map[string][]byte{"token": []byte("hvs.CAESIA")}}
			a.Vault.APIServer = cluster
			specifications.certificate = named("mine", 1)
			of := specifications.certificate.Spec.AgentCA.Vault
			of.Server, of.KubernetesAuth, of.TokenSecretRef = server.URL, nil, &certificatesv1.ObjectRef{Name: "vault-token"}
			a.observe(a.started)
			put(t, a, newSet(t), note{Digest: digest(a.desired)})
			a.apply(machine.Confirmed{}, a.started)
			check := func(now time.Time) (due time.Time) {
				if machine.Next(a.state, now).Action == machine.CheckToken {
					a.conclude(a.checkToken(t.Context(), now), nil)
				}
				a.report()
				return machine.Next(a.state, now).Until
			}
			check(a.started)
			due := check(a.started) // not again yet
			if vault.looked != 1 || vault.renewd != test.renewals {
				t.Errorf("%d lookups, %d renewals", vault.looked, vault.renewd)
			}
			want := []string{"mine " + test.event}
			if test.event == "" {
				want = nil
			}
			if !slices.Equal(reporter.events, want) {
				t.Errorf("told %q, want %q", reporter.events, want)
			}
			if status := reporter.status.Error; !strings.Contains(status, test.problem) || test.problem == "" && status != "" || strings.Contains(status, "hvs") {
				t.Errorf("status %q, want %q", status, test.problem)
			}
			if next := due.Sub(a.started); next != test.next {
				t.Errorf("looks again in %s, want %s", next, test.next)
			}
			var metrics bytes.Buffer
			a.Metrics.Write(&metrics)
			if end := !strings.Contains(metrics.String(), "istiod_agent_vault_token_not_after_seconds 0\n"); end != test.end {
				t.Errorf("that the metric has an end is %t:\n%s", end, metrics.String())
			}
			if problem := strings.Contains(metrics.String(), "istiod_agent_vault_token_problem 1\n"); problem != (test.problem != "") {
				t.Errorf("that the metric has a problem is %t", problem)
			}
			// A token whose uses are counted costs no other; a new one in the Secret is looked up.
			due = check(due)
			if limited := strings.Contains(test.lookup, `"num_uses":`) && !strings.Contains(test.lookup, `"num_uses":0`) && !strings.Contains(test.lookup, `"num_uses":{`); (vault.looked == 1) != limited {
				t.Errorf("%d lookups of the same token", vault.looked)
			}
			before := vault.looked
			cluster.secret = map[string][]byte{"token": []byte("hvs.another")}
			vault.lookup = lookup(86400, 86400, renewable)
			check(due)
			if vault.looked != before+1 || reporter.status.Error != "" {
				t.Errorf("%d lookups after %d; the new token has the problem %q", vault.looked, before, reporter.status.Error)
			}
		})
	}
}

// A login by a service account has no token to look after, nor has a specification that was changed to one.
func TestKeepTokenOfAServiceAccount(t *testing.T) {
	t.Parallel()
	a, specifications, _ := newAgent(t)
	specifications.certificate = named("mine", 1)
	a.observe(a.started)
	put(t, a, newSet(t), note{Digest: digest(a.desired)})
	a.apply(machine.Confirmed{}, a.started)
	a.notices.Set(notices.Token, ca.TokenExpires, "of before")
	a.observe(a.started)
	if _, problem := a.notices.Problems(); problem != "" {
		t.Error(problem)
	}
	if step := machine.Next(a.state, a.started.Add(day)); step.Action != machine.Wait { // a check would need an API server
		t.Errorf("the next step is %+v", step)
	}
}
