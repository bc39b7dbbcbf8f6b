// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
)

// start serves on loopback, with TLS if asked for, until the test ends.
func start(t *testing.T, handler http.Handler, secured bool, connections int, log logr.Logger) (address string) {
	t.Helper()
	server := &Server{Handler: handler, Connections: connections, Log: log, Drain: time.Second}
	if secured {
		example := httptest.NewTLSServer(nil)
		server.TLS = &tls.Config{Certificates: example.TLS.Certificates, MinVersion: tls.VersionTLS12}
		example.Close()
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return listener.Addr().String()
}

var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	n, err := io.Copy(io.Discard, r.Body)
	if err != nil {
		w.WriteHeader(http.StatusRequestTimeout)
	}
	_, _ = fmt.Fprintf(w, "%d", n)
})

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	connection, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	if err := connection.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return connection
}

// closedByServer wants the connection's end, not the test's own deadline.
func closedByServer(t *testing.T, connection net.Conn) {
	t.Helper()
	if _, err := io.Copy(io.Discard, connection); errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
		t.Error("the server keeps the connection open")
	}
}

func isTimeout(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}

func TestServerClosesSlowConnections(t *testing.T) {
	t.Parallel()
	plain, secured := start(t, echo, false, 100, logr.Discard()), start(t, echo, true, 100, logr.Discard())
	for name, test := range map[string]struct {
		address string
		send    string
	}{
		"that send nothing":           {plain, ""},
		"that send half a header":     {plain, "GET / HTTP/1.1\r\nHost: a\r\nX: "},
		"that send half a body":       {plain, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf"},
		"that begin no TLS handshake": {secured, ""},
		"that send half a handshake":  {secured, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			connection := dial(t, test.address)
			if _, err := io.WriteString(connection, test.send); err != nil {
				t.Fatal(err)
			}
			closedByServer(t, connection)
		})
	}
}

func TestServerBoundsHeaders(t *testing.T) {
	t.Parallel()
	for _, secured := range []bool{false, true} {
		address := start(t, echo, secured, 100, logr.Discard())
		client, url := clientOf(address, secured)
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("X", strings.Repeat("x", 64<<10))
		answer, err := client.Do(request)
		if err == nil {
			_ = answer.Body.Close()
			if answer.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
				t.Errorf("TLS %t: %s", secured, answer.Status)
			}
		}
	}
}

func clientOf(address string, secured bool) (*http.Client, string) {
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	if secured {
		return &http.Client{Transport: transport}, "https://" + address
	}
	return &http.Client{Transport: transport}, "http://" + address
}

func TestServerBoundsStreams(t *testing.T) {
	t.Parallel()
	const requests = 3 * maxStreams
	var (
		mu   sync.Mutex
		most int
		of   = map[string]int{} // requests that are served, by connection
		all  sync.WaitGroup
		full = make(chan struct{}) // closed when as many are served as a connection may have
		once sync.Once
	)
	address := start(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		of[r.RemoteAddr]++
		most = max(most, of[r.RemoteAddr])
		if of[r.RemoteAddr] >= maxStreams {
			once.Do(func() { close(full) })
		}
		mu.Unlock()
		<-full
		mu.Lock()
		of[r.RemoteAddr]--
		mu.Unlock()
	}), true, 100, logr.Discard())
	client, url := clientOf(address, true)
	client.Transport.(*http.Transport).MaxConnsPerHost = 1
	for range requests {
		all.Go(func() {
			answer, err := client.Get(url)
			if err != nil {
				t.Error(err)
				return
			}
			_ = answer.Body.Close()
		})
	}
	all.Wait()
	if most != maxStreams {
		t.Errorf("%d requests of a connection were served at a time, want %d", most, maxStreams)
	}
}

