// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/istiod-agent/istiod-agent/internal/testca"
)

// try makes one call, with a login where the call is another.
func try(ctx context.Context, config Config, endpoint string) error {
	client, err := New(config)
	if err != nil {
		return err
	}
	session, err := client.Login(ctx)
	if err != nil || endpoint == loginEndpoint {
		return err
	}
	if endpoint == revokeEndpoint {
		return session.Close(ctx)
	}
	return calls(ctx, session)[endpoint]()
}

func TestEachAnswerIsExplained(t *testing.T) {
	const denied = `{"errors":["1 error occurred:\n\t* permission denied\n\n"]}`
	for name, test := range map[string]struct {
		endpoint string
		status   int
		body     string
		kind     Kind
		says     []string
	}{
		"sealed":                   {loginEndpoint, 503, `{"errors":["Vault is sealed"]}`, Sealed, []string{"vault operator unseal"}},
		"sealed since the login":   {signEndpoint, 503, `{"errors":["Vault is sealed"]}`, Sealed, []string{"vault operator unseal"}},
		"503 of another kind":      {loginEndpoint, 503, `{"errors":[]}`, Unreachable, []string{"answered 503"}},
		"503 of a proxy":           {loginEndpoint, 503, `<html>no upstream</html>`, Unreachable, []string{"answered 503"}},
		"502":                      {signEndpoint, 502, `<html>bad gateway</html>`, Unreachable, []string{"answered 502"}},
		"504":                      {signEndpoint, 504, ``, Unreachable, []string{"answered 504"}},
		"500 with Vault's words":   {signEndpoint, 500, `{"errors":["1 error occurred:\n\t* no issuer configured\n\n"]}`, Refused, []string{signPath(), "1 error occurred: * no issuer configured"}},
		"500 without words":        {signEndpoint, 500, `{"errors":[]}`, Unreachable, []string{"answered 500"}},
		"500 of a proxy":           {signEndpoint, 500, `<html>oops</html>`, Unreachable, []string{"answered 500"}},
		"429":                      {signEndpoint, 429, `{"errors":["request path: rate limit quota exceeded"]}`, RateLimited, []string{"429", "quota"}},
		"412":                      {signEndpoint, 412, `{"errors":["required index state not present"]}`, Unreachable, []string{"412", "behind"}},
		"no auth method":           {loginEndpoint, 404, `{"errors":["no handler for route \"auth/kubernetes/login\""]}`, PathMissing, []string{"auth/kubernetes/login", "enable the secrets engine or auth method"}},
		"no engine to make keys":   {generateEndpoint, 404, `{"errors":[]}`, PathMissing, []string{"pki/intermediate/generate/exported"}},
		"no engine to sign":        {signEndpoint, 404, `{"errors":[]}`, PathMissing, []string{signPath()}},
		"404 of a proxy":           {signEndpoint, 404, `<html>not here</html>`, BadAnswer, []string{"no proxy answers in its place"}},
		"no such role":             {loginEndpoint, 400, `{"errors":["invalid role name \"istiod\""]}`, RoleUnknown, []string{`auth/kubernetes knows no role "istiod"`, "kubernetesAuth.role"}},
		"login denied":             {loginEndpoint, 403, `{"errors":["permission denied"]}`, NotAuthorized, []string{`role "istiod"`, "system:auth-delegator", "audience"}},
		"login unauthorized":       {loginEndpoint, 401, `{"errors":["unauthorized"]}`, NotAuthorized, []string{"system:auth-delegator"}},
		"another service account":  {loginEndpoint, 403, `{"errors":["service account name not authorized"]}`, NotAuthorized, []string{`role "istiod"`, "bound_service_account_names"}},
		"another namespace":        {loginEndpoint, 403, `{"errors":["namespace not authorized"]}`, NotAuthorized, []string{`role "istiod"`, "bound_service_account_namespaces"}},
		"another audience":         {loginEndpoint, 403, `{"errors":["invalid audience (aud) claim: audience claim does not match any expected audience"]}`, NotAuthorized, []string{"kubernetesAuth.audience"}},
		"key denied":               {generateEndpoint, 403, denied, PolicyDenies, []string{`role "istiod": path "pki/intermediate/generate/exported" { capabilities = ["update"] }`}},
		"signature denied":         {signEndpoint, 403, denied, PolicyDenies, []string{`role "istiod": path "pki/root/sign-intermediate" { capabilities = ["update"] }`}},
		"removal denied":           {deleteEndpoint, 403, denied, PolicyDenies, []string{`path "pki/key/some-id" { capabilities = ["delete"] }`}},
		"revocation denied":        {revokeEndpoint, 403, denied, PolicyDenies, []string{`path "auth/token/revoke-self" { capabilities = ["update"] }`}},
		"refused in words":         {signEndpoint, 400, `{"errors":["cannot satisfy request, as TTL would result in notAfter beyond the expiration of the CA"]}`, Refused, []string{`"pki/root/sign-intermediate" refuses it: cannot satisfy request, as TTL would`}},
		"refused in many words":    {signEndpoint, 400, `{"errors":["` + strings.Repeat("word ", 100) + `"]}`, Refused, []string{"word …"}},
		"refused with a token":     {signEndpoint, 400, `{"errors":["not valid: hvs.CAESIJlU02LQZq6"]}`, Refused, []string{"status 400; correct what it names"}},
		"refused with a key":       {signEndpoint, 400, `{"errors":["not valid: -----BEGIN EC PRIVATE KEY-----"]}`, Refused, []string{"status 400; correct what it names"}},
		"refused without words":    {signEndpoint, 400, `{"errors":[]}`, Refused, []string{"status 400"}},
		"refused by who knows":     {signEndpoint, 400, `<html>bad request</html>`, BadAnswer, []string{"status 400", "no proxy answers in its place"}},
		"a method that is not":     {signEndpoint, 405, `{"errors":["unsupported operation"]}`, BadAnswer, []string{"status 405"}},
		"a page":                   {loginEndpoint, 200, `<html>welcome</html>`, BadAnswer, []string{"not JSON", "no proxy answers in its place"}},
		"a page since the login":   {signEndpoint, 200, `<html>welcome</html>`, BadAnswer, []string{"not JSON", "no proxy answers in its place"}},
		"JSON of another kind":     {signEndpoint, 200, `["welcome"]`, BadAnswer, []string{"not JSON of the expected form"}},
		"truncated JSON":           {signEndpoint, 200, `{"data":{"certificate":"C`, Unreachable, []string{"cut off in the middle"}},
		"longer than any answer":   {signEndpoint, 200, `{"data":{"certificate":"` + strings.Repeat("A", answerLimit) + `"}}`, BadAnswer, []string{"longer than 262144 bytes"}},
		"an error longer than any": {signEndpoint, 400, strings.Repeat(" ", 2*answerLimit), BadAnswer, []string{"longer than 262144 bytes"}},
	} {
		t.Run(name, func(t *testing.T) {
			server := serve(t, with(test.endpoint, test.status, test.body))
			err := try(t.Context(), configuration(server.URL), test.endpoint)
			expect(t, err, test.kind, append(test.says, server.URL)...)
			if strings.ContainsAny(err.Error(), "\n<") {
				t.Errorf("%q is not one line without markup", err)
			}
		})
	}
}

