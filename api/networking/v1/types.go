// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// Kind is the kind of a VirtualMesh.
const Kind = "VirtualMesh"

var (
	// GroupVersion of this package.
	GroupVersion = schema.GroupVersion{Group: "networking.mesh.gloo.solo.io", Version: "v1"}
	// VirtualMeshes is the resource, for untyped clients.
	VirtualMeshes = GroupVersion.WithResource("virtualmeshes")
)

// AddToScheme registers the types of this package.
func AddToScheme(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion, &VirtualMesh{}, &VirtualMeshList{})
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}

// A VirtualMesh groups Istio meshes, one per istiod, and specifies their common trust: the CA that signs the
// intermediate CA certificate of each. Apply the same VirtualMesh to every cluster; each acts on its own meshes.
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=virtualmeshes
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.status.state`
// +kubebuilder:printcolumn:name="Vault",type=string,priority=1,JSONPath=`.spec.mtlsConfig.shared.intermediateCertificateAuthority.vault.server`
// +kubebuilder:printcolumn:name="Issuer",type=string,priority=1,JSONPath=`.spec.mtlsConfig.shared.intermediateCertificateAuthority.certManager.issuerRef.name`
// +kubebuilder:printcolumn:name="Error",type=string,priority=1,JSONPath=`.status.errors[0]`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type VirtualMesh struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty,omitzero"`

	// The meshes, and their common trust.
	Spec VirtualMeshSpec `json:"spec,omitzero"`
	// The result in this cluster. The controller writes it.
	Status VirtualMeshStatus `json:"status,omitzero"`
}

// VirtualMeshList is a list of VirtualMeshes.
// +kubebuilder:object:root=true
type VirtualMeshList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty,omitzero"`

	Items []VirtualMesh `json:"items"`
}

// VirtualMeshSpec is the desired trust of the meshes. Unknown fields of the public API are preserved.
// +kubebuilder:pruning:PreserveUnknownFields
type VirtualMeshSpec struct {
	// The meshes that trust each other, without duplicates. They may include those of other clusters: each cluster acts
	// on its own.
	// +kubebuilder:validation:MaxItems=1000
	Meshes []MeshRef `json:"meshes,omitempty"`

	// The trust between the meshes. Default: no action.
	MTLSConfig *MTLSConfig `json:"mtlsConfig,omitempty"`

	// The services that other meshes can reach: selectors: [{}] for all. Istio's own federation does it once the clusters are
	// joined (kubectl istiod-agent join); status.meshes and the condition Federated report whether they are. Other fields
	// and selectors are kept, but not acted on.
	Federation *runtime.RawExtension `json:"federation,omitempty"`

	// Whether traffic needs an AccessPolicy: MESH_DEFAULT, ENABLED or DISABLED. Kept, but not acted on.
	// +kubebuilder:validation:MaxLength=64
	GlobalAccessPolicy string `json:"globalAccessPolicy,omitempty"`
}

