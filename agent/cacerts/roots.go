// SPDX-License-Identifier: Apache-2.0

package cacerts

import (
	"bytes"
	"crypto/x509"
	"errors"
	"slices"
	"time"

	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

// Root returns the root that the set's certificate leads to, nil without one. Of roots reissued with the same key it is the
// last one, since new roots come after old ones.
func (s *Set) Root() *x509.Certificate {
	for _, root := range slices.Backward(s.roots) {
		if s.LeadsTo(root) {
			return root
		}
	}
	return nil
}

// LeadsTo reports whether a root is, or signed, the last certificate that istiod sends to proxies.
func (s *Set) LeadsTo(root *x509.Certificate) bool {
	last := s.certificate
	if n := len(s.issuers); n > 0 {
		last = s.issuers[n-1]
	}
	return root.Equal(last) || last.CheckSignatureFrom(root) == nil
}

// RootFingerprint returns the SHA-256 of Root (DER) in hexadecimal.
func (s *Set) RootFingerprint() string { return pemcerts.Fingerprint(s.Root()) }

// WithRoots returns the same certificate and key with other roots, which must contain the certificate's.
func (s *Set) WithRoots(roots []*x509.Certificate) (*Set, error) {
	changed := *s
	changed.roots = roots
	if changed.Root() == nil {
		return nil, refuse(RootNotTrusted, "its root %s (SHA-256 %s) is not among the roots to trust", s.Root().Subject, s.RootFingerprint())
	}
	return &changed, nil
}

// Trust is the roots that istiod publishes as trusted.
type Trust struct {
	Roots []*x509.Certificate
	// Root is the one that istiod's own certificate leads to.
	Root *x509.Certificate
}

// Trust returns the roots of the set.
func (s *Set) Trust() Trust { return Trust{Roots: s.roots, Root: s.Root()} }

// Equal reports whether the roots are the same in the same order: istiod takes another order for another root.
func (t Trust) Equal(other Trust) bool {
	return slices.EqualFunc(t.Roots, other.Roots, (*x509.Certificate).Equal)
}

// Accepts reports whether an istiod that may change its roots while it runs (ISTIO_MULTIROOT_MESH) changes from these to the
// next ones: either must hold the other (Istio pilot/pkg/bootstrap/istio_ca.go, handleEvent), and up to Istio 1.29 as a part
// of its text, so that their order counts.
func (t Trust) Accepts(next Trust) bool {
	return within(t.Roots, next.Roots) || within(next.Roots, t.Roots)
}

// within reports whether part is a run of whole.
func within(part, whole []*x509.Certificate) bool {
	for i := 0; i+len(part) <= len(whole); i++ {
		if slices.EqualFunc(part, whole[i:i+len(part)], (*x509.Certificate).Equal) {
			return true
		}
	}
	return false
}

// Adopt returns the set of a CA that istiod has used so far, with the roots to trust. Names, lifetime and path length may be
// any, but the CA must be valid and usable for the workloads of istiod's names (hosts). The elements of its chain may hold
// several certificates each.
func Adopt(former Issued, roots []*x509.Certificate, hosts []string, now time.Time) (*Set, error) {
	set := &Set{roots: roots}
	var err error
	if set.key, err = parseKey(former.Key); err != nil {
		return nil, err
	}
	if set.certificate, err = parseOne("certificate", former.Certificate); err != nil {
		return nil, err
	}
	var issuers []*x509.Certificate
	if chain := bytes.Join(former.Chain, nil); len(chain) > 0 {
		if issuers, err = pemcerts.Parse(chain); err != nil {
			return nil, refuse(badPEM, "its chain cannot be used: %v", err)
		}
		if len(issuers) > maxChain {
			return nil, refuse(badChain, "its chain holds %d certificates, more than %d", len(issuers), maxChain)
		}
	}
	paths, err := findPaths(set.certificate, issuers, roots)
	if refusal, ok := errors.AsType[*Refusal](err); ok && refusal.Reason == badChain {
		return nil, err
	}
	i := slices.IndexFunc(paths, func(path []*x509.Certificate) bool {
		return slices.ContainsFunc(roots, path[len(path)-1].Equal)
	})
	if i < 0 {
		return nil, refuse(RootNotTrusted, "the CA that istiod has used so far (%s) leads to none of the roots to trust", set.certificate.Subject)
	}
	set.issuers = paths[i][1:max(1, len(paths[i])-1)]
	if err := set.verify(now); err != nil {
		return nil, err
	}
	if err := set.verifyUse(hosts, now); err != nil {
		return nil, err
	}
	return set, nil
}
