// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"net"
	"strings"
	"testing"
)

func TestSourceOf(t *testing.T) {
	t.Parallel()
	for remote, want := range map[string]string{
		"10.1.2.3:4567":             "10.1.2.3",
		"[::ffff:10.1.2.3]:4567":    "10.1.2.3",
		"[2001:db8:1:2:3:4:5:6]:80": "2001:db8:1:2::/64",
		"[fe80::1%eth0]:80":         "fe80::/64",
		"@":                         "@", // a Unix socket
	} {
		if got := sourceOf(remote); got != want {
			t.Errorf("%s: %s, want %s", remote, got, want)
		}
	}
}

// A connection is written as its source and a number, with * when it has begun a request.
func TestConnectionsLimit(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ open, added, victim string }{
		"below the limit":                {"a1 a2 b1", "b2", ""},
		"of the one that has most":       {"a1 a2 a3 b1", "b2", "a1"},
		"its oldest without a request":   {"a1* a2 a3 b1", "b2", "a2"},
		"its newest when all have begun": {"a1* a2* a3* b1", "b2", "a3*"},
		"a stranger's":                   {"a1* a2 a3 b1*", "c1", "a2"},
		"itself":                         {"a1* a2* a3* b1", "a4", "a4"},
		"itself when all have as many":   {"a1* b1* c1* d1*", "e1", "e1"},
		"one without a request of all":   {"a1* b1* c1 d1*", "e1", "c1"},
		"one of several that have most":  {"a1* a2* b1* c1", "b2", "b2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			of := newConnections(nil, 4)
			named := map[*connection]string{}
			add := func(name string) *connection {
				c := &connection{Conn: noConn{}, source: name[:1], of: of}
				named[c] = name
				victim := of.add(c)
				c.started = strings.HasSuffix(name, "*")
				return victim
			}
			for open := range strings.FieldsSeq(test.open) {
				if victim := add(open); victim != nil {
					t.Fatalf("%s is closed before the limit", named[victim])
				}
			}
			victim := add(test.added)
			if named[victim] != test.victim {
				t.Errorf("%q is closed, want %q", named[victim], test.victim)
			}
			if victim != nil {
				_ = victim.Close()
				_ = victim.Close()
			}
			if len(of.open) > 4 {
				t.Errorf("%d are open", len(of.open))
			}
		})
	}
}

type noConn struct{ net.Conn }

func (noConn) Close() error { return nil }

func TestConnectionsRate(t *testing.T) {
	t.Parallel()
	of := newConnections(nil, 4)
	for i := range connectionBurst {
		if !of.within("a") {
			t.Fatalf("connection %d is refused", i)
		}
	}
	if of.within("a") {
		t.Error("more are accepted at once than the burst")
	}
	if !of.within("b") {
		t.Error("another source is refused")
	}
	for i := range 2 * maxRates {
		of.within(strings.Repeat("x", i))
	}
	if remembered := of.rates.Len(); remembered > maxRates {
		t.Errorf("%d sources are remembered", remembered)
	}
}
