// SPDX-License-Identifier: Apache-2.0

package client

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

func TestWithin(t *testing.T) {
	for name, test := range map[string]struct {
		server, to string
		want       bool
	}{
		"no prefix":                        {"https://vault:8200", "https://vault:8200/v1/a", true},
		"no prefix, a slash":               {"https://vault:8200/", "https://vault:8200/v1/a", true},
		"no prefix, any path":              {"https://vault:8200", "https://vault:8200/elsewhere", true},
		"below the prefix":                 {"https://gateway/vault", "https://GATEWAY:443/vault/v1/a", true},
		"below a prefix with a slash":      {"https://gateway/vault/", "https://gateway/vault/v1/a", true},
		"below a long prefix":              {"https://gateway/a/b", "https://gateway/a/b/v1/a/", true},
		"the prefix itself":                {"https://gateway/vault", "https://gateway/vault", false},
		"another origin":                   {"https://gateway/vault", "https://evil/vault/v1/a", false},
		"another scheme":                   {"https://gateway/vault", "http://gateway:443/vault/v1/a", false},
		"beside the prefix":                {"https://gateway/vault", "https://gateway/vault2/v1/a", false},
		"above the prefix":                 {"https://gateway/a/b", "https://gateway/a/v1/a", false},
		"another case":                     {"https://gateway/vault", "https://gateway/Vault/v1/a", false},
		"dots":                             {"https://gateway/vault", "https://gateway/vault/../evil/v1/a", false},
		"dots that come back":              {"https://gateway/vault", "https://gateway/vault/../vault/v1/a", false},
		"one dot":                          {"https://gateway/vault", "https://gateway/vault/./v1/a", false},
		"escaped dots":                     {"https://gateway/vault", "https://gateway/vault/%2e%2E/evil/v1/a", false},
		"dots that are escaped twice":      {"https://gateway/vault", "https://gateway/vault/%252e%252e/evil/v1/a", false},
		"an escaped slash":                 {"https://gateway/vault", "https://gateway/vault/..%2fevil/v1/a", false},
		"an escaped prefix":                {"https://gateway/vault", "https://gateway/%76ault/v1/a", false},
		"a backslash":                      {"https://gateway/vault", `https://gateway/vault/..\evil/v1/a`, false},
		"an escaped backslash":             {"https://gateway/vault", "https://gateway/vault/..%5cevil/v1/a", false},
		"a parameter":                      {"https://gateway/vault", "https://gateway/vault/..;/evil/v1/a", false},
		"two slashes":                      {"https://gateway/vault", "https://gateway/vault//evil/v1/a", false},
		"two slashes in front":             {"https://gateway/vault", "https://gateway//vault/v1/a", false},
		"the prefix in a query":            {"https://gateway/vault", "https://gateway/?/vault/v1/a", false},
		"the prefix in a fragment":         {"https://gateway/vault", "https://gateway/#/vault/v1/a", false},
		"the prefix in the name of a user": {"https://gateway/vault", "https://gateway%2fvault@evil/vault/v1/a", false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Within(mustParse(t, test.server), mustParse(t, test.to)); got != test.want {
				t.Errorf("%s below %s: %t", test.to, test.server, got)
			}
		})
	}
}

// All calls of a server with a prefix are below it, also after a redirect, and whatever Vault answers.
func TestPrefix(t *testing.T) {
	for name, test := range map[string]struct {
		location string // of a redirect, if there is one
		refused  bool
	}{
		"no redirect":                {"", false},
		"a redirect below it":        {"/vault/here", false},
		"a redirect beside it":       {"/vault2", true},
		"a redirect above it":        {"", true},
		"a redirect that climbs":     {"/vault/../evil", true},
		"an escaped redirect":        {"/vault/%2e%2e/evil", true},
		"a redirect to two slashes":  {"/vault//evil", true},
		"a redirect by a parameter":  {"/vault/..;", true},
		"a redirect with an escaped": {"/vault/..%2f..", true},
	} {
		t.Run(name, func(t *testing.T) {
			vault, beside := &fake{}, &fake{}
			moved := false
			server := start(t, func(w http.ResponseWriter, r *http.Request) {
				path, ok := strings.CutPrefix(strings.Replace(r.URL.Path, "/vault/here/", "/vault/", 1), "/vault/")
				switch {
				case !ok:
					beside.handler(good()).ServeHTTP(w, r)
				case !moved && (test.location != "" || test.refused):
					moved = true
					w.Header().Set("Location", test.location+"/v1/"+strings.TrimPrefix(path, "v1/"))
					w.WriteHeader(http.StatusTemporaryRedirect)
				default:
					r.URL.Path = "/" + path
					vault.handler(with(generateEndpoint, 200, `{"data":{"csr":"a request","private_key":"a key","key_id":"some-id"}}`)).ServeHTTP(w, r)
				}
			}, nil)
			config := configuration(server.URL + "/vault/")
			if test.refused {
				expect(t, try(t.Context(), config, loginEndpoint), Redirects, "outside of /vault")
			} else {
				session := login(t, config)
				all(t, session)
				if err := session.DeleteKey(t.Context(), "../../../../evil"); err == nil {
					t.Error("the name of a key led out of the prefix")
				}
				if n := len(vault.received()); n < len(good()) {
					t.Errorf("%d calls: %q", n, vault.endpoints())
				}
			}
			if len(beside.received()) > 0 {
				t.Errorf("%q arrived beside the prefix", beside.endpoints())
			}
		})
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
