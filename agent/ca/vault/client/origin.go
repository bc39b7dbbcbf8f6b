// SPDX-License-Identifier: Apache-2.0

package client

import (
	"cmp"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"
)

// confined sends requests to one server alone. Whatever a redirect or Vault's client makes of an address, no token or login
// leaves for another host, port or prefix, or in plain text where TLS was specified.
type confined struct {
	http.RoundTripper
	server *url.URL
}

func (c confined) RoundTrip(request *http.Request) (*http.Response, error) {
	if !Within(c.server, request.URL) {
		if request.Body != nil {
			_ = request.Body.Close()
		}
		elsewhere := Origin(request.URL)
		if elsewhere == Origin(c.server) {
			elsewhere += " outside of " + Prefix(c.server)
		}
		return nil, &elsewhereError{elsewhere}
	}
	return c.RoundTripper.RoundTrip(request)
}

// elsewhereError is a request to another origin than the server's, or outside of its prefix.
type elsewhereError struct{ address string }

func (*elsewhereError) Error() string { return "a request to another server was not sent" }

// Origin returns the scheme, host and port of a URL in one form. Go's HTTP client connects to one server for one origin.
//
// It lowers ASCII letters alone: strings.ToLower turns vault.İstio into vault.istio, but the client connects to
// vault.xn--istio-7fd.
func Origin(u *url.URL) string {
	port := map[string]string{"http": "80", "https": "443"}[u.Scheme]
	host := strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r - 'A' + 'a'
		}
		return r
	}, u.Hostname())
	return u.Scheme + "://" + net.JoinHostPort(host, cmp.Or(u.Port(), port))
}

// Prefix returns the path of a server's URL, where a gateway serves Vault, without a final slash: /vault for
// https://gateway.example.com/vault/.
func Prefix(server *url.URL) string { return strings.TrimSuffix(server.Path, "/") }

// Within reports whether a URL has the origin of a server's URL and a path below its prefix. It rejects a path that could be
// another one after a gateway has decoded and cleaned it.
func Within(server, to *url.URL) bool {
	if Origin(to) != Origin(server) {
		return false
	}
	prefix := Prefix(server)
	return prefix == "" || strings.HasPrefix(to.EscapedPath(), prefix+"/") && path.Clean(to.Path) == strings.TrimSuffix(to.Path, "/") && !strings.ContainsAny(to.Path, `%\;`)
}
