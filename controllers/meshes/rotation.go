// SPDX-License-Identifier: Apache-2.0

package meshes

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/internal/bounded"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

// rotate takes the change of the root one stage further, where the person allows it and every replica of every istiod
// has done what the stage before asked for. It changes the planned IssuedCertificates to what the stage asks for.
func (p *meshPlan) rotate(mesh *networkingv1.VirtualMesh, before *networkingv1.RootRotationStatus, facts clusterFacts) {
	word, given := mesh.Annotations[networkingv1.RootRotationAnnotation]
	var done networkingv1.RootRotationStatus
	if before != nil {
		done = *before
	}
	ended := done.Stage == networkingv1.StageDropOld && done.Complete
	pause := func(format string, args ...any) {
		done.Message = bounded.Text(fmt.Sprintf(format, args...), certificatesv1.MaxStatusText)
		p.Status.RootRotation = &done
		p.retainCertificates()
	}
	allowed, at := networkingv1.RootRotation(word).Allowed(), done.Stage.Number()
	switch {
	case allowed == 0 && (at == 0 || ended):
		return // there is none, or none any more
	case !given:
		pause("annotation %s is gone before the change of the root is complete, and nothing goes on: set it again, together with %s",
			networkingv1.RootRotationAnnotation, networkingv1.TrustedRootsAnnotation)
		return
	case allowed == 0 && done.Stage == networkingv1.StageTrustBoth && carriedOverSecret(p.Certificates, facts) != "":
		pause("it cannot be given up by %s: without the CA in Secret %s, istiods would be given the new root alone at once; leave it in this stage, or take the agent out of istiod",
			word, carriedOverSecret(p.Certificates, facts))
		return
	case allowed == 0 && done.Stage == networkingv1.StageTrustBoth:
		return // given up
	case allowed == 0:
		pause("it is too late for %s: istiods sign under the new root; go on to %s", word, networkingv1.RotateDropOld)
		return
	case ended && allowed == 1: // the next change
		done, at = networkingv1.RootRotationStatus{}, 0
	}
	roots, err := pemcerts.ParseRoots([]byte(mesh.Annotations[networkingv1.TrustedRootsAnnotation]))
	if err != nil || len(roots) < 2 {
		return // validation has said it, and keeps everything
	}
	change := rotation{
		pem: mesh.Annotations[networkingv1.TrustedRootsAnnotation], secret: mesh.Annotations[networkingv1.RotateFromSecretAnnotation],
		all: pemcerts.Fingerprints(roots), newest: pemcerts.Fingerprint(roots[len(roots)-1]),
	}
	switch {
	case done.NewRoot != "" && done.NewRoot != change.newest && at > 1:
		pause("the new root is %s, and annotation %s ends with another, %s: istiods sign under the former already; put it last", done.NewRoot, networkingv1.TrustedRootsAnnotation, change.newest)
		return
	case allowed < at:
		pause("%s is past, and there is no way back: the change is at %s; go on to %s", word, done.Stage, networkingv1.RotateDropOld)
		return
	case at == 0, allowed > at && len(change.waiting(done.Stage, p, facts)) == 0:
		at++
	}
	stage := networkingv1.RootRotationStages[at-1]
	waiting := change.waiting(stage, p, facts)
	for _, certificate := range p.Certificates {
		change.request(certificate, stage, facts.Certificates[keyOf(certificate)])
	}
	status := &networkingv1.RootRotationStatus{Stage: stage, NewRoot: change.newest, Complete: len(waiting) == 0}
	if status.Complete {
		status.Message = next[stage]
	} else {
		status.Message = bounded.Text("waiting for "+strings.Join(waiting, "; "), certificatesv1.MaxStatusText)
	}
	p.Status.RootRotation = status
}

