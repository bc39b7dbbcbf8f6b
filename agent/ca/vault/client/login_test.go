// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// by returns a configuration with one login.
func by(server string, change func(*Config)) Config {
	config := configuration(server)
	config.Kubernetes = nil
	change(&config)
	return config
}

// No message quotes what was sent, even if Vault's answer does: the auth method approle does so with a secret id.
func TestRefusedLoginsQuoteNoSecret(t *testing.T) {
	t.Parallel()
	const secret = "2f1c-4d5e-short"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var sent map[string]any
		_ = json.NewDecoder(r.Body).Decode(&sent)
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, `{"errors":[%q]}`, fmt.Sprintf("invalid %s %s", sent["secret_id"], sent["jwt"]))
	}))
	t.Cleanup(server.Close)
	for name, change := range map[string]func(*Config){
		"approle": func(c *Config) {
			c.AppRole = &AppRoleAuth{MountPath: "auth/approle", RoleID: "a", From: "Secret a/b", SecretID: given(secret)}
		},
		"jwt": func(c *Config) { c.JWT = &KubernetesAuth{MountPath: "auth/jwt", Role: "a", JWT: given(secret)} },
		"kubernetes": func(c *Config) {
			c.Kubernetes = &KubernetesAuth{MountPath: "auth/kubernetes", Role: "a", JWT: given(secret)}
		},
	} {
		client, err := New(by(server.URL, change))
		if err != nil {
			t.Fatal(err)
		}
		if _, err = client.Login(t.Context()); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// wrapping answers as Vault does for a wrapping token, and counts the calls.
type wrapping struct {
	path     string // of the creation
	used     bool
	lookups  int
	unwraps  int
	logins   int
	secretID string
}

func (v *wrapping) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	refuse := func() {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"errors":["wrapping token is not valid or does not exist"]}`)
	}
	switch {
	case strings.HasSuffix(r.URL.Path, "/sys/wrapping/lookup"):
		if v.lookups++; v.used {
			refuse()
			return
		}
		fmt.Fprintf(w, `{"data":{"creation_path":%s}}`, quoted(v.path))
	case strings.HasSuffix(r.URL.Path, "/sys/wrapping/unwrap"):
		if v.unwraps++; v.used || r.Header.Get("X-Vault-Token") == "" {
			refuse()
			return
		}
		v.used = true
		fmt.Fprintf(w, `{"data":{"secret_id":%q}}`, v.secretID)
	case strings.HasSuffix(r.URL.Path, "/login"):
		v.logins++
		var sent map[string]string
		if err := json.NewDecoder(r.Body).Decode(&sent); err != nil || sent["secret_id"] != v.secretID || r.Header.Get("X-Vault-Token") != "" {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"errors":["invalid role or secret ID"]}`)
			return
		}
		fmt.Fprint(w, `{"auth":{"client_token":"hvs.a"}}`)
	}
}

// A wrapping token is looked up and unwrapped once; after that its secret id is used.
func TestUnwrap(t *testing.T) {
	t.Parallel()
	vault := &wrapping{path: "auth/approle/role/istiod/secret-id", secretID: "the-secret-id"}
	server := httptest.NewServer(vault)
	t.Cleanup(server.Close)
	kept := &Unwrapped{}
	config := by(server.URL, func(c *Config) {
		c.AppRole = &AppRoleAuth{MountPath: "/v1/auth/approle", RoleID: "a", From: "Secret a/b", SecretID: given("hvs.wrapping"), Unwrapped: kept}
	})
	for range 3 {
		login(t, config)
	}
	if vault.lookups != 1 || vault.unwraps != 1 || vault.logins != 3 || kept.SecretID != "the-secret-id" || strings.Contains(kept.Of, "hvs") {
		t.Errorf("%+v, kept %d bytes", vault, len(kept.SecretID))
	}
	// Another server, or mount, that a specification names later does not get the secret id.
	stranger := &wrapping{used: true}
	other := httptest.NewServer(stranger)
	t.Cleanup(other.Close)
	elsewhere, mount := config, *config.AppRole
	elsewhere.Server = other.URL
	mount.MountPath = "auth/other"
	for _, changed := range []Config{elsewhere, by(server.URL, func(c *Config) { c.AppRole = &mount })} {
		client, err := New(changed)
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.Login(t.Context())
		expect(t, err, WrappingTokenUsed, "the wrapping token in Secret a/b was used already")
	}
	if stranger.logins+stranger.unwraps > 0 || vault.logins != 3 {
		t.Errorf("the secret id was sent elsewhere: %+v, %+v", stranger, vault)
	}
	config.AppRole.SecretID = given("hvs.another")
	client, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.Login(t.Context())
	expect(t, err, WrappingTokenUsed, "the wrapping token in Secret a/b was used already", "another party may have the secret id")
}

// What another endpoint made is not unwrapped, whatever a hostile Vault calls it, and no message quotes the token.
func TestUnwrapForeign(t *testing.T) {
	t.Parallel()
	for _, path := range []string{
		"", "sys/wrapping/wrap", "auth/approle/role/a/role-id", "auth/approle/role/a/b/secret-id", "auth/other/role/a/secret-id",
		"xauth/approle/role/a/secret-id", "auth/approle/role//secret-id", "auth/approle/role/a/secret-id/x", "cubbyhole/a",
		"hvs.wrapping", "a\x1b[2Kb", strings.Repeat("a", 10_000),
	} {
		vault := &wrapping{path: path, secretID: "a"}
		server := httptest.NewServer(vault)
		client, err := New(by(server.URL, func(c *Config) {
			c.AppRole = &AppRoleAuth{MountPath: "auth/approle", RoleID: "a", From: "Secret a/b", SecretID: given("hvs.wrapping"), Unwrapped: &Unwrapped{}}
		}))
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.Login(t.Context())
		server.Close()
		expect(t, err, WrappingTokenForeign, "It was not unwrapped")
		if vault.unwraps > 0 || vault.logins > 0 || strings.Contains(err.Error(), "hvs.") || strings.Contains(err.Error(), "\x1b") || len(err.Error()) > 1000 {
			t.Errorf("%.40q: %d unwraps, %.2000v", path, vault.unwraps, err)
		}
	}
}

// One login is required.
func TestOneLogin(t *testing.T) {
	t.Parallel()
	cert := &CertAuth{MountPath: "auth/cert", Certificate: func(context.Context) (*tls.Certificate, error) { return &tls.Certificate{}, nil }}
	for name, change := range map[string]func(*Config){
		"none": func(*Config) {},
		"two":  func(c *Config) { c.Cert, c.Token = cert, given("a") },
	} {
		if _, err := New(by("https://vault:8200", change)); err == nil || !strings.Contains(err.Error(), "expected one way to log in") {
			t.Errorf("%s: %v", name, err)
		}
	}
	endpoints, err := by("https://vault:8200", func(c *Config) { c.Cert = cert }).Endpoints()
	if err != nil || endpoints.Login != "auth/cert/login" {
		t.Errorf("%s, %v", endpoints.Login, err)
	}
}
