// SPDX-License-Identifier: Apache-2.0

package issuing

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/vaultserver"
)

// documented returns a policy of docs/vault.md, for this test's namespace.
func documented(t *testing.T, name, namespace string) string {
	t.Helper()
	root, err := built.Root()
	must(t, err)
	page, err := os.ReadFile(filepath.Join(root, "docs", "vault.md"))
	must(t, err)
	match := regexp.MustCompile(`(?s)vault policy write ` + name + ` - <<EOF\n(.*?)\nEOF`).FindSubmatch(page)
	if match == nil {
		t.Fatalf("docs/vault.md has no policy %s", name)
	}
	return strings.ReplaceAll(string(match[1]), "/ns/istio-system/", "/ns/"+namespace+"/")
}

// The documented policy and role of the safer way suffice, and each line of the policy is needed.
func TestMinimalPolicy(t *testing.T) {
	s := newSetting(t, vaultserver.Options{})
	minimal := documented(t, "istiod-agent-istiod", s.Namespace)
	s.write(t, "auth/kubernetes/role/istiod", map[string]any{
		"bound_service_account_names": agents.ServiceAccount, "bound_service_account_namespaces": s.Namespace,
		"token_policies": "istiod", "token_ttl": "10m", "token_max_ttl": "10m",
	})
	s.specify(t, func(vault map[string]any) {
		vault["kubernetesAuth"] = map[string]any{"role": "istiod"}
	})
	for line := range strings.SplitSeq(minimal, "\n") {
		parameter := regexp.MustCompile(`^    "(\w+)"`).FindStringSubmatch(line)
		if parameter == nil {
			continue
		}
		s.policy(t, "istiod", strings.Replace(minimal, line+"\n", "", 1))
		t.Run("without "+parameter[1], func(t *testing.T) {
			s.refused(t, "VaultPolicyDenies", `path "pki/root/sign-intermediate"`)
		})
	}
	for _, other := range []string{`["0"]`, `["Istio"]`, `/ns/` + s.Namespace} {
		s.policy(t, "istiod", strings.Replace(minimal, other, strings.ReplaceAll(strings.ReplaceAll(other, `"]`, `x"]`), "/ns/", "/ns/x"), 1))
		t.Run("with another value for "+other, func(t *testing.T) {
			s.refused(t, "VaultPolicyDenies", `path "pki/root/sign-intermediate"`)
		})
	}
	s.policy(t, "istiod", minimal)
	output := s.issues(t)
	if strings.Contains(output, "NotTidied") {
		t.Errorf("the login was not revoked:\n%s", output)
	}
}

// With permittedURIDomains, the policy must allow the parameter; one that requires and pins it takes exactly these domains.
func TestNameConstraintsPolicy(t *testing.T) {
	s := newSetting(t, vaultserver.Options{})
	minimal := documented(t, "istiod-agent-istiod", s.Namespace)
	s.write(t, "auth/kubernetes/role/istiod", map[string]any{
		"bound_service_account_names": agents.ServiceAccount, "bound_service_account_namespaces": s.Namespace, "token_policies": "istiod",
	})
	specify := func(domains ...any) {
		t.Helper()
		_, err := shared.ServerSideApply(t.Context(), s.Certificate(s.server, func(vault, options map[string]any) {
			delete(vault, "csrPath")
			vault["kubernetesAuth"] = map[string]any{"role": "istiod"}
			options["ecKeyCurve"] = "P-256"
			if len(domains) > 0 {
				options["permittedURIDomains"] = domains
			}
		}))
		must(t, err)
	}
	pinned := strings.NewReplacer(`"exclude_cn_from_sans"]`, `"exclude_cn_from_sans", "permitted_uri_domains"]`,
		`["true"]`, `["true"]`+"\n"+`    "permitted_uri_domains" = ["cluster.local,.example.com"]`).Replace(minimal)

	specify("cluster.local", ".example.com")
	s.policy(t, "istiod", minimal)
	s.refused(t, "VaultPolicyDenies", `path "pki/root/sign-intermediate"`)
	s.policy(t, "istiod", pinned)
	s.issues(t)
	if got := parse(t, s.Files(t)["ca-cert.pem"]).PermittedURIDomains; !slices.Equal(got, []string{"cluster.local", ".example.com"}) {
		t.Errorf("the CA permits %q", got)
	}
	must(t, s.Empty())
	specify("cluster.local", ".example.org")
	s.refused(t, "VaultPolicyDenies", `path "pki/root/sign-intermediate"`)
	specify()
	s.refused(t, "VaultPolicyDenies", `path "pki/root/sign-intermediate"`)
}

// If Vault generates the key, two more lines are needed: the first to issue, the second to delete the copy.
func TestExportedKeyPolicy(t *testing.T) {
	s := newSetting(t, vaultserver.Options{})
	s.write(t, "auth/kubernetes/role/istiod", map[string]any{
		"bound_service_account_names": agents.ServiceAccount, "bound_service_account_namespaces": s.Namespace,
		"token_policies": "istiod,istiod-exported",
	})
	s.specify(t, func(vault map[string]any) {
		vault["csrPath"] = "pki_int/intermediate/generate/exported"
		vault["kubernetesAuth"] = map[string]any{"role": "istiod"}
	})
	s.policy(t, "istiod", documented(t, "istiod-agent-istiod", s.Namespace))
	s.refused(t, "VaultPolicyDenies", `path "pki_int/intermediate/generate/exported"`)
	exported := documented(t, "istiod-agent-istiod-exported", s.Namespace)
	s.policy(t, "istiod-exported", strings.Replace(exported, `["delete"]`, `["read"]`, 1))
	if output := s.issues(t); !strings.Contains(output, "reason=NotTidied") {
		t.Errorf("that Vault keeps a copy is not said:\n%s", output)
	}
	s.policy(t, "istiod-exported", exported)
	must(t, s.Empty())
	if output := s.issues(t); strings.Contains(output, "reason=NotTidied") {
		t.Errorf("something is left:\n%s", output)
	}
}
