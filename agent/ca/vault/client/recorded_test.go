// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// recorded is an answer as a server sends it.
type recorded struct {
	status      int
	server      string // its Server header
	contentType string
	body        string
}

func (r recorded) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	if r.server != "" {
		w.Header().Set("Server", r.server)
	}
	w.Header().Set("Content-Type", r.contentType)
	w.WriteHeader(r.status)
	_, _ = io.WriteString(w, r.body)
}

const (
	jsonType, htmlType, textType = "application/json", "text/html", "text/plain"

	nginx403   = "<html>\r\n<head><title>403 Forbidden</title></head>\r\n<body>\r\n<center><h1>403 Forbidden</h1></center>\r\n<hr><center>nginx/1.27.3</center>\r\n</body>\r\n</html>\r\n"
	wafPage    = "<!DOCTYPE html><html><title>Attention Required! | Cloudflare</title><body>Sorry, you have been blocked. permission denied</body></html>"
	gateway403 = `{"message":"Forbidden"}`
	gateway401 = `{"errors":[{"code":"UNAUTHORIZED"}]}`
	squid407   = "<!DOCTYPE HTML><html><title>ERROR: Cache Access Denied</title></html>"
	// Vault 1.21.1.
	denied        = `{"errors":["1 error occurred:\n\t* permission denied\n\n"]}`
	invalidToken  = `{"errors":["2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"]}`
	badToken      = `{"errors":["bad token"]}`
	tooYoung      = `{"errors":["error creating certificate: notBefore before signer's notBefore"]}`
	tooLong       = `{"errors":["cannot satisfy request, as TTL would result in notAfter of 2027-01-01T00:00:00Z that is beyond the expiration of the CA certificate at 2026-12-01T00:00:00Z"]}`
	noIssuer      = `{"errors":["error fetching CA certificate: no default issuer currently configured"]}`
	notConfigured = `{"errors":["could not load backend configuration"]}`
	noActive      = `{"errors":["local node not active but active cluster node not found"]}`
	drSecondary   = `{"errors":["path disabled in replication DR secondary mode"]}`
	healthStandby = `{"initialized":true,"sealed":false,"standby":true,"performance_standby":false,"replication_performance_mode":"disabled","server_time_utc":1,"version":"1.21.1"}`
	healthSealed  = `{"initialized":true,"sealed":true,"standby":true,"version":"1.21.1"}`
	healthNotInit = `{"initialized":false,"sealed":true,"standby":true,"version":"1.21.1"}`
	withMFA       = `{"request_id":"1","auth":{"client_token":"","accessor":"","policies":null,"mfa_requirement":{"mfa_request_id":"d0c9eec7","mfa_constraints":{"totp":{"any":[{"type":"totp","id":"820997b3","uses_passcode":true}]}}}}}`
	wrapped       = `{"request_id":"","auth":null,"data":null,"wrap_info":{"token":"hvs.CAESIJlU02LQZq6","accessor":"a","ttl":300,"creation_time":"2026-01-01T00:00:00Z","creation_path":"auth/kubernetes/login"}}`
)

