// SPDX-License-Identifier: Apache-2.0

package issuing

import (
	"net/http"
	"testing"
	"time"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/faultproxy"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/vaultserver"
)

// Suffixes of the paths of the agent's requests.
const (
	loginPath    = "/auth/kubernetes/login"
	generatePath = "/intermediate/generate/exported"
	signPath     = "/root/sign-intermediate"
	revokePath   = "/auth/token/revoke-self"
)

// Error answers of Vault, and of a load balancer before it.
var (
	tooMany     = faultproxy.Answer(http.StatusTooManyRequests, "application/json", `{"errors":["request path \"auth/kubernetes/login\": rate limit quota exceeded"]}`)
	internal    = faultproxy.Answer(http.StatusInternalServerError, "application/json", `{"errors":["internal error"]}`)
	failing     = faultproxy.Answer(http.StatusInternalServerError, "text/html", "<html><body>Internal Server Error</body></html>")
	badGateway  = faultproxy.Answer(http.StatusBadGateway, "text/html", "<html><body><h1>502 Bad Gateway</h1></body></html>")
	unavailable = faultproxy.Answer(http.StatusServiceUnavailable, "text/plain", "no healthy upstream")
)

// proxy puts a proxy before Vault.
func (s *setting) proxy(t *testing.T) *faultproxy.Proxy {
	t.Helper()
	proxy, err := faultproxy.Start(s.vault.Address)
	must(t, err)
	t.Cleanup(func() { must(t, proxy.Stop()) })
	proxy.Spy(s.learn)
	s.server = proxy.Address
	return proxy
}

// exported makes Vault generate the key.
func exported(vault map[string]any) { vault["csrPath"] = "pki_int/intermediate/generate/exported" }

// Faults that last for a few requests are reported with their reason, and the agent recovers by itself.
func TestTransientFaults(t *testing.T) {
	const times = 2
	for name, test := range map[string]struct {
		path         string
		fault        faultproxy.Fault
		reason, says string
	}{
		"the login is cut off":         {loginPath, faultproxy.Cut, "VaultUnreachable", "cut off in the middle of an answer"},
		"the key is cut off":           {generatePath, faultproxy.Cut, "VaultUnreachable", "cut off in the middle of an answer"},
		"the certificate is cut off":   {signPath, faultproxy.Cut, "VaultUnreachable", "cut off in the middle of an answer"},
		"the login is reset":           {loginPath, faultproxy.Reset, "VaultUnreachable", "the connection failed"},
		"the key is reset":             {generatePath, faultproxy.Reset, "VaultUnreachable", "the connection failed"},
		"the certificate is reset":     {signPath, faultproxy.Reset, "VaultUnreachable", "the connection failed"},
		"the login hangs":              {loginPath, faultproxy.Hang, "VaultUnreachable", "did not answer in time"},
		"the certificate hangs":        {signPath, faultproxy.Hang, "VaultUnreachable", "did not answer in time"},
		"429 to the login":             {loginPath, tooMany, "VaultRateLimited", "raise its rate limit quota"},
		"429 to the certificate":       {signPath, tooMany, "VaultRateLimited", "raise its rate limit quota"},
		"Vault's 500 to the login":     {loginPath, internal, "VaultRefused", "internal error"},
		"Vault's 500 to the key":       {generatePath, internal, "VaultRefused", "internal error"},
		"another's 500 to all":         {"", failing, "VaultUnreachable", "it answered 500"},
		"502 to the login":             {loginPath, badGateway, "VaultUnreachable", "it answered 502"},
		"502 to the certificate":       {signPath, badGateway, "VaultUnreachable", "it answered 502"},
		"503 to the login":             {loginPath, unavailable, "VaultUnreachable", "it answered 503"},
		"503 to the certificate":       {signPath, unavailable, "VaultUnreachable", "it answered 503"},
		"Vault is sealed at the login": {loginPath, faultproxy.Answer(503, "application/json", `{"errors":["Vault is sealed"]}`), "VaultSealed", "vault operator unseal"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSetting(t, vaultserver.Options{})
			proxy := s.proxy(t)
			proxy.Spoil(test.path, times, test.fault)
			s.specify(t, exported)
			output, err := s.Init(t.Context(), "--vault-timeout", "3s", "--log-level", "debug")
			must(t, err)
			for _, want := range []string{"reason=" + test.reason, test.says, "failures=2", "reason=Published"} {
				must(t, contains(output, want))
			}
			if n := proxy.Count(loginPath); n != times+1 {
				t.Errorf("it logged in %d times: %q", n, proxy.Calls())
			}
			if contains(output, "failures=3") == nil || contains(output, "reason=NotTidied") == nil {
				t.Errorf("more went wrong than was to:\n%s", output)
			}
		})
	}
}

// A Vault that takes ten seconds for each answer is no failure.
func TestSlowVault(t *testing.T) {
	s := newSetting(t, vaultserver.Options{})
	proxy := s.proxy(t)
	proxy.Spoil("", 0, faultproxy.Slow(10*time.Second))
	s.specify(t, exported)
	output := s.issues(t)
	must(t, contains(output, "reason=Published"))
	if contains(output, "failures=") == nil {
		t.Errorf("something failed:\n%s", output)
	}
	for _, path := range []string{loginPath, generatePath, signPath, revokePath} {
		if n := proxy.Count(path); n != 1 {
			t.Errorf("%d calls of %s", n, path)
		}
	}
}
