// SPDX-License-Identifier: Apache-2.0

package meshes

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/internal/bounded"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

// rotate advances the root change by one stage when the annotation allows it and every replica of every istiod has
// completed the current stage. It adapts the planned IssuedCertificates to the stage.
func (p *meshPlan) rotate(mesh *networkingv1.VirtualMesh, before *networkingv1.RootRotationStatus, facts clusterFacts) {
	value, given := mesh.Annotations[networkingv1.RootRotationAnnotation]
	done := ptr.Deref(before, networkingv1.RootRotationStatus{})
	ended := done.Stage == networkingv1.StageDropOld && done.Complete
	pause := func(format string, args ...any) {
		done.Message = bounded.Text(fmt.Sprintf(format, args...), certificatesv1.MaxStatusText)
		p.Status.RootRotation = &done
		p.Certificates, p.Directives = nil, nil // the stored ones stay as they are
	}
	allowed, at := networkingv1.RootRotation(value).Allowed(), done.Stage.Number()
	switch {
	case allowed == 0 && (at == 0 || ended):
		return // no root change
	case !given:
		pause("annotation %s was removed before the root change was complete: set it again, together with %s",
			networkingv1.RootRotationAnnotation, networkingv1.TrustedRootsAnnotation)
		return
	case allowed == 0 && done.Stage == networkingv1.StageTrustBoth && carriedOverSecret(p.Certificates, facts) != "":
		pause("%s cannot cancel this root change: without the CA in Secret %s, istiods would switch to the new root alone at once; stay in this stage, or remove the agent from istiod",
			value, carriedOverSecret(p.Certificates, facts))
		return
	case allowed == 0 && done.Stage == networkingv1.StageTrustBoth:
		return // cancelled
	case allowed == 0:
		pause("%s cannot cancel this root change: istiods already sign under the new root; continue to %s", value, networkingv1.RotateDropOld)
		return
	case ended && allowed == 1: // the next root change
		done, at = networkingv1.RootRotationStatus{}, 0
	}
	roots, err := pemcerts.ParseRoots([]byte(mesh.Annotations[networkingv1.TrustedRootsAnnotation]))
	if err != nil || len(roots) < 2 {
		return // validation reports it and retains everything
	}
	change := rotation{
		pem: mesh.Annotations[networkingv1.TrustedRootsAnnotation], secret: mesh.Annotations[networkingv1.RotateFromSecretAnnotation],
		all: pemcerts.Fingerprints(roots), newest: pemcerts.Fingerprint(roots[len(roots)-1]),
	}
	switch {
	case done.NewRoot != "" && done.NewRoot != change.newest && at > 1:
		pause("the new root is %s, but annotation %s ends with %s: istiods already sign under the former, so it must be last", done.NewRoot, networkingv1.TrustedRootsAnnotation, change.newest)
		return
	case allowed < at:
		pause("the root change cannot go back to %s: it is at %s; continue to %s", value, done.Stage, networkingv1.RotateDropOld)
		return
	case at == 0, allowed > at && len(change.waiting(done.Stage, p, facts)) == 0:
		at++
	}
	stage := networkingv1.RootRotationStages[at-1]
	waiting := change.waiting(stage, p, facts)
	for _, certificate := range p.Certificates {
		change.request(certificate, stage, facts.Certificates[client.ObjectKeyFromObject(certificate)])
	}
	status := &networkingv1.RootRotationStatus{Stage: stage, NewRoot: change.newest, Complete: len(waiting) == 0}
	if status.Complete {
		status.Message = nextStep[stage]
	} else {
		status.Message = bounded.Text("waiting for "+strings.Join(waiting, "; "), certificatesv1.MaxStatusText)
	}
	p.Status.RootRotation = status
}

// nextStep is what a person does after each stage.
var nextStep = map[networkingv1.RootRotationStage]string{
	networkingv1.StageTrustBoth: "every istiod of this cluster publishes all roots; once all workloads of all clusters have renewed their certificates or were restarted, set " +
		networkingv1.RootRotationAnnotation + "=" + string(networkingv1.RotateSignWithNew) + " in all clusters",
	networkingv1.StageSignWithNew: "every istiod of this cluster signs under the new root; once all workloads of all clusters have renewed their certificates or were restarted, set " +
		networkingv1.RootRotationAnnotation + "=" + string(networkingv1.RotateDropOld) + " in all clusters",
	networkingv1.StageDropOld: "the root change is complete; remove the annotations",
}

// rotation is a root change.
type rotation struct {
	pem, secret string
	all         []string // fingerprints of all roots
	newest      string   // fingerprint of the new root
}

// request adapts an IssuedCertificate to a stage.
func (r rotation) request(certificate *certificatesv1.IssuedCertificate, stage networkingv1.RootRotationStage, stored storedCertificate) {
	if stage == networkingv1.StageDropOld {
		return
	}
	certificate.Annotations[certificatesv1.TrustedRootsAnnotation] = r.pem
	if stage != networkingv1.StageTrustBoth {
		return
	}
	switch secret := cmp.Or(r.secret, stored.FromSecret); { // still needed when the VirtualMesh no longer names it
	case secret != "":
		certificate.Annotations[certificatesv1.CAFromSecretAnnotation] = secret
	case stored.Owner != "" && stored.AgentCA != nil: // the VirtualMesh may already name the new CA
		certificate.Spec.AgentCA = stored.AgentCA.DeepCopy()
	}
}

// carriedOverSecret is the Secret with the CA that istiods keep; empty when none does.
func carriedOverSecret(certificates []*certificatesv1.IssuedCertificate, facts clusterFacts) string {
	for _, certificate := range certificates {
		if secret := facts.Certificates[client.ObjectKeyFromObject(certificate)].FromSecret; secret != "" {
			return secret
		}
	}
	return ""
}

// waiting lists the replicas that have not completed a stage.
func (r rotation) waiting(stage networkingv1.RootRotationStage, p *meshPlan, facts clusterFacts) []string {
	waiting := slices.Clone(p.unplanned)
	for _, certificate := range p.Certificates {
		key := client.ObjectKeyFromObject(certificate)
		istiod, reports := p.istiods[key], facts.Certificates[key].Replicas
		if missing := istiod.Replicas - len(reports); missing > 0 {
			waiting = append(waiting, fmt.Sprintf("%d of %d replicas of istiod %s/%s to report", missing, istiod.Replicas, istiod.Namespace, istiod.Name))
		}
		for _, report := range reports {
			if step := r.missing(stage, report); step != "" {
				waiting = append(waiting, fmt.Sprintf("%s/%s: it %s", istiod.Namespace, report.Pod, step))
			}
		}
	}
	return waiting
}

// missing is the part of a stage that a replica has not completed; empty when there is none.
func (r rotation) missing(stage networkingv1.RootRotationStage, report certificatesv1.CertificateStatus) string {
	var step string
	switch {
	case stage != networkingv1.StageTrustBoth && report.RootFingerprint != r.newest:
		step = "does not sign under the new root yet"
	case stage == networkingv1.StageDropOld && !slices.Equal(report.TrustedRoots, []string{r.newest}):
		step = "still publishes other roots beside the new one"
	case stage != networkingv1.StageDropOld && !slices.Equal(report.TrustedRoots, r.all):
		step = "does not publish all roots yet"
	case !report.Confirmed:
		step = "has not been confirmed to use its files yet"
	default:
		return ""
	}
	if report.Error != "" {
		step += " (" + report.Error + ")"
	}
	return step
}
