// SPDX-License-Identifier: Apache-2.0

package webhook_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/internal/testca"
	"github.com/istiod-agent/istiod-agent/webhook"
)

const servingName = "istiod-agent-webhook.istiod-agent-system.svc"

func TestReadyCertificate(t *testing.T) {
	t.Parallel()
	now := time.Now()
	tests := map[string]struct {
		name        string
		from, until time.Time
		source      fixedSource
		want        string
	}{
		"the right one":              {servingName, now.Add(-time.Hour), now.Add(time.Hour), fixedSource{}, ""},
		"expired":                    {servingName, now.Add(-2 * time.Hour), now.Add(-time.Hour), fixedSource{}, "the serving certificate expired at " + now.Add(-time.Hour).UTC().Format(time.RFC3339)},
		"not valid yet":              {servingName, now.Add(time.Hour), now.Add(2 * time.Hour), fixedSource{}, "the serving certificate is not valid before " + now.Add(time.Hour).UTC().Format(time.RFC3339)},
		"of another name":            {"istiod-agent-webhook.default.svc", now.Add(-time.Hour), now.Add(time.Hour), fixedSource{}, "certificate is valid for istiod-agent-webhook.default.svc, not " + servingName},
		"one that nobody trusts yet": {servingName, now.Add(-time.Hour), now.Add(time.Hour), fixedSource{errors.New("not in the caBundle")}, "not in the caBundle"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := httptest.NewUnstartedServer(http.NotFoundHandler())
			s.TLS = &tls.Config{Certificates: []tls.Certificate{certificate(t, test.name, test.from, test.until)}}
			s.Config.ErrorLog = quiet()
			s.StartTLS()
			t.Cleanup(s.Close)

			err := webhook.Ready(serverAt(s.Listener.Addr()), nil, test.source, logr.Discard())(probe(t.Context()))
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestReadyWithoutServer(t *testing.T) {
	t.Parallel()
	listener := listen(t)
	address := listener.Addr()
	listener.Close()
	err := webhook.Ready(serverAt(address), nil, fixedSource{}, logr.Discard())(probe(t.Context()))
	if err == nil || !strings.Contains(err.Error(), "the webhook's own TLS port "+address.String()) {
		t.Errorf("got %v", err)
	}
}

func TestReadyWithoutTLS(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(s.Close)
	if err := webhook.Ready(serverAt(s.Listener.Addr()), nil, fixedSource{}, logr.Discard())(probe(t.Context())); err == nil {
		t.Error("it is ready")
	}
}

func TestReadyTimeout(t *testing.T) {
	t.Parallel()
	listener := listen(t)
	ctx, giveUp := context.WithCancel(t.Context())
	go func() {
		connection, err := listener.Accept() // and never say a word
		if err == nil {
			t.Cleanup(func() { connection.Close() })
		}
		giveUp()
	}()
	if err := webhook.Ready(serverAt(listener.Addr()), nil, fixedSource{}, logr.Discard())(probe(ctx)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestReadyLog(t *testing.T) {
	t.Parallel()
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.TLS = &tls.Config{Certificates: []tls.Certificate{certificate(t, servingName, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))}}
	s.StartTLS()
	t.Cleanup(s.Close)
	logged, source := &lines{}, &changingSource{}
	ready := webhook.Ready(serverAt(s.Listener.Addr()), nil, source, logged.logger())
	for _, reason := range []error{errors.New("no certificate"), nil, errors.New("not trusted"), errors.New("not trusted"), nil, nil} {
		source.err = reason
		if err := ready(probe(t.Context())); !errors.Is(err, reason) {
			t.Errorf("got %v, want %v", err, reason)
		}
	}
	want := []string{`"level"=0 "msg"="Not ready yet" "err"="no certificate"`, `"level"=0 "msg"="Ready"`, `"msg"="Not ready" "error"="not trusted"`, `"level"=0 "msg"="Ready"`}
	if !slices.Equal(logged.all, want) {
		t.Errorf("logged %q, want %q", logged.all, want)
	}
}

// fixedSource says whether clients trust what is served.
type fixedSource struct{ err error }

func (fixedSource) Start(context.Context) error { return nil }
func (fixedSource) NeedLeaderElection() bool    { return false }
func (s fixedSource) Ready() error              { return s.err }
func (fixedSource) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return nil, errors.New("unused")
}

type changingSource struct{ fixedSource }

func (s *changingSource) Ready() error { return s.err }

func serverAt(address net.Addr) v1alpha1.Server {
	server := v1alpha1.Default().Server
	server.BindAddress = "127.0.0.1"
	server.Port = int32(address.(*net.TCPAddr).Port)
	return server
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener
}

func probe(ctx context.Context) *http.Request {
	return httptest.NewRequestWithContext(ctx, http.MethodGet, "/readyz", nil)
}

// quiet is for servers whose clients hang up on purpose.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

// certificate is self-signed.
func certificate(_ *testing.T, name string, from, until time.Time) tls.Certificate {
	return testca.SelfSign(x509.Certificate{DNSNames: []string{name}, NotBefore: from, NotAfter: until, IsCA: true, BasicConstraintsValid: true}, nil).TLS()
}
