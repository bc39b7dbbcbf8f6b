// SPDX-License-Identifier: Apache-2.0

// Package reach connects from a Pod to API servers and TCP ports, and answers such connections. It sends no credentials, and
// returns nothing of what an endpoint sends but the names in a certificate.
package reach

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/istiod-agent/istiod-agent/internal/probe"
)

const (
	// attemptTimeout limits one connection, and retryInterval is between two: routes and network policies of a new Pod may be
	// in place only after its start.
	attemptTimeout = 5 * time.Second
	retryInterval  = 500 * time.Millisecond
	// maxHeader is the most bytes of an answer's header that are read.
	maxHeader = 64 << 10
)

// Prober connects to endpoints.
type Prober struct {
	// Barred reports whether it must not connect to an address.
	Barred func(netip.Addr) bool
}

// All connects to all endpoints at the same time, repeatedly until ctx ends, and returns their results in the same order.
func (p Prober) All(ctx context.Context, endpoints []probe.Endpoint) []probe.Result {
	results := make([]probe.Result, len(endpoints))
	var pending sync.WaitGroup
	for i, endpoint := range endpoints {
		pending.Go(func() { results[i] = p.until(ctx, endpoint) })
	}
	pending.Wait()
	return results
}

// until returns the last result. Timeout replaces no other: it may be the end of ctx, or of hosts that limit how often they refuse.
func (p Prober) until(ctx context.Context, endpoint probe.Endpoint) probe.Result {
	result := probe.Result{Outcome: probe.Timeout}
	for {
		err := p.try(ctx, endpoint)
		if err == nil {
			return probe.Result{Outcome: probe.Reached}
		}
		if last := classify(err); last.Outcome != probe.Timeout {
			result = last
		}
		select {
		case <-ctx.Done():
			return result
		case <-time.After(retryInterval):
		}
	}
}

var (
	errBarred  = errors.New("the address is barred")
	errAnother = errors.New("another answer")
)

func (p Prober) try(ctx context.Context, endpoint probe.Endpoint) error {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	if endpoint.Server != "" {
		return p.request(ctx, endpoint)
	}
	connection, err := p.dialer().DialContext(ctx, "tcp", endpoint.Address)
	if err != nil {
		return err
	}
	defer func() { _ = connection.Close() }()
	if endpoint.Answer == "" {
		return nil
	}
	if end, ok := ctx.Deadline(); ok {
		if err := connection.SetDeadline(end); err != nil {
			return err
		}
	}
	answer, err := io.ReadAll(io.LimitReader(connection, probe.MaxAnswer))
	if err == nil && string(answer) != endpoint.Answer {
		err = errAnother
	}
	return err
}

// dialer returns one that connects to no barred address, also where a name resolves to it.
func (p Prober) dialer() *net.Dialer {
	return &net.Dialer{Control: func(_, address string, _ syscall.RawConn) error {
		parsed, err := netip.ParseAddrPort(address)
		if err != nil || p.Barred(parsed.Addr()) {
			return errBarred
		}
		return nil
	}}
}

// request sends the request that API servers answer to anyone, with 200, 401 or 403.
func (p Prober) request(ctx context.Context, endpoint probe.Endpoint) error {
	server, err := url.Parse(endpoint.Server)
	if err != nil {
		return errors.New("the server is not a URL") // url.Error quotes it
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: endpoint.ServerName}
	if len(endpoint.CA) > 0 {
		if config.RootCAs = x509.NewCertPool(); !config.RootCAs.AppendCertsFromPEM(endpoint.CA) {
			return errors.New("the CA holds no certificate")
		}
	} else {
		config.InsecureSkipVerify = true // the image has no public CAs, and the request no credentials
	}
	transport := &http.Transport{
		DialContext: p.dialer().DialContext, TLSClientConfig: config, DisableKeepAlives: true, MaxResponseHeaderBytes: maxHeader,
	} // no proxy
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, server.JoinPath("version").String(), nil)
	if err != nil {
		return errors.New("the server is not a URL")
	}
	response, err := transport.RoundTrip(request) // follows no redirect
	if err != nil {
		return err
	}
	return response.Body.Close()
}

func classify(err error) probe.Result {
	var (
		timeout net.Error
		name    *net.DNSError
	)
	is := func(outcome probe.Outcome) probe.Result { return probe.Result{Outcome: outcome} }
	switch {
	case errors.Is(err, errBarred):
		return is(probe.Barred)
	case errors.Is(err, errAnother):
		return is(probe.Another)
	case certificateError(err):
		return probe.Result{Outcome: probe.BadCertificate, Detail: certificateCause(err)}
	case errors.As(err, &name):
		return probe.Result{Outcome: probe.NoName, Detail: nameCause(name)}
	case errors.Is(err, syscall.ECONNREFUSED):
		return is(probe.Refused)
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return is(probe.NoRoute)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), errors.As(err, &timeout) && timeout.Timeout():
		return is(probe.Timeout)
	}
	return probe.Result{Outcome: probe.Failed, Detail: cause(err)}
}

func certificateError(err error) bool {
	_, found := errors.AsType[*tls.CertificateVerificationError](err)
	return found
}

// certificateCause leaves out the certificate itself.
func certificateCause(err error) string {
	if of, found := errors.AsType[*tls.CertificateVerificationError](err); found {
		return of.Err.Error()
	}
	return ""
}

// nameCause leaves out the name and the address of the DNS server.
func nameCause(err *net.DNSError) string {
	switch {
	case err.IsNotFound:
		return "no such host"
	case err.IsTimeout:
		return "the DNS server does not answer"
	}
	return "the DNS server fails"
}

// cause returns a failure without what the endpoint has sent.
func cause(err error) string {
	if alert, found := errors.AsType[tls.AlertError](err); found {
		return fmt.Sprintf("TLS alert %d", uint8(alert))
	}
	if _, found := errors.AsType[tls.RecordHeaderError](err); found {
		return "the port does not speak TLS"
	}
	if number, found := errors.AsType[syscall.Errno](err); found {
		return number.Error()
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return "the connection was closed"
	}
	return "the answer is not of an API server"
}

// Listen sends an answer to each connection until ctx ends. It reads nothing.
func Listen(ctx context.Context, listener net.Listener, answer string) error {
	if len(answer) == 0 || len(answer) >= probe.MaxAnswer {
		return errors.New("expected an answer of 1 to " + strconv.Itoa(probe.MaxAnswer-1) + " bytes")
	}
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	for {
		connection, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		// A new connection has room for these bytes: no peer can hold this up.
		_ = connection.SetDeadline(time.Now().Add(time.Second))
		_, _ = io.WriteString(connection, answer)
		_ = connection.Close()
	}
}
