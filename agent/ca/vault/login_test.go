// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// jwt is a service account token for audiences.
func jwt(t *testing.T, account string, audiences ...string) string {
	t.Helper()
	claims, err := json.Marshal(map[string]any{"iss": "https://kubernetes.default.svc", "sub": "system:serviceaccount:istio-system:" + account, "aud": audiences})
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"RS256"}`)) + "." + encode(claims) + "." + encode([]byte(account))
}

// mountedTokens lays out what the kubelet mounts in the agent's containers.
func mountedTokens(t *testing.T, files map[string]string) Tokens {
	t.Helper()
	root := t.TempDir()
	for path, content := range files {
		at := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Tokens{Root: root}
}

// requests answers with a token that names what was requested.
type requests struct {
	secret map[string][]byte
	read   []string
}

func (r *requests) Token(_ context.Context, namespace, account, audience string) (string, error) {
	return fmt.Sprintf("requested of %s/%s for %q", namespace, account, audience), nil
}

func (r *requests) Secret(_ context.Context, namespace, name string) (map[string][]byte, error) {
	r.read = append(r.read, namespace+"/"+name)
	return r.secret, nil
}

// options are those of istiod in istio-system.
func options(server APIServer) Options {
	return Options{Namespace: "istio-system", ServiceAccount: "istiod", APIServer: server}
}

func TestJWT(t *testing.T) {
	t.Parallel()
	const apiServer = "https://kubernetes.default.svc"
	own, forVault, forOther := jwt(t, "istiod", apiServer), jwt(t, "istiod", "vault"), jwt(t, "istiod", "other")
	both := jwt(t, "istiod", "vault", apiServer)
	const ownFile, vaultFile = "kubernetes.io/serviceaccount/token", "istiod-agent.io/vault/token"
	outside := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(outside, []byte(forVault), 0o600); err != nil {
		t.Fatal(err)
	}
	type auth = certificatesv1.KubernetesAuth
	injected := map[string]string{ownFile: own, vaultFile: forVault, "other/token": forOther}
	for name, test := range map[string]struct {
		files    map[string]string
		auth     auth
		operator Tokens
		want     string
		problem  string
	}{
		"no audience":                             {injected, auth{}, Tokens{}, own, ""},
		"the injected audience":                   {injected, auth{Audience: "vault"}, Tokens{}, forVault, ""},
		"another audience that is mounted":        {injected, auth{Audience: "other", MountedSAPath: "/var/run/secrets/other"}, Tokens{}, forOther, ""},
		"another audience":                        {injected, auth{Audience: "eu"}, Tokens{}, `requested of istio-system/istiod for "eu"`, ""},
		"the API server's audience":               {injected, auth{Audience: apiServer}, Tokens{}, "", "is the API server's own"},
		"no injected token":                       {map[string]string{ownFile: own}, auth{Audience: "vault"}, Tokens{}, `requested of istio-system/istiod for "vault"`, ""},
		"a token that opens more":                 {map[string]string{ownFile: own, vaultFile: both}, auth{Audience: "vault"}, Tokens{}, `requested of istio-system/istiod for "vault"`, ""},
		"another account":                         {injected, auth{ServiceAccountRef: &certificatesv1.ObjectRef{Name: "vault", Namespace: "istio-system"}, Audience: "vault"}, Tokens{}, `requested of istio-system/vault for "vault"`, ""},
		"the API server's audience, requested":    {injected, auth{ServiceAccountRef: &certificatesv1.ObjectRef{Name: "vault"}, Audience: apiServer}, Tokens{}, "", "is the API server's own"},
		"a key in place of a token":               {map[string]string{ownFile: "-----BEGIN PRIVATE KEY-----"}, auth{}, Tokens{}, "", "is no JWT"},
		"a file of another directory":             {injected, auth{MountedSAPath: "/etc/cacerts", SecretTokenKey: "ca-key.pem"}, Tokens{}, "", "expected a file below /var/run/secrets"},
		"a path that climbs":                      {injected, auth{MountedSAPath: "/var/run/secrets/../../../etc/cacerts"}, Tokens{}, "", "expected a file below /var/run/secrets"},
		"the operator's file":                     {injected, auth{Audience: "vault"}, Tokens{File: outside, FileAnywhere: true}, forVault, ""},
		"the operator's file, not below the root": {injected, auth{Audience: "vault"}, Tokens{File: outside}, "", "--token-file-anywhere"},
		"the operator's file, another audience":   {injected, auth{Audience: "eu"}, Tokens{File: outside, FileAnywhere: true}, "", `expected kubernetesAuth.audience "eu" alone`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := &certificatesv1.VaultCA{KubernetesAuth: &test.auth}
			spec.SetDefaults()
			s := &source{options(&requests{}), spec}
			s.Tokens = mountedTokens(t, test.files)
			s.Tokens.File, s.Tokens.FileAnywhere = test.operator.File, test.operator.FileAnywhere
			got, err := s.jwt(t.Context(), "kubernetesAuth", spec.KubernetesAuth)
			if got != test.want || (test.problem == "") != (err == nil) || (err != nil && !strings.Contains(err.Error(), test.problem)) {
				t.Errorf("want %q and %q, got %q and %v", test.want, test.problem, got, err)
			}
		})
	}
}

func TestVaultToken(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		content string
		problem string
	}{
		"a token of Vault's":        {"hvs.CAESIA", ""},
		"nothing":                   {"", `it has no key "token"`},
		"a service account's token": {jwt(t, "istio-reader-service-account"), "it is a service account's token"},
	} {
		cluster := &requests{secret: map[string][]byte{"token": []byte(test.content)}}
		got, err := (&source{Options: options(cluster)}).vaultToken(t.Context(), "vault-token")
		if (test.problem == "") != (err == nil && got == test.content) || (err != nil && (got != "" || !strings.Contains(err.Error(), test.problem))) {
			t.Errorf("%s: want %q, got %v", name, test.problem, err)
		}
		if len(cluster.read) != 1 || cluster.read[0] != "istio-system/vault-token" {
			t.Errorf("%s: read the Secrets %q", name, cluster.read)
		}
	}
}
