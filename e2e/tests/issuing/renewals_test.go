// SPDX-License-Identifier: Apache-2.0

package issuing

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/faultproxy"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/vaultserver"
)

// trouble is a failure of Vault while a sidecar runs.
type trouble struct {
	reason, says string
	// storage is set when Vault is to keep what it has; else it has a proxy before it.
	storage   bool
	arguments []string // of the sidecar
	// begin makes the trouble, and gives what cures it.
	begin func(t *testing.T, s *setting, proxy *faultproxy.Proxy) (cure func())
}

// spoil applies a fault to all requests of a path.
func spoil(path string, fault faultproxy.Fault) func(*testing.T, *setting, *faultproxy.Proxy) func() {
	return func(_ *testing.T, _ *setting, proxy *faultproxy.Proxy) func() { return proxy.Spoil(path, 0, fault) }
}

// troubles are the failures of Vault that can pass.
var troubles = map[string]trouble{
	"Vault is sealed": {reason: "VaultSealed", says: "vault operator unseal", storage: true, begin: func(t *testing.T, s *setting, _ *faultproxy.Proxy) func() {
		must(t, s.vault.Seal(t.Context()))
		return func() { must(t, s.vault.Unseal(t.Context())) }
	}},
	"Vault crashes": {reason: "VaultUnreachable", says: "the connection was refused", storage: true, begin: func(t *testing.T, s *setting, _ *faultproxy.Proxy) func() {
		must(t, s.vault.Kill())
		return func() {
			must(t, s.vault.Restart(t.Context()))
			must(t, s.vault.Unseal(t.Context()))
		}
	}},
	"the role is deleted": {reason: "VaultRoleUnknown", says: "knows no role", begin: func(t *testing.T, s *setting, _ *faultproxy.Proxy) func() {
		_, err := s.vault.Client.Logical().DeleteWithContext(t.Context(), "auth/kubernetes/role/"+vaultserver.Role)
		must(t, err)
		return func() { s.role(t, "10m") }
	}},
	"the policy is narrowed": {reason: "VaultPolicyDenies", says: `path "pki/root/sign-intermediate" { capabilities = ["update"] }`, begin: func(t *testing.T, s *setting, _ *faultproxy.Proxy) func() {
		rules, err := s.vault.Client.Sys().GetPolicyWithContext(t.Context(), vaultserver.Role)
		must(t, err)
		s.policy(t, vaultserver.Role, `path "pki/cert/ca" { capabilities = ["read"] }`)
		return func() { s.policy(t, vaultserver.Role, rules) }
	}},
	"the login is revoked before it is used": {reason: "VaultNotAuthorized", says: "the login ended before the renewal was complete", begin: func(t *testing.T, s *setting, proxy *faultproxy.Proxy) func() {
		return proxy.Spoil(signPath, 0, faultproxy.Before(func(token string) {
			if err := s.vault.Client.Auth().Token().RevokeTreeWithContext(t.Context(), token); err != nil {
				t.Error(err)
			}
		}))
	}},
	"the login expires before it is used": {reason: "VaultNotAuthorized", says: "the login ended before the renewal was complete", begin: func(t *testing.T, s *setting, proxy *faultproxy.Proxy) func() {
		s.role(t, "1s")
		end := proxy.Spoil(signPath, 0, faultproxy.Before(func(token string) {
			if err := s.ended(t.Context(), token); err != nil {
				t.Error(err)
			}
		}))
		return func() {
			s.role(t, "10m")
			end()
		}
	}},
	"Vault answers 429":                 {reason: "VaultRateLimited", says: "raise its rate limit quota", begin: spoil("", tooMany)},
	"Vault answers 500":                 {reason: "VaultRefused", says: "internal error", begin: spoil("", internal)},
	"a load balancer answers 500":       {reason: "VaultUnreachable", says: "it answered 500", begin: spoil("", failing)},
	"a load balancer answers 503":       {reason: "VaultUnreachable", says: "it answered 503", begin: spoil("", unavailable)},
	"the certificate is cut off":        {reason: "VaultUnreachable", says: "cut off in the middle of an answer", begin: spoil(signPath, faultproxy.Cut)},
	"Vault is slower than the agent is": {reason: "VaultUnreachable", says: "did not answer in time", arguments: []string{"--vault-timeout", "3s"}, begin: spoil("", faultproxy.Slow(10*time.Second))},
}