// Each answer leads to the one who can do something about it. With login, the login gets it, else the signature.
func TestRecordedAnswers(t *testing.T) {
	for name, test := range map[string]struct {
		answer recorded
		kept   bool // the token is kept in a Secret
		kind   Kind
		says   string
		not    string
	}{
		"Istio's AuthorizationPolicy":        {recorded{403, "istio-envoy", textType, "RBAC: access denied"}, false, BadAnswer, "AuthorizationPolicy of the mesh that Vault is in refuses it (RBAC: access denied, 403)", "policy of role"},
		"Istio's, with a token":              {recorded{403, "istio-envoy", textType, "RBAC: access denied"}, true, BadAnswer, "allow the addresses of istiod's Pods there", "policy of role"},
		"nginx":                              {recorded{403, "nginx/1.27.3", htmlType, nginx403}, false, BadAnswer, `a proxy, gateway or firewall (Server: "nginx/1.27.3") refuses it (403), not a policy of Vault's`, "capabilities"},
		"a WAF":                              {recorded{403, "cloudflare", htmlType, wafPage}, false, BadAnswer, `(Server: "cloudflare") refuses it (403)`, "capabilities"},
		"a gateway's JSON":                   {recorded{403, "", jsonType, gateway403}, false, BadAnswer, "a proxy, gateway or firewall refuses it (403)", "capabilities"},
		"a gateway's JSON with errors":       {recorded{401, "kong/3.4", jsonType, gateway401}, false, BadAnswer, `(Server: "kong/3.4") refuses it (401)`, "capabilities"},
		"an empty 403":                       {recorded{403, "", textType, ""}, false, BadAnswer, "refuses it (403)", "capabilities"},
		"a Server header of escapes":         {recorded{403, "a\tb" + strings.Repeat(" long", 200), textType, "no"}, false, BadAnswer, `(Server: "a b long`, "capabilities"},
		"a Server header with a token":       {recorded{403, secretToken, textType, "no"}, false, BadAnswer, "a proxy, gateway or firewall refuses it", secretToken},
		"a page that is not there":           {recorded{404, "nginx", htmlType, "<html>404 Not Found</html>"}, false, BadAnswer, "with the prefix of its paths if there is one", ""},
		"a load balancer's 503":              {recorded{503, "awselb/2.0", htmlType, "<html>503</html>"}, false, Unreachable, `it answered 503, and the answer is not Vault's but that of a proxy, gateway or firewall (Server: "awselb/2.0")`, ""},
		"a gateway's rate limit":             {recorded{429, "envoy", textType, "local_rate_limited"}, false, RateLimited, "raise its limit", "quota"},
		"plain HTTP to HTTPS, nginx":         {recorded{400, "nginx", htmlType, "<html>The plain HTTP request was sent to HTTPS port</html>"}, false, TLS, "write https://", ""},
		"plain HTTP to HTTPS, Vault":         {recorded{400, "", textType, "Client sent an HTTP request to an HTTPS server.\n"}, false, TLS, "write https://", ""},
		"Vault's policy":                     {recorded{403, "", jsonType, denied}, false, PolicyDenies, `policy of role "istiod"`, ""},
		"Vault's policy, a kept token":       {recorded{403, "", jsonType, denied}, true, PolicyDenies, "a policy of the token in Secret istio-system/vault-token", "role"},
		"an invalid token":                   {recorded{403, "", jsonType, invalidToken}, true, NotAuthorized, "it does not know the token in Secret istio-system/vault-token: it has expired, was revoked", "role"},
		"a bad token":                        {recorded{403, "", jsonType, badToken}, true, NotAuthorized, "put a new one there", "role"},
		"a login that has ended":             {recorded{403, "", jsonType, invalidToken}, false, NotAuthorized, `raise token_ttl of role "istiod"`, ""},
		"a signer that is too young":         {recorded{400, "", jsonType, tooYoung}, false, Refused, "notBefore before signer's notBefore; wait: ", "correct what it names"},
		"a signer that ends first":           {recorded{400, "", jsonType, tooLong}, false, Refused, "lower ttlDays", "correct what it names"},
		"a mount without a CA":               {recorded{500, "", jsonType, noIssuer}, false, Refused, "give the mount its CA", "correct what it names"},
		"a refusal that is not known":        {recorded{400, "", jsonType, `{"errors":["the moon is full"]}`}, false, Refused, "the moon is full; correct what it names", ""},
		"controls in Vault's words":          {recorded{400, "", jsonType, `{"errors":["a\u001b[2J\u0000b\u202ec"]}`}, false, Refused, "a [2J b c; correct", ""},
		"a standby without an active server": {recorded{500, "", jsonType, noActive}, false, Unreachable, "a standby without an active Vault", ""},
		"a standby":                          {recorded{429, "", jsonType, healthStandby}, false, Unreachable, "a standby that does not forward (429); set server to the active Vault", "rate limit"},
		"a disaster recovery secondary":      {recorded{472, "", jsonType, healthStandby}, false, Unreachable, "set server to the primary", ""},
		"the same in words":                  {recorded{400, "", jsonType, drSecondary}, false, Unreachable, "set server to the primary", ""},
		"a performance standby":              {recorded{473, "", jsonType, healthStandby}, false, Unreachable, "a performance standby that does not forward (473); set server to the active Vault", ""},
		"a performance standby, no body":     {recorded{473, "", textType, ""}, false, Unreachable, "a performance standby", ""},
		"not initialized":                    {recorded{501, "", jsonType, healthNotInit}, false, Unreachable, "vault operator init", ""},
		"sealed, of sys/health":              {recorded{503, "", jsonType, healthSealed}, false, Sealed, "vault operator unseal", ""},
		"sealed":                             {recorded{503, "", jsonType, `{"errors":["Vault is sealed"]}`}, false, Sealed, "vault operator unseal", ""},
		"wrapped":                            {recorded{200, "", jsonType, wrapped}, false, BadAnswer, "X-Vault-Wrap-TTL", "CAESIJlU02"},
	} {
		t.Run(name, func(t *testing.T) {
			server := start(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/v1/auth/kubernetes/login" {
					_, _ = io.WriteString(w, `{"auth":{"client_token":"own-token"}}`)
					return
				}
				test.answer.ServeHTTP(w, r)
			}, nil)
			config := configuration(server.URL)
			if test.kept {
				config = tokenConfiguration(server.URL)
				config.TokenFrom = "Secret istio-system/vault-token"
			}
			sentence(t, try(t.Context(), config, signEndpoint), test.kind, test.says, test.not)
		})
	}
	for name, test := range map[string]struct {
		answer recorded
		kind   Kind
		says   string
		not    string
	}{
		"Istio's AuthorizationPolicy":   {recorded{403, "istio-envoy", textType, "RBAC: access denied"}, BadAnswer, "(RBAC: access denied, 403)", "reviewer"},
		"a WAF":                         {recorded{403, "cloudflare", htmlType, wafPage}, BadAnswer, `(Server: "cloudflare") refuses it`, "reviewer"},
		"Vault, perhaps its reviewer":   {recorded{403, "", jsonType, `{"errors":["permission denied"]}`}, NotAuthorized, "If logins worked before, the token_reviewer_jwt in auth/kubernetes/config has probably expired", ""},
		"MFA":                           {recorded{200, "", jsonType, withMFA}, NotAuthorized, `exempt the auth method of "auth/kubernetes/login" from the login enforcement`, "d0c9eec7"},
		"wrapped":                       {recorded{200, "", jsonType, wrapped}, BadAnswer, "X-Vault-Wrap-TTL", "CAESIJlU02"},
		"an auth method that is empty":  {recorded{500, "", jsonType, notConfigured}, Refused, "write the auth method's config", ""},
		"another status that redirects": {recorded{303, "", htmlType, "<html>"}, Redirects, "it redirects (303)", ""},
	} {
		t.Run("login, "+name, func(t *testing.T) {
			sentence(t, try(t.Context(), configuration(start(t, test.answer.ServeHTTP, nil).URL), loginEndpoint), test.kind, test.says, test.not)
		})
	}
}

