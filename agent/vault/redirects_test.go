// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// A redirect within the server's host is followed once, as Vault's own client does; one to any other place is not, with
// a token or with a login.
func TestRedirects(t *testing.T) {
	ca := newAuthority(t)
	for name, test := range map[string]struct {
		from, to *tls.Config                    // none: without TLS
		location func(server, to string) string // where it leads to
		follow   bool
		says     string
	}{
		"to another port":         {location: func(_, to string) string { return to }, says: "it redirects to http://127.0.0.1:"},
		"to another name":         {location: func(_, to string) string { return strings.Replace(to, "127.0.0.1", "localhost", 1) }, says: "it redirects to http://localhost:"},
		"with a query":            {location: func(_, to string) string { return to + "?token=a-query" }, says: "it redirects to http://127.0.0.1:"},
		"with a user":             {location: func(_, to string) string { return strings.Replace(to, "http://", "http://user:secret@", 1) }, says: "it redirects to http://127.0.0.1:"},
		"from TLS to TLS":         {from: ca.of(t, "127.0.0.1", time.Hour), to: ca.of(t, "127.0.0.1", time.Hour), location: func(_, to string) string { return to }, says: "it redirects to https://127.0.0.1:"},
		"from http to https":      {to: ca.of(t, "127.0.0.1", time.Hour), location: func(_, to string) string { return to }, says: "it redirects to https://127.0.0.1:"},
		"from https to http":      {from: ca.of(t, "127.0.0.1", time.Hour), location: func(_, to string) string { return to }, says: "it redirects from https to http"},
		"to the same host":        {location: func(server, _ string) string { return server }, follow: true},
		"to another path":         {location: func(string, string) string { return "" }, follow: true},
		"to the host in capitals": {location: func(server, _ string) string { return strings.Replace(server, "http:", "HTTP:", 1) }, follow: true},
	} {
		for _, status := range []int{http.StatusMovedPermanently, http.StatusFound, http.StatusTemporaryRedirect} {
			t.Run(fmt.Sprint(name, " ", status), func(t *testing.T) {
				elsewhere, here := &fake{}, &fake{}
				target := start(t, elsewhere.handler(good()).ServeHTTP, test.to)
				var self string
				server := start(t, func(w http.ResponseWriter, r *http.Request) {
					if path, ok := strings.CutPrefix(r.URL.Path, "/v1/here/"); ok { // after a redirect
						r.URL.Path = "/v1/" + path
						here.handler(good()).ServeHTTP(w, r)
						return
					}
					path, query, _ := strings.Cut(test.location(self, target.URL), "?")
					w.Header().Set("Location", path+"/v1/here"+strings.TrimPrefix(r.URL.Path, "/v1")+"?"+query)
					w.WriteHeader(status)
				}, test.from)
				self = server.URL
				for what, config := range map[string]Config{"login": configuration(server.URL), "token": tokenConfiguration(server.URL)} {
					config.CABundle = ca.pem
					err := try(t.Context(), config, map[string]string{"login": loginEndpoint, "token": signEndpoint}[what])
					if test.follow {
						if err != nil || len(here.received()) == 0 {
							t.Errorf("%s: got %v and %q", what, err, here.endpoints())
						}
						continue
					}
					expect(t, err, Redirects, test.says)
					if text := err.Error(); strings.Contains(text, "a-query") || strings.Contains(text, "secret") || strings.Contains(text, "/here") {
						t.Errorf("%s: %v tells more than the host", what, err)
					}
				}
				if len(elsewhere.received()) > 0 {
					t.Errorf("%q arrived elsewhere", elsewhere.endpoints())
				}
			})
		}
	}
}

// A server that knows a secret could have it printed as the name of a host.
func TestARedirectPrintsNoSecret(t *testing.T) {
	for _, host := range []string{secretToken + ".example", secretJWT, "[fe80::1%25" + secretJWT + "]", strings.Repeat("a", 1000) + ".example"} {
		server := start(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "https://"+host+"/v1/x")
			w.WriteHeader(http.StatusTemporaryRedirect)
		}, nil)
		err := try(t.Context(), configuration(server.URL), loginEndpoint)
		if err == nil {
			t.Fatal("no error")
		}
		withoutSecrets(t, err.Error())
		if len(err.Error()) > 1000 {
			t.Errorf("%d bytes", len(err.Error()))
		}
	}
}

func TestOrigin(t *testing.T) {
	for a, b := range map[string]string{
		"https://vault.example":      "https://VAULT.example:443/path?query",
		"http://vault.example:80":    "HTTP://vault.example",
		"https://[::1]:8200":         "https://user@[::1]:8200/v1",
		"https://vault.example:8200": "https://vault.example:8200",
	} {
		if x, y := Origin(mustParse(t, a)), Origin(mustParse(t, b)); x != y {
			t.Errorf("%s and %s differ", x, y)
		}
	}
	for a, b := range map[string]string{
		"https://vault.example":  "http://vault.example:443",
		"https://vault.example ": "https://vault.example.evil",
		"https://vault.example:": "https://vault.example:8443",
		"https://vault.istio":    "https://vault.İstio", // Go's client connects to vault.xn--istio-7fd
	} {
		if x, y := Origin(mustParse(t, strings.TrimSpace(a))), Origin(mustParse(t, b)); x == y {
			t.Errorf("%s is both", x)
		}
	}
}

func mustParse(t *testing.T, address string) *url.URL {
	t.Helper()
	parsed, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}