func signPath() string { return strings.TrimPrefix(signEndpoint, "PUT /v1/") }

func TestAnAnswerOfTheLargestSizeIsRead(t *testing.T) {
	const start, end = `{"data":{"certificate":"`, `"}}`
	body := start + strings.Repeat("A", answerLimit-len(start)-len(end)) + end
	if err := try(t.Context(), configuration(serve(t, with(signEndpoint, 200, body)).URL), signEndpoint); err != nil {
		t.Error(err)
	}
}

func TestHeadersAreBounded(t *testing.T) {
	for name, secured := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				for range 10_000 {
					w.Header().Add("A", "many of them take more memory than istiod's sidecar has")
				}
				_, _ = io.WriteString(w, `{"auth":{"client_token":"own-token"}}`)
			}))
			if server.EnableHTTP2 = secured; secured {
				server.StartTLS()
			} else {
				server.Start()
			}
			t.Cleanup(server.Close)
			config := configuration(server.URL)
			if secured {
				config.CABundle = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
			}
			if err := try(t.Context(), config, loginEndpoint); err == nil {
				t.Error("was read")
			}
		})
	}
}

// start makes a server of a handler, without TLS when there is no configuration of it.
func start(t *testing.T, handler http.HandlerFunc, config *tls.Config) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	if server.TLS = config; config == nil {
		server.Start()
	} else {
		server.StartTLS()
	}
	t.Cleanup(server.Close)
	return server
}

// authority is a CA for servers' certificates.
type authority struct {
	*testca.Certificate
	pem []byte
}

func newAuthority(*testing.T) *authority {
	root := testca.Root("some CA")
	return &authority{root, root.PEM()}
}

