// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"cmp"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"
)

// confined sends requests to one server alone. Whatever a redirect or Vault's client makes of an address, no token and
// no login goes to another host, another port, a path outside of the server's prefix, or in plain text where TLS was
// specified.
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

// elsewhereError is for a request to another origin than the server's, or outside of its prefix.
type elsewhereError struct{ address string }

func (*elsewhereError) Error() string { return "a request to another server was not sent" }

// Origin is the scheme, host and port of a URL in one form. Two URLs of one origin lead Go's HTTP client to one server.
//
// Only ASCII letters are made lower case: strings.ToLower makes vault.istio of vault.İstio, for which the client connects
// to vault.xn--istio-7fd.
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

// Prefix is the path of a server's URL, below which a gateway serves Vault, without a slash at its end: empty for most
// servers, /vault for https://gateway.example.com/vault/.
func Prefix(server *url.URL) string { return strings.TrimSuffix(server.Path, "/") }

// Within reports whether a URL has the origin of a server's URL and a path below its prefix. A gateway may decode and
// clean a path again, so below a prefix no path counts that could then be another.
func Within(server, to *url.URL) bool {
	if Origin(to) != Origin(server) {
		return false
	}
	prefix := Prefix(server)
	return prefix == "" || strings.HasPrefix(to.EscapedPath(), prefix+"/") && path.Clean(to.Path) == strings.TrimSuffix(to.Path, "/") && !strings.ContainsAny(to.Path, `%\;`)
}
