// SPDX-License-Identifier: Apache-2.0

package vaultside_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/istiod-agent/istiod-agent/cli/vaultside"
)

// A server may have a prefix. The token goes nowhere but below it.
func TestConnectPrefix(t *testing.T) {
	for name, test := range map[string]struct{ location, refused string }{
		"no redirect":            {"", ""},
		"a redirect below it":    {"/vault/here", ""},
		"a redirect beside it":   {"/evil", "where no token is sent"},
		"a redirect that climbs": {"/vault/../evil", "where no token is sent"},
		"an escaped redirect":    {"/vault/%2e%2e/evil", "where no token is sent"},
	} {
		t.Run(name, func(t *testing.T) {
			var beside []string
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.URL.Path == "/vault/v1/sys/health" && test.location != "":
					w.Header().Set("Location", test.location+"/v1/sys/health")
					w.WriteHeader(http.StatusTemporaryRedirect)
				case strings.HasPrefix(r.URL.Path, "/vault/"):
					_, _ = io.WriteString(w, `{"initialized":true,"sealed":false,"version":"1.21.1"}`)
				default:
					beside = append(beside, r.URL.Path)
				}
			}))
			t.Cleanup(server.Close)
			t.Setenv("VAULT_TOKEN", "a-token")
			mesh := read(t, "-", strings.Replace(localKey, "https://vault.vault:8200", server.URL+"/vault", 1))
			vault, err := vaultside.Connect(mesh, true, 10*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			version, err := vault.Health(t.Context())
			if test.refused == "" && (err != nil || version != "1.21.1") || test.refused != "" && (err == nil || !strings.Contains(err.Error(), test.refused)) {
				t.Errorf("got %q, %v", version, err)
			}
			if len(beside) > 0 {
				t.Errorf("asked beside the prefix: %q", beside)
			}
		})
	}
}

// A 403 that is not Vault's has another cause than the token.
func TestForeign403(t *testing.T) {
	for body, says := range map[string]string{
		"RBAC: access denied":              "a proxy, gateway or firewall refuses the request",
		`{"message":"Forbidden"}`:          "a proxy, gateway or firewall refuses the request",
		`{"errors":["permission denied"]}`: "the token in VAULT_TOKEN has expired",
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, body)
		}))
		t.Cleanup(server.Close)
		t.Setenv("VAULT_TOKEN", "a-token")
		mesh := read(t, "-", strings.Replace(localKey, "https://vault.vault:8200", server.URL, 1))
		vault, err := vaultside.Connect(mesh, true, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := vault.Read(t.Context(), want(t, mesh, vaultside.Options{})); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got %v", body, err)
		}
	}
}
