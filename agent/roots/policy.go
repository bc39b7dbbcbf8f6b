// SPDX-License-Identifier: Apache-2.0

// Package roots decides which roots istiod may sign under and publish: an istiod that starts must not split the mesh, and one
// that runs accepts few changes. It is pure, and decides nothing about certificates below a root.
package roots

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strings"

	"github.com/istiod-agent/istiod-agent/agent/cacerts"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

// Reasons of a RejectedError, besides those of package cacerts: keys of log lines, events and metrics.
//
//reasons:page problem
const (
	// RootChanged: The CA has another root than istiod or, for a new Pod, than the [other
	// replicas](troubleshooting.md#a-new-pod-waits-for-the-root-of-the-others). Nothing was published.
	//
	// Remedy: if that root was not intended, restore the CA's. Otherwise, [change the root in stages](rotation.md), or
	// accept it with the command in the message.
	RootChanged = "RootChanged"
	// RootsRefused: istiod would not load the roots: it lacks `ISTIO_MULTIROOT_MESH=true`, or the old roots are not
	// part of the new ones, in their order.
	//
	// Remedy: set the chart's value `injection.multiRootMesh` and restart istiod, or correct the annotation
	// `istiod-agent.io/trusted-roots`.
	RootsRefused = "RootsRefused"
)

// Policy is what the decision depends on.
type Policy struct {
	// Desired are the roots that istiod shall publish as trusted, nil for the one alone that its certificate leads to.
	Desired []*x509.Certificate
	// Current is what istiod trusts, nil before it has started.
	Current *cacerts.Trust
	// MultiRoot means that istiod accepts other roots while it runs (its ISTIO_MULTIROOT_MESH).
	MultiRoot bool
	// Start decides while Current is nil.
	Start Start
}

// Desired returns the roots of an IssuedCertificate's annotation, nil without it.
func Desired(certificate *certificatesv1.IssuedCertificate) ([]*x509.Certificate, error) {
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

// Apply returns the set with the roots to publish it with, or a *RejectedError where istiod must not get it.
func (p Policy) Apply(set *cacerts.Set) (*cacerts.Set, error) {
	roots := p.Desired
	if roots == nil {
		roots = []*x509.Certificate{set.Root()}
	}
	next, err := set.WithRoots(roots)
	if err != nil {
		return nil, &RejectedError{Reason: cacerts.RootNotTrusted, Root: set.RootFingerprint(), message: err.Error()}
	}
	root := next.RootFingerprint()
	if p.Current == nil {
		return next, p.Start.check(root)
	}
	current := *p.Current
	if current.Equal(next.Trust()) {
		return next, nil
	}
	// istiod does not sign under a root that it does not publish yet: no workload would trust it.
	known := slices.ContainsFunc(next.Trust().Roots, func(root *x509.Certificate) bool {
		return next.LeadsTo(root) && slices.ContainsFunc(current.Roots, root.Equal)
	})
	refused := func(why string) error {
		return &RejectedError{Reason: RootsRefused, message: "istiod's trusted roots were not changed: " + why}
	}
	switch {
	case !known:
		return nil, &RejectedError{Reason: RootChanged, Root: root, message: p.Start.changed(pemcerts.Fingerprint(current.Root), root)}
	case !p.MultiRoot:
		return nil, refused("it runs without ISTIO_MULTIROOT_MESH, and accepts other roots only at its start: restart it, or set multiRootMesh=true in the webhook's configuration, which also restarts it")
	case !current.Accepts(next.Trust()):
		return nil, refused("neither its roots nor the new ones contain the others in their order: keep the old ones as they are and append new ones")
	}
	return next, nil
}

// RejectedError is a verified set that istiod must not get, because of its roots.
type RejectedError struct {
	Reason string
	// Root is the fingerprint of the root that istiod might start under instead, empty where there is none.
	Root string
	// Awaited is set where an istiod that has not started waits for others to trust Root.
	Awaited bool
	message string
}

func (e *RejectedError) Error() string { return e.message }

// ReasonKey returns the key of log lines, events and metrics.
func (e *RejectedError) ReasonKey() string { return e.Reason }
