// SPDX-License-Identifier: Apache-2.0

// Package meshes applies the IssuedCertificates of this cluster's istiods for each VirtualMesh, and reports the result
// in its status. The desired state is a pure function, translate; the rest of the package observes and applies.
package meshes

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/controllers"
	"github.com/istiod-agent/istiod-agent/internal/bounded"
	"github.com/istiod-agent/istiod-agent/internal/helm"
	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/patches"
)

const (
	// managedByLabel with the value controllers.Manager marks the objects that this controller applies.
	managedByLabel = "app.kubernetes.io/managed-by"
	// virtualMeshAnnotation names the VirtualMesh of an applied object, as namespace/name. Owner references cannot
	// cross namespaces.
	virtualMeshAnnotation = "istiod-agent.io/virtual-mesh"
	// readyCondition is true when each mesh of this cluster has its IssuedCertificate.
	readyCondition = "Ready"
)

// Reasons of readyCondition and of Events.
//
//reasons:page virtualmesh
const (
	// reasonAccepted: Each mesh of this cluster has its `IssuedCertificate`, and `status.meshes` shows the progress of
	// the agents.
	//
	// Remedy: none.
	reasonAccepted = "Accepted"
	// reasonPending: A mesh of this cluster has no istiod yet, or istiod's ConfigMap is missing. The message names
	// what is missing.
	//
	// Remedy: install istiod, or wait for it.
	reasonPending = "Pending"
	// reasonInvalid: The specification has mistakes, each listed in `status.errors` with its field; existing objects
	// stay as they are.
	//
	// Remedy: correct the fields.
	reasonInvalid = "Invalid"
	// reasonFailed: The specification is valid, but something else prevents its use, such as another `VirtualMesh`
	// that owns the mesh. The controller retries.
	//
	// Remedy: follow the messages in `status.errors`.
	reasonFailed = "Failed"
	reasonNamespaceNotAllowed = "NamespaceNotAllowed"
)

// meshPlan is the desired state of a VirtualMesh.
type meshPlan struct {
	Certificates []*certificatesv1.IssuedCertificate
	// Directives are the desired PodBounceDirectives; that of a planned certificate without one is deleted.
	Directives []*certificatesv1.PodBounceDirective
	// Retain are the meshes of this cluster that the VirtualMesh claims: their IssuedCertificates and
	// PodBounceDirectives stay, planned or not.
	Retain map[string]bool
	// RetainAll retains every object, since the VirtualMesh is invalid or ignored.
	RetainAll bool
	Status    networkingv1.VirtualMeshStatus

	// istiods are those of Certificates.
	istiods map[types.NamespacedName]deployedIstiod
	// unplanned are the istiods of this cluster without a planned certificate, and why: the root change waits for them.
	unplanned []string
}

// translate returns the desired state of a VirtualMesh. before is its stored status.
func translate(source storedMesh, before networkingv1.VirtualMeshStatus, facts clusterFacts) meshPlan {
	mesh := source.DeepCopy()
	mesh.Spec.SetDefaults()
	warnings, errs := mesh.Validate()
	errs = append(slices.Clone(source.Unreadable), errs...)
	parts := slices.Concat(mesh.Spec.NotActedOn(), source.Unknown)
	if mesh.Spec.AutoRestartPods() && facts.MissingRights != "" {
		parts = append(parts, "spec.mtlsConfig.autoRestartPods: is not acted on: "+facts.MissingRights)
	}
	warnings = slices.DeleteFunc(warnings, func(w string) bool { return slices.Contains(parts, w) })

	plan := meshPlan{Retain: map[string]bool{}, istiods: map[types.NamespacedName]deployedIstiod{}}
	status := networkingv1.VirtualMeshStatus{
		ObservedGeneration: mesh.Generation, NotActedOn: parts, Conditions: slices.Clone(before.Conditions),
		Meshes: map[string]networkingv1.MeshStatus{},
	}
	switch {
	case !facts.Allowed.Allows(mesh.Namespace):
		plan.RetainAll = true
		status.State, status.NotActedOn = networkingv1.Failed, nil
		status.Errors = []string{facts.Allowed.NotAllowed(mesh.Namespace)}
		if len(facts.Orphans) > 0 {
			status.Errors = append(status.Errors, "IssuedCertificate "+joinNames(facts.Orphans)+", applied for this VirtualMesh before, does not change; "+
				"a VirtualMesh of an allowed namespace that names the mesh takes it over")
		}
	case len(errs) > 0:
		plan.RetainAll = true
		status.State = networkingv1.Invalid
		status.Errors = messages(errs)
	case facts.Cluster == "" && mesh.Spec.IntermediateCA() != nil:
		plan.RetainAll = true
		status.State = networkingv1.Failed
		status.Errors = []string{"clusterName is not set, so spec.meshes cannot be matched to this cluster: set it, as in " + helm.Upgrade("--set clusterName=cluster-1")}
	default:
		refs, own := plan.expand(mesh, facts)
		maps.Copy(status.Meshes, own)
		for _, ref := range refs {
			status.Meshes[ref.Key()] = plan.mesh(source, mesh, ref, warnings, before.Meshes[ref.Key()].IssuedCertificate, facts)
		}
		status.State, status.Errors = summary(status.Meshes)
	}
	plan.Status = status
	plan.federate(mesh, facts)
	plan.Status = bound(plan.Status)
	if plan.RetainAll {
		plan.Status.RootRotation = before.RootRotation
	} else {
		plan.rotate(mesh, before.RootRotation, facts)
	}
	ready := metav1.Condition{Type: readyCondition, ObservedGeneration: mesh.Generation, LastTransitionTime: facts.Now}
	ready.Status, ready.Reason, ready.Message = condition(plan.Status)
	if !facts.Allowed.Allows(mesh.Namespace) {
		ready.Reason = reasonNamespaceNotAllowed
	}
	ready.Message = bounded.Message(ready.Message)
	meta.SetStatusCondition(&plan.Status.Conditions, ready)
	return plan
}