// next says what a person does after a stage.
var next = map[networkingv1.RootRotationStage]string{
	networkingv1.StageTrustBoth: "every istiod here publishes all roots; when all workloads of all clusters have renewed their certificates or were restarted, set " +
		networkingv1.RootRotationAnnotation + "=" + string(networkingv1.RotateSignWithNew) + " in all clusters",
	networkingv1.StageSignWithNew: "every istiod here signs under the new root; when all workloads of all clusters have renewed their certificates or were restarted, set " +
		networkingv1.RootRotationAnnotation + "=" + string(networkingv1.RotateDropOld) + " in all clusters",
	networkingv1.StageDropOld: "the change is complete; remove the annotations",
}

// rotation is a change of the root.
type rotation struct {
	pem, secret string
	all         []string // fingerprints of the roots to trust
	newest      string   // that of the new one
}

// holdAll keeps the IssuedCertificates, and what goes with them, as they are.
func (p *meshPlan) retainCertificates() {
	p.Certificates, p.Directives = nil, nil
}

func keyOf(certificate *certificatesv1.IssuedCertificate) types.NamespacedName {
	return types.NamespacedName{Namespace: certificate.Namespace, Name: certificate.Name}
}

// ask has an IssuedCertificate ask for what a stage needs.
func (r rotation) request(certificate *certificatesv1.IssuedCertificate, stage networkingv1.RootRotationStage, stored storedCertificate) {
	if stage == networkingv1.StageDropOld {
		return
	}
	certificate.Annotations[certificatesv1.TrustedRootsAnnotation] = r.pem
	if stage != networkingv1.StageTrustBoth {
		return
	}
	switch secret := cmp.Or(r.secret, stored.FromSecret); { // gone from the VirtualMesh, it is needed all the same
	case secret != "":
		certificate.Annotations[certificatesv1.CAFromSecretAnnotation] = secret
	case stored.Owner != "" && stored.AgentCA != nil: // the VirtualMesh may name the new CA already: not yet
		certificate.Spec.AgentCA = stored.AgentCA.DeepCopy()
	}
}

// carriedOverSecret names the Secret with the CA that istiods go on with, where one does.
func carriedOverSecret(certificates []*certificatesv1.IssuedCertificate, facts clusterFacts) string {
	for _, certificate := range certificates {
		if secret := facts.Certificates[keyOf(certificate)].FromSecret; secret != "" {
			return secret
		}
	}
	return ""
}

// waiting says which replicas have not done yet what a stage asks for.
func (r rotation) waiting(stage networkingv1.RootRotationStage, p *meshPlan, facts clusterFacts) []string {
	waiting := slices.Clone(p.unplanned)
	for _, certificate := range p.Certificates {
		istiod := p.istiods[keyOf(certificate)]
		reports := facts.Certificates[keyOf(certificate)].Replicas
		if missing := istiod.Replicas - len(reports); missing > 0 {
			waiting = append(waiting, fmt.Sprintf("%d of %d replicas of istiod %s/%s, which have not reported", missing, istiod.Replicas, istiod.Namespace, istiod.Name))
		}
		for _, report := range reports {
			if lacking := r.missing(stage, report); lacking != "" {
				waiting = append(waiting, fmt.Sprintf("%s/%s, which %s", istiod.Namespace, report.Pod, lacking))
			}
		}
	}
	return waiting
}

// lacking says what a replica has not done yet of what a stage asks for, empty when nothing.
func (r rotation) missing(stage networkingv1.RootRotationStage, report certificatesv1.CertificateStatus) string {
	var lacking string
	switch {
	case stage != networkingv1.StageTrustBoth && report.RootFingerprint != r.newest:
		lacking = "does not sign under the new root yet"
	case stage == networkingv1.StageDropOld && !slices.Equal(report.TrustedRoots, []string{r.newest}):
		lacking = "still publishes other roots beside the new one"
	case stage != networkingv1.StageDropOld && !slices.Equal(report.TrustedRoots, r.all):
		lacking = "does not publish all roots yet"
	case !report.Confirmed:
		lacking = "was not seen to have loaded its files yet"
	default:
		return ""
	}
	if report.Error != "" {
		lacking += " (" + report.Error + ")"
	}
	return lacking
}