// MeshRef names a mesh.
// +kubebuilder:pruning:PreserveUnknownFields
type MeshRef struct {
	// Name of the mesh: <istiod's Deployment>-<its namespace>-<cluster>, such as istiod-istio-system-cluster-1. One
	// star matches any end of the Deployment's name: *-istio-system-cluster-1 matches every injected istiod of
	// namespace istio-system, istiod-*-istio-system-cluster-1 every revision, 100 at most. Required.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`

	// Namespace of Gloo Mesh's object for the mesh, such as gloo-mesh. The controller ignores it.
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`
}

// MTLSConfig is the trust between the meshes.
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:rule="!(has(self.shared) && has(self.limited))",fieldPath=".limited",reason=FieldValueForbidden,message="expected none together with shared: meshes trust each other in one way"
// +kubebuilder:validation:XValidation:rule="has(self.shared) || has(self.limited)",fieldPath=".shared",reason=FieldValueRequired,message="expected shared: the way in which the meshes trust each other"
type MTLSConfig struct {
	// One root for all meshes. Required.
	Shared *SharedTrust `json:"shared,omitempty"`

	// Trust between gateways only. Kept, but not acted on: use shared.
	Limited *runtime.RawExtension `json:"limited,omitempty"`

	// Restart the Pods of the mesh when the root changes, so that their proxies trust the new one: istiod, then
	// gateways, then workloads. Restarted Pods and others do not trust each other meanwhile: do not use it in
	// production. Requires the chart's value restarts.enabled. Default: false.
	AutoRestartPods bool `json:"autoRestartPods,omitempty"`
}

// SharedTrust is one root for all meshes.
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:rule="!(has(self.rootCertificateAuthority) && has(self.intermediateCertificateAuthority))",fieldPath=".rootCertificateAuthority",reason=FieldValueForbidden,message="expected none together with intermediateCertificateAuthority: certificates come from one CA"
// +kubebuilder:validation:XValidation:rule="has(self.rootCertificateAuthority) || has(self.intermediateCertificateAuthority)",fieldPath=".intermediateCertificateAuthority",reason=FieldValueRequired,message="expected the CA that signs each mesh's intermediate CA certificate"
type SharedTrust struct {
	// A root CA whose key is on Gloo Mesh's management server. Kept, but not acted on: use
	// intermediateCertificateAuthority instead.
	RootCertificateAuthority *RootCertificateAuthority `json:"rootCertificateAuthority,omitempty"`

	// The CA that each mesh's agent requests an intermediate CA certificate from. Required.
	// +kubebuilder:validation:XValidation:rule="has(self.vault) || has(self.certManager)",reason=FieldValueRequired,message="expected the CA that signs the certificates: vault or certManager"
	// +kubebuilder:validation:XValidation:rule="!has(self.certManager) || (has(self.certManager.issuerRef) && has(self.certManager.issuerRef.name) && self.certManager.issuerRef.name != '')",fieldPath=".certManager.issuerRef",reason=FieldValueRequired,message="expected the issuer of cert-manager that signs the certificates, by its name"
	// +kubebuilder:validation:XValidation:rule="!has(self.certManager) || !has(self.certManager.issuerRef) || !has(self.certManager.issuerRef.kind) || self.certManager.issuerRef.kind in ['', 'Issuer', 'ClusterIssuer'] || (has(self.certManager.issuerRef.group) && !(self.certManager.issuerRef.group in ['', 'cert-manager.io']))",fieldPath=".certManager.issuerRef.kind",reason=FieldValueInvalid,message="expected Issuer or ClusterIssuer; an external issuer's kind needs its group"
	// +kubebuilder:validation:XValidation:rule="!has(self.vault) || (has(self.vault.server) && self.vault.server != '')",fieldPath=".vault.server",reason=FieldValueRequired,message="expected Vault's address, such as https://vault.example.com:8200"
	// +kubebuilder:validation:XValidation:rule="!has(self.vault) || (has(self.vault.caPath) && self.vault.caPath != '')",fieldPath=".vault.caPath",reason=FieldValueRequired,message="expected <mount>/root/sign-intermediate or <mount>/issuer/<issuer>/sign-intermediate"
	// +kubebuilder:validation:XValidation:rule="!has(self.vault) || has(self.vault.tokenSecretRef) || has(self.vault.kubernetesAuth) || has(self.vault.jwtAuth) || has(self.vault.appRoleAuth) || has(self.vault.certAuth)",fieldPath=".vault.kubernetesAuth",reason=FieldValueRequired,message="expected a way to log in to Vault: kubernetesAuth, jwtAuth, appRoleAuth, certAuth or tokenSecretRef"
	// +kubebuilder:validation:XValidation:rule="!has(self.vault) || !has(self.vault.kubernetesAuth) || (has(self.vault.kubernetesAuth.role) && self.vault.kubernetesAuth.role != '')",fieldPath=".vault.kubernetesAuth.role",reason=FieldValueRequired,message="expected the name of a role of Vault's Kubernetes auth method"
	// +kubebuilder:validation:XValidation:rule="!has(self.vault) || !has(self.vault.tokenSecretRef) || (has(self.vault.tokenSecretRef.name) && self.vault.tokenSecretRef.name != '')",fieldPath=".vault.tokenSecretRef.name",reason=FieldValueRequired,message="expected the name of the Secret that holds the token"
	IntermediateCertificateAuthority *certificatesv1.IntermediateCertificateAuthority `json:"intermediateCertificateAuthority,omitempty"`

	// Properties of each intermediate CA certificate and its key.
	// +kubebuilder:validation:XValidation:rule="!has(self.ttlDays) || (self.ttlDays >= 1 && self.ttlDays <= 36500)",fieldPath=".ttlDays",reason=FieldValueInvalid,message="expected 1 to 36500 days"
	// +kubebuilder:validation:XValidation:rule="!has(self.rsaKeySizeBytes) || self.rsaKeySizeBytes in [2048, 3072, 4096]",fieldPath=".rsaKeySizeBytes",reason=FieldValueInvalid,message="expected 2048, 3072 or 4096; in spite of the field's name these are bits"
	// +kubebuilder:validation:XValidation:rule="!has(self.secretRotationGracePeriodRatio) || (self.secretRotationGracePeriodRatio > 0.0 && self.secretRotationGracePeriodRatio <= 0.9)",fieldPath=".secretRotationGracePeriodRatio",reason=FieldValueInvalid,message="expected more than 0 and at most 0.9: the part of the certificate's life that is left when it is renewed, such as 0.10"
	IntermediateCertOptions *certificatesv1.CertOptions `json:"intermediateCertOptions,omitempty"`
}

// RootCertificateAuthority is a root CA whose key is on Gloo Mesh's management server. It is not acted on.
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:rule="!(has(self.generated) && has(self.secret))",fieldPath=".secret",reason=FieldValueForbidden,message="expected none together with generated: there is one root"
type RootCertificateAuthority struct {
	// Options of a root that Gloo Mesh generates. Kept, but not acted on.
	Generated *runtime.RawExtension `json:"generated,omitempty"`

	// The Secret with the certificate and key of the root. Kept, but not acted on.
	Secret *runtime.RawExtension `json:"secret,omitempty"`
}

// ApprovalState is the result for a VirtualMesh or a mesh.
// +kubebuilder:validation:Enum=PENDING;ACCEPTED;INVALID;FAILED
type ApprovalState string

// The states.
const (
	// Pending: waiting, see the message.
	Pending ApprovalState = "PENDING"
	// Accepted: the controller acts on it.
	Accepted ApprovalState = "ACCEPTED"
	// Invalid: its author must correct mistakes; existing objects do not change.
	Invalid ApprovalState = "INVALID"
	// Failed: it is valid, but an error occurred; the controller retries.
	Failed ApprovalState = "FAILED"
)

// VirtualMeshStatus is the result in this cluster. Unknown fields of the public API are preserved.
// +kubebuilder:pruning:PreserveUnknownFields
type VirtualMeshStatus struct {
	// The metadata.generation that this status describes.
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// The state: PENDING, ACCEPTED, INVALID (its author must correct it, see errors) or FAILED (the controller retries,
	// see errors).
	State ApprovalState `json:"state,omitempty"`

	// The errors and their remedies, with the path of an invalid field; empty when there are none.
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:MaxLength=32768
	Errors []string `json:"errors,omitempty"`

	// The result for each mesh. The key is its name and its namespace in spec.meshes, each followed by a dot.
	// +kubebuilder:validation:MaxProperties=1000
	Meshes map[string]MeshStatus `json:"meshes,omitempty"`

	// The parts of the specification that are not acted on, each with its path and reason. Not in the public API.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:MaxLength=32768
	NotActedOn []string `json:"notActedOn,omitempty"`

	// The progress of a root change, while there is one. Not in the public API.
	RootRotation *RootRotationStatus `json:"rootRotation,omitempty"`

	// Conditions, for `kubectl wait`. Ready is true when each mesh of this cluster has its IssuedCertificate, Federated
	// when its istiods read all other clusters of spec.meshes. Not in the public API.
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=32
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// MeshStatus is the result for a mesh.
// +kubebuilder:pruning:PreserveUnknownFields
type MeshStatus struct {
	// Rank of this VirtualMesh among those that name the mesh: 0 is the one that governs it.
	// +kubebuilder:validation:Minimum=0
	AcceptanceOrder uint32 `json:"acceptanceOrder,omitempty"`

	// The state: PENDING, ACCEPTED, INVALID or FAILED, as for the VirtualMesh.
	State ApprovalState `json:"state,omitempty"`

	// The errors and their remedies; empty when there are none.
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:MaxLength=32768
	Errors []string `json:"errors,omitempty"`

	// Warnings about settings that are valid, but unsafe or ineffective.
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:MaxLength=32768
	Warnings []string `json:"warnings,omitempty"`

	// A description of the state, such as that the mesh is in another cluster. Not in the public API.
	// +kubebuilder:validation:MaxLength=32768
	Message string `json:"message,omitempty"`

	// The IssuedCertificate of the mesh. Not in the public API.
	IssuedCertificate *StatusRef `json:"issuedCertificate,omitempty"`

	// The status.state of the IssuedCertificate. Not in the public API.
	CertificateState certificatesv1.State `json:"certificateState,omitempty"`

	// The PodBounceDirective of the mesh, with autoRestartPods. Not in the public API.
	PodBounceDirective *StatusRef `json:"podBounceDirective,omitempty"`

	// The other clusters of spec.meshes, as this mesh's istiod sees them, where spec.federation requests it. Not in the
	// public API.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=250
	Federation []FederatedCluster `json:"federation,omitempty"`
}

// StatusRef names an object of the controller.
type StatusRef struct {
	// Name of the object.
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`
	// Namespace of the object.
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`
}

// Key is the key of a mesh in VirtualMeshStatus.Meshes.
func (r *MeshRef) Key() string { return r.Name + "." + r.Namespace + "." }

// Pattern splits a name with a star, such as istiod-*-istio-system-cluster-1, into the start of the Deployment's name
// and the part after the star, -<namespace>-<cluster>. ok is false for a name without a star.
func (r *MeshRef) Pattern() (prefix, suffix string, ok bool) { return strings.Cut(r.Name, "*") }

// IntermediateCA is the CA that signs certificates; nil without one.
func (s *VirtualMeshSpec) IntermediateCA() *certificatesv1.IntermediateCertificateAuthority {
	if s.MTLSConfig == nil || s.MTLSConfig.Shared == nil {
		return nil
	}
	return s.MTLSConfig.Shared.IntermediateCertificateAuthority
}

// AutoRestartPods reports whether the Pods of the meshes restart when the root changes.
func (s *VirtualMeshSpec) AutoRestartPods() bool {
	return s.MTLSConfig != nil && s.MTLSConfig.AutoRestartPods
}
