// SPDX-License-Identifier: Apache-2.0

// Package meshes turns each VirtualMesh into the IssuedCertificates of this
// cluster's istiods, and says in its status what became of it. What is to be
// there is a pure function, Translate; the rest of the package makes it so.
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
	"github.com/istiod-agent/istiod-agent/internal/bounded"
)

const (
	// ManagedByLabel of an IssuedCertificate, with the value Manager, says that it is kept here.
	ManagedByLabel = "app.kubernetes.io/managed-by"
	// Manager is who keeps IssuedCertificates.
	Manager = "istiod-agent-webhook"
	// VirtualMeshAnnotation of an IssuedCertificate names, as namespace/name, the VirtualMesh that it is made for.
	// An owner reference cannot: it does not reach into another namespace.
	VirtualMeshAnnotation = "istiod-agent.io/virtual-mesh"
	// ReadyCondition of a VirtualMesh is true when each of its meshes in this cluster has its IssuedCertificate.
	ReadyCondition = "Ready"
)

// Reasons of ReadyCondition, and of Events.
const (
	reasonAccepted = "Accepted"
	reasonPending  = "Pending"
	reasonInvalid  = "Invalid"
	reasonFailed   = "Failed"
)

// Istiod is an istiod Deployment of this cluster.
type Istiod struct {
	Name, Namespace, ServiceAccount string
	TrustDomain                     string
	// Replicas are how many Pods it has, or is to have, whichever is more.
	Replicas int
	// Problem says what is not known of it yet; it is not acted on.
	Problem string
}

// Mesh is what the public API calls the mesh of an istiod of a cluster: <deployment>-<namespace>-<cluster>, with what
// no object's name may hold made dashes (Gloo Mesh pkg/mesh-discovery/translation/utils/object_meta.go).
func (i Istiod) Mesh(cluster string) string {
	return sanitized(i.Name + "-" + i.Namespace + "-" + cluster)
}

var sanitize = strings.NewReplacer(".", "-", "_", "-", ":", "-", "/", "-", " ", "-")

func sanitized(name string) string { return strings.ToLower(sanitize.Replace(name)) }

// Host is the identity that the istiod's certificate is for.
func (i Istiod) Host() string {
	return "spiffe://" + i.TrustDomain + "/ns/" + i.Namespace + "/sa/" + i.ServiceAccount
}

// Source is a VirtualMesh as it is stored.
type Source struct {
	*networkingv1.VirtualMesh
	// Unknown are warnings about its fields that nobody knows; Unreadable are those of the wrong type.
	Unknown    []string
	Unreadable field.ErrorList
}

func (s Source) key() types.NamespacedName {
	return types.NamespacedName{Namespace: s.Namespace, Name: s.Name}
}

// Stored is what counts of an IssuedCertificate that is there.
type Stored struct {
	// For is the VirtualMesh that it was made for; empty when it was not made here.
	For   string
	State certificatesv1.State
	Error string
	// AgentCA is the CA that it names, where that can be read.
	AgentCA *certificatesv1.IntermediateCertificateAuthority
	// FromSecret is the Secret that it has istiod's CA in, while a change of the root begins.
	FromSecret string
	// Replicas are what istiod's Pods report of themselves.
	Replicas []certificatesv1.CertificateStatus
}

// Facts are what a VirtualMesh is translated with.
type Facts struct {
	// Cluster is what this cluster is called in the names of meshes.
	Cluster string
	// Istiods of this cluster, by their mesh. Two may come to the same name.
	Istiods map[string][]Istiod
	// Claims are, by mesh, the VirtualMeshes that name it and a CA, the one to translate among them.
	Claims map[string][]Source
	// Certificates are the IssuedCertificates that are there.
	Certificates map[types.NamespacedName]Stored
	// Directives are the PodBounceDirectives that are there, and whether they were made here.
	Directives map[types.NamespacedName]bool
	// MayNotRestart says which rights are lacking to restart Pods, empty when none is.
	MayNotRestart string
	// Now is when conditions change.
	Now metav1.Time
}

// Plan is what is to be there for a VirtualMesh.
type Plan struct {
	// Certificates are to be made, or made so.
	Certificates []*certificatesv1.IssuedCertificate
	// Directives too; those that are not here, nor in Keep, are to go.
	Directives []*certificatesv1.PodBounceDirective
	// Keep are names of IssuedCertificates and their PodBounceDirectives, besides, that are to stay as they are.
	Keep map[types.NamespacedName]bool
	// KeepAll keeps every one: what the VirtualMesh says now cannot be acted on.
	KeepAll bool
	Status  networkingv1.VirtualMeshStatus

	// left are istiods of this cluster that nothing is planned for, and why: a change of the root waits for them.
	left []string
}

