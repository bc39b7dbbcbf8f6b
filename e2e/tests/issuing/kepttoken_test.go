// SPDX-License-Identifier: Apache-2.0

package issuing

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/vaultserver"
)

// made creates a token with the rights of the guide's role.
func (s *setting) made(t *testing.T, request api.TokenCreateRequest) string {
	t.Helper()
	request.Policies = []string{vaultserver.Role}
	request.NoParent = request.Type != "batch"
	made, err := s.vault.Client.Auth().Token().CreateWithContext(t.Context(), &request)
	must(t, err)
	s.know("the token of the Secret", made.Auth.ClientToken)
	return made.Auth.ClientToken
}

// tokenWarning waits for a warning about the token with a text.
func (s *setting) tokenWarning(t *testing.T, says string) {
	t.Helper()
	cluster.Within(t, time.Minute, "a warning says "+says, func() error {
		return contains(strings.Join(s.events(t, "Warning", "TokenExpires"), "\n"), says)
	})
}

// The agent renews a token that can be renewed. It warns of one that cannot, and reports its end. A new token in the Secret
// is enough.
func TestSecretTokenRenewal(t *testing.T) {
	s := newSetting(t, vaultserver.Options{})
	proxy := s.proxy(t)
	s.allow(t)
	const life = 20 * time.Second
	first := s.made(t, api.TokenCreateRequest{TTL: life.String()})
	s.keep(t, map[string]string{"token": first})
	s.specify(t, fromSecret)
	sidecar := s.runs(t)
	cluster.Within(t, 2*time.Minute, "the token is older than it would have become", func() error {
		found, err := s.vault.Client.Auth().Token().LookupWithContext(t.Context(), first)
		if err != nil {
			t.Fatalf("the token was not renewed in time: %v", err)
		}
		created, err := found.Data["creation_time"].(interface{ Int64() (int64, error) }).Int64()
		if age := time.Since(time.Unix(created, 0)); err != nil || age < life+life/4 {
			return errors.Join(err, fmt.Errorf("it is %s old", age))
		}
		return nil
	})
	if warned := s.events(t, "Warning", "TokenExpires"); len(warned) > 0 {
		t.Errorf("a token that can be renewed is warned of: %q", warned)
	}
	s.well(t, sidecar)

	s.keep(t, map[string]string{"token": s.token(t, life.String())}) // not renewable
	s.tokenWarning(t, "after which no CA certificate can be renewed: it is not renewable")
	cluster.Within(t, time.Minute, "the status says that the token is gone", func() error {
		state, entry := s.status(t)
		if state != "FAILED" {
			return fmt.Errorf("state %s", state)
		}
		return contains(fmt.Sprint(entry["error"]), "it does not know the token in Secret "+s.Namespace+"/vault-token")
	})
	_, err := sidecar.Get(t.Context(), "/readyz")
	must(t, err) // istiod has a valid CA

	s.keep(t, map[string]string{"token": s.made(t, api.TokenCreateRequest{Type: "batch", TTL: "1h"})})
	s.tokenWarning(t, "it is a batch token")
	s.well(t, sidecar)
	must(t, agents.Renew(t.Context(), shared, s.certificate(), "once"))
	cluster.Within(t, time.Minute, "it renews with a batch token", func() error { return s.metric(t, sidecar, renewed, 1) })
	if left := s.events(t, "Normal", "NotTidied"); len(left) > 0 || proxy.Count(revokePath) > 0 {
		t.Errorf("the token was to be revoked: %q, %q", left, proxy.Calls())
	}
}

// The agent looks up a token with few uses once and warns of it. It uses a token without the default policy as it is.
func TestSecretTokenLimits(t *testing.T) {
	for name, test := range map[string]struct {
		request              api.TokenCreateRequest
		kind, reason, says   string
		lookups, atMostCalls int
	}{
		"few uses":          {api.TokenCreateRequest{TTL: "1h", NumUses: 6}, "Warning", "TokenExpires", "allows a limited number of calls (num_uses)", 1, 6},
		"no default policy": {api.TokenCreateRequest{TTL: "1h", NoDefaultPolicy: true}, "Normal", "VaultPolicyDenies", "cannot renew it or watch its end", 1, 6},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSetting(t, vaultserver.Options{})
			proxy := s.proxy(t)
			s.allow(t)
			s.keep(t, map[string]string{"token": s.made(t, test.request)})
			s.specify(t, fromSecret)
			s.issues(t)
			s.istiod(t)
			sidecar := s.sidecar(t)
			cluster.Within(t, time.Minute, "it says so", func() error {
				return contains(strings.Join(s.events(t, test.kind, test.reason), "\n"), test.says)
			})
			must(t, agents.Renew(t.Context(), shared, s.certificate(), "once"))
			cluster.Within(t, time.Minute, "it renews", func() error { return s.metric(t, sidecar, renewed, 1) })
			if failed := failures(t, sidecar); len(failed) > 0 || proxy.Count("/auth/token/lookup-self") != test.lookups {
				t.Errorf("failures %v, calls %q", failed, proxy.Calls())
			}
			if left := s.events(t, "Normal", "NotTidied"); len(left) > 0 {
				t.Errorf("not tidied: %q", left)
			}
		})
	}
}

// A login that ends by itself (a batch token, or one without remaining uses) is not reported as left behind. If the role's
// limit is too small, the message names it.
func TestLoginLimits(t *testing.T) {
	for name, test := range map[string]struct {
		role    map[string]any
		change  func(map[string]any)
		revokes int
		says    string // when it is refused
	}{
		"batch":        {map[string]any{"token_type": "batch"}, nil, 0, ""},
		"used up":      {map[string]any{"token_num_uses": 1}, nil, 0, ""},
		"one use left": {map[string]any{"token_num_uses": 2}, nil, 1, ""},
		"too few uses": {map[string]any{"token_num_uses": 1}, exported, 0, `role \"gen-int-ca-istio\" allows 1 calls (token_num_uses)`},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSetting(t, vaultserver.Options{})
			proxy := s.proxy(t)
			role := map[string]any{
				"bound_service_account_names": agents.ServiceAccount, "bound_service_account_namespaces": s.Namespace,
				"token_policies": vaultserver.Role, "token_ttl": "10m",
			}
			maps.Copy(role, test.role)
			s.write(t, "auth/kubernetes/role/"+vaultserver.Role, role)
			s.specify(t, test.change)
			if test.says != "" {
				s.refused(t, "VaultNotAuthorized", strings.ReplaceAll(test.says, `\"`, `"`))
				return
			}
			output := s.issues(t)
			if strings.Contains(output, "NotTidied") || strings.Contains(output, "failures=") || proxy.Count(revokePath) != test.revokes {
				t.Errorf("calls %q:\n%s", proxy.Calls(), output)
			}
		})
	}
}
