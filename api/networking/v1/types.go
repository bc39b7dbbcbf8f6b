// SPDX-License-Identifier: Apache-2.0

package v1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// Kind of a VirtualMesh.
const Kind = "VirtualMesh"

var (
	// GroupVersion of everything in this package.
	GroupVersion = schema.GroupVersion{Group: "networking.mesh.gloo.solo.io", Version: "v1"}
	// VirtualMeshes is the resource, for clients that know no Go types.
	VirtualMeshes = GroupVersion.WithResource("virtualmeshes")
)

// AddToScheme makes the Go types known to a scheme, for clients that know them.
func AddToScheme(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion, &VirtualMesh{}, &VirtualMeshList{})
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}

// A VirtualMesh groups Istio meshes, one per istiod, and says how they trust each other: which CA signs the
// intermediate CA certificate of each. Every cluster gets the same VirtualMesh and acts on its own meshes.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=virtualmeshes
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.status.state`
// +kubebuilder:printcolumn:name="Vault",type=string,priority=1,JSONPath=`.spec.mtlsConfig.shared.intermediateCertificateAuthority.vault.server`
// +kubebuilder:printcolumn:name="Error",type=string,priority=1,JSONPath=`.status.errors[0]`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type VirtualMesh struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty,omitzero"`

	// Which meshes, and how they trust each other.
	Spec VirtualMeshSpec `json:"spec,omitzero"`
	// What became of it in this cluster. The controller writes it, nobody else needs to.
	Status VirtualMeshStatus `json:"status,omitzero"`
}

// VirtualMeshList is a list of them.
//
// +kubebuilder:object:root=true
type VirtualMeshList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty,omitzero"`

	Items []VirtualMesh `json:"items"`
}

// VirtualMeshSpec says which meshes there are and how they trust each other. Fields of the public API that are
// not known here are kept.
//
// +kubebuilder:pruning:PreserveUnknownFields
type VirtualMeshSpec struct {
	// The meshes that trust each other, none twice. Those of other clusters may be among them: each cluster
	// acts on its own.
	//
	// +kubebuilder:validation:MaxItems=1000
	Meshes []MeshRef `json:"meshes,omitempty"`

	// How the meshes trust each other. Default: nothing is done.
	MTLSConfig *MTLSConfig `json:"mtlsConfig,omitempty"`

	// Which services can be reached from other meshes. Kept, but not acted on: it is for other programs.
	Federation *runtime.RawExtension `json:"federation,omitempty"`

	// Whether traffic needs an AccessPolicy: MESH_DEFAULT, ENABLED or DISABLED. Kept, but not acted on: it is
	// for other programs.
	//
	// +kubebuilder:validation:MaxLength=64
	GlobalAccessPolicy string `json:"globalAccessPolicy,omitempty"`
}

