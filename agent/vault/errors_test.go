// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func failed(words ...string) map[string]any { return map[string]any{"errors": words} }

func TestEachAnswerIsExplained(t *testing.T) {
	const login, generate, sign = "auth/kubernetes/login", "pki_int/intermediate/generate/exported", "pki/root/sign-intermediate"
	for name, test := range map[string]struct {
		path   string
		answer func(http.ResponseWriter)
		kind   Kind
		want   string
	}{
		"sealed":                      {login, says(503, failed("Vault is sealed")), Sealed, "vault operator unseal"},
		"unavailable":                 {login, says(503, failed()), Unreachable, "answered 503"},
		"a bad gateway":               {sign, says(502, nil), Unreachable, "answered 502"},
		"a replica behind":            {login, says(412, failed("required index state not present")), Unreachable, "behind"},
		"too many":                    {sign, says(429, failed("request path: rate limit quota exceeded")), RateLimited, "quota"},
		"no auth method":              {login, says(404, failed("no handler for route")), PathMissing, "auth/kubernetes/login"},
		"no secrets engine":           {sign, says(404, failed("no handler for route")), PathMissing, sign},
		"no such role":                {login, says(400, failed(`invalid role name "istiod"`)), RoleUnknown, `no role "istiod"`},
		"a token refused":             {login, says(403, failed("permission denied")), NotAuthorized, "system:auth-delegator"},
		"another service account":     {login, says(403, failed("service account name not authorized")), NotAuthorized, "bound_service_account_names"},
		"another namespace":           {login, says(403, failed("namespace not authorized")), NotAuthorized, "bound_service_account_namespaces"},
		"another audience":            {login, says(403, failed("invalid audience (aud) claim: audience claim does not match any expected audience")), NotAuthorized, "kubernetesAuth.audience"},
		"a policy that denies":        {sign, says(403, failed("1 error occurred:\n\t* permission denied\n\n")), PolicyDenies, `path "pki/root/sign-intermediate" { capabilities = ["update"] }`},
		"a request refused":           {sign, says(400, failed("common name Istio not allowed by this role")), Refused, "common name Istio not allowed"},
		"a request refused, secretly": {sign, says(400, failed("bad token "+secretToken)), Refused, "audit log"},
		"a page of a proxy":           {login, func(w http.ResponseWriter) { _, _ = w.Write([]byte("<html>" + secretJWT)) }, BadAnswer, "proxy"},
		"a truncated answer":          {sign, func(w http.ResponseWriter) { _, _ = w.Write([]byte(`{"data":{"certificate":"` + secretKey[:30])) }, "", ""},
		"no token":                    {login, says(200, map[string]any{"auth": map[string]any{}}), BadAnswer, "auth.client_token"},
		"no key":                      {generate, says(200, map[string]any{"data": map[string]any{"csr": "x"}}), BadAnswer, "data.private_key"},
		"no request":                  {generate, says(200, map[string]any{"data": map[string]any{"private_key": secretKey}}), BadAnswer, "data.csr"},
		"no certificate":              {sign, says(200, map[string]any{"data": map[string]any{"issuing_ca": certificate}}), BadAnswer, "data.certificate"},
		"an answer cut off": {sign, func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "100000")
			_, _ = w.Write([]byte(`{"data":{`))
		}, Unreachable, "cut off"},
		"an endless answer": {sign, func(w http.ResponseWriter) {
			_, _ = w.Write([]byte(`{"data":{"certificate":"`))
			for range 100 {
				_, _ = w.Write([]byte(strings.Repeat("A", 64<<10)))
			}
		}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.answers[test.path] = test.answer
			err := all(t.Context(), f.config())
			var explained *Error
			if !errors.As(err, &explained) {
				t.Fatalf("got %v", err)
			}
			if test.kind != "" && explained.Kind != test.kind {
				t.Errorf("got %s, want %s: %v", explained.Kind, test.kind, err)
			}
			if !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), f.URL) {
				t.Errorf("want %q and the server in %q", test.want, err)
			}
			withoutSecrets(t, err)
		})
	}
}

// withoutSecrets wants no part of any marker in a message.
func withoutSecrets(t *testing.T, err error) {
	t.Helper()
	for _, secret := range []string{secretToken, secretJWT, secretKey} {
		for i := 0; i+12 <= len(secret); i++ {
			if strings.Contains(err.Error(), secret[i:i+12]) {
				t.Errorf("%q is in %q", secret[i:i+12], err)
				return
			}
		}
	}
}

func TestNoAnswerPutsASecretIntoAnError(t *testing.T) {
	for _, path := range []string{"auth/kubernetes/login", "pki_int/intermediate/generate/exported", "pki/root/sign-intermediate"} {
		for _, status := range []int{200, 301, 400, 403, 404, 405, 412, 429, 500, 503} {
			for _, body := range []any{failed("x "+secretToken, secretJWT), failed(secretKey), secretToken, map[string]any{"data": secretKey, "auth": secretToken}} {
				f := newFake(t)
				f.answers[path] = says(status, body)
				if err := all(t.Context(), f.config()); err != nil {
					withoutSecrets(t, err)
				}
			}
		}
	}
}

func TestWhyThereIsNoAnswerIsExplained(t *testing.T) {
	plain, secure := newFake(t), httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(secure.Close)
	stuck := newFake(t)
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	stuck.answers["auth/kubernetes/login"] = func(http.ResponseWriter) { <-release }
	bundle := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
	for name, test := range map[string]struct {
		change func(*Config)
		kind   Kind
		want   string
	}{
		"refused":       {func(c *Config) { c.Server = "http://127.0.0.1:1" }, Unreachable, "refused"},
		"no such name":  {func(c *Config) { c.Server = "http://vault.invalid:8200" }, Unreachable, "vault.invalid"},
		"too slow":      {func(c *Config) { c.Server, c.Timeout = stuck.URL, 50*time.Millisecond }, Unreachable, "in time"},
		"an unknown CA": {func(c *Config) { c.Server = secure.URL }, TLS, "caBundle"},
		"another name": {func(c *Config) {
			c.Server, c.CABundle = strings.Replace(secure.URL, "127.0.0.1", "localhost", 1), bundle
		}, TLS, "localhost"},
		"https to a plain port": {func(c *Config) { c.Server = strings.Replace(plain.URL, "http:", "https:", 1) }, TLS, "does not speak TLS"},
		"http to a TLS port":    {func(c *Config) { c.Server = strings.Replace(secure.URL, "https:", "http:", 1) }, TLS, "https://"},
	} {
		t.Run(name, func(t *testing.T) {
			config := plain.config()
			test.change(&config)
			err := all(t.Context(), config)
			var explained *Error
			if !errors.As(err, &explained) || explained.Kind != test.kind || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %s and %q", err, test.kind, test.want)
			}
		})
	}
}

func TestTheTokenDoesNotFollowARedirectToPlainHTTP(t *testing.T) {
	plain := newFake(t)
	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, plain.URL+r.URL.Path, http.StatusTemporaryRedirect)
	}))
	t.Cleanup(secure.Close)
	config := plain.config()
	config.Server = secure.URL
	config.CABundle = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
	if err := all(t.Context(), config); err == nil || len(plain.calls) > 0 {
		t.Errorf("%d calls arrived (%v)", len(plain.calls), err)
	}
}

func TestACallThatIsGivenUpSaysSo(t *testing.T) {
	f := newFake(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := all(ctx, f.config()); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
