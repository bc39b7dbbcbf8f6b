// SPDX-License-Identifier: Apache-2.0

package issuing

import (
	"encoding/base64"
	"testing"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/process"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/vaultserver"
)

// Each failure has a reason and a remedy in its message, and publishes nothing.
func TestFailures(t *testing.T) {
	s := newSetting(t, vaultserver.Options{})
	auth := func(key, value string) func(map[string]any) {
		return func(vault map[string]any) { vault["kubernetesAuth"].(map[string]any)[key] = value }
	}
	set := func(key, value string) func(map[string]any) {
		return func(vault map[string]any) { vault[key] = value }
	}
	role := func(name, account, namespace, audience string) {
		s.write(t, "auth/kubernetes/role/"+name, map[string]any{
			"bound_service_account_names": account, "bound_service_account_namespaces": namespace,
			"token_policies": "gen-int-ca-istio", "audience": audience,
		})
	}
	role("another-account", "other", s.Namespace, "")
	role("another-namespace", "istiod", "other", "")
	role("another-audience", "istiod", s.Namespace, "vault")
	for name, test := range map[string]struct {
		change         func(map[string]any)
		reason, advice string
	}{
		"no such role":            {auth("role", "none"), "VaultRoleUnknown", "knows no role"},
		"another service account": {auth("role", "another-account"), "VaultNotAuthorized", "bound_service_account_names"},
		"another namespace":       {auth("role", "another-namespace"), "VaultNotAuthorized", "bound_service_account_namespaces"},
		"another audience":        {auth("role", "another-audience"), "VaultNotAuthorized", "audience"},
		"no such auth method":     {auth("mountPath", "/v1/auth/none"), "Vault", "auth/none"},
		"no such engine":          {set("caPath", "none/root/sign-intermediate"), "Vault", "none/root/sign-intermediate"},
		"nobody there":            {set("server", "http://127.0.0.1:1"), "VaultUnreachable", "refused"},
		"https to a plain port":   {set("server", "https"+s.vault.Address[len("http"):]), "VaultTLS", "does not speak TLS"},
	} {
		t.Run(name, func(t *testing.T) {
			s.specify(t, test.change)
			s.refused(t, test.reason, test.advice)
		})
	}
}

// The agent waits for a Vault that is sealed or down, and continues by itself once it is back.
func TestVaultRecovers(t *testing.T) {
	s := newSetting(t, vaultserver.Options{Storage: true})
	s.specify(t, nil)
	for name, fail := range map[string]struct {
		interrupt func() error
		says      string
	}{
		"sealed":  {func() error { return s.vault.Seal(t.Context()) }, "reason=VaultSealed"},
		"stopped": {s.vault.Kill, "reason=VaultUnreachable"},
	} {
		t.Run(name, func(t *testing.T) {
			must(t, s.Empty())
			must(t, fail.interrupt())
			waiting, err := process.Start("istiod-agent", s.Command(t.Context(), "init-container"))
			must(t, err)
			t.Cleanup(func() { _ = waiting.Kill() })
			cluster.Eventually(t, "it says so", func() error { return contains(waiting.Output(), fail.says) })
			if name == "stopped" {
				must(t, s.vault.Restart(t.Context()))
			}
			must(t, s.vault.Unseal(t.Context()))
			<-waiting.Exited()
			must(t, contains(waiting.Output(), "reason=Published"))
		})
	}
}

// The agent trusts a Vault with TLS by the caBundle alone.
func TestTLS(t *testing.T) {
	s := newSetting(t, vaultserver.Options{TLS: true})
	s.specify(t, nil)
	s.refused(t, "VaultTLS", "caBundle")
	s.specify(t, func(vault map[string]any) { vault["caBundle"] = base64.StdEncoding.EncodeToString(s.vault.CA) })
	s.issues(t)
}