// mesh plans one of the meshes that a VirtualMesh names, and returns its status. recorded is the IssuedCertificate in
// the previous status.
func (p *meshPlan) mesh(
	source storedMesh, mesh *networkingv1.VirtualMesh, ref networkingv1.MeshRef, warnings []string, recorded *networkingv1.StatusRef, facts clusterFacts,
) networkingv1.MeshStatus {
	name := istio.NormalMeshName(ref.Name)
	pending := func(format string, args ...any) networkingv1.MeshStatus {
		return networkingv1.MeshStatus{State: networkingv1.Pending, Message: fmt.Sprintf(format, args...)}
	}
	failed := func(format string, args ...any) networkingv1.MeshStatus {
		return networkingv1.MeshStatus{State: networkingv1.Failed, Errors: []string{fmt.Sprintf(format, args...)}}
	}
	if mesh.Spec.IntermediateCA() == nil {
		return networkingv1.MeshStatus{Message: "nothing is done: spec.mtlsConfig.shared.intermediateCertificateAuthority is absent"}
	}
	here := strings.HasSuffix(name, "-"+istio.NormalMeshName(facts.Cluster))
	if here { // after a rename of the cluster, the old object would be a second certificate of the istiod
		p.Retain[name] = true
	}
	istiod, others, ok := facts.istiod(name, recorded)
	switch {
	case len(others) == 0 && !ok && len(facts.NotSelected[name]) > 0:
		return pending("waiting for an injected istiod Deployment with this name: %s", p.notSelected(name, facts))
	case len(others) == 0 && !ok && here:
		return pending("waiting for an istiod Deployment with this name: <deployment>-<namespace>-%s, labelled app=istiod, in a namespace labelled %s",
			facts.Cluster, controllers.NamespaceLabels)
	case len(others) == 0 && !ok:
		return networkingv1.MeshStatus{Message: fmt.Sprintf("the mesh is not in this cluster, %s", facts.Cluster)}
	case !ok && len(others) == 1:
		p.unplanned = append(p.unplanned, "istiod "+others[0]+", whose mesh name belongs to another istiod")
		return failed("IssuedCertificate %s/%s is for another istiod of this name, which no longer exists; delete it to give the name to %s", recorded.Namespace, name, others[0])
	case !ok:
		p.unplanned = append(p.unplanned, "istiods "+joinNames(others)+", which have the same mesh name")
		return failed("several istiod Deployments have this name, %s; rename all but one, or opt them out by %s=false; their IssuedCertificates do not change",
			joinNames(others), patches.InjectKey)
	}
	if source.claimOn(name, istiod.Namespace, facts.Cluster) == noClaim {
		p.unplanned = append(p.unplanned, "istiods "+joinNames(others)+", whose mesh name belongs to another istiod")
		return failed("the name belongs to istiod %s/%s, which no pattern matches; rename %s", istiod.Namespace, istiod.Name, joinNames(others))
	}
	at := types.NamespacedName{Namespace: istiod.Namespace, Name: name}
	stored, exists := facts.Certificates[at]
	governing, ok := facts.governing(name, istiod)
	foreign := foreignReferences(&mesh.Spec, istiod.Namespace)
	excluded := excludedTrustDomain(mesh, istiod)
	switch {
	case ok && governing.key() != source.key():
		refused := failed("%s", refusal(governing, istiod))
		refused.AcceptanceOrder = 1
		for _, claim := range facts.claimsOn(name, istiod.Namespace) {
			if claim.key() == source.key() {
				break
			}
			if claim.key() != governing.key() {
				refused.AcceptanceOrder++
			}
		}
		return refused
	case len(foreign) > 0:
		p.unplanned = append(p.unplanned, fmt.Sprintf("istiod %s/%s, whose VirtualMesh refers to another namespace", istiod.Namespace, istiod.Name))
		return networkingv1.MeshStatus{State: networkingv1.Failed, Errors: messages(foreign)}
	case istiod.Problem != "":
		p.unplanned = append(p.unplanned, fmt.Sprintf("istiod %s/%s: %s", istiod.Namespace, istiod.Name, istiod.Problem))
		return pending("%s", istiod.Problem)
	case len(excluded) > 0:
		p.unplanned = append(p.unplanned, fmt.Sprintf("istiod %s/%s, whose trust domain permittedURIDomains excludes", istiod.Namespace, istiod.Name))
		return networkingv1.MeshStatus{State: networkingv1.Failed, Errors: messages(excluded)}
	case exists && stored.Owner == "":
		p.unplanned = append(p.unplanned, fmt.Sprintf("istiod %s/%s, whose IssuedCertificate another program created", istiod.Namespace, istiod.Name))
		return failed("another program created IssuedCertificate %s; delete it, or label it %s=%s to hand it over", at, managedByLabel, controllers.Manager)
	}
	_, duplicate := p.istiods[at] // two names of spec.meshes may be sanitized to one
	if !duplicate {
		p.istiods[at] = istiod
		p.Certificates = append(p.Certificates, certificate(mesh, istiod, at))
	}
	accepted := networkingv1.MeshStatus{
		State: networkingv1.Accepted, IssuedCertificate: &networkingv1.StatusRef{Name: at.Name, Namespace: at.Namespace},
		CertificateState: stored.State, Warnings: warnings,
		Message: "istiod's agents have not reported yet",
	}
	switch {
	case stored.Error != "":
		accepted.Message = stored.Error
	case stored.State != "":
		accepted.Message = fmt.Sprintf("istiod's agents report %s", stored.State)
	}
	if mesh.Spec.AutoRestartPods() {
		accepted.PodBounceDirective = &networkingv1.StatusRef{Name: at.Name, Namespace: at.Namespace}
		if ours, exists := facts.Directives[at]; exists && !ours {
			accepted.Warnings = append(slices.Clone(accepted.Warnings), fmt.Sprintf("another program created PodBounceDirective %s, which is used as it is", at))
		} else if !duplicate {
			p.Directives = append(p.Directives, directive(mesh, at))
		}
	}
	var competing []string
	for _, claim := range facts.claimsOn(name, istiod.Namespace) {
		if claim.key() != source.key() {
			competing = append(competing, claim.key().String())
		}
	}
	if len(competing) > 0 {
		accepted.Warnings = append(slices.Clone(accepted.Warnings), fmt.Sprintf("VirtualMesh %s names this mesh too and is ignored for it", joinNames(competing)))
	}
	if len(others) > 0 {
		accepted.Warnings = append(slices.Clone(accepted.Warnings), fmt.Sprintf("istiod %s has the same mesh name and gets no IssuedCertificate; rename its Deployment", joinNames(others)))
	}
	return accepted
}

