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
type Place struct {
	Context string
	// Mesh is the VirtualMesh.
	Mesh types.NamespacedName
	// Word, Roots and Secret are its annotations that change the root; Word is empty where there is none.
	Word   networkingv1.RootRotation
	Roots  []*x509.Certificate
	Secret string
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
func (p *Place) at() int {
	if p.Rotation == nil || p.ended() {
		return 0
	}
	return p.Rotation.Stage.Number()
}

// ended says whether a change is over, and its annotations are still there.
func (p *Place) ended() bool {
	return p.Rotation != nil && p.Rotation.Stage == networkingv1.StageDropOld && p.Rotation.Complete
}

// newest is the root that a change in progress leads to, by its annotation.
func (p *Place) newest() *x509.Certificate {
	if len(p.Roots) == 0 {
		return nil
	}
	return p.Roots[len(p.Roots)-1]
}

// lacking says what is missing until a stage is complete here, empty when nothing is. roots are those to trust, the new
// one last.
func (p *Place) lacking(stage networkingv1.RootRotationStage, roots []*x509.Certificate) string {
	newest := pemcerts.Fingerprint(roots[len(roots)-1])
	switch {
	case p.State == networkingv1.Invalid || p.State == networkingv1.Failed:
		return fmt.Sprintf("its VirtualMesh to be mended, which is %s: %s", p.State, strings.Join(p.Errors, "; "))
	case p.Rotation == nil || p.ended() && p.Word.Allowed() == 1 || p.Rotation.NewRoot != newest && p.Rotation.Stage.Number() <= 1:
		return "istiod-agent-webhook to act on the VirtualMesh (kubectl istiod-agent check, if it does not)"
	case p.Rotation.NewRoot != newest:
		return fmt.Sprintf("another change of the root, to %.16s…", p.Rotation.NewRoot)
	case p.Rotation.Stage.Number() > stage.Number():
		return ""
	case p.Rotation.Stage.Number() < stage.Number() && p.Rotation.Complete:
		return fmt.Sprintf("istiod-agent-webhook to go on from %s, which is complete", p.Rotation.Stage)
	case p.Rotation.Stage.Number() < stage.Number() || !p.Rotation.Complete:
		return strings.TrimPrefix(p.Rotation.Message, "waiting for ")
	}
	// The status may be of before these roots were asked for, or of before a replica started: what agents report is not.
	trusted := pemcerts.Fingerprints(roots)
	if stage == networkingv1.StageDropOld {
		trusted = []string{newest}
	}
	for _, replica := range p.Replicas {
		switch {
		case !slices.Equal(replica.TrustedRoots, trusted):
			return fmt.Sprintf("Pod %s, which does not publish just the roots that are asked for yet", replica.Pod)
		case stage != networkingv1.StageTrustBoth && replica.RootFingerprint != newest:
			return fmt.Sprintf("Pod %s, which does not sign under the new root yet", replica.Pod)
		}
	}
	return ""
}

// hasAgents says whether an agent has reported a CA, so that istiod runs with it.
func (p *Place) hasAgents() bool {
	return slices.ContainsFunc(p.Replicas, func(r certificatesv1.CertificateStatus) bool { return r.SerialNumber != "" })
}
