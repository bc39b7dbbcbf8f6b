// SPDX-License-Identifier: Apache-2.0

package vaultdocs_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/cli/vaultside"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

// otherLogins walks through each login of the page, beside the policy of the safer way.
func (w *way) otherLogins(t *testing.T) {
	t.Helper()
	w.loginFiles(t)
	w.mayRead(t, "vault-login", "vault-ca")
	issue := func(block string, change func(vault map[string]any)) {
		t.Helper()
		w.ran.Store(block, true)
		var example struct {
			Vault map[string]any `json:"vault"`
		}
		must(t, yaml.UnmarshalStrict([]byte(w.blocks[block]), &example))
		certificate := w.specify(t, "issuedcertificate-local-key.yaml", func(vault map[string]any) {
			delete(vault, "kubernetesAuth")
			maps.Copy(vault, example.Vault)
			if change != nil {
				change(vault)
			}
		})
		_, err := shared.ServerSideApply(t.Context(), certificate)
		must(t, err)
		w.issue(t, 90*day)
	}

	w.run(t, "JWT 1")
	issue("JWT 2", nil)

	w.run(t, "AppRole 1")
	roleID, err := w.Read("role-id")
	must(t, err)
	appRole := func(vault map[string]any) { vault["appRoleAuth"].(map[string]any)["roleId"] = roleID }
	issue("AppRole 2", appRole)
	w.run(t, "AppRole 3")
	must(t, w.Run(t.Context(), "kubectl create secret generic vault-login -n istio-system --from-file=secret-id"))
	issue("AppRole 2", func(vault map[string]any) {
		appRole(vault)
		vault["appRoleAuth"].(map[string]any)["wrapped"] = true
	})

	w.run(t, "Client certificate 1")
	issue("Client certificate 2", nil)

	w.run(t, "Token 1")
	issue("Token 2", nil)

	w.run(t, "The CA of Vault's server 1")
	issue("The CA of Vault's server 2", func(vault map[string]any) {
		delete(vault, "caBundle")
		vault["tokenSecretRef"] = map[string]any{"name": "vault-login"}
	})
}

// loginFiles writes the files that the page assumes.
func (w *way) loginFiles(t *testing.T) {
	t.Helper()
	clients, err := kubernetes.NewForConfig(shared.Plane.Config)
	must(t, err)
	jwks, err := clients.Discovery().RESTClient().Get().AbsPath("/openid/v1/jwks").DoRaw(t.Context())
	must(t, err)
	keys, err := vaultside.PublicKeys(jwks)
	must(t, err)
	if len(keys) != 1 {
		t.Fatalf("the API server has %d keys", len(keys))
	}
	id, err := url.Parse("spiffe://cluster.local/ns/" + namespace + "/sa/" + agents.ServiceAccount)
	must(t, err)
	template := testca.Authority("clients")
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	authority := testca.SelfSign(template, nil)
	client := authority.Sign(x509.Certificate{
		Subject: pkix.Name{CommonName: "istiod"}, URIs: []*url.URL{id}, NotBefore: template.NotBefore, NotAfter: template.NotAfter,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, testca.NewKey())
	for name, content := range map[string]string{
		"sa.pub": keys[0], "clients-ca.pem": string(authority.PEM()), "client.pem": string(client.PEM()), "client-key.pem": string(client.KeyPEM()),
		"ca.crt": string(w.vault.CA),
	} {
		must(t, os.WriteFile(filepath.Join(w.Dir, name), []byte(content), 0o600))
	}
}

// mayRead grants istiod's service account the rights of the chart's vaultSecrets.
func (w *way) mayRead(t *testing.T, secrets ...string) {
	t.Helper()
	at := metav1.ObjectMeta{Name: strings.Join(secrets, "."), Namespace: namespace}
	must(t, shared.Create(t.Context(), &rbacv1.Role{ObjectMeta: at, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: secrets, Verbs: []string{"get"}},
	}}))
	must(t, shared.Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: at,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: at.Name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: agents.ServiceAccount}},
	}))
}