// of gives a server's certificate that ends in so long.
func (a *authority) of(_ *testing.T, address string, left time.Duration) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{a.Sign(x509.Certificate{
		SerialNumber: big.NewInt(2), IPAddresses: []net.IP{net.ParseIP(address)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, NotAfter: time.Now().Add(left),
	}, a.Key).TLS()}}
}

func TestWhyThereIsNoAnswerIsExplained(t *testing.T) {
	ca, another := newAuthority(t), newAuthority(t)
	answering := (&fake{}).handler(good()).ServeHTTP
	old := ca.of(t, "127.0.0.1", time.Hour)
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	wait := func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body) // only then does a server notice that its client is gone
		<-r.Context().Done()
	}
	cut := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, `{"auth":{`)
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		tls     *tls.Config
		change  func(*Config)
		kind    Kind
		says    []string
	}{
		"too slow":              {wait, nil, func(c *Config) { c.Timeout = 50 * time.Millisecond }, Unreachable, []string{"did not answer in time"}},
		"cut off":               {cut, nil, nil, Unreachable, []string{"cut off in the middle"}},
		"hung up":               {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, nil, nil, Unreachable, []string{"the connection failed"}},
		"an unknown CA":         {answering, ca.of(t, "127.0.0.1", time.Hour), func(c *Config) { c.CABundle = another.pem }, TLS, []string{"some CA", "caBundle"}},
		"no CA at all":          {answering, ca.of(t, "127.0.0.1", time.Hour), func(c *Config) { c.CABundle = nil }, TLS, []string{"some CA", "caBundle"}},
		"another name":          {answering, ca.of(t, "127.0.0.2", time.Hour), nil, TLS, []string{`is not for "127.0.0.1"`}},
		"expired":               {answering, ca.of(t, "127.0.0.1", -time.Minute), nil, TLS, []string{"has expired"}},
		"an old version of TLS": {answering, old, nil, TLS, []string{"it ended the TLS connection (tls: protocol version not supported)"}},
		"http to https":         {answering, ca.of(t, "127.0.0.1", time.Hour), func(c *Config) { c.Server = strings.Replace(c.Server, "https:", "http:", 1) }, TLS, []string{"write https://"}},
		"https to http":         {answering, nil, func(c *Config) { c.Server = strings.Replace(c.Server, "http:", "https:", 1) }, TLS, []string{"does not speak TLS", "write http://"}},
	} {
		t.Run(name, func(t *testing.T) {
			server := start(t, test.handler, test.tls)
			config := configuration(server.URL)
			config.CABundle = ca.pem
			if test.change != nil {
				test.change(&config)
			}
			expect(t, try(t.Context(), config, loginEndpoint), test.kind, append(test.says, config.Server)...)
		})
	}
}

func TestACertificateOfTheBundleIsTrusted(t *testing.T) {
	ca := newAuthority(t)
	config := configuration(start(t, (&fake{}).handler(good()).ServeHTTP, ca.of(t, "127.0.0.1", time.Hour)).URL)
	config.CABundle = ca.pem
	all(t, login(t, config))
}

func TestAServerThatIsNot(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = listener.Close()
	expect(t, try(t.Context(), configuration("http://"+listener.Addr().String()), loginEndpoint), Unreachable, "the connection was refused", "network policies")

	client, err := New(configuration("http://vault.example:8200"))
	if err != nil {
		t.Fatal(err)
	}
	client.transport.DialContext = func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "vault.example", IsNotFound: true}}
	}
	_, err = client.Login(t.Context())
	expect(t, err, Unreachable, `its name "vault.example" cannot be resolved`)
}

func TestACallThatIsGivenUpSaysSo(t *testing.T) {
	for endpoint := range good() {
		if slices.Contains([]string{loginEndpoint, revokeEndpoint, deleteEndpoint, caEndpoint}, endpoint) {
			continue // the login is below, and who tidies does so in any case
		}
		t.Run(endpoint, func(t *testing.T) {
			session := login(t, configuration(serve(t, good()).URL))
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			err := calls(ctx, session)[endpoint]()
			expect(t, err, Unreachable, "stopped while waiting")
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%v does not wrap that its context was cancelled", err)
			}
		})
	}
	t.Run("while it is answered", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		server := start(t, func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.ReadAll(r.Body)
			cancel()
			<-r.Context().Done()
		}, nil)
		if err := try(ctx, configuration(server.URL), loginEndpoint); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}
