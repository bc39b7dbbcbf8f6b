// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"

	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/utils/lru"
)

// connections is a listener with at most limit open connections. One more replaces another of a source address that has most:
// the oldest that has not finished its handshake and started a request, else the newest. So one address cannot lock out
// another, and an API server keeps its connection.
type connections struct {
	net.Listener
	limit int

	mu    sync.Mutex
	open  []*connection // in the order in which they were accepted
	rates *lru.Cache    // a flowcontrol.PassiveRateLimiter by source
}

const (
	// New connections of a source per second, and burst. Further ones are closed before their handshake, which costs as much as a
	// small request.
	connectionRate, connectionBurst = 100, 256
	// maxRates is how many sources the listener remembers.
	maxRates = 4096
)

type connection struct {
	net.Conn
	source  string
	of      *connections
	started bool
	once    sync.Once
}

func newConnections(listener net.Listener, limit int) *connections {
	return &connections{Listener: listener, limit: limit, rates: lru.New(maxRates)}
}

// Accept implements net.Listener.
func (c *connections) Accept() (net.Conn, error) {
	for {
		accepted, err := c.Listener.Accept()
		if err != nil {
			return nil, err
		}
		added := &connection{Conn: accepted, source: sourceOf(accepted.RemoteAddr().String()), of: c}
		if !c.within(added.source) {
			_ = accepted.Close()
			continue
		}
		if victim := c.add(added); victim != nil {
			_ = victim.Close() // also when it is the one that was added: its first read fails
		}
		return added, nil
	}
}

// within reports whether a source keeps to the rate of new connections.
func (c *connections) within(source string) bool {
	rate, known := c.rates.Get(source)
	if !known {
		rate = flowcontrol.NewTokenBucketPassiveRateLimiter(connectionRate, connectionBurst)
		c.rates.Add(source, rate)
	}
	limiter, ok := rate.(flowcontrol.PassiveRateLimiter)
	return ok && limiter.TryAccept()
}

// add adds a connection and returns the one to close for it.
func (c *connections) add(added *connection) (victim *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open = append(c.open, added)
	if len(c.open) <= c.limit {
		return nil
	}
	count, most := map[string]int{}, 0
	for _, other := range c.open {
		count[other.source]++
		most = max(most, count[other.source])
	}
	for _, other := range c.open {
		if count[other.source] < most {
			continue
		}
		victim = other
		if !other.started {
			break
		}
	}
	return victim
}

// state is the server's hook (http.Server.ConnState): a connection becomes active with the first byte of a request.
func (c *connections) state(of net.Conn, state http.ConnState) {
	if state != http.StateActive {
		return
	}
	if secured, ok := of.(*tls.Conn); ok {
		of = secured.NetConn()
	}
	if known, ok := of.(*connection); ok {
		c.mu.Lock()
		known.started = true
		c.mu.Unlock()
	}
}

// Close implements net.Conn.
func (c *connection) Close() error {
	c.once.Do(func() {
		c.of.mu.Lock()
		defer c.of.mu.Unlock()
		c.of.open = slices.DeleteFunc(c.of.open, func(other *connection) bool { return other == c })
	})
	return c.Conn.Close()
}

// sourceOf identifies a client: its IPv4 address, or its IPv6 network of 64 bits, whose addresses one machine may all have.
func sourceOf(remote string) string {
	address, err := netip.ParseAddrPort(remote)
	if err != nil {
		return remote
	}
	ip := address.Addr().Unmap().WithZone("")
	if ip.Is4() {
		return ip.String()
	}
	network, _ := ip.Prefix(64) // any IPv6 address without a zone has one
	return network.String()
}