// A sidecar that renews while Vault fails keeps the published CA, reports the reason, and recovers by itself.
func TestRenewalRecovers(t *testing.T) {
	for name, trouble := range troubles {
		t.Run(name, func(t *testing.T) {
			s := newSetting(t, vaultserver.Options{Storage: trouble.storage})
			var proxy *faultproxy.Proxy
			if !trouble.storage {
				proxy = s.proxy(t)
			}
			s.specify(t, nil)
			sidecar := s.runs(t, trouble.arguments...)
			s.recovers(t, sidecar, trouble.reason, trouble.says, func() func() { return trouble.begin(t, s, proxy) })
		})
	}
}

// A renewal from a Vault that takes ten seconds for each answer succeeds. Until then istiod keeps its CA.
func TestRenewalFromSlowVault(t *testing.T) {
	s := newSetting(t, vaultserver.Options{})
	proxy := s.proxy(t)
	s.specify(t, nil)
	sidecar := s.runs(t)
	before := s.Files(t)
	proxy.Spoil("", 0, faultproxy.Slow(10*time.Second))
	must(t, agents.Renew(t.Context(), shared, s.certificate(), "once"))
	cluster.Within(t, time.Minute, "the renewal counts", func() error {
		if proxy.Count(signPath) < 2 && !maps.Equal(before, s.Files(t)) {
			t.Fatal("istiod's files have changed before anything was signed")
		}
		return s.metric(t, sidecar, renewed, 1)
	})
	if s.serial(t) == serialOf(t, before["ca-cert.pem"]) {
		t.Error("the certificate is the old one")
	}
	if failed := failures(t, sidecar); len(failed) > 0 {
		t.Errorf("something failed: %v", failed)
	}
}

// renewed is the metric of requested renewals that istiod has loaded.
const renewed = `istiod_agent_renewals_total{outcome="success",reason="RenewRequested"}`

// runs starts the init container, an istiod and the sidecar, in a Pod's order, and waits until the CA is confirmed.
func (s *setting) runs(t *testing.T, arguments ...string) *agents.Sidecar {
	t.Helper()
	s.issues(t)
	s.istiod(t)
	sidecar := s.sidecar(t, arguments...)
	s.well(t, sidecar)
	return sidecar
}

// recovers requests a renewal during a trouble, and expects it to succeed once the trouble is over.
func (s *setting) recovers(t *testing.T, sidecar *agents.Sidecar, reason, says string, begin func() (cure func())) {
	t.Helper()
	before := s.Files(t)
	old := s.serial(t)
	cure := begin()
	must(t, agents.Renew(t.Context(), shared, s.certificate(), "once"))

	untouched := func() error {
		if now := s.Files(t); !maps.Equal(before, now) {
			t.Fatal("istiod's files have changed")
		}
		return nil
	}
	cluster.Eventually(t, "two attempts count as failed", func() error {
		failed := failures(t, sidecar)
		if len(failed) > 1 || len(failed) == 1 && failed[reason] == 0 {
			t.Fatalf("want no reason but %s: %v", reason, failed)
		}
		if failed[reason] < 2 {
			return errors.Join(untouched(), fmt.Errorf("there are %v of %s", failed[reason], reason))
		}
		return untouched()
	})
	cluster.Eventually(t, "a warning is about the IssuedCertificate", func() error {
		return errors.Join(untouched(), contains(strings.Join(s.events(t, "Warning", reason), "\n"), says))
	})
	cluster.Eventually(t, "the status says so", func() error {
		state, entry := s.status(t)
		if state != "FAILED" || entry["serialNumber"] != old {
			return fmt.Errorf("state %q, %v", state, entry)
		}
		return errors.Join(untouched(), contains(fmt.Sprint(entry["error"]), says))
	})
	s.wroteJSON(t, "the status of the trouble", s.stored(t).Object["status"])
	_, err := sidecar.Get(t.Context(), "/readyz")
	must(t, err) // istiod has a valid CA all the while
	must(t, untouched())

	cure()
	cluster.Within(t, time.Minute, "it has renewed by itself", func() error { return s.metric(t, sidecar, renewed, 1) })
	s.well(t, sidecar)
	if s.serial(t) == old {
		t.Error("the certificate is the old one")
	}
	after := s.Files(t)
	if after["root-cert.pem"] != before["root-cert.pem"] {
		t.Error("root-cert.pem has changed")
	}
	s.know("the CA key before the renewal", encoded(before["ca-key.pem"]))
	s.knowKey()
}