// MeshRef names a mesh.
//
// +kubebuilder:pruning:PreserveUnknownFields
type MeshRef struct {
	// Name of the mesh: <istiod's Deployment>-<its namespace>-<cluster>, such as
	// istiod-istio-system-cluster-1. One star stands for any end of the Deployment's name:
	// *-istio-system-cluster-1 is every injected istiod of namespace istio-system, istiod-*-istio-system-cluster-1
	// every revision, 100 at most. Required.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`

	// Namespace in which Gloo Mesh keeps its object of the mesh, such as gloo-mesh. The controller needs none:
	// the name says it all.
	//
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`
}

// MTLSConfig is how the meshes trust each other.
//
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:rule="!(has(self.shared) && has(self.limited))",fieldPath=".limited",reason=FieldValueForbidden,message="expected none together with shared: meshes trust each other in one way"
// +kubebuilder:validation:XValidation:rule="has(self.shared) || has(self.limited)",fieldPath=".shared",reason=FieldValueRequired,message="expected shared: the way in which the meshes trust each other"
type MTLSConfig struct {
	// One root for all meshes. Required.
	Shared *SharedTrust `json:"shared,omitempty"`

	// Trust between gateways only. Kept, but not acted on: use shared.
	Limited *runtime.RawExtension `json:"limited,omitempty"`

	// Restart the pods of the mesh when the root changes, so that their proxies get the new one: istiod, then
	// gateways, then workloads. Pods that were restarted and pods that were not do not trust each other
	// meanwhile: do not use it in production. The chart's restarts.enabled must allow it. Default: false, and
	// people restart them.
	AutoRestartPods bool `json:"autoRestartPods,omitempty"`
}

// SharedTrust is one root for all meshes.
//
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:rule="!(has(self.rootCertificateAuthority) && has(self.intermediateCertificateAuthority))",fieldPath=".rootCertificateAuthority",reason=FieldValueForbidden,message="expected none together with intermediateCertificateAuthority: certificates come from one CA"
// +kubebuilder:validation:XValidation:rule="has(self.rootCertificateAuthority) || has(self.intermediateCertificateAuthority)",fieldPath=".intermediateCertificateAuthority",reason=FieldValueRequired,message="expected the CA that signs each mesh's intermediate CA certificate"
type SharedTrust struct {
	// A root CA whose key Gloo Mesh's management server holds. Kept, but not acted on: use
	// intermediateCertificateAuthority. Not together with that.
	RootCertificateAuthority *RootCertificateAuthority `json:"rootCertificateAuthority,omitempty"`

	// A CA that each mesh's agent asks for an intermediate CA certificate. Required.
	//
	// +kubebuilder:validation:XValidation:rule="has(self.vault)",fieldPath=".vault",reason=FieldValueRequired,message="expected the Vault that signs the certificates"
	// +kubebuilder:validation:XValidation:rule="!has(self.vault) || (has(self.vault.server) && self.vault.server != '')",fieldPath=".vault.server",reason=FieldValueRequired,message="expected Vault's address, such as https://vault.example.com:8200"
	// +kubebuilder:validation:XValidation:rule="!has(self.vault) || (has(self.vault.caPath) && self.vault.caPath != '')",fieldPath=".vault.caPath",reason=FieldValueRequired,message="expected <mount>/root/sign-intermediate or <mount>/issuer/<issuer>/sign-intermediate"
	// +kubebuilder:validation:XValidation:rule="!has(self.vault) || has(self.vault.tokenSecretRef) || has(self.vault.kubernetesAuth)",fieldPath=".vault.kubernetesAuth",reason=FieldValueRequired,message="expected kubernetesAuth or tokenSecretRef: a way to log in to Vault"
	// +kubebuilder:validation:XValidation:rule="!has(self.vault) || !has(self.vault.kubernetesAuth) || (has(self.vault.kubernetesAuth.role) && self.vault.kubernetesAuth.role != '')",fieldPath=".vault.kubernetesAuth.role",reason=FieldValueRequired,message="expected the name of a role of Vault's Kubernetes auth method"
	// +kubebuilder:validation:XValidation:rule="!has(self.vault) || !has(self.vault.tokenSecretRef) || (has(self.vault.tokenSecretRef.name) && self.vault.tokenSecretRef.name != '')",fieldPath=".vault.tokenSecretRef.name",reason=FieldValueRequired,message="expected the name of the Secret that holds the token"
	IntermediateCertificateAuthority *certificatesv1.IntermediateCertificateAuthority `json:"intermediateCertificateAuthority,omitempty"`

	// What is asked of each intermediate CA certificate and of its key.
	//
	// +kubebuilder:validation:XValidation:rule="!has(self.ttlDays) || (self.ttlDays >= 1 && self.ttlDays <= 36500)",fieldPath=".ttlDays",reason=FieldValueInvalid,message="expected 1 to 36500 days"
	// +kubebuilder:validation:XValidation:rule="!has(self.rsaKeySizeBytes) || self.rsaKeySizeBytes in [2048, 3072, 4096]",fieldPath=".rsaKeySizeBytes",reason=FieldValueInvalid,message="expected 2048, 3072 or 4096; in spite of the field's name these are bits"
	// +kubebuilder:validation:XValidation:rule="!has(self.secretRotationGracePeriodRatio) || (self.secretRotationGracePeriodRatio > 0.0 && self.secretRotationGracePeriodRatio <= 0.9)",fieldPath=".secretRotationGracePeriodRatio",reason=FieldValueInvalid,message="expected more than 0 and at most 0.9: the part of the certificate's life that is left when it is renewed, such as 0.10"
	IntermediateCertOptions *certificatesv1.CertOptions `json:"intermediateCertOptions,omitempty"`
}

// RootCertificateAuthority is a root CA whose key Gloo Mesh's management server holds. Nothing of it is acted on.
//
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:rule="!(has(self.generated) && has(self.secret))",fieldPath=".secret",reason=FieldValueForbidden,message="expected none together with generated: there is one root"
type RootCertificateAuthority struct {
	// Options of a root that Gloo Mesh makes itself. Kept, but not acted on.
	Generated *runtime.RawExtension `json:"generated,omitempty"`

	// The Secret with the root's certificate and key. Kept, but not acted on.
	Secret *runtime.RawExtension `json:"secret,omitempty"`
}

// ApprovalState is what became of a VirtualMesh.
//
// +kubebuilder:validation:Enum=PENDING;ACCEPTED;INVALID;FAILED
type ApprovalState string

// The states.
const (
	// Pending is not acted on yet.
	Pending ApprovalState = "PENDING"
	// Accepted is acted on.
	Accepted ApprovalState = "ACCEPTED"
	// Invalid has mistakes that only its author can mend; what was there before stays.
	Invalid ApprovalState = "INVALID"
	// Failed is right, but something keeps it from being acted on; that is tried again.
	Failed ApprovalState = "FAILED"
)

// VirtualMeshStatus is what became of it in this cluster. Fields of the public API that are not known here are
// kept.
//
// +kubebuilder:pruning:PreserveUnknownFields
type VirtualMeshStatus struct {
	// The metadata.generation that this status is about.
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// What became of it: PENDING, ACCEPTED, INVALID (its author must mend it, see errors) or FAILED (it is
	// tried again, see errors).
	State ApprovalState `json:"state,omitempty"`

	// What is wrong and what to do about it, with the path of the field where it is one's fault; empty when
	// all is well.
	//
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:MaxLength=32768
	Errors []string `json:"errors,omitempty"`

	// What became of each mesh, by <name>.<namespace>. as in spec.meshes, with the dot at the end.
	//
	// +kubebuilder:validation:MaxProperties=1000
	Meshes map[string]MeshStatus `json:"meshes,omitempty"`

	// The parts of the specification that are not acted on, each with its path and why. Not in the public API.
	//
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:MaxLength=32768
	NotActedOn []string `json:"notActedOn,omitempty"`

	// How far a change of the root of trust is, while one is going on. Not in the public API.
	RootRotation *RootRotationStatus `json:"rootRotation,omitempty"`

	// The same in the form that `kubectl wait` understands. Ready is true when each mesh of this cluster has
	// its IssuedCertificate. Not in the public API.
	//
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=32
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// MeshStatus is what became of a mesh.
//
// +kubebuilder:pruning:PreserveUnknownFields
type MeshStatus struct {
	// Where this VirtualMesh stands among those for the mesh: 0 is the one that counts, where several are.
	//
	// +kubebuilder:validation:Minimum=0
	AcceptanceOrder uint32 `json:"acceptanceOrder,omitempty"`

	// What became of the mesh: PENDING, ACCEPTED, INVALID or FAILED, as for the whole.
	State ApprovalState `json:"state,omitempty"`

	// What is wrong and what to do about it; empty when all is well.
	//
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:MaxLength=32768
	Errors []string `json:"errors,omitempty"`

	// What works, but not as safely as it could or not as its author may believe.
	//
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:MaxLength=32768
	Warnings []string `json:"warnings,omitempty"`

	// What is going on, in a sentence: such as that the mesh is another cluster's. Not in the public API.
	//
	// +kubebuilder:validation:MaxLength=32768
	Message string `json:"message,omitempty"`

	// The IssuedCertificate that was made for the mesh. Not in the public API.
	IssuedCertificate *StatusRef `json:"issuedCertificate,omitempty"`

	// How far the IssuedCertificate is: its own status.state. Not in the public API.
	CertificateState certificatesv1.State `json:"certificateState,omitempty"`

	// The PodBounceDirective that was made for the mesh, with autoRestartPods. Not in the public API.
	PodBounceDirective *StatusRef `json:"podBounceDirective,omitempty"`
}

// StatusRef names an object that was made.
type StatusRef struct {
	// Name of the object.
	//
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`
	// Namespace of the object.
	//
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`
}

// Key is what a mesh is called in VirtualMeshStatus.Meshes.
func (r *MeshRef) Key() string { return r.Name + "." + r.Namespace + "." }

// IntermediateCA is the CA that is asked for certificates; nil when there is none, or none that is acted on.
func (s *VirtualMeshSpec) IntermediateCA() *certificatesv1.IntermediateCertificateAuthority {
	if s.MTLSConfig == nil || s.MTLSConfig.Shared == nil {
		return nil
	}
	return s.MTLSConfig.Shared.IntermediateCertificateAuthority
}

// AutoRestartPods says whether the pods of the meshes are restarted when the root changes.
func (s *VirtualMeshSpec) AutoRestartPods() bool {
	return s.MTLSConfig != nil && s.MTLSConfig.AutoRestartPods
}