// Translate gives what is to be there for a VirtualMesh. before is its status until now.
func Translate(source Source, before networkingv1.VirtualMeshStatus, facts Facts) Plan {
	mesh := source.DeepCopy()
	mesh.Spec.SetDefaults()
	warnings, errs := mesh.Validate()
	errs = append(slices.Clone(source.Unreadable), errs...)
	parts := slices.Concat(mesh.Spec.NotActedOn(), source.Unknown)
	if mesh.Spec.AutoRestartPods() && facts.MayNotRestart != "" {
		parts = append(parts, "spec.mtlsConfig.autoRestartPods: is not acted on: "+facts.MayNotRestart)
	}
	warnings = slices.DeleteFunc(warnings, func(w string) bool { return slices.Contains(parts, w) })

	plan := Plan{Keep: map[types.NamespacedName]bool{}}
	status := networkingv1.VirtualMeshStatus{
		ObservedGeneration: mesh.Generation, NotActedOn: parts, Conditions: slices.Clone(before.Conditions),
		Meshes: map[string]networkingv1.MeshStatus{},
	}
	switch {
	case len(errs) > 0:
		plan.KeepAll = true
		status.State = networkingv1.Invalid
		for _, err := range errs {
			status.Errors = append(status.Errors, err.Error())
		}
	case facts.Cluster == "" && mesh.Spec.IntermediateCA() != nil:
		plan.KeepAll = true
		status.State = networkingv1.Failed
		status.Errors = []string{"it is not known what this cluster is called in spec.meshes: set the chart's value clusterName, as in helm upgrade --reuse-values --set clusterName=cluster-1"}
	default:
		for _, ref := range mesh.Spec.Meshes {
			status.Meshes[ref.Key()] = plan.mesh(source, mesh, ref, warnings, facts)
		}
		status.State, status.Errors = summary(status.Meshes)
	}
	plan.Status = fitting(status)
	if plan.KeepAll {
		plan.Status.RootRotation = before.RootRotation
	} else {
		plan.rotate(mesh, before.RootRotation, facts)
	}
	ready := metav1.Condition{Type: ReadyCondition, ObservedGeneration: mesh.Generation, LastTransitionTime: facts.Now}
	ready.Status, ready.Reason, ready.Message = condition(plan.Status)
	ready.Message = bounded.Message(ready.Message)
	meta.SetStatusCondition(&plan.Status.Conditions, ready)
	return plan
}

