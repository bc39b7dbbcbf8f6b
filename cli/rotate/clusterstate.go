// SPDX-License-Identifier: Apache-2.0

package rotate

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

type clusterState struct {
	Context string
	Mesh    types.NamespacedName
	// Requested, Roots and FromSecret are the annotations of the VirtualMesh for a root change.
	Requested  networkingv1.RootRotation
	Roots      []*x509.Certificate
	FromSecret string
	// State, Errors and Rotation are of the VirtualMesh's status; Rotation is nil without a root change.
	State    networkingv1.ApprovalState
	Errors   []string
	Rotation *networkingv1.RootRotationStatus
	// Published are the trust bundles that the mesh's istiods have published in their own namespaces.
	Published [][]*x509.Certificate
	// Certificates are the mesh's IssuedCertificates, Replicas their agents' reports.
	Certificates []types.NamespacedName
	Replicas     []certificatesv1.CertificateStatus
}

// stage returns the number of the current stage, 0 without a root change in progress.
func (s *clusterState) stage() int {
	if s.Rotation == nil || s.finished() {
		return 0
	}
	return s.Rotation.Stage.Number()
}

// finished reports whether a root change is complete, but its annotations remain.
func (s *clusterState) finished() bool {
	return s.Rotation != nil && s.Rotation.Stage == networkingv1.StageDropOld && s.Rotation.Complete
}

func (s *clusterState) newRoot() *x509.Certificate {
	if len(s.Roots) == 0 {
		return nil
	}
	return s.Roots[len(s.Roots)-1]
}

// actOnMesh is what a VirtualMesh waits for that the controller has not seen yet.
const actOnMesh = "istiod-agent-webhook to act on the VirtualMesh (if it does not: kubectl istiod-agent check)"

// waitingFor returns what a stage lacks until it is complete here; empty when it is. roots are the roots to trust, the new
// root last.
func (s *clusterState) waitingFor(stage networkingv1.RootRotationStage, roots []*x509.Certificate) string {
	newRoot := pemcerts.Fingerprint(roots[len(roots)-1])
	switch {
	case s.State == networkingv1.Invalid || s.State == networkingv1.Failed:
		return fmt.Sprintf("its VirtualMesh to be corrected, which is %s: %s", s.State, strings.Join(s.Errors, "; "))
	case s.Rotation == nil || s.finished() && s.Requested.Allowed() == 1 || s.Rotation.NewRoot != newRoot && s.Rotation.Stage.Number() <= 1:
		return actOnMesh
	case s.Rotation.NewRoot != newRoot:
		return fmt.Sprintf("another root change, to %.16s…", s.Rotation.NewRoot)
	case s.Rotation.Stage.Number() > stage.Number():
		return ""
	case s.Rotation.Stage.Number() < stage.Number() && s.Rotation.Complete:
		return fmt.Sprintf("istiod-agent-webhook to continue from %s, which is complete", s.Rotation.Stage)
	case s.Rotation.Stage.Number() < stage.Number() || !s.Rotation.Complete:
		return strings.TrimPrefix(s.Rotation.Message, "waiting for ")
	}
	// The status may predate the request for these roots, or the start of a replica; the agents' reports do not.
	trusted := pemcerts.Fingerprints(roots)
	if stage == networkingv1.StageDropOld {
		trusted = []string{newRoot}
	}
	for _, replica := range s.Replicas {
		switch {
		case !slices.Equal(replica.TrustedRoots, trusted):
			return fmt.Sprintf("Pod %s, which does not publish exactly the requested roots yet", replica.Pod)
		case stage != networkingv1.StageTrustBoth && replica.RootFingerprint != newRoot:
			return fmt.Sprintf("Pod %s, which does not sign under the new root yet", replica.Pod)
		}
	}
	return ""
}

// hasAgents reports whether some agent has reported a CA, which istiod then uses.
func (s *clusterState) hasAgents() bool {
	return slices.ContainsFunc(s.Replicas, func(r certificatesv1.CertificateStatus) bool { return r.SerialNumber != "" })
}
