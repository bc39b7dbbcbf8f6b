// SPDX-License-Identifier: Apache-2.0

// Package client is a client of Vault's PKI secrets engine (or OpenBao's, which has the same API): login, key, signature, chain.
// It knows nothing of istiod, and verifies no certificate.
//
// An Error has one of a few kinds, and a sentence with what to do. It never contains an answer's body, a token or a key.
package client

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/hashicorp/vault/api"
)

const (
	// answerLimit bounds an answer's body: a chain has a few kilobytes. Decoded, JSON can take fifty times its length, and
	// istiod's sidecar has 64 MiB.
	answerLimit = 256 << 10
	// headerLimit bounds an answer's header; net/http's limit is 10 MiB.
	headerLimit = 64 << 10
	// maxWarnings bounds the warnings of an answer, which go to the log and Events.
	maxWarnings = 10
	// closeTimeout is that of a logout, and of a deletion at the program's end: short, so that they delay neither a renewal nor
	// that end.
	closeTimeout = 5 * time.Second
)

// Config is the connection to Vault. Exactly one of Kubernetes, JWT, AppRole, Cert and Token is set.
type Config struct {
	// Server is the URL of Vault, with scheme.
	Server string
	// Namespace is sent as X-Vault-Namespace with every call; empty is the root namespace.
	Namespace string
	// CABundle has the CAs that may sign Vault's certificate, PEM; none means the system's roots.
	CABundle []byte
	// CAPath is the endpoint that signs intermediates, CSRPath the one that generates keys, if any.
	CAPath, CSRPath string
	Kubernetes      *KubernetesAuth
	// JWT is a login like Kubernetes, by the auth method jwt.
	JWT     *KubernetesAuth
	AppRole *AppRoleAuth
	Cert    *CertAuth
	// Token returns a token from elsewhere, which is never revoked here.
	Token func(context.Context) (string, error)
	// TokenFrom is the source of Token for messages, such as Secret istio-system/vault-token.
	TokenFrom string
	// Timeout is that of each call, none when zero.
	Timeout time.Duration
}

// Client is a client of one Vault. It keeps no token: each Login has its own.
type Client struct {
	config    Config
	endpoints Endpoints
	transport *http.Transport
	// certificate is the client certificate of the last login, nil for logins without.
	certificate atomic.Pointer[tls.Certificate]
}

// New validates the configuration and sends nothing. It ignores the environment variables of Vault's own programs (VAULT_ADDR,
// VAULT_SKIP_VERIFY, …).
func New(config Config) (*Client, error) {
	endpoints, err := config.Endpoints()
	if err != nil {
		return nil, err
	}
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(config.CABundle) > 0 {
		tlsConfig.RootCAs = x509.NewCertPool()
		if !tlsConfig.RootCAs.AppendCertsFromPEM(config.CABundle) {
			return nil, errors.New("the CA bundle contains no certificate in PEM")
		}
	} else if strings.HasPrefix(config.Server, "https:") {
		trustPublicRoots()
	}
	if config.ways() != 1 {
		return nil, errors.New("expected one way to log in to Vault: a token or one auth method")
	}
	c := &Client{
		config: config, endpoints: endpoints,
		transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: tlsConfig, ForceAttemptHTTP2: true,
			TLSHandshakeTimeout: 10 * time.Second, IdleConnTimeout: 10 * time.Second, MaxIdleConnsPerHost: 1,
			MaxResponseHeaderBytes: headerLimit, OnProxyConnectResponse: connected,
		},
	}
	if config.Cert != nil { // shown to a server that asks for one, whatever CAs it names: its verification gives the reasons
		tlsConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if certificate := c.certificate.Load(); certificate != nil {
				return certificate, nil
			}
			return &tls.Certificate{}, nil
		}
	}
	return c, nil
}

// connected returns an error for the answer of a forward proxy that does not connect to Vault (RFC 9110, section 9.3.6).
func connected(_ context.Context, _ *url.URL, _ *http.Request, answer *http.Response) error {
	if answer.StatusCode != http.StatusOK {
		return &proxyError{answer.StatusCode}
	}
	return nil
}

// Session is a login. It is not safe for concurrent use.
type Session struct {
	client *Client
	api    *api.Client
	last   *trace
	// own is set when the token was issued for this session, and ends with it.
	own bool
	// uses is the number of calls that the token allows, 0 for any; used counts them.
	uses, used int
	// sent are the secrets of the login, which no message may contain.
	sent []string
}