func sentence(t *testing.T, err error, kind Kind, says, not string) {
	t.Helper()
	expect(t, err, kind, says)
	text := err.Error()
	if not != "" && strings.Contains(text, not) {
		t.Errorf("%q says %q", text, not)
	}
	if len(text) > 1000 || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == '<' || r == 0x202e }) {
		t.Errorf("%d bytes, or not plain: %q", len(text), text)
	}
}

// A second redirect is not followed, and says so.
func TestRedirectsWithoutEnd(t *testing.T) {
	server := start(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", r.URL.Path)
		w.WriteHeader(http.StatusTemporaryRedirect)
	}, nil)
	sentence(t, try(t.Context(), configuration(server.URL), loginEndpoint), Redirects, "or more than once; set server to that address", "JSON")
	session := login(t, configuration(start(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodDelete {
			w.Header().Set("Location", r.URL.Path)
			w.WriteHeader(http.StatusTemporaryRedirect)
			return
		}
		_, _ = io.WriteString(w, `{"auth":{"client_token":"own-token"}}`)
	}, nil).URL))
	sentence(t, session.DeleteKey(t.Context(), "some-id"), Redirects, "more than once", "")
}

// A forward proxy that fails is named, with the variable that names it, and without its password.
func TestForwardProxy(t *testing.T) {
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = dead.Close()
	answering := func(status int) http.HandlerFunc {
		return recorded{status, "squid", htmlType, squid407}.ServeHTTP
	}
	for name, test := range map[string]struct {
		server, variable string
		proxy            http.HandlerFunc // none for a dead one
		kind             Kind
		says             string
	}{
		"dead":                              {"https://vault.example:8200", "HTTPS_PROXY", nil, Unreachable, "(HTTPS_PROXY) cannot be reached: the connection was refused; correct the variable"},
		"dead, lower case":                  {"https://vault.example:8200", "https_proxy", nil, Unreachable, "(https_proxy) cannot be reached"},
		"dead, plain":                       {"http://vault.example:8200", "HTTP_PROXY", nil, Unreachable, "(HTTP_PROXY) cannot be reached"},
		"dead, plain, lower case":           {"http://vault.example:8200", "http_proxy", nil, Unreachable, "(http_proxy) cannot be reached"},
		"407 to CONNECT":                    {"https://vault.example:8200", "HTTPS_PROXY", answering(407), Unreachable, "(HTTPS_PROXY) requires a user name and a password (407)"},
		"403 to CONNECT":                    {"https://vault.example:8200", "HTTPS_PROXY", answering(403), Unreachable, "(HTTPS_PROXY) refuses to connect to Vault (403); allow Vault's host and port there"},
		"502 to CONNECT":                    {"https://vault.example:8200", "HTTPS_PROXY", answering(502), Unreachable, "(HTTPS_PROXY) refuses to connect to Vault (502)"},
		"407, plain":                        {"http://vault.example:8200", "HTTP_PROXY", answering(407), Unreachable, "(HTTP_PROXY) requires a user name and a password (407)"},
		"403, plain":                        {"http://vault.example:8200", "HTTP_PROXY", answering(403), BadAnswer, `(HTTP_PROXY), or a proxy, gateway or firewall (Server: "squid") refuses it (403)`},
		"503, plain":                        {"http://vault.example:8200", "HTTP_PROXY", answering(503), Unreachable, "(HTTP_PROXY), or a proxy"},
		"a proxy that hangs up, afterwards": {"http://vault.example:8200", "HTTP_PROXY", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, Unreachable, "(HTTP_PROXY); check Vault and the proxy"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, each := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"} {
				t.Setenv(each, "")
			}
			host := dead.Addr().String()
			if test.proxy != nil {
				host = strings.TrimPrefix(start(t, test.proxy, nil).URL, "http://")
			}
			address := "http://somebody:a-password@" + host
			t.Setenv(test.variable, address)
			client, err := New(configuration(test.server))
			if err != nil {
				t.Fatal(err)
			}
			parsed := mustParse(t, address)
			client.transport.Proxy = func(*http.Request) (*url.URL, error) { return parsed, nil } // net/http reads the environment once
			_, err = client.Login(t.Context())
			sentence(t, err, test.kind, test.says, "a-password")
			expect(t, err, test.kind, "the proxy "+host)
			if strings.Contains(err.Error(), "somebody") {
				t.Errorf("%v names the user", err)
			}
		})
	}
}