func TestServerFairness(t *testing.T) {
	t.Parallel()
	address := start(t, echo, false, 8, logr.Discard())
	keptOpen := dial(t, address)
	ask := func() error {
		if _, err := io.WriteString(keptOpen, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			return err
		}
		answer, err := http.ReadResponse(bufio.NewReader(keptOpen), nil)
		if err != nil {
			return err
		}
		return answer.Body.Close()
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	for range 50 {
		dial(t, address)
	}
	client, url := clientOf(address, false)
	answer, err := client.Get(url)
	if err != nil {
		t.Fatalf("a new connection among idle ones: %v", err)
	}
	_ = answer.Body.Close()
	if err := ask(); err != nil {
		t.Errorf("a connection that was there before: %v", err)
	}
}

func TestServerClientGone(t *testing.T) {
	t.Parallel()
	for _, secured := range []bool{false, true} {
		inside, ended := make(chan struct{}), make(chan struct{})
		address := start(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			close(inside)
			<-r.Context().Done()
			close(ended)
		}), secured, 8, logr.Discard())
		client, url := clientOf(address, secured)
		ctx, cancel := context.WithCancel(t.Context())
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			<-inside
			cancel()
		}()
		if answer, err := client.Do(request); err == nil {
			_ = answer.Body.Close()
			t.Error("answered")
		}
		<-ended
	}
}

func TestServerLogRate(t *testing.T) {
	t.Parallel()
	lines := make(chan string, 1000)
	log := funcr.New(func(_, args string) { lines <- args }, funcr.Options{})
	address := start(t, echo, true, 100, log)
	for range 50 {
		connection := dial(t, address)
		if _, err := io.WriteString(connection, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		closedByServer(t, connection)
	}
	if len(lines) == 0 || len(lines) > 11 {
		t.Errorf("%d lines for 50 failed handshakes", len(lines))
	}
}

func TestBudgetLimit(t *testing.T) {
	t.Parallel()
	budget := NewBudget(2<<20, 0, 50*time.Millisecond)
	address := start(t, budget.Limit(1<<20, echo), false, 100, logr.Discard())
	client, url := clientOf(address, false)
	post := func(size int64, known bool) (*http.Response, error) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, io.NopCloser(bytes.NewReader(make([]byte, size))))
		if err != nil {
			return nil, err
		}
		if request.ContentLength = -1; known {
			request.ContentLength = size
		}
		return client.Do(request)
	}
	for _, test := range []struct {
		size  int64
		known bool
		want  int
	}{{1 << 20, true, http.StatusOK}, {1<<20 + 1, true, http.StatusRequestTimeout}, {1, false, http.StatusLengthRequired}} {
		answer, err := post(test.size, test.known)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		if answer.StatusCode != test.want {
			t.Errorf("%d bytes, length known %t: %s, want %d", test.size, test.known, answer.Status, test.want)
		}
	}
	// Half-sent bodies of one address take what it may hold. Another request of that address does not wait for them.
	for range 4 {
		if _, err := io.WriteString(dial(t, address), "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\nhalf"); err != nil {
			t.Fatal(err)
		}
	}
	for {
		answer, err := post(500_000, true)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		if answer.StatusCode == http.StatusTooManyRequests {
			if answer.Header.Get("Retry-After") == "" {
				t.Error("no Retry-After, without which an API server does not try again")
			}
			break
		}
	}
}

// A body that waits for its part of the budget is not read. Those of one connection must not take the window from each other.
func TestBudgetServesLargeBodiesOfOneConnection(t *testing.T) {
	t.Parallel()
	budget := NewBudget(128<<10, 2<<10, 2*time.Second)
	address := start(t, budget.Limit(1<<20, echo), true, 100, logr.Discard())
	client, url := clientOf(address, true)
	client.Transport.(*http.Transport).MaxConnsPerHost = 1
	var all sync.WaitGroup
	for range maxStreams {
		all.Go(func() {
			answer, err := client.Post(url, "text/plain", bytes.NewReader(make([]byte, 200<<10)))
			if err != nil {
				t.Error(err)
				return
			}
			_ = answer.Body.Close()
			if answer.StatusCode != http.StatusOK {
				t.Error(answer.Status)
			}
		})
	}
	all.Wait()
}