// Login returns a session, which must be closed.
func (c *Client) Login(ctx context.Context) (*Session, error) {
	s := &Session{client: c, last: &trace{}}
	var err error
	if s.api, err = c.connect(s.last); err != nil {
		return nil, err
	}
	if c.config.Token != nil {
		token, err := c.config.Token(ctx)
		if err != nil {
			return nil, err
		}
		if token = strings.TrimSpace(token); !sendable(token) {
			return nil, &Error{Kind: BadConfiguration, Call: loginCall, Server: c.config.Server, Detail: fmt.Sprintf("the token is empty or contains characters that no Vault token has; put a Vault token into %s", cmp.Or(c.config.TokenFrom, "its place"))}
		}
		s.api.SetToken(token)
		return s, nil
	}
	parameters, err := s.credentials(ctx)
	if err != nil {
		return nil, err
	}
	answer, err := s.write(ctx, loginCall, c.endpoints.Login, parameters)
	if err != nil {
		return nil, err
	}
	if answer.Auth != nil && answer.Auth.MFARequirement != nil {
		return nil, &Error{
			Kind: NotAuthorized, Call: loginCall, Path: c.endpoints.Login, Server: c.config.Server, Role: c.config.method().role,
			Detail: fmt.Sprintf("it asks for a second factor (login MFA), which the agent cannot give; exempt the auth method of %q from the login enforcement (vault list identity/mfa/login-enforcement)", c.endpoints.Login),
		}
	}
	if answer.Auth == nil || !sendable(answer.Auth.ClientToken) {
		return nil, s.bad(loginCall, c.endpoints.Login, "it has no auth.client_token")
	}
	s.api.SetToken(answer.Auth.ClientToken)
	s.own = s.last.auth.TokenType != "batch" // batch tokens cannot be revoked
	s.uses, s.used = max(0, s.last.auth.NumUses), 0
	return s, nil
}

// sendable reports whether Vault's client sends a token.
func sendable(token string) bool {
	return token != "" && !strings.ContainsFunc(token, func(r rune) bool { return !unicode.IsPrint(r) })
}

// Close revokes the session's own token, also when ctx has ended.
func (s *Session) Close(ctx context.Context) error {
	defer s.client.transport.CloseIdleConnections()
	defer s.api.ClearToken()
	if !s.own || s.uses > 0 && s.used >= s.uses { // Vault revokes a token with its last use
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	s.own = false
	_, err := s.write(ctx, "revoke the login's own token", "auth/token/revoke-self", map[string]any{})
	return err
}

func (c *Client) connect(last *trace) (*api.Client, error) {
	server, err := url.Parse(c.config.Server)
	if err != nil {
		return nil, &Error{Kind: BadConfiguration, Call: loginCall, Server: c.config.Server, Detail: "the server's URL cannot be parsed"}
	}
	client, err := api.NewClient(&api.Config{
		Address: c.config.Server,
		HttpClient: &http.Client{
			Transport: confined{traced{limited{c.transport}, last}, server},
			// Vault's client follows one redirect itself, within the limits of confined, and none from https to http.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		Timeout: c.config.Timeout,
	})
	if err != nil {
		return nil, &Error{Kind: BadConfiguration, Call: loginCall, Server: c.config.Server, Detail: "the server's URL or one of the environment variables VAULT_* cannot be read"}
	}
	client.SetToken("")
	client.SetHeaders(http.Header{api.RequestHeaderName: {"true"}})
	client.SetMaxRetries(0)                                                 // the caller retries
	client.SetWrappingLookupFunc(func(string, string) string { return "" }) // else VAULT_WRAP_TTL applies
	if c.config.Namespace != "" {
		client.SetNamespace(c.config.Namespace)
	}
	return client, nil
}

func (s *Session) write(ctx context.Context, call, path string, parameters map[string]any) (*api.Secret, error) {
	answer, err := s.api.Logical().WriteWithContext(ctx, path, parameters)
	if answer == nil {
		answer = &api.Secret{}
	}
	return answer, s.check(ctx, call, "update", path, answer, err)
}

func (s *Session) read(ctx context.Context, call, path string) (*api.Secret, error) {
	answer, err := s.api.Logical().ReadWithContext(ctx, path)
	if err = s.check(ctx, call, "read", path, answer, err); err == nil && answer == nil { // a 404 without a body
		err = &Error{Kind: PathMissing, Call: call, Path: path, Server: s.client.config.Server}
	}
	return answer, err
}

// errRedirected is a redirect that is not followed; Vault's client returns it as a success.
var errRedirected = errors.New("the answer is a redirect")

// check counts a call and explains its failure. A wrapped answer is one: the agent requests none, and its content is elsewhere.
func (s *Session) check(ctx context.Context, call, capability, path string, answer *api.Secret, err error) error {
	s.used++
	if err == nil && s.last.status >= 300 && s.last.status < 400 {
		err = errRedirected
	}
	switch {
	case err != nil:
		return s.explain(ctx, call, capability, path, err)
	case answer != nil && answer.WrapInfo != nil:
		return &Error{Kind: BadAnswer, Call: call, Path: path, Server: s.client.config.Server, advice: fmt.Sprintf("the answer of %q is wrapped (response wrapping), which was not requested; look for a proxy that adds the header X-Vault-Wrap-TTL, such as Vault Proxy, and turn that off", path)}
	}
	return nil
}

// limited ends answers that are longer than any of Vault's.
type limited struct{ http.RoundTripper }

func (l limited) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := l.RoundTripper.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	response.Body = http.MaxBytesReader(nil, response.Body, answerLimit)
	return response, nil
}

func (s *Session) bad(call, path, detail string) error {
	return &Error{Kind: BadAnswer, Call: call, Path: path, Server: s.client.config.Server, Detail: detail}
}