// A certificate that Go cannot read, or not verify, is Vault's to replace, for Go's own reason.
func TestUnreadableCertificates(t *testing.T) {
	ca := newAuthority(t)
	good := ca.of(t, "127.0.0.1", time.Hour)
	negative := bytes.Replace(good.Certificates[0].Certificate[0], []byte{2, 1, 2}, []byte{2, 1, 0x82}, 2) // the version is 2, too
	negative = bytes.Replace(negative, []byte{2, 1, 0x82}, []byte{2, 1, 2}, 1)
	policy := pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Value: []byte{5, 0}}
	for name, test := range map[string]struct {
		der  []byte
		says string
	}{
		"a negative serial number":      {negative, "its certificate cannot be read (x509: negative serial number); give Vault another"},
		"an extension twice":            {ca.with(t, policy, policy), "its certificate cannot be read (x509: certificate contains duplicate extension with OID \"1.2.3.4\"); give Vault another"},
		"an unknown critical extension": {ca.with(t, pkix.Extension{Id: policy.Id, Critical: true, Value: policy.Value}), "its certificate cannot be verified (x509: unhandled critical extension); give Vault another"},
	} {
		t.Run(name, func(t *testing.T) {
			config := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{test.der}, PrivateKey: ca.Key}}, MinVersion: tls.VersionTLS12}
			listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
			if err != nil {
				t.Fatal(err)
			}
			server := &http.Server{ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute}
			go func() { _ = server.Serve(listener) }()
			t.Cleanup(func() { _ = server.Close() })
			vault := configuration("https://" + listener.Addr().String())
			vault.CABundle = ca.pem
			sentence(t, try(t.Context(), vault, loginEndpoint), TLS, test.says, "JSON")
		})
	}
}

