// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"crypto/x509"
	"net/url"
	"strings"
	"testing"

	"github.com/istiod-agent/istiod-agent/internal/testca"
)

// authority is a root with a name.
type authority struct{ *testca.Certificate }

func newAuthority(_ *testing.T, name string) *authority { return &authority{testca.Root(name)} }

// workload has a certificate of an authority, for an identity, and trusts roots.
func (a *authority) workload(t *testing.T, identity string, trusted ...*authority) *Workload {
	t.Helper()
	template := x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	if uri, err := url.Parse(identity); err == nil && identity != "" {
		template.URIs = []*url.URL{uri}
	}
	w := &Workload{certificate: a.Sign(template, nil).TLS(), roots: x509.NewCertPool()}
	for _, each := range trusted {
		w.roots.AddCert(each.Certificate.Certificate)
	}
	return w
}

func TestHandshakes(t *testing.T) {
	t.Parallel()
	const id = "spiffe://cluster.local/ns/default/sa/default"
	a, b := newAuthority(t, "a"), newAuthority(t, "b")
	for name, test := range map[string]struct {
		client, server *Workload
		want           string // of the error; empty for none
	}{
		"one root":                     {a.workload(t, id, a), a.workload(t, id, a), ""},
		"each trusts the other's":      {a.workload(t, id, a, b), b.workload(t, id, a, b), ""},
		"two roots":                    {a.workload(t, id, a), b.workload(t, id, b), "the client refuses the server: "},
		"the server trusts its own":    {a.workload(t, id, a, b), b.workload(t, id, b), "the server refuses the client: "},
		"the client trusts its own":    {a.workload(t, id, a), b.workload(t, id, a, b), "the client refuses the server: "},
		"the client has no identity":   {a.workload(t, "", a), a.workload(t, id, a), "the server refuses the client: the certificate holds no SPIFFE ID"},
		"the server is no workload":    {a.workload(t, id, a), a.workload(t, "https://example.com", a), "the client refuses the server: the certificate holds no SPIFFE ID"},
		"the client trusts nobody":     {a.workload(t, id), a.workload(t, id, a), "the client refuses the server: "},
		"nobody trusts anybody":        {a.workload(t, id), b.workload(t, id), "the client refuses the server: "},
		"the server trusts too little": {a.workload(t, id, a), a.workload(t, id), "the server refuses the client: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := Handshake(t.Context(), test.client, test.server)
			switch {
			case test.want == "" && err != nil:
				t.Error(err)
			case test.want != "" && (err == nil || !strings.HasPrefix(err.Error(), test.want) || strings.Contains(err.Error(), "remote error")):
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}
