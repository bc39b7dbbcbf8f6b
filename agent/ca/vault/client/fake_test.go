// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/istiod-agent/istiod-agent/agent/ca"
	"github.com/istiod-agent/istiod-agent/agent/cacerts"
)

const (
	loginEndpoint    = "PUT /v1/auth/kubernetes/login"
	generateEndpoint = "PUT /v1/pki/intermediate/generate/exported"
	signEndpoint     = "PUT /v1/pki/root/sign-intermediate"
	revokeEndpoint   = "PUT /v1/auth/token/revoke-self"
	chainEndpoint    = "GET /v1/pki/cert/ca_chain"
	caEndpoint       = "GET /v1/pki/cert/ca"
	deleteEndpoint   = "DELETE /v1/pki/key/some-id"
)

// request is what all tests ask for.
var request = ca.Request{
	Hosts:        []string{"spiffe://cluster.local/ns/istio-system/sa/istiod", "spiffe://cluster.local/ns/istio-system/sa/istiod-canary"},
	Organization: "Istio",
	TTL:          36 * time.Hour,
	Key:          cacerts.Key{Type: "ec", Bits: 256},
}

// received is a call that a fake was sent.
type received struct {
	endpoint string // method and path
	header   http.Header
	body     map[string]any
	raw      string
}

type fake struct {
	*httptest.Server
	mutex sync.Mutex
	calls []received
}

type reply struct {
	status int
	body   string
}

// good are answers to every call, in the shape of Vault's.
func good() map[string]reply {
	return map[string]reply{
		loginEndpoint:    {200, `{"auth":{"client_token":"own-token"}}`},
		generateEndpoint: {200, `{"data":{"csr":"a request","private_key":"a key","key_id":"some-id"}}`},
		signEndpoint:     {200, `{"data":{"certificate":"a certificate","issuing_ca":"an issuer","ca_chain":["one","two"]}}`},
		chainEndpoint:    {200, `{"data":{"certificate":` + quoted(certificate("one")) + `}}`},
		caEndpoint:       {200, `{"data":{"certificate":` + quoted(certificate("one")) + `}}`},
		revokeEndpoint:   {204, ""},
		deleteEndpoint:   {204, ""},
	}
}

func with(endpoint string, status int, body string) map[string]reply {
	all := good()
	all[endpoint] = reply{status, body}
	return all
}

// serve starts a fake that gives these answers, and 404 to all else.
func serve(t *testing.T, answers map[string]reply) *fake {
	t.Helper()
	f := &fake{}
	f.Server = httptest.NewServer(f.handler(answers))
	t.Cleanup(f.Close)
	return f
}

func (f *fake) handler(answers map[string]reply) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		one := received{endpoint: r.Method + " " + r.URL.Path, header: r.Header, raw: string(raw)}
		_ = json.Unmarshal(raw, &one.body)
		f.mutex.Lock()
		f.calls = append(f.calls, one)
		f.mutex.Unlock()
		answer, ok := answers[one.endpoint]
		if !ok {
			answer = reply{404, `{"errors":[]}`}
		}
		w.WriteHeader(answer.status)
		_, _ = io.WriteString(w, answer.body)
	})
}

func (f *fake) received() []received {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	return slices.Clone(f.calls)
}

func (f *fake) endpoints() (all []string) {
	for _, one := range f.received() {
		all = append(all, one.endpoint)
	}
	return all
}

func given(value string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return value, nil }
}

// configuration logs in with a service account token.
func configuration(server string) Config {
	return Config{
		Server: server, CAPath: "pki/root/sign-intermediate", CSRPath: "pki/intermediate/generate/exported",
		Kubernetes: &KubernetesAuth{MountPath: "/v1/auth/kubernetes", Role: "istiod", JWT: given("a.service.account.token")},
	}
}

// tokenConfiguration has a token that is kept elsewhere.
func tokenConfiguration(server string) Config {
	config := configuration(server)
	config.Kubernetes, config.Token = nil, given("kept-token")
	return config
}

func login(t *testing.T, config Config) *Session {
	t.Helper()
	client, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	session, err := client.Login(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return session
}

// expect fails unless err is an Error of that kind whose words hold all of these.
func expect(t *testing.T, err error, kind Kind, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; expected %s", kind)
	}
	e, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("%T %v is no *Error", err, err)
	}
	if e.Kind != kind {
		t.Errorf("kind %s, expected %s: %v", e.Kind, kind, err)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
}

// certificate is a PEM block; what is in it is of no concern to this package.
func certificate(content string) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(content)}))
}

func quoted(text string) string {
	encoded, _ := json.Marshal(text)
	return string(encoded)
}