// with signs a server's certificate with extensions.
func (a *authority) with(t *testing.T, extensions ...pkix.Extension) []byte {
	t.Helper()
	return a.SignDER(x509.Certificate{
		IPAddresses: []net.IP{net.ParseIP("127.0.0.1")}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, ExtraExtensions: extensions,
	}, a.Key.Public())
}

// A login whose token cannot be revoked any more, or never could, is not reported as left behind.
func TestTokensThatEndByThemselves(t *testing.T) {
	for name, test := range map[string]struct {
		login   string
		revokes bool
	}{
		"a service token":        {`{"auth":{"client_token":"a","token_type":"service","num_uses":0}}`, true},
		"a batch token":          {`{"auth":{"client_token":"hvb.a","token_type":"batch","num_uses":0}}`, false},
		"a token of its one use": {`{"auth":{"client_token":"a","token_type":"service","num_uses":1}}`, false},
		"a token of two uses":    {`{"auth":{"client_token":"a","token_type":"service","num_uses":2}}`, true},
		"uses below none":        {`{"auth":{"client_token":"a","token_type":"service","num_uses":-1}}`, true},
		"uses of another type":   {`{"auth":{"client_token":"a","token_type":7,"num_uses":"1"}}`, true},
	} {
		t.Run(name, func(t *testing.T) {
			server := serve(t, with(loginEndpoint, 200, test.login))
			session := login(t, configuration(server.URL))
			if _, err := session.Sign(t.Context(), nil, request); err != nil {
				t.Fatal(err)
			}
			if err := session.Close(t.Context()); err != nil {
				t.Error(err)
			}
			calls := server.endpoints()
			if revoked := calls[len(calls)-1] == revokeEndpoint; revoked != test.revokes {
				t.Errorf("calls: %q", calls)
			}
		})
	}
	server := serve(t, map[string]reply{
		loginEndpoint: {200, `{"auth":{"client_token":"a","token_type":"service","num_uses":1}}`}, generateEndpoint: good()[generateEndpoint], signEndpoint: {403, invalidToken},
	})
	session := login(t, configuration(server.URL))
	if _, err := session.Generate(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	_, err := session.Sign(t.Context(), nil, request)
	sentence(t, err, NotAuthorized, `role "istiod" allows 1 calls (token_num_uses)`, "policy")
}
