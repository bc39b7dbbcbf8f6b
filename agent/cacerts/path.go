// SPDX-License-Identifier: Apache-2.0

package cacerts

import (
	"bytes"
	"crypto/x509"
	"slices"

	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

const (
	// maxSteps bounds the search for paths: certificates that cross-sign each other form exponentially many.
	maxSteps = maxChain * maxChain
	// maxPaths bounds the paths that are verified. Each costs the signatures of its certificates.
	maxPaths = maxChain
)

// pathSearch searches depth-first for the paths from a certificate to self-signed roots: by issuer name, then by signature
// (RFC 5280, 6.1). A CA's answer is a set, not one chain: Vault's ca_chain holds every issuer of the mount that signed another
// certificate in it, such as a reissued root with the same key, or a root that cross-signed another.
type pathSearch struct {
	// issuers are the certificates that a path may go through, in their order of preference.
	issuers []*x509.Certificate
	// answered is how many of them come from the CA's answer, the first ones.
	answered int
	// signatures are those verified already, each once.
	signatures map[link]error
	steps      int
	paths      [][]*x509.Certificate
	// deadEnd is the *Refusal of the first path that reached no root.
	deadEnd error
}

// link is a certificate and one that may be its issuer.
type link struct{ subject, issuer *x509.Certificate }

// findPaths returns the paths from a certificate to self-signed roots, both ends included, in the order of the answer.
// An answer may omit a root that is known. Without any path, the error is a *Refusal.
func findPaths(certificate *x509.Certificate, answered, known []*x509.Certificate) ([][]*x509.Certificate, error) {
	search := &pathSearch{issuers: slices.Clone(answered), answered: len(answered), signatures: map[link]error{}}
	for _, root := range known {
		if !slices.ContainsFunc(search.issuers, root.Equal) {
			search.issuers = append(search.issuers, root)
		}
	}
	search.extend([]*x509.Certificate{certificate})
	switch {
	case len(search.paths) > 0:
		return search.paths, nil
	case search.deadEnd != nil:
		return nil, search.deadEnd
	default:
		return nil, refuse(badChain, "no root was found within %d steps", maxSteps)
	}
}

// extend continues a path with each issuer of its last certificate, up to a root.
func (p *pathSearch) extend(path []*x509.Certificate) {
	if p.steps++; p.steps > maxSteps || len(p.paths) >= maxPaths {
		return
	}
	last := path[len(path)-1]
	var broken error
	if bytes.Equal(last.RawSubject, last.RawIssuer) {
		err := p.verify(link{last, last})
		if err == nil {
			p.paths = append(p.paths, slices.Clone(path))
			return
		}
		broken = refuse(NoRoot, "its chain ends with %s, which names itself as its issuer and is not signed by its own key: %v", last.Subject, err)
	}
	extended := false
	for i, issuer := range p.issuers {
		if !bytes.Equal(issuer.RawSubject, last.RawIssuer) || slices.ContainsFunc(path, func(c *x509.Certificate) bool { return sameCA(c, issuer) }) {
			continue
		}
		if err := p.verify(link{last, issuer}); err != nil {
			if i < p.answered {
				broken = refuse(badChain, "its chain holds %s, the name of the issuer of %s, whose signature does not verify with it: %v", issuer.Subject, last.Subject, err)
			}
			continue
		}
		extended = true
		p.extend(append(path, issuer))
	}
	if extended || p.deadEnd != nil {
		return
	}
	if p.deadEnd = broken; broken == nil {
		p.deadEnd = refuse(NoRoot, "its chain ends with %s, whose issuer %s is missing, and does not reach a self-signed root; "+
			"give the signing CA its whole chain (in Vault: the signing mount), or name the root in spec.agentCa.trustedRoots, so that istiod's root is not a mere intermediate", last.Subject, last.Issuer)
	}
}

// verify verifies the signature of a link, once.
func (p *pathSearch) verify(l link) error {
	err, known := p.signatures[l]
	if !known {
		if l.subject == l.issuer {
			err = pemcerts.CheckSelfSigned(l.subject)
		} else {
			err = l.subject.CheckSignatureFrom(l.issuer)
		}
		p.signatures[l] = err
	}
	return err
}

// linked checks that each certificate is signed by the next, a CA.
func linked(certificate *x509.Certificate, above []*x509.Certificate) error {
	below := certificate
	for i, issuer := range above {
		if err := below.CheckSignatureFrom(issuer); err != nil {
			return refuse(badChain, "certificate %d of its chain (%s) did not sign the one before it (%s): %v", i+1, issuer.Subject, below.Subject, err)
		}
		if issuer.MaxPathLen >= 0 && (issuer.MaxPathLen > 0 || issuer.MaxPathLenZero) && issuer.MaxPathLen <= i {
			return refuse(badChain, "certificate %d of its chain (%s) allows no CA below it at this depth", i+1, issuer.Subject)
		}
		below = issuer
	}
	return nil
}

// sameCA reports whether two certificates have the same name and key. A path contains a CA only once.
func sameCA(a, b *x509.Certificate) bool {
	return bytes.Equal(a.RawSubject, b.RawSubject) && bytes.Equal(a.RawSubjectPublicKeyInfo, b.RawSubjectPublicKeyInfo)
}

// pinned returns the paths that lead to a pinned root, all without one.
func (r Request) pinned(paths [][]*x509.Certificate) ([][]*x509.Certificate, error) {
	if r.Pinned == nil {
		return paths, nil
	}
	pinned := slices.DeleteFunc(slices.Clone(paths), func(path []*x509.Certificate) bool {
		return !slices.ContainsFunc(r.Pinned, path[len(path)-1].Equal)
	})
	if len(pinned) == 0 {
		root := paths[0][len(paths[0])-1]
		return nil, refuse(RootNotPinned, "its root %s (SHA-256 %s) is none of the %d in spec.agentCa.trustedRoots; "+
			"correct the CA that spec.agentCa names, or add that root there if you trust it", root.Subject, pemcerts.Fingerprint(root), len(r.Pinned))
	}
	return pinned, nil
}

// rank orders roots: those that istiod trusts, now and in future, come before those that would be refused.
func (r Request) rank(root *x509.Certificate) int {
	rank := 0
	if !slices.ContainsFunc(r.Trusted, root.Equal) {
		rank += 2
	}
	if !slices.ContainsFunc(r.Published, root.Equal) && !slices.ContainsFunc(r.Preferred, root.Equal) {
		rank++
	}
	return rank
}