// notSelected explains why the Deployments with a mesh name are ignored. An IssuedCertificate from before stays, and
// the root change waits for its istiod.
func (p *meshPlan) notSelected(name string, facts clusterFacts) string {
	var all []string
	for _, istiod := range facts.NotSelected[name] {
		reason := fmt.Sprintf("Deployment %s/%s is ignored: %s", istiod.Namespace, istiod.Name, istiod.Why)
		if facts.ownerOf(istiod.Namespace, name) != "" {
			reason += " (its IssuedCertificate does not change)"
			p.unplanned = append(p.unplanned, fmt.Sprintf("istiod %s/%s, which is not injected", istiod.Namespace, istiod.Name))
		}
		all = append(all, reason)
	}
	return joinNames(all)
}

func messages(errs field.ErrorList) (all []string) {
	for _, err := range errs {
		all = append(all, err.Error())
	}
	return all
}

func certificate(mesh *networkingv1.VirtualMesh, istiod deployedIstiod, at types.NamespacedName) *certificatesv1.IssuedCertificate {
	shared := mesh.Spec.MTLSConfig.Shared
	certificate := &certificatesv1.IssuedCertificate{
		TypeMeta:   metav1.TypeMeta{APIVersion: certificatesv1.GroupVersion.String(), Kind: certificatesv1.Kind},
		ObjectMeta: ownedMeta(mesh, at),
		Spec: certificatesv1.IssuedCertificateSpec{
			Hosts:       []string{istiod.Host()},
			CertOptions: shared.IntermediateCertOptions.DeepCopy(),
			AgentCA:     shared.IntermediateCertificateAuthority.DeepCopy(),
		},
	}
	if mesh.Spec.AutoRestartPods() {
		certificate.Spec.PodBounceDirective = &certificatesv1.ObjectRef{Name: at.Name, Namespace: at.Namespace}
	}
	return certificate
}

