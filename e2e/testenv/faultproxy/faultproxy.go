// SPDX-License-Identifier: Apache-2.0

// Package faultproxy stands before a real Vault and does to some calls what networks, load balancers and
// overloaded servers do. All that it lets through is Vault's own.
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

// Fault answers a call in Vault's place, or spoils what Vault answers.
type Fault func(w http.ResponseWriter, r *http.Request, vault http.Handler)

// Proxy is a running one.
type Proxy struct {
	// Address is the URL to give to the agent in place of Vault's.
	Address string

	server *http.Server
	vault  http.Handler

	mu    sync.Mutex
	rules []*rule
	calls []string
	spy   func(answer []byte)
}

type rule struct {
	path  string
	times int // how often it still counts, below zero for good
	fault Fault
}

// Start starts a proxy before the Vault at a URL. Stop must be called.
func Start(vault string) (*Proxy, error) {
	upstream, err := url.Parse(vault)
	if err != nil {
		return nil, err
	}
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	quiet := log.New(io.Discard, "", 0) // connections that are cut are what this is for
	p := &Proxy{Address: "http://" + listener.Addr().String()}
	p.vault = &httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(upstream) },
		Transport:      &http.Transport{},
		ModifyResponse: p.show,
		ErrorLog:       quiet,
		// A Vault that is gone answers nothing, and so does its proxy.
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	p.server = &http.Server{Handler: p, ErrorLog: quiet, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = p.server.Serve(listener) }()
	return p, nil
}

// Stop ends the proxy and all calls through it.
func (p *Proxy) Stop() error { return p.server.Close() }

// Spoil has the next so many calls of a path (by how it ends; all paths when empty) meet a fault, all calls when
// times is 0. Of several that fit, the one named first counts. What it gives ends it.
func (p *Proxy) Spoil(path string, times int, fault Fault) (end func()) {
	added := &rule{path, times, fault}
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

// Spy is shown the body of each of Vault's answers from now on, also of those that are then spoiled.
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

// Calls are the paths of all calls so far, in their order.
func (p *Proxy) Calls() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.calls...)
}

// Count is how many calls there were so far of a path, by how it ends.
func (p *Proxy) Count(path string) (n int) {
	for _, each := range p.Calls() {
		if strings.HasSuffix(each, path) {
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
		if each.times != 0 && strings.HasSuffix(path, each.path) {
			each.times--
			return each.fault
		}
	}
	return nil
}

// Below serves Vault below a prefix of its paths, as a gateway does, and nothing beside it.
func Below(prefix string) Fault {
	return func(w http.ResponseWriter, r *http.Request, vault http.Handler) {
		if !strings.HasPrefix(r.URL.EscapedPath(), prefix+"/") {
			http.Error(w, "no route", http.StatusNotFound)
			return
		}
		http.StripPrefix(prefix, vault).ServeHTTP(w, r)
	}
}

// Answer is a status with a body; Vault is not asked.
func Answer(status int, contentType, body string) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// Cut ends the connection in the middle of the body of Vault's answer: Vault has done what was asked.
func Cut(w http.ResponseWriter, r *http.Request, vault http.Handler) {
	answer := record(r, vault)
	half(w, answer)
	panic(http.ErrAbortHandler)
}

// Reset does the same as an abort (RST), which a client sees as another error.
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

// Slow gives Vault's answer later.
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

// Hang never answers; Vault is not asked.
func Hang(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
	_, _ = io.Copy(io.Discard, r.Body) // else nobody notices that the client has gone
	<-r.Context().Done()
}

// Before does something while the call is on its way, and then lets it through.
func Before(do func(token string)) Fault {
	return func(w http.ResponseWriter, r *http.Request, vault http.Handler) {
		do(r.Header.Get("X-Vault-Token"))
		vault.ServeHTTP(w, r)
	}
}

// Change makes something else of the body of Vault's answer.
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
	if length > 0 { // an answer of 204 has none
		w.Header().Set("Content-Length", strconv.Itoa(length))
	}
	w.WriteHeader(answer.Code)
}