// mesh plans for one of the meshes that a VirtualMesh names, and says what becomes of it.
func (p *Plan) mesh(source Source, mesh *networkingv1.VirtualMesh, ref networkingv1.MeshRef, warnings []string, facts Facts) networkingv1.MeshStatus {
	name := sanitized(ref.Name)
	pending := func(format string, args ...any) networkingv1.MeshStatus {
		return networkingv1.MeshStatus{State: networkingv1.Pending, Message: fmt.Sprintf(format, args...)}
	}
	failed := func(format string, args ...any) networkingv1.MeshStatus {
		return networkingv1.MeshStatus{State: networkingv1.Failed, Errors: []string{fmt.Sprintf(format, args...)}}
	}
	if mesh.Spec.IntermediateCA() == nil {
		return networkingv1.MeshStatus{Message: "nothing is done: spec.mtlsConfig.shared.intermediateCertificateAuthority is absent"}
	}
	istiods := facts.Istiods[name]
	switch {
	case len(istiods) == 0 && strings.HasSuffix(name, "-"+sanitized(facts.Cluster)):
		return pending("waiting for an istiod Deployment with this name: <deployment>-<namespace>-%s, labelled app=istiod", facts.Cluster)
	case len(istiods) == 0:
		return networkingv1.MeshStatus{Message: fmt.Sprintf("it is not in this cluster, %s", facts.Cluster)}
	case len(istiods) > 1:
		return failed("several istiod Deployments have this name, %s/%s and %s/%s; rename one of them",
			istiods[0].Namespace, istiods[0].Name, istiods[1].Namespace, istiods[1].Name)
	}
	istiod := istiods[0]
	at := types.NamespacedName{Namespace: istiod.Namespace, Name: name}
	p.Keep[at] = true
	claims := slices.Clone(facts.Claims[name])
	slices.SortFunc(claims, older)
	order := slices.IndexFunc(claims, func(s Source) bool { return s.key() == source.key() })
	if order > 0 {
		refused := failed("VirtualMesh %s, which is older, already says what this mesh's CA is; remove the mesh from one of them", claims[0].key())
		refused.AcceptanceOrder = uint32(order) //nolint:gosec // how many VirtualMeshes name it
		return refused
	}
	stored, exists := facts.Certificates[at]
	switch {
	case istiod.Problem != "":
		p.left = append(p.left, fmt.Sprintf("istiod %s/%s: %s", istiod.Namespace, istiod.Name, istiod.Problem))
		return pending("%s", istiod.Problem)
	case exists && stored.For == "":
		p.left = append(p.left, fmt.Sprintf("istiod %s/%s, whose IssuedCertificate was not made here", istiod.Namespace, istiod.Name))
		return failed("IssuedCertificate %s is there and was not made here; delete it, or label it %s=%s to have it made so", at, ManagedByLabel, Manager)
	}
	delete(p.Keep, at)
	p.Certificates = append(p.Certificates, certificate(mesh, istiod, at))
	accepted := networkingv1.MeshStatus{
		State: networkingv1.Accepted, IssuedCertificate: &networkingv1.StatusRef{Name: at.Name, Namespace: at.Namespace},
		CertificateState: stored.State, Warnings: warnings,
		Message: "istiod's agents have not reported yet",
	}
	switch {
	case stored.Error != "":
		accepted.Message = stored.Error
	case stored.State != "":
		accepted.Message = fmt.Sprintf("istiod's agents have it: %s", stored.State)
	}
	if mesh.Spec.AutoRestartPods() {
		accepted.PodBounceDirective = &networkingv1.StatusRef{Name: at.Name, Namespace: at.Namespace}
		if made, exists := facts.Directives[at]; exists && !made {
			accepted.Warnings = append(slices.Clone(accepted.Warnings), fmt.Sprintf("PodBounceDirective %s was not made here, and is followed as it is", at))
		} else {
			p.Directives = append(p.Directives, directive(mesh, at))
		}
	}
	for _, other := range claims[min(1, len(claims)):] {
		accepted.Warnings = append(slices.Clone(accepted.Warnings), fmt.Sprintf("VirtualMesh %s, which is newer, names this mesh too and does not count", other.key()))
	}
	return accepted
}

func older(a, b Source) int {
	if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
		return c
	}
	return strings.Compare(a.key().String(), b.key().String())
}

// certificate is the IssuedCertificate of an istiod.
func certificate(mesh *networkingv1.VirtualMesh, istiod Istiod, at types.NamespacedName) *certificatesv1.IssuedCertificate {
	shared := mesh.Spec.MTLSConfig.Shared
	made := &certificatesv1.IssuedCertificate{
		TypeMeta:   metav1.TypeMeta{APIVersion: certificatesv1.GroupVersion.String(), Kind: certificatesv1.Kind},
		ObjectMeta: madeHere(mesh, at),
		Spec: certificatesv1.IssuedCertificateSpec{
			Hosts:       []string{istiod.Host()},
			CertOptions: shared.IntermediateCertOptions.DeepCopy(),
			AgentCA:     shared.IntermediateCertificateAuthority.DeepCopy(),
		},
	}
	if mesh.Spec.AutoRestartPods() {
		made.Spec.PodBounceDirective = &certificatesv1.ObjectRef{Name: at.Name, Namespace: at.Namespace}
	}
	return made
}

// directive has the Pods of an istiod's whole mesh restarted. Which these are is found out when the root has changed: a
// list of them would be out of date by then.
func directive(mesh *networkingv1.VirtualMesh, at types.NamespacedName) *certificatesv1.PodBounceDirective {
	made := &certificatesv1.PodBounceDirective{
		TypeMeta:   metav1.TypeMeta{APIVersion: certificatesv1.GroupVersion.String(), Kind: certificatesv1.PodBounceDirectiveKind},
		ObjectMeta: madeHere(mesh, at),
	}
	made.Annotations[certificatesv1.RestartAnnotation] = certificatesv1.RestartMesh
	return made
}

func madeHere(mesh *networkingv1.VirtualMesh, at types.NamespacedName) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name: at.Name, Namespace: at.Namespace,
		Labels:      map[string]string{ManagedByLabel: Manager},
		Annotations: map[string]string{VirtualMeshAnnotation: mesh.Namespace + "/" + mesh.Name},
	}
}

// summary is the worst that became of any mesh, and every error.
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
