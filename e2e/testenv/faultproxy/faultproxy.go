// SPDX-License-Identifier: Apache-2.0

// Package faultproxy is a reverse proxy for a real Vault that delays, cuts, replaces or changes some of its answers, as
// networks, load balancers and overloaded servers do.
package faultproxy

import (
	"bytes"
	"context"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Fault answers a request instead of Vault, or changes Vault's answer.
type Fault func(w http.ResponseWriter, r *http.Request, vault http.Handler)

// Proxy is a running proxy.
type Proxy struct {
	// Address is the URL that replaces Vault's.
	Address string

	server *http.Server
	vault  http.Handler

	mu    sync.Mutex
	rules []*rule
	calls []string
	spy   func(answer []byte)
}

type rule struct {
	suffix string
	times  int // remaining requests; negative without a limit
	fault  Fault
}

// Start starts a proxy for the Vault at a URL. The caller must call Stop.
func Start(vault string) (*Proxy, error) {
	upstream, err := url.Parse(vault)
	if err != nil {
		return nil, err
	}
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	quiet := log.New(io.Discard, "", 0) // cut connections are expected
	p := &Proxy{Address: "http://" + listener.Addr().String()}
	p.vault = &httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(upstream) },
		Transport:      &http.Transport{},
		ModifyResponse: p.show,
		ErrorLog:       quiet,
		// If Vault does not answer, the proxy does not either.
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	p.server = &http.Server{Handler: p, ErrorLog: quiet, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = p.server.Serve(listener) }()
	return p, nil
}

// Stop ends the proxy and its open requests.
func (p *Proxy) Stop() error { return p.server.Close() }

// Spoil applies a fault to the next requests whose path has the suffix: to so many, or to all if times is 0. If several
// faults match, the first one applies. The function that it returns ends the fault.
func (p *Proxy) Spoil(suffix string, times int, fault Fault) (end func()) {
	added := &rule{suffix, times, fault}
	if times == 0 {
		added.times = -1
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rules = append(p.rules, added)
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		added.times = 0
	}
}

// Spy calls the function with the body of each of Vault's answers from now on, before a fault changes it.
func (p *Proxy) Spy(spy func(answer []byte)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spy = spy
}

func (p *Proxy) show(answer *http.Response) error {
	p.mu.Lock()
	spy := p.spy
	p.mu.Unlock()
	if spy == nil {
		return nil
	}
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	spy(body)
	answer.Body = io.NopCloser(bytes.NewReader(body))
	return nil
}

// Calls returns the paths of all requests so far, in order.
func (p *Proxy) Calls() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.calls...)
}

// Count returns the number of requests so far whose path has the suffix.
func (p *Proxy) Count(suffix string) (n int) {
	for _, each := range p.Calls() {
		if strings.HasSuffix(each, suffix) {
			n++
		}
	}
	return n
}

// ServeHTTP implements http.Handler.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if fault := p.next(r.URL.Path); fault != nil {
		fault(w, r, p.vault)
		return
	}
	p.vault.ServeHTTP(w, r)
}

func (p *Proxy) next(path string) Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls = append(p.calls, path)
	for _, each := range p.rules {
		if each.times != 0 && strings.HasSuffix(path, each.suffix) {
			each.times--
			return each.fault
		}
	}
	return nil
}

// Below serves Vault below a path prefix, as a gateway does, and answers all other paths with 404.
func Below(prefix string) Fault {
	return func(w http.ResponseWriter, r *http.Request, vault http.Handler) {
		if !strings.HasPrefix(r.URL.EscapedPath(), prefix+"/") {
			http.Error(w, "no route", http.StatusNotFound)
			return
		}
		http.StripPrefix(prefix, vault).ServeHTTP(w, r)
	}
}

// Answer answers with a status and a body. Vault does not get the request.
func Answer(status int, contentType, body string) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// Cut closes the connection in the middle of the body of Vault's answer: Vault has processed the request.
func Cut(w http.ResponseWriter, r *http.Request, vault http.Handler) {
	answer := record(r, vault)
	half(w, answer)
	panic(http.ErrAbortHandler)
}

// Reset is Cut by a TCP reset (RST), which is another error for the client.
func Reset(w http.ResponseWriter, r *http.Request, vault http.Handler) {
	answer := record(r, vault)
	half(w, answer)
	connection, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := connection.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = connection.Close()
}

// Slow delays Vault's answer.
func Slow(by time.Duration) Fault {
	return func(w http.ResponseWriter, r *http.Request, vault http.Handler) {
		answer := record(r, vault)
		select {
		case <-time.After(by):
			whole(w, answer, answer.Body.Bytes())
		case <-r.Context().Done():
		}
	}
}

// Hang never answers. Vault does not get the request.
func Hang(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
	_, _ = io.Copy(io.Discard, r.Body) // until then the server does not notice that the client is gone
	<-r.Context().Done()
}

// Before calls a function with the request's token, then passes the request to Vault.
func Before(do func(token string)) Fault {
	return func(w http.ResponseWriter, r *http.Request, vault http.Handler) {
		do(r.Header.Get("X-Vault-Token"))
		vault.ServeHTTP(w, r)
	}
}

// Change replaces the body of Vault's answer by the function's result.
func Change(change func(body []byte) []byte) Fault {
	return func(w http.ResponseWriter, r *http.Request, vault http.Handler) {
		answer := record(r, vault)
		whole(w, answer, change(answer.Body.Bytes()))
	}
}

func record(r *http.Request, vault http.Handler) *httptest.ResponseRecorder {
	answer := httptest.NewRecorder()
	vault.ServeHTTP(answer, r)
	return answer
}

func whole(w http.ResponseWriter, answer *httptest.ResponseRecorder, body []byte) {
	header(w, answer, len(body))
	_, _ = w.Write(body)
}

func half(w http.ResponseWriter, answer *httptest.ResponseRecorder) {
	body := answer.Body.Bytes()
	header(w, answer, len(body))
	_, _ = w.Write(body[:len(body)/2])
	_ = http.NewResponseController(w).Flush()
}

func header(w http.ResponseWriter, answer *httptest.ResponseRecorder, length int) {
	maps.Copy(w.Header(), answer.Header())
	if length > 0 { // 204 has no Content-Length
		w.Header().Set("Content-Length", strconv.Itoa(length))
	}
	w.WriteHeader(answer.Code)
}
