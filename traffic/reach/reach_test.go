// SPDX-License-Identifier: Apache-2.0

package reach

import (
	"context"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/istiod-agent/istiod-agent/internal/probe"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

func listen(t *testing.T, handle func(net.Conn)) string {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go handle(connection)
		}
	}()
	return listener.Addr().String()
}

// silent keeps the connection open until the peer closes it.
func silent(connection net.Conn) {
	_, _ = io.Copy(io.Discard, connection)
	_ = connection.Close()
}

func write(text string) func(net.Conn) {
	return func(connection net.Conn) {
		_, _ = io.WriteString(connection, text)
		_ = connection.Close()
	}
}

// server answers by TLS with a status, a redirect to itself, and a body that nothing may print.
func server(t *testing.T, status int) (url string, ca []byte) {
	t.Helper()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/version" && r.URL.Path != "/k8s/clusters/c-1/version" || r.Header.Get("Authorization") != "" {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "the body")
	}))
	t.Cleanup(s.Close)
	return s.URL, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

func TestAll(t *testing.T) {
	t.Parallel()
	answers, ca := server(t, http.StatusOK)
	forbids, forbidsCA := server(t, http.StatusForbidden)
	redirects, redirectsCA := server(t, http.StatusFound)
	closed := listen(t, silent)
	refused, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = refused.Close()
	own, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	listening, stop := context.WithCancel(t.Context())
	go func() { ended <- Listen(listening, own, "abc-0") }()

	tests := map[string]struct {
		endpoint probe.Endpoint
		want     probe.Result
	}{
		"an API server":               {probe.Endpoint{Server: answers, CA: ca}, probe.Result{Outcome: probe.Reached}},
		"one behind a path":           {probe.Endpoint{Server: answers + "/k8s/clusters/c-1", CA: ca}, probe.Result{Outcome: probe.Reached}},
		"one that wants a login":      {probe.Endpoint{Server: forbids, CA: forbidsCA}, probe.Result{Outcome: probe.Reached}},
		"one that redirects":          {probe.Endpoint{Server: redirects, CA: redirectsCA}, probe.Result{Outcome: probe.Reached}},
		"one of a public CA":          {probe.Endpoint{Server: answers}, probe.Result{Outcome: probe.Reached}},
		"a name of the certificate":   {probe.Endpoint{Server: answers, CA: ca, ServerName: "example.com"}, probe.Result{Outcome: probe.Reached}},
		"another name":                {probe.Endpoint{Server: answers, CA: ca, ServerName: "example.org"}, probe.Result{Outcome: probe.BadCertificate, Detail: "x509: certificate is valid for "}},
		"another CA":                  {probe.Endpoint{Server: answers, CA: testca.Root("other").PEM()}, probe.Result{Outcome: probe.BadCertificate, Detail: "x509: certificate signed by unknown authority"}},
		"no CA in the PEM":            {probe.Endpoint{Server: answers, CA: []byte("x")}, probe.Result{Outcome: probe.Failed}},
		"no TLS":                      {probe.Endpoint{Server: "https://" + listen(t, write("HTTP/1.1 400 the body\r\n\r\n")), CA: ca}, probe.Result{Outcome: probe.Failed, Detail: "the port does not speak TLS"}},
		"a server that says nothing":  {probe.Endpoint{Server: "https://" + closed, CA: ca}, probe.Result{Outcome: probe.Timeout}},
		"a server that is not there":  {probe.Endpoint{Server: "https://" + refused.Addr().String(), CA: ca}, probe.Result{Outcome: probe.Refused}},
		"a name that is not there":    {probe.Endpoint{Server: "https://api.invalid:6443", CA: ca}, probe.Result{Outcome: probe.NoName}},
		"the listener":                {probe.Endpoint{Address: own.Addr().String(), Answer: "abc-0"}, probe.Result{Outcome: probe.Reached}},
		"another listener":            {probe.Endpoint{Address: own.Addr().String(), Answer: "abc-1"}, probe.Result{Outcome: probe.Another}},
		"another program":             {probe.Endpoint{Address: listen(t, write(strings.Repeat("the body", 100))), Answer: "abc-0"}, probe.Result{Outcome: probe.Another}},
		"a listener that stays quiet": {probe.Endpoint{Address: closed, Answer: "abc-0"}, probe.Result{Outcome: probe.Timeout}},
		"a gateway":                   {probe.Endpoint{Address: closed}, probe.Result{Outcome: probe.Reached}},
		"no gateway":                  {probe.Endpoint{Address: refused.Addr().String()}, probe.Result{Outcome: probe.Refused}},
		"metadata of a cloud":         {probe.Endpoint{Address: "169.254.169.254:80"}, probe.Result{Outcome: probe.Barred}},
	}
	var names []string
	var endpoints []probe.Endpoint
	for name, test := range tests {
		names, endpoints = append(names, name), append(endpoints, test.endpoint)
	}
	// The servers are on loopback.
	prober := Prober{Barred: func(a netip.Addr) bool { return !a.IsLoopback() && probe.IsBarred(a) }}
	ctx, cancel := context.WithTimeout(t.Context(), attemptTimeout+time.Second)
	defer cancel()
	for i, got := range prober.All(ctx, endpoints) {
		want := tests[names[i]].want
		if got.Outcome != want.Outcome || !strings.HasPrefix(got.Detail, want.Detail) || strings.Contains(got.Detail, "the body") {
			t.Errorf("%s: got %+v, want %+v", names[i], got, want)
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A name that resolves to a barred address does not help.
func TestBarredName(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	got := Prober{Barred: probe.IsBarred}.All(ctx, []probe.Endpoint{{Server: "https://localhost:1"}, {Address: "localhost:1"}})
	for _, result := range got {
		if result.Outcome != probe.Barred {
			t.Errorf("got %+v", result)
		}
	}
}

func TestListen(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{"", strings.Repeat("a", probe.MaxAnswer)} {
		if err := Listen(t.Context(), nil, answer); err == nil {
			t.Errorf("an answer of %d bytes", len(answer))
		}
	}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = listener.Close()
	if err := Listen(t.Context(), listener, "a"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
}
