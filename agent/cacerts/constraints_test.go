// SPDX-License-Identifier: Apache-2.0

package cacerts

import (
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"testing"
)

func permitting(domains ...string) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.PermittedURIDomains, c.PermittedDNSDomainsCritical = domains, true }
}

// Requested name constraints must be in the answer, or narrower ones; an issuer's count, the root's do not.
func TestVerifyNameConstraints(t *testing.T) {
	h := newHierarchy(t)
	domains := []string{"cluster.local", ".example.com"}
	issuer := func(change func(*x509.Certificate)) Issued {
		template := authority("middle", 1)
		change(&template)
		return h.through(t, template)
	}
	limitedRoot := authority("my-org", -1)
	permitting("cluster.local")(&limitedRoot)
	for name, test := range map[string]struct {
		answer  Issued
		refusal string // empty for an accepted answer
	}{
		"as requested":              {h.direct(t, permitting(domains...)), ""},
		"in another order":          {h.direct(t, permitting(".example.com", "cluster.local")), ""},
		"narrower":                  {h.direct(t, permitting("cluster.local")), ""},
		"the issuer's":              {issuer(permitting("cluster.local")), ""},
		"none":                      {h.answer(t), "Vault before 1.19, OpenBao"},
		"the root's":                {h.under(t, limitedRoot, newKey(t, elliptic.P256())), "no name constraints for URIs"},
		"broader":                   {h.direct(t, permitting(append(domains, "other.domain")...)), `permit the URI domains ["cluster.local" ".example.com" "other.domain"]; expected no others`},
		"everything":                {h.direct(t, permitting("cluster.local", "")), "expected no others"},
		"all of a top-level domain": {h.direct(t, permitting("cluster.local", ".local")), "expected no others"},
		"not critical":              {h.direct(t, func(c *x509.Certificate) { c.PermittedURIDomains = domains }), "not critical"},
		"of DNS names alone": {h.direct(t, func(c *x509.Certificate) {
			c.PermittedDNSDomains, c.PermittedDNSDomainsCritical = []string{"svc"}, true
		}), "no name constraints for URIs"},
		"excluding alone": {h.direct(t, func(c *x509.Certificate) {
			c.ExcludedURIDomains, c.PermittedDNSDomainsCritical = []string{"other.domain"}, true
		}), "no name constraints for URIs"},
		"many, to print": {h.direct(t, permitting(append(slices.Repeat([]string{strings.Repeat("long.", 40) + "domain"}, 50), "cluster.local")...)), "expected"},
	} {
		t.Run(name, func(t *testing.T) {
			request := requested()
			request.PermittedURIDomains = domains
			set, err := Verify(test.answer, request)
			if test.refusal == "" {
				if err != nil {
					t.Fatal(err)
				}
				if warnings := set.Warnings(); len(warnings) != 1 || !strings.Contains(warnings[0], "ztunnel") {
					t.Errorf("warns %q, want ztunnel alone", warnings)
				}
				return
			}
			refusal, ok := errors.AsType[*Refusal](err)
			if !ok || refusal.Reason != wrongConstraints || set != nil || len(refusal.Detail) > 2*maxDetail {
				t.Fatalf("got %v", err)
			}
			if name != "many, to print" && !strings.Contains(err.Error(), test.refusal) {
				t.Errorf("%q does not say %q", err, test.refusal)
			}
		})
	}
}

// Name constraints that nobody requested are accepted where Envoy and the RFC permit istiod's trust domain with them, whatever
// crypto/x509 permits besides, and are warned about.
func TestVerifyUnrequestedNameConstraints(t *testing.T) {
	const host = "spiffe://mesh.example.com/ns/istio-system/sa/istiod"
	h := newHierarchy(t)
	under := func(change func(*x509.Certificate)) Issued {
		return h.direct(t, func(c *x509.Certificate) {
			c.URIs[0].Host = "mesh.example.com"
			change(c)
		})
	}
	for name, test := range map[string]struct {
		answer  Issued
		accepts bool
	}{
		"none":                       {under(func(*x509.Certificate) {}), true},
		"the trust domain":           {under(permitting("mesh.example.com")), true},
		"its domain":                 {under(permitting(".example.com")), true},
		"its parent, as a host":      {under(permitting("example.com")), false}, // which crypto/x509 permits
		"an empty one":               {under(permitting("")), false},            // likewise
		"another":                    {under(permitting("other.example.com")), false},
		"an exclusion of another":    {under(func(c *x509.Certificate) { c.ExcludedURIDomains = []string{"other.example.com"} }), true},
		"an exclusion of the domain": {under(func(c *x509.Certificate) { c.ExcludedURIDomains = []string{".example.com"} }), false},
		"an exclusion beside the right": {under(func(c *x509.Certificate) {
			permitting(".example.com")(c)
			c.ExcludedURIDomains = []string{"mesh.example.com"}
		}), false},
	} {
		t.Run(name, func(t *testing.T) {
			request := requested()
			request.Hosts = []string{host}
			set, err := Verify(test.answer, request)
			if !test.accepts {
				if refusal, ok := errors.AsType[*Refusal](err); !ok || refusal.Reason != unusable {
					t.Fatalf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if warns := len(set.Warnings()) == 1; warns == (name == "none") {
				t.Errorf("warns %q", set.Warnings())
			}
		})
	}
}

// OpenBao signs at once below a CA that has just begun, and so backdates the certificate to before its issuer's begin.
func TestVerifyBeginsBeforeItsIssuer(t *testing.T) {
	h := newHierarchy(t)
	root := authority("my-org", -1)
	root.NotBefore = now
	if _, err := Verify(h.under(t, root, newKey(t, elliptic.P256())), requested()); err != nil {
		t.Error(err)
	}
}
