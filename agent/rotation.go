// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"

	"github.com/istiod-agent/istiod-agent/agent/cacerts"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

// trustedRoots are the roots that istiod shall publish as trusted, nil for the one alone that its certificate leads to.
func trustedRoots(certificate *certificatesv1.IssuedCertificate) ([]*x509.Certificate, error) {
	text := certificate.Annotations[certificatesv1.TrustedRootsAnnotation]
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	roots, err := pemcerts.ParseRoots([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("metadata.annotations[%s]: expected PEM certificates of roots, the old ones first: %w", certificatesv1.TrustedRootsAnnotation, err)
	}
	return roots, nil
}

// adopt takes over the CA that istiod has used so far, from the Secret that a specification names.
func (i *Issuer) adopt(ctx context.Context, name string, hosts []string, roots []*x509.Certificate) (*cacerts.Set, error) {
	if i.Cluster == nil {
		return nil, fmt.Errorf("metadata.annotations[%s]: the CA is in a Secret, and no API server is known; run in a cluster or set --kubeconfig", certificatesv1.CAFromSecretAnnotation)
	}
	secret, err := i.Cluster.Secret(ctx, i.Identity.Namespace, name)
	if err != nil {
		return nil, fmt.Errorf("taking over istiod's CA: %w", err)
	}
	for _, key := range []string{istio.CACertFile, istio.CAKeyFile} {
		if len(secret[key]) == 0 {
			return nil, fmt.Errorf("taking over istiod's CA: Secret %s/%s has no key %q", i.Identity.Namespace, name, key)
		}
	}
	if roots == nil {
		return nil, fmt.Errorf("taking over istiod's CA: metadata.annotations[%s] is absent; expected the roots to trust, that CA's among them", certificatesv1.TrustedRootsAnnotation)
	}
	return cacerts.Adopt(secret[istio.CAKeyFile], secret[istio.CACertFile], secret[istio.CertChainFile], roots, hosts, i.Now())
}

// withRoots gives a set that is to be published the roots that it is to be published with.
func (a *Agent) withRoots(set *cacerts.Set) (*cacerts.Set, error) {
	roots := a.trusted
	if roots == nil {
		roots = []*x509.Certificate{set.Root()}
	}
	with, err := set.WithRoots(roots)
	if err != nil {
		a.offered = set.RootFingerprint()
		return nil, err
	}
	return with, a.mayFollow(with)
}

// mayFollow says whether a running istiod goes from the roots that it has to those of a set. A root that it does not
// publish yet is not signed under: no workload would trust it.
func (a *Agent) mayFollow(next *cacerts.Set) error {
	was := a.set
	if was == nil {
		return a.mayStart(next.RootFingerprint())
	}
	if was.SameRoots(next) {
		return nil
	}
	known := slices.ContainsFunc(next.Roots, func(root *x509.Certificate) bool {
		return next.LeadsTo(root) && slices.ContainsFunc(was.Roots, root.Equal)
	})
	switch {
	case !known:
		a.offered = next.RootFingerprint()
		return &rootChangedError{was: was.RootFingerprint(), is: next.RootFingerprint(), accept: acceptCommand(a.wanted, next.RootFingerprint())}
	case !a.MultiRoot:
		return &rootsRefusedError{"it runs without ISTIO_MULTIROOT_MESH, and takes other roots only when it starts: restart it, or set multiRootMesh=true in the webhook's configuration, which restarts it as well"}
	case !was.Takes(next):
		return &rootsRefusedError{"neither its roots nor the new ones hold the others, in their order: keep the old ones as they are and add new ones after them"}
	}
	return nil
}

// retrust publishes the certificate that istiod has with other roots.
func (a *Agent) retrust(ctx context.Context) {
	held := a.state.Held
	next, err := a.withRoots(a.set)
	if err != nil {
		held.RootsRefused = true
		a.trouble(&a.problems.istiod, reasonRootsRefused, err.Error())
		return
	}
	// istiod makes a certificate for its port whenever it has read its files, and only then: a new one is the proof that
	// it has read these.
	served, err := serves(ctx, a.IstiodAddress)
	if err != nil {
		held.Confirmed = false // asked again, ever more seldom
		return
	}
	left := note{Digest: held.Digest, Renew: held.Renew, Served: pemcerts.Fingerprint(served[0])}
	if err := a.put(next, left); err != nil {
		held.Confirmed = false
		a.trouble(&a.problems.istiod, reasonPublishFailed, err.Error())
		return
	}
	a.problems.istiod = problem{}
	flag(a.Metrics.confirmed, false)
	a.tell(false, reasonRootsPublished, fmt.Sprintf("published %d roots for istiod to trust (SHA-256 %s), and CA certificate %s as before",
		len(next.Roots), strings.Join(pemcerts.Fingerprints(next.Roots), ", "), held.Serial))
}

// rootsRefusedError is for roots that istiod would not take while it runs.
type rootsRefusedError struct{ why string }

func (e *rootsRefusedError) Error() string {
	return "istiod's trusted roots were not changed: " + e.why
}
