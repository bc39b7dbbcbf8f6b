// SPDX-License-Identifier: Apache-2.0

package cacerts

import (
	"crypto/x509"
	"net/url"
	"slices"

	"github.com/istiod-agent/istiod-agent/internal/uriconstraints"
)

// verifyConstraints requires that name constraints permit the requested URI domains or some of these, and no others. As with the
// path length, those of an issuer suffice, and those of the root do not count: not all verifiers read them.
func (s *Set) verifyConstraints(requested []string) error {
	if len(requested) == 0 {
		return nil
	}
	var broader []string
	for _, certificate := range append([]*x509.Certificate{s.certificate}, s.issuers...) {
		permitted := certificate.PermittedURIDomains
		switch {
		case len(permitted) == 0:
		case !certificate.PermittedDNSDomainsCritical: // which all types of names share
			return refuse(wrongConstraints, "the name constraints of %s are not critical, so verifiers may ignore them (RFC 5280, 4.2.1.10)", certificate.Subject)
		case !slices.ContainsFunc(permitted, func(domain string) bool { return !slices.Contains(requested, domain) }):
			return nil
		case broader == nil:
			broader = permitted
		}
	}
	if broader != nil {
		return refuse(wrongConstraints, "its name constraints permit the URI domains %q; expected no others than %q, those of spec.certOptions.permittedURIDomains", broader, requested)
	}
	return refuse(wrongConstraints, "it has no name constraints for URIs; expected those of spec.certOptions.permittedURIDomains, %q. Vault before 1.19, OpenBao, and some issuers of cert-manager "+
		"ignore the request: upgrade Vault to 1.19 or later, choose a CA that signs name constraints, or remove permittedURIDomains", requested)
}

// verifyTrustDomains requires that the name constraints of a chain permit istiod's trust domains as the RFC and Envoy read them;
// crypto/x509 is more lenient (see uriconstraints.Permit).
func (s *Set) verifyTrustDomains(hosts []string) error {
	for _, host := range hosts {
		id, err := url.Parse(host)
		if err != nil {
			return refuse(wrongNames, "istiod's name %q is not a URI", host)
		}
		for _, certificate := range s.chain() {
			if permitted := certificate.PermittedURIDomains; len(permitted) > 0 && !uriconstraints.Permit(permitted, id.Host) {
				return refuse(unusable, "proxies would not accept the certificates that istiod signs with it: the name constraints of %s in its chain permit the URI domains %q, "+
					"which the trust domain %s is not", certificate.Subject, permitted, id.Host)
			}
		}
	}
	return nil
}

// limitsURIs reports whether a certificate has name constraints for URIs.
func limitsURIs(certificate *x509.Certificate) bool {
	return len(certificate.PermittedURIDomains)+len(certificate.ExcludedURIDomains) > 0
}