// well waits until status and metrics report that istiod uses the published CA, and no error.
func (s *setting) well(t *testing.T, sidecar *agents.Sidecar) {
	t.Helper()
	cluster.Eventually(t, "the status says that istiod uses the certificate", func() error {
		state, entry := s.status(t)
		if state != "FINISHED" || entry["confirmed"] != true || entry["error"] != nil || entry["serialNumber"] != s.serial(t) {
			return fmt.Errorf("state %q, %v; %s is published", state, entry, s.serial(t))
		}
		return s.metric(t, sidecar, "istiod_agent_istiod_confirmed", 1)
	})
}

func (s *setting) certificate() *unstructured.Unstructured { return s.Certificate(s.server, nil) }

// status returns the Pod's entry in the status.
func (s *setting) status(t *testing.T) (state string, entry map[string]any) {
	t.Helper()
	stored := s.stored(t)
	state, _, _ = unstructured.NestedString(stored.Object, "status", "state")
	entries, _, _ := unstructured.NestedSlice(stored.Object, "status", "certificates")
	for _, each := range entries {
		if each := each.(map[string]any); each["pod"] == s.Name {
			return state, each
		}
	}
	return state, nil
}

func (s *setting) stored(t *testing.T) *unstructured.Unstructured {
	t.Helper()
	stored := s.certificate()
	must(t, shared.Get(t.Context(), client.ObjectKeyFromObject(stored), stored))
	return stored
}

// events returns the notes of the IssuedCertificate's Events of a type and reason.
func (s *setting) events(t *testing.T, kind, reason string) (found []string) {
	t.Helper()
	var all eventsv1.EventList
	must(t, shared.List(t.Context(), &all, client.InNamespace(s.Namespace)))
	about := s.stored(t)
	for _, event := range all.Items {
		if event.Type == kind && event.Reason == reason && event.Regarding.Kind == about.GetKind() && event.Regarding.UID == about.GetUID() {
			found = append(found, event.Note)
		}
	}
	return found
}

// metric returns an error unless a metric has a value.
func (s *setting) metric(t *testing.T, sidecar *agents.Sidecar, name string, want float64) error {
	t.Helper()
	got, err := sidecar.Metric(t.Context(), name)
	if err == nil && got != want {
		err = fmt.Errorf("%s is %v, want %v", name, got, want)
	}
	return err
}

// failures returns a sidecar's failed attempts by reason.
func failures(t *testing.T, sidecar *agents.Sidecar) map[string]float64 {
	t.Helper()
	text, err := sidecar.Get(t.Context(), "/metrics")
	must(t, err)
	found := map[string]float64{}
	for _, match := range regexp.MustCompile(`(?m)^istiod_agent_renewals_total\{outcome="failure",reason="(\w+)"\} `).FindAllStringSubmatch(text, -1) {
		found[match[1]], err = sidecar.Metric(t.Context(), strings.TrimSpace(match[0]))
		must(t, err)
	}
	return found
}

// serial returns the published certificate's serial number in the form of the status.
func (s *setting) serial(t *testing.T) string {
	t.Helper()
	return serialOf(t, s.Files(t)["ca-cert.pem"])
}

func serialOf(t *testing.T, certificate string) string {
	t.Helper()
	var parts []string
	for _, b := range parse(t, certificate).SerialNumber.Bytes() {
		parts = append(parts, fmt.Sprintf("%02x", b))
	}
	return strings.Join(parts, ":")
}

// parse returns the first certificate of a PEM text.
func parse(t *testing.T, text string) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatal("this is not PEM")
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	return certificate
}

// role replaces the guide's role, with another TTL of its logins.
func (s *setting) role(t *testing.T, ttl string) {
	t.Helper()
	s.write(t, "auth/kubernetes/role/"+vaultserver.Role, map[string]any{
		"bound_service_account_names": agents.ServiceAccount, "bound_service_account_namespaces": s.Namespace,
		"token_policies": vaultserver.Role, "token_ttl": ttl, "token_max_ttl": ttl,
	})
}

// ended waits until Vault no longer knows a token.
func (s *setting) ended(ctx context.Context, token string) error {
	return wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, 10*time.Second, true, func(ctx context.Context) (bool, error) {
		_, err := s.vault.Client.Auth().Token().LookupWithContext(ctx, token)
		answer, ok := errors.AsType[*api.ResponseError](err)
		return ok && answer.StatusCode == http.StatusForbidden, nil
	})
}
