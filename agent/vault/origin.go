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
	if to := origin(request.URL); to != origin(c.server) {
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

// origin is scheme, host and port of a URL, in one form.
func origin(u *url.URL) string {
	port := map[string]string{"http": "80", "https": "443"}[u.Scheme]
	return u.Scheme + "://" + net.JoinHostPort(strings.ToLower(u.Hostname()), cmp.Or(u.Port(), port))
}
