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

// Place is how far a change of the root is in one of a kubeconfig's contexts.
type ClusterState struct {
	Context string
	// Mesh is the VirtualMesh.
	Mesh types.NamespacedName
	// Word, Roots and Secret are its annotations that change the root; Word is empty where there is none.
	Requested  networkingv1.RootRotation
	Roots      []*x509.Certificate
	FromSecret string
	// State and Errors are those of its status, Rotation is how far the controller says that the change is; nil for none.
	State    networkingv1.ApprovalState
	Errors   []string
	Rotation *networkingv1.RootRotationStatus
	// Published are the trust bundles that its istiods have published where they run themselves.
	Published [][]*x509.Certificate
	// Certificates are its IssuedCertificates, Replicas what their agents report.
	Certificates []types.NamespacedName
	Replicas     []certificatesv1.CertificateStatus
}

// at is the number of the stage that a change in progress is in, 0 without one.
func (s *ClusterState) stage() int {
	if s.Rotation == nil || s.finished() {
		return 0
	}
	return s.Rotation.Stage.Number()
}

// ended says whether a change is over, and its annotations are still there.
func (s *ClusterState) finished() bool {
	return s.Rotation != nil && s.Rotation.Stage == networkingv1.StageDropOld && s.Rotation.Complete
}

// newest is the root that a change in progress leads to, by its annotation.
func (s *ClusterState) newRoot() *x509.Certificate {
	if len(s.Roots) == 0 {
		return nil
	}
	return s.Roots[len(s.Roots)-1]
}

// lacking says what is missing until a stage is complete here, empty when nothing is. roots are those to trust, the new
// one last.
func (s *ClusterState) waitingFor(stage networkingv1.RootRotationStage, roots []*x509.Certificate) string {
	newRoot := pemcerts.Fingerprint(roots[len(roots)-1])
	switch {
	case s.State == networkingv1.Invalid || s.State == networkingv1.Failed:
		return fmt.Sprintf("its VirtualMesh to be mended, which is %s: %s", s.State, strings.Join(s.Errors, "; "))
	case s.Rotation == nil || s.finished() && s.Requested.Allowed() == 1 || s.Rotation.NewRoot != newRoot && s.Rotation.Stage.Number() <= 1:
		return "istiod-agent-webhook to act on the VirtualMesh (kubectl istiod-agent check, if it does not)"
	case s.Rotation.NewRoot != newRoot:
		return fmt.Sprintf("another change of the root, to %.16s…", s.Rotation.NewRoot)
	case s.Rotation.Stage.Number() > stage.Number():
		return ""
	case s.Rotation.Stage.Number() < stage.Number() && s.Rotation.Complete:
		return fmt.Sprintf("istiod-agent-webhook to go on from %s, which is complete", s.Rotation.Stage)
	case s.Rotation.Stage.Number() < stage.Number() || !s.Rotation.Complete:
		return strings.TrimPrefix(s.Rotation.Message, "waiting for ")
	}
	// The status may be of before these roots were asked for, or of before a replica started: what agents report is not.
	trusted := pemcerts.Fingerprints(roots)
	if stage == networkingv1.StageDropOld {
		trusted = []string{newRoot}
	}
	for _, replica := range s.Replicas {
		switch {
		case !slices.Equal(replica.TrustedRoots, trusted):
			return fmt.Sprintf("Pod %s, which does not publish just the roots that are asked for yet", replica.Pod)
		case stage != networkingv1.StageTrustBoth && replica.RootFingerprint != newRoot:
			return fmt.Sprintf("Pod %s, which does not sign under the new root yet", replica.Pod)
		}
	}
	return ""
}

// hasAgents says whether an agent has reported a CA, so that istiod runs with it.
func (s *ClusterState) hasAgents() bool {
	return slices.ContainsFunc(s.Replicas, func(r certificatesv1.CertificateStatus) bool { return r.SerialNumber != "" })
}