// excludedTrustDomain returns an error where the VirtualMesh's name constraints exclude an istiod's trust domain.
func excludedTrustDomain(mesh *networkingv1.VirtualMesh, istiod deployedIstiod) field.ErrorList {
	options := mesh.Spec.MTLSConfig.Shared.IntermediateCertOptions
	return options.ValidateHosts(field.NewPath("spec", "mtlsConfig", "shared", "intermediateCertOptions"), []string{istiod.Host()})
}

// directive restarts all Pods of an istiod's mesh. It lists none: a list would be outdated when the root changes.
func directive(mesh *networkingv1.VirtualMesh, at types.NamespacedName) *certificatesv1.PodBounceDirective {
	directive := &certificatesv1.PodBounceDirective{
		TypeMeta:   metav1.TypeMeta{APIVersion: certificatesv1.GroupVersion.String(), Kind: certificatesv1.PodBounceDirectiveKind},
		ObjectMeta: ownedMeta(mesh, at),
	}
	directive.Annotations[certificatesv1.RestartAnnotation] = certificatesv1.RestartMesh
	return directive
}

func ownedMeta(mesh *networkingv1.VirtualMesh, at types.NamespacedName) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name: at.Name, Namespace: at.Namespace,
		Labels:      map[string]string{managedByLabel: controllers.Manager},
		Annotations: map[string]string{virtualMeshAnnotation: mesh.Namespace + "/" + mesh.Name},
	}
}

// summary is the worst state of the meshes, and all errors.
func summary(meshes map[string]networkingv1.MeshStatus) (networkingv1.ApprovalState, []string) {
	state := networkingv1.Accepted
	var errs []string
	for _, key := range slices.Sorted(maps.Keys(meshes)) {
		switch meshes[key].State {
		case networkingv1.Failed:
			state = networkingv1.Failed
		case networkingv1.Pending:
			if state == networkingv1.Accepted {
				state = networkingv1.Pending
			}
		}
		for _, err := range meshes[key].Errors {
			errs = append(errs, strings.TrimSuffix(key, ".")+": "+err)
		}
	}
	return state, errs
}

func condition(status networkingv1.VirtualMeshStatus) (metav1.ConditionStatus, string, string) {
	switch status.State {
	case networkingv1.Accepted:
		n := 0
		for _, mesh := range status.Meshes {
			if mesh.IssuedCertificate != nil {
				n++
			}
		}
		if n == 0 {
			return metav1.ConditionTrue, reasonAccepted, "there is nothing to do in this cluster"
		}
		return metav1.ConditionTrue, reasonAccepted, fmt.Sprintf("%d of %d meshes are in this cluster and have their IssuedCertificates", n, len(status.Meshes))
	case networkingv1.Pending:
		var waiting []string
		for _, key := range slices.Sorted(maps.Keys(status.Meshes)) {
			if mesh := status.Meshes[key]; mesh.State == networkingv1.Pending {
				waiting = append(waiting, strings.TrimSuffix(key, ".")+": "+mesh.Message)
			}
		}
		return metav1.ConditionFalse, reasonPending, strings.Join(waiting, "; ")
	case networkingv1.Invalid:
		return metav1.ConditionFalse, reasonInvalid, strings.Join(status.Errors, "; ")
	default:
		return metav1.ConditionFalse, reasonFailed, strings.Join(status.Errors, "; ")
	}
}
