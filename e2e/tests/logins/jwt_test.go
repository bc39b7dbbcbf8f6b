// SPDX-License-Identifier: Apache-2.0

package logins

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/istiod-agent/istiod-agent/cli/vaultside"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

// keysOfAPIServer are the public keys by which Vault verifies service account tokens without asking the API server.
func keysOfAPIServer(t *testing.T) []string {
	t.Helper()
	clients, err := kubernetes.NewForConfig(shared.Plane.Config)
	must(t, err)
	jwks, err := clients.Discovery().RESTClient().Get().AbsPath("/openid/v1/jwks").DoRaw(t.Context())
	must(t, err)
	keys, err := vaultside.PublicKeys(jwks)
	must(t, err)
	return keys
}

// jwtRole is a role for istiod's service account.
func (s *setting) jwtRole(t *testing.T, path string, changes map[string]any) {
	t.Helper()
	role := map[string]any{
		"role_type": "jwt", "user_claim": "sub", "bound_audiences": "vault", "bound_subject": s.subject(),
		"token_policies": policy, "token_ttl": "10m", "token_max_ttl": "10m",
	}
	maps.Copy(role, changes)
	s.write(t, path, role)
}

func TestJWT(t *testing.T) {
	s := newSetting(t)
	s.enable(t, "jwt", "jwt")
	s.write(t, "auth/jwt/config", map[string]any{"jwt_validation_pubkeys": keysOfAPIServer(t)})
	s.jwtRole(t, "auth/jwt/role/istiod", nil)
	s.jwtRole(t, "auth/jwt/role/another-account", map[string]any{"bound_subject": "system:serviceaccount:" + s.Namespace + ":other"})
	s.jwtRole(t, "auth/jwt/role/another-audience", map[string]any{"bound_audiences": "other"})
	s.jwtRole(t, "auth/jwt/role/another-claim", map[string]any{"bound_claims": map[string]any{"/kubernetes.io/namespace": "other"}})
	s.jwtRole(t, "auth/jwt/role/no-policy", map[string]any{"token_policies": "default"})
	s.enable(t, "jwt-empty", "jwt")
	s.enable(t, "jwt-old", "jwt")
	s.write(t, "auth/jwt-old/config", map[string]any{"jwt_validation_pubkeys": publicKey(t, testca.NewKey())})
	s.jwtRole(t, "auth/jwt-old/role/istiod", nil)
	s.enable(t, "jwt-issuer", "jwt")
	s.write(t, "auth/jwt-issuer/config", map[string]any{"jwt_validation_pubkeys": keysOfAPIServer(t), "bound_issuer": "https://another.example.com"})
	s.jwtRole(t, "auth/jwt-issuer/role/istiod", nil)

	login := func(changes map[string]any) map[string]any {
		auth := map[string]any{"role": "istiod", "audience": "vault"}
		maps.Copy(auth, changes)
		return auth
	}
	s.specify(t, "jwtAuth", login(nil))
	s.issues(t)
	for name, test := range map[string]struct {
		change         map[string]any
		reason, advice string
	}{
		"no such role":             {map[string]any{"role": "none"}, "VaultRoleUnknown", `auth/jwt knows no role "none"; create it, or correct jwtAuth.role`},
		"another service account":  {map[string]any{"role": "another-account"}, "VaultNotAuthorized", "bound_subject"},
		"another audience":         {map[string]any{"role": "another-audience"}, "VaultNotAuthorized", "set jwtAuth.audience to one of the role's bound_audiences"},
		"a token of another":       {map[string]any{"audience": "other"}, "VaultNotAuthorized", "set jwtAuth.audience to one of the role's bound_audiences"},
		"another claim":            {map[string]any{"role": "another-claim"}, "VaultNotAuthorized", "bound_claims"},
		"no configuration":         {map[string]any{"mountPath": "/v1/auth/jwt-empty"}, "VaultRefused", "kubectl istiod-agent vault --auth=jwt"},
		"keys of another cluster":  {map[string]any{"mountPath": "auth/jwt-old"}, "VaultNotAuthorized", "does not know the key that signed the token"},
		"another issuer":           {map[string]any{"mountPath": "auth/jwt-issuer"}, "VaultNotAuthorized", "bound_issuer"},
		"no such auth method":      {map[string]any{"mountPath": "/v1/auth/none"}, "VaultNotAuthorized", "no auth method of type jwt is there"},
		"no right to sign":         {map[string]any{"role": "no-policy"}, "VaultPolicyDenies", `in the policy of role "no-policy": path "pki/root/sign-intermediate"`},
		"another service account ": {map[string]any{"serviceAccountRef": map[string]any{"name": "default"}}, "TokenUnavailable", "may not request one of default"},
	} {
		t.Run(name, func(t *testing.T) {
			s.specify(t, "jwtAuth", login(test.change))
			s.refused(t, test.reason, test.advice)
		})
	}
}

