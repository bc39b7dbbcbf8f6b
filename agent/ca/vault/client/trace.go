// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
)

// trace is what Vault's client does not return of the last answer: of an error, and of a login. It contains no secret.
type trace struct {
	// status is 0 without an answer or after a success.
	status int
	// server is the answer's Server header, safe to print, or empty.
	server string
	// isVaults is true for an error in Vault's form, {"errors": ["…"]} (Vault http/handler.go, respondError).
	isVaults bool
	// mesh is true for the refusal of Envoy's RBAC filter, which Istio's AuthorizationPolicy configures.
	mesh bool
	// health is an answer of sys/health, which a load balancer's health check forwards (Vault http/sys_health.go).
	health *health
	// auth is of a login's answer.
	auth struct {
		// NumUses is the number of calls that the token allows, 0 for any.
		NumUses int `json:"num_uses"`
		// TokenType is service or batch (Vault sdk/logical, TokenType).
		TokenType string `json:"token_type"`
	}
}

type health struct {
	Initialized *bool `json:"initialized"`
	Sealed      *bool `json:"sealed"`
}

// traced keeps a trace of the last answer.
type traced struct {
	http.RoundTripper
	last *trace
}

func (t traced) RoundTrip(request *http.Request) (*http.Response, error) {
	*t.last = trace{}
	answer, err := t.RoundTripper.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	login := answer.StatusCode < 300 && strings.HasSuffix(request.URL.Path, "/login")
	if answer.StatusCode >= 300 {
		t.last.status = answer.StatusCode
		t.last.server, _ = quotable(answer.Header.Get("Server"))
	}
	if answer.StatusCode < 400 && !login {
		return answer, nil
	}
	body, err := io.ReadAll(answer.Body) // it is limited
	_ = answer.Body.Close()
	answer.Body = io.NopCloser(io.MultiReader(bytes.NewReader(body), failingReader{cmp.Or(err, io.EOF)}))
	switch {
	case err == nil && login:
		_ = json.Unmarshal(body, &struct{ Auth any }{&t.last.auth}) // the client reports an error
	case err == nil:
		t.last.readError(body)
	}
	return answer, nil
}

func (t *trace) readError(body []byte) {
	var answer struct {
		Errors []string `json:"errors"`
		health
	}
	t.mesh = string(bytes.TrimSpace(body)) == "RBAC: access denied"
	if json.Unmarshal(body, &answer) != nil {
		return
	}
	t.isVaults = answer.Errors != nil
	if answer.Initialized != nil && answer.Sealed != nil {
		t.health = &answer.health
	}
}

// sender names the sender of an answer that is not Vault's.
func (t *trace) sender() string {
	if t.server == "" {
		return "a proxy, gateway or firewall"
	}
	return fmt.Sprintf("a proxy, gateway or firewall (Server: %q)", t.server)
}

type failingReader struct{ err error }

func (f failingReader) Read([]byte) (int, error) { return 0, f.err }

// proxyError is an answer of a forward proxy that refuses to connect to Vault.
type proxyError struct{ status int }

func (e *proxyError) Error() string { return fmt.Sprintf("the proxy answered %d", e.status) }

// forwardProxy names the forward proxy to Vault and its environment variable, without user name and password. It is empty
// where there is none.
func (c *Client) forwardProxy() string {
	server, err := url.Parse(c.config.Server)
	if err != nil || c.transport.Proxy == nil {
		return ""
	}
	proxy, err := c.transport.Proxy(&http.Request{URL: server})
	variable := proxyVariable(server.Scheme)
	if err != nil {
		return "the proxy of " + variable + ", which is no URL"
	}
	if proxy == nil {
		return ""
	}
	host, ok := quotable(proxy.Host)
	if !ok {
		host = "of a name that is not shown"
	}
	return fmt.Sprintf("the proxy %s (%s)", host, variable)
}

// proxyVariable returns the environment variable of the proxy for a scheme (golang.org/x/net/http/httpproxy, FromEnvironment).
func proxyVariable(scheme string) string {
	name := strings.ToUpper(scheme) + "_PROXY"
	if os.Getenv(name) == "" && os.Getenv(strings.ToLower(name)) != "" {
		return strings.ToLower(name)
	}
	return name
}

// proxyAdvice follows every problem of a forward proxy.
const proxyAdvice = "correct the variable in injection.agent.env, or name Vault's host in NO_PROXY if it needs no proxy"

// ofProxy explains a failure of the forward proxy itself; it is empty for any other.
func (c *Client) ofProxy(err error) string {
	proxy := c.forwardProxy()
	if proxy == "" {
		return ""
	}
	if refused, ok := errors.AsType[*proxyError](err); ok {
		if refused.status == http.StatusProxyAuthRequired {
			return fmt.Sprintf("%s requires a user name and a password (407); put them into the variable, as http://user:password@host:port, or name Vault's host in NO_PROXY", proxy)
		}
		return fmt.Sprintf("%s refuses to connect to Vault (%d); allow Vault's host and port there, or %s", proxy, refused.status, proxyAdvice)
	}
	op, isNetwork := errors.AsType[*net.OpError](err)
	switch {
	case strings.Contains(err.Error(), "invalid proxy"):
		return proxy + " cannot be used; " + proxyAdvice
	case isNetwork && (op.Op == "proxyconnect" || op.Op == "socks connect"):
		return fmt.Sprintf("%s cannot be reached: %s; %s", proxy, networkProblem(op.Err), proxyAdvice)
	}
	return ""
}
