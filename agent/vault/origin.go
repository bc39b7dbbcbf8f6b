// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"cmp"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// confined sends requests to one server alone. Whatever a redirect or Vault's client makes of an address, no token and
// no login goes to another host, another port, or in plain text where TLS was specified.
type confined struct {
	http.RoundTripper
	server *url.URL
}

func (c confined) RoundTrip(request *http.Request) (*http.Response, error) {
	if to := Origin(request.URL); to != Origin(c.server) {
		if request.Body != nil {
			_ = request.Body.Close()
		}
		return nil, &elsewhereError{to}
	}
	return c.RoundTripper.RoundTrip(request)
}

// elsewhereError is for a request to another origin than the server's.
type elsewhereError struct{ origin string }

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
