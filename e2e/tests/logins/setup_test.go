// SPDX-License-Identifier: Apache-2.0

package logins

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/plugin"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

// mesh is a VirtualMesh with a login.
const mesh = `
apiVersion: networking.mesh.gloo.solo.io/v1
kind: VirtualMesh
metadata: {name: virtual-mesh, namespace: istio-system}
spec:
  mtlsConfig:
    shared:
      intermediateCertOptions: {ttlDays: 30, ecKeyCurve: P-256}
      intermediateCertificateAuthority:
        vault:
          server: SERVER
          caPath: pki/root/sign-intermediate
          LOGIN
  meshes:
  - name: istiod-NAMESPACE-cluster-1
`

// The plugin sets up each login so that the agent gets its certificate by it, and then finds nothing to do.
func TestSetup(t *testing.T) {
	s := start(t)
	dir := t.TempDir()
	place := func(name string, content []byte) string {
		must(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
		return filepath.Join(dir, name)
	}
	t.Setenv("VAULT_ADDR", s.vault.Address)
	t.Setenv("VAULT_TOKEN", s.vault.RootToken)
	t.Setenv("VAULT_CACERT", place("vault-ca.pem", s.vault.CA))
	kubeconfig, err := shared.Plane.Kubeconfig("admin", "system:masters")
	must(t, err)
	clients := authority("clients")
	clientCA := place("clients.pem", clients.PEM())
	strangers := place("strangers.pem", authority("strangers").PEM())
	run := func(login string, arguments ...string) plugin.Result {
		text := strings.NewReplacer("SERVER", s.vault.Address, "NAMESPACE", s.Namespace, "LOGIN", login).Replace(mesh)
		result := plugin.Run(t.Context(), text, append([]string{"vault", "-f", "-", "--istiod-namespace", s.Namespace, "--kubeconfig", kubeconfig}, arguments...)...)
		s.wrote(result.Stdout + result.Stderr)
		return result
	}
	const kubernetesAuth = "kubernetesAuth: {role: istiod, audience: vault}"

	t.Run("jwt", func(t *testing.T) {
		run(kubernetesAuth, "--auth=jwt", "--dry-run").Wants(t, 1, "auth/jwt: does not exist", "+ jwt_validation_pubkeys SHA-256", "replace that by: jwtAuth: {role: istiod, audience: vault}")
		run(kubernetesAuth, "--auth=jwt", "--apply").Wants(t, 0, "auth/jwt/role/istiod: wrote the role")
		const login = "jwtAuth: {role: istiod, audience: vault}"
		run(login, "--dry-run").Wants(t, 0, "Nothing to do")
		s.specify(t, "jwtAuth", map[string]any{"role": "istiod", "audience": "vault"})
		s.issues(t)

		// Further istiods, and back.
		several := []string{"--service-account=istiod", "--service-account=istiod-canary"}
		run(login, append(several, "--apply")...).Wants(t, 0, "bound_claims")
		run(login, append(several, "--dry-run")...).Wants(t, 0, "Nothing to do")
		s.issues(t)

		// The keys of another cluster are not replaced without --force.
		s.write(t, "auth/jwt/config", map[string]any{"jwt_validation_pubkeys": publicKey(t, testca.NewKey())})
		s.refused(t, "VaultNotAuthorized", "does not know the key")
		run(login, append(several, "--apply")...).Wants(t, 2, "this command did not write auth/jwt/config")
		run(login, append(several, "--apply", "--force")...).Wants(t, 0, "wrote the keys that verify tokens")
		s.issues(t)
		run(login, "--auth=jwt", "--jwks-file", clientCA, "--dry-run").Wants(t, 2, "expected a JSON Web Key Set")
	})
	t.Run("approle", func(t *testing.T) {
		run(kubernetesAuth, "--auth=approle", "--apply").Wants(t, 0, "auth/approle/role/istiod: wrote the role", "vault auth tune -user-lockout-disable=true approle")
		run("appRoleAuth: {roleId: a, secretIdSecretRef: {name: vault-login}}", "--dry-run").Wants(t, 0, "Nothing to do")
		answer, err := s.vault.Client.Logical().ReadWithContext(t.Context(), "auth/approle/role/istiod/role-id")
		must(t, err)
		s.keep(t, map[string]string{"secret-id": s.secretID(t, "approle")})
		s.specify(t, "appRoleAuth", appRoleAuth(answer.Data["role_id"].(string), nil))
		s.issues(t)
		run(kubernetesAuth, "--auth=approle", "--bound-cidr=192.0.2.0/24", "--apply").Wants(t, 0, "+ secret_id_bound_cidrs 192.0.2.0/24")
		run(kubernetesAuth, "--auth=approle", "--bound-cidr=192.0.2.0/24", "--dry-run").Wants(t, 0, "Nothing to do")
		s.refused(t, "VaultNotAuthorized", "secret_id_bound_cidrs")
	})
	t.Run("cert", func(t *testing.T) {
		run(kubernetesAuth, "--auth=cert", "--apply").Wants(t, 2, "expected the CA of client certificates: --client-ca-file")
		run(kubernetesAuth, "--auth=cert", "--client-ca-file", clientCA, "--apply").Wants(t, 0, "auth/cert/certs/istiod: wrote the role")
		run("certAuth: {certSecretRef: {name: vault-login}}", "--client-ca-file", clientCA, "--dry-run").Wants(t, 0, "Nothing to do")
		run(kubernetesAuth, "--auth=cert", "--client-ca-file", strangers, "--dry-run").Wants(t, 1, "- certificate SHA-256", "+ certificate SHA-256")
		s.keep(t, s.pair(s.clientCertificate(t, clients, -time.Hour, time.Hour)))
		s.specify(t, "certAuth", map[string]any{"role": "istiod", "certSecretRef": map[string]any{"name": secretName}})
		s.issues(t)
	})
	t.Run("token", func(t *testing.T) {
		run(kubernetesAuth, "--auth=token", "--apply").Wants(t, 0, "policy istiod-agent-istiod: wrote the policy")
		made, err := s.vault.Client.Auth().Token().CreateWithContext(t.Context(), &api.TokenCreateRequest{Policies: []string{"istiod-agent-istiod"}, Period: "1h", NoParent: true})
		must(t, err)
		s.keep(t, map[string]string{"token": s.know(made.Auth.ClientToken)})
		s.specify(t, "tokenSecretRef", map[string]any{"name": secretName})
		s.issues(t)
	})
	t.Run("mistakes", func(t *testing.T) {
		run(kubernetesAuth, "--auth=ldap").Wants(t, 2, `--auth "ldap": expected one of kubernetes, jwt, approle, cert, token`)
		run(kubernetesAuth, "--role=other").Wants(t, 2, `--role "other": expected none, or "istiod"`)
		run(kubernetesAuth, "--auth=approle", "--bound-cidr=all").Wants(t, 2, `--bound-cidr "all"`)
		run(kubernetesAuth, "--auth=jwt", "--jwks-url=file:///etc/passwd").Wants(t, 2, "--jwks-url: expected an https:// URL")
	})
}