// The API server's own audience is never sent, whoever asks for it.
func TestJWTOfTheAPIServer(t *testing.T) {
	s := newSetting(t)
	s.enable(t, "jwt", "jwt")
	s.specify(t, "jwtAuth", map[string]any{"role": "istiod", "audience": "vault"})
	s.refused(t, "TokenUnavailable", `expected jwtAuth.audience "vault" alone`, "--token-file", s.TokenFile)
}

// A token that has expired, or that comes from a clock ahead of Vault's, has a reason that names the clocks.
func TestJWTClocks(t *testing.T) {
	s := newSetting(t)
	s.enable(t, "jwt", "jwt")
	key := testca.NewKey()
	s.write(t, "auth/jwt/config", map[string]any{"jwt_validation_pubkeys": publicKey(t, key)})
	s.jwtRole(t, "auth/jwt/role/istiod", nil)
	s.specify(t, "jwtAuth", map[string]any{"role": "istiod", "audience": "vault"})
	file := filepath.Join(t.TempDir(), "token")
	for name, test := range map[string]struct {
		issued, starts, ends time.Duration // from now
		reason, advice       string
	}{
		"valid":            {-time.Minute, -time.Minute, time.Hour, "", ""},
		"expired":          {-2 * time.Hour, -2 * time.Hour, -time.Hour, "VaultNotAuthorized", "the token has expired by Vault's clock; compare the clocks"},
		"not valid yet":    {-time.Minute, time.Hour, 2 * time.Hour, "VaultClockDiffers", "not valid yet by Vault's clock"},
		"of a clock ahead": {time.Hour, time.Hour, 2 * time.Hour, "VaultClockDiffers", "correct the clocks"},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Now()
			must(t, os.WriteFile(file, []byte(s.know(signed(t, key, map[string]any{
				"iss": "https://kubernetes.default.svc", "sub": s.subject(), "aud": []string{"vault"},
				"iat": now.Add(test.issued).Unix(), "nbf": now.Add(test.starts).Unix(), "exp": now.Add(test.ends).Unix(),
			}))), 0o600))
			if test.reason == "" {
				s.issues(t, "--token-file", file)
				return
			}
			s.refused(t, test.reason, test.advice, "--token-file", file)
		})
	}
}

// signed returns a JWT with a signature of ES256 (RFC 7518, section 3.4).
func signed(t *testing.T, key *ecdsa.PrivateKey, claims map[string]any) string {
	t.Helper()
	body, err := json.Marshal(claims)
	must(t, err)
	encode := base64.RawURLEncoding.EncodeToString
	text := encode([]byte(`{"alg":"ES256","typ":"JWT"}`)) + "." + encode(body)
	digest := sha256.Sum256([]byte(text))
	r, v, err := ecdsa.Sign(rand.Reader, key, digest[:])
	must(t, err)
	return text + "." + encode(append(r.FillBytes(make([]byte, 32)), v.FillBytes(make([]byte, 32))...))
}

func publicKey(t *testing.T, key *ecdsa.PrivateKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	must(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}
