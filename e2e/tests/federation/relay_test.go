// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"context"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
)

// relay forwards TCP connections to an API server, and cuts them.
type relay struct {
	address string

	upstream string
	mu       sync.Mutex
	listener net.Listener
	open     []net.Conn
}

func startRelay(t *testing.T, host string) *relay {
	t.Helper()
	server, err := url.Parse(host)
	must(t, err)
	r := &relay{upstream: server.Host, address: "127.0.0.1:0"}
	r.listen(t)
	r.address = r.listener.Addr().String()
	t.Cleanup(r.stop)
	return r
}

// listen accepts connections, again after stop.
func (r *relay) listen(t *testing.T) {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", r.address)
	must(t, err)
	r.mu.Lock()
	r.listener = listener
	r.mu.Unlock()
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := new(net.Dialer).DialContext(context.Background(), "tcp", r.upstream)
			if err != nil {
				_ = client.Close()
				continue
			}
			r.mu.Lock()
			r.open = append(r.open, client, server)
			r.mu.Unlock()
			for _, pair := range [][2]net.Conn{{client, server}, {server, client}} {
				go func() {
					_, _ = io.Copy(pair[0], pair[1])
					_ = pair[0].Close()
				}()
			}
		}
	}()
}

// cut closes the open connections, which an API server does within ten minutes.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, connection := range r.open {
		_ = connection.Close()
	}
	r.open = nil
}

// stop refuses connections, as of an API server that does not run.
func (r *relay) stop() {
	r.mu.Lock()
	_ = r.listener.Close()
	r.mu.Unlock()
	r.cut()
}
