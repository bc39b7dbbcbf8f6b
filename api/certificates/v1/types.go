// SPDX-License-Identifier: Apache-2.0

package v1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// The kinds.
const (
	Kind                   = "IssuedCertificate"
	PodBounceDirectiveKind = "PodBounceDirective"
)

var (
	// GroupVersion of everything in this package.
	GroupVersion = schema.GroupVersion{Group: "certificates.mesh.gloo.solo.io", Version: "v1"}
	// IssuedCertificates is the resource, for clients that know no Go types.
	IssuedCertificates = GroupVersion.WithResource("issuedcertificates")
	// PodBounceDirectives is the other resource.
	PodBounceDirectives = GroupVersion.WithResource("podbouncedirectives")
)

// AddToScheme makes the Go types known to a scheme, for clients that know them.
func AddToScheme(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion, &IssuedCertificate{}, &IssuedCertificateList{}, &PodBounceDirective{}, &PodBounceDirectiveList{})
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}

// An IssuedCertificate says which intermediate CA certificate an istiod shall have, and which CA signs it.
// The agent beside that istiod gets the certificate, renews it, and reports here.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.status.state`
// +kubebuilder:printcolumn:name="Ends",type=string,JSONPath=`.status.notAfter`
// +kubebuilder:printcolumn:name="Root",type=string,JSONPath=`.status.root`
// +kubebuilder:printcolumn:name="Root-Ends",type=string,JSONPath=`.status.rootNotAfter`
// +kubebuilder:printcolumn:name="Error",type=string,priority=1,JSONPath=`.status.error`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type IssuedCertificate struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty,omitzero"`

	// Which certificate is wanted.
	Spec IssuedCertificateSpec `json:"spec,omitzero"`
	// How far the agents are. They write it, nobody else needs to.
	Status IssuedCertificateStatus `json:"status,omitzero"`
}

// IssuedCertificateList is a list of them.
//
// +kubebuilder:object:root=true
type IssuedCertificateList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty,omitzero"`

	Items []IssuedCertificate `json:"items"`
}

// IssuedCertificateSpec says which certificate is wanted. Fields of the public API that the agent does not
// know are kept.
//
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:rule="!(has(self.glooMeshCa) && has(self.agentCa))",message="expected one CA: set agentCa or glooMeshCa, not both"
// +kubebuilder:validation:XValidation:rule="!has(self.certOptions) || !has(self.certOptions.secretRotationGracePeriodRatio) || self.certOptions.secretRotationGracePeriodRatio <= 0.9",fieldPath=".certOptions.secretRotationGracePeriodRatio",reason=FieldValueInvalid,message="expected at most 0.9: the part of the certificate's life that is left when it is renewed, such as 0.10"
type IssuedCertificateSpec struct {
	// The SPIFFE IDs that the certificate is for, at least one, none twice, each of the form
	// spiffe://<trust domain>/ns/<namespace>/sa/<service account>. An agent acts on the IssuedCertificates in
	// which it finds the namespace and the service account of its own istiod.
	//
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:MaxLength=2048
	Hosts []string `json:"hosts,omitempty"`

	// Deprecated: use certOptions.orgName, which goes before it. The certificate's organization.
	//
	// +kubebuilder:validation:MaxLength=1024
	Org string `json:"org,omitempty"`

	// Deprecated: stood for what glooMeshCa.signingCertificateSecret is now. The agent refuses it, since it
	// has its certificates signed by agentCa alone.
	SigningCertificateSecret *ObjectRef `json:"signingCertificateSecret,omitempty"`

	// The Secret to store the certificate and its key in. The agent refuses it: it writes them to istiod's
	// memory and never to a Secret. Absent means just that.
	IssuedCertificateSecret *ObjectRef `json:"issuedCertificateSecret,omitempty"`

	// The PodBounceDirective that names the pods to restart when the root of trust changes.
	// Default: no pod is restarted.
	PodBounceDirective *ObjectRef `json:"podBounceDirective,omitempty"`

	// What is asked of the certificate and of its key.
	CertOptions *CertOptions `json:"certOptions,omitempty"`

	// A CA whose key Gloo Mesh's management server holds. The agent refuses it; this is for other programs.
	GlooMeshCA *GlooMeshCA `json:"glooMeshCa,omitempty"`

	// A CA that the agent itself asks for the certificate. The agent needs it.
	AgentCA *IntermediateCertificateAuthority `json:"agentCa,omitempty"`
}

// ObjectRef names an object.
type ObjectRef struct {
	// Name of the object.
	//
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`
	// Namespace of the object. Default: the IssuedCertificate's own.
	//
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`
}

// CertOptions is what is asked of the certificate and of its key.
//
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:rule="!(has(self.rsaKeySizeBytes) && has(self.ecKeyCurve))",message="expected one kind of key: set rsaKeySizeBytes or ecKeyCurve, not both"
type CertOptions struct {
	// How long the certificate shall be valid, in days, from 1 to 36500. The CA may give less; the agent
	// renews by the time that the certificate states. Default: 365.
	//
	// +kubebuilder:validation:Minimum=0
	TTLDays *uint32 `json:"ttlDays,omitempty"`

	// Size of the RSA key in bits (not in bytes, in spite of the name): 2048, 3072 or 4096.
	// Not together with ecKeyCurve. Default: 4096, unless ecKeyCurve is set.
	//
	// +kubebuilder:validation:Minimum=0
	RSAKeySizeBytes *uint32 `json:"rsaKeySizeBytes,omitempty"`

	// The certificate's organization, also its common name: printable, without commas, at most 64 characters.
	// Default: Istio; in an IssuedCertificate the deprecated spec.org goes before that.
	//
	// +kubebuilder:validation:MaxLength=1024
	OrgName string `json:"orgName,omitempty"`

	// The part of the certificate's life that is left when it is renewed, more than 0 and at most 0.9:
	// 0.10 renews when a tenth is left. Default: 0.10.
	SecretRotationGracePeriodRatio *float64 `json:"secretRotationGracePeriodRatio,omitempty"`

	// Makes the key an elliptic curve key, P-256 or P-384, in place of an RSA key. Not in the public API.
	// Not together with rsaKeySizeBytes. Default: an RSA key.
	ECKeyCurve Curve `json:"ecKeyCurve,omitempty"`
}

// Curve is an elliptic curve that istiod, Vault and every proxy can use.
//
// +kubebuilder:validation:Enum=P-256;P-384
type Curve string

// The curves.
const (
	P256 Curve = "P-256"
	P384 Curve = "P-384"
)

// GlooMeshCA is a CA whose key Gloo Mesh's management server holds.
//
// +kubebuilder:pruning:PreserveUnknownFields
type GlooMeshCA struct {
	// The Secret of the management cluster that holds the CA's certificate and key.
	SigningCertificateSecret *ObjectRef `json:"signingCertificateSecret,omitempty"`
}

// IntermediateCertificateAuthority is a CA that the agent itself asks.
//
// +kubebuilder:pruning:PreserveUnknownFields
type IntermediateCertificateAuthority struct {
	// A PKI secrets engine of Vault or OpenBao. Required: no other kind is known.
	Vault *VaultCA `json:"vault,omitempty"`

	// Root certificates of which the CA certificate must lead to one: an answer that leads to another root is
	// refused. They complete the chain where the CA does not know its own root. Not in the public API.
	// Default: the root that the CA's answer leads to.
	TrustedRoots *TrustedRoots `json:"trustedRoots,omitempty"`
}

// TrustedRoots are root certificates, from one place.
//
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:rule="has(self.pem) != has(self.configMapRef)",message="expected one source of the roots: set pem or configMapRef"
type TrustedRoots struct {
	// The root certificates in PEM, at most 20: each a CA that has signed itself, and nothing else.
	// This or configMapRef is required, not both.
	//
	// +kubebuilder:validation:MaxLength=65536
	PEM string `json:"pem,omitempty"`

	// A ConfigMap in istiod's own namespace that holds them, under the same bounds. The agent must be allowed to
	// read it. It is read each time that a certificate is issued.
	ConfigMapRef *ConfigMapKeyRef `json:"configMapRef,omitempty"`
}

// ConfigMapKeyRef names a value in a ConfigMap.
type ConfigMapKeyRef struct {
	// Name of the ConfigMap.
	//
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`
	// Namespace of the ConfigMap. Default: istiod's own; no other is accepted.
	//
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`
	// Key of the value. Default: root-cert.pem.
	//
	// +kubebuilder:validation:MaxLength=253
	Key string `json:"key,omitempty"`
}

// VaultCA is a PKI secrets engine of a Vault, and how to log in there.
//
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:rule="!(has(self.tokenSecretRef) && has(self.kubernetesAuth))",message="expected one way to log in: set tokenSecretRef or kubernetesAuth, not both"
type VaultCA struct {
	// Path of the endpoint that signs the certificate. Required. It must sign intermediate CAs:
	// <mount>/root/sign-intermediate or <mount>/issuer/<issuer>/sign-intermediate, with or without /v1/ in
	// front. An endpoint that signs leaf certificates (<mount>/sign/<role>) is refused, since istiod needs a CA.
	//
	// +kubebuilder:validation:MaxLength=1024
	CAPath string `json:"caPath,omitempty"`

	// Path of the endpoint at which Vault makes the CA key and hands it out:
	// <mount>/intermediate/generate/exported or <mount>/issuers/generate/intermediate/exported, with or
	// without /v1/ in front. .../internal is refused, since such a key never leaves Vault.
	// Default: the agent makes the key itself, and it never leaves istiod's pod.
	//
	// +kubebuilder:validation:MaxLength=1024
	CSRPath string `json:"csrPath,omitempty"`

	// Where Vault is: https://<host>[:<port>], followed by the prefix of its paths where a gateway serves it below
	// one, such as https://gateway.example.com/vault. Required. http:// is taken with a warning: it
	// sends the login token and, with csrPath, the CA key unencrypted.
	//
	// +kubebuilder:validation:MaxLength=2048
	Server string `json:"server,omitempty"`

	// PEM certificates that Vault's own certificate must lead to, in base64; nothing but certificates.
	// Default: the system's root certificates, and Mozilla's in the agent's image.
	//
	// +kubebuilder:validation:MaxLength=350000
	CABundle []byte `json:"caBundle,omitempty"`

	// Vault namespace (Vault Enterprise, OpenBao) that all calls are made in, such as admin/mesh.
	// Default: the root namespace.
	//
	// +kubebuilder:validation:MaxLength=1024
	Namespace string `json:"namespace,omitempty"`

	// The Secret that holds a Vault token under the key token, in istiod's own namespace. The agent never
	// revokes the token, and refuses Secrets that hold a service account's token.
	// This or kubernetesAuth is required, not both.
	TokenSecretRef *ObjectRef `json:"tokenSecretRef,omitempty"`

	// Log in as a service account, by Vault's Kubernetes auth method. This or tokenSecretRef is required,
	// not both.
	KubernetesAuth *KubernetesAuth `json:"kubernetesAuth,omitempty"`
}

// KubernetesAuth is how to log in to Vault as a service account.
//
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:rule="!(has(self.serviceAccountRef) && has(self.mountedSaPath))",message="expected one source of the token: set serviceAccountRef or mountedSaPath, not both"
type KubernetesAuth struct {
	// Path of the auth method: /v1/auth/<mount>, or auth/<mount>. Default: /v1/auth/kubernetes.
	//
	// +kubebuilder:validation:MaxLength=1024
	MountPath string `json:"mountPath,omitempty"`

	// Vault role to log in with. Required.
	//
	// +kubebuilder:validation:MaxLength=1024
	Role string `json:"role,omitempty"`

	// Name of the file in mountedSaPath that holds the token. Default: token.
	//
	// +kubebuilder:validation:MaxLength=253
	SecretTokenKey string `json:"secretTokenKey,omitempty"`

	// The service account, in istiod's own namespace, that a token is requested of (TokenRequest); the agent
	// must be allowed to. Not together with mountedSaPath. Default: the token in mountedSaPath is used.
	ServiceAccountRef *ObjectRef `json:"serviceAccountRef,omitempty"`

	// Absolute path of the directory that a service account token is mounted in, below /var/run/secrets.
	// Not together with serviceAccountRef. Default: /var/run/secrets/kubernetes.io/serviceaccount, the pod's own.
	//
	// +kubebuilder:validation:MaxLength=1024
	MountedSAPath string `json:"mountedSaPath,omitempty"`

	// Audience of the token, such as vault; Vault's role must name the same. Not in the public API. The agent
	// sends a mounted token of exactly this audience (the injection mounts one for vault), and requests one from
	// the API server where no mounted token has it.
	// Default: none; the token in mountedSaPath is sent, which by default the API server accepts too.
	//
	// +kubebuilder:validation:MaxLength=1024
	Audience string `json:"audience,omitempty"`
}

// State is how far an IssuedCertificate is.
type State string

// The states, in their order; Failed may come at any time and is left as soon as what failed works.
const (
	// Pending is before anything was done.
	Pending State = "PENDING"
	// Requested waits for the CA.
	Requested State = "REQUESTED"
	// Issued has a certificate that istiod does not use yet.
	Issued State = "ISSUED"
	// Finished has a certificate that istiod uses.
	Finished State = "FINISHED"
	// Failed has an error; what istiod already has stays in use.
	Failed State = "FAILED"
)

// IssuedCertificateStatus is how far the agents are.
type IssuedCertificateStatus struct {
	// The metadata.generation that this status is about.
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// What went wrong last and what to do about it; empty when all is well.
	//
	// +kubebuilder:validation:MaxLength=32768
	Error string `json:"error,omitempty"`

	// How far it is: PENDING, REQUESTED (the CA was asked), ISSUED (istiod has the files), FINISHED (istiod
	// uses them) or FAILED (see error). With several pods it is one of theirs; see certificates.
	//
	// +kubebuilder:validation:MaxLength=64
	State State `json:"state,omitempty"`

	// The earliest end of the Pods' CA certificates, each with the chain above it. Not in the public API.
	NotAfter *metav1.Time `json:"notAfter,omitempty"`

	// The roots that the Pods' CA certificates lead to: the first 12 digits of each SHA-256. Not in the public API.
	//
	// +kubebuilder:validation:MaxLength=128
	Root string `json:"root,omitempty"`

	// The earliest end of these roots. Not in the public API.
	RootNotAfter *metav1.Time `json:"rootNotAfter,omitempty"`

	// Ready is true when every istiod that reports has a valid CA certificate in its files, Confirmed when each was
	// seen to use it, RootTrusted when these lead to a root that all of them trust, and TokenAudienceBound when the
	// token that the agent sends to Vault is of no use elsewhere. Not in the public API.
	//
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=16
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// What each pod of istiod has. Not in the public API.
	//
	// +listType=map
	// +listMapKey=pod
	// +kubebuilder:validation:MaxItems=1000
	Certificates []CertificateStatus `json:"certificates,omitempty"`
}

// TokenAudienceBoundCondition of an IssuedCertificate is true when the token that the agent sends to Vault is of no use
// elsewhere, and false when the server that receives it can act as istiod's service account at the API server.
const TokenAudienceBoundCondition = "TokenAudienceBound"

// CertificateStatus is what one pod of istiod has.
type CertificateStatus struct {
	// Name of the pod.
	//
	// +kubebuilder:validation:MaxLength=253
	Pod string `json:"pod"`
	// Serial number of the pod's CA certificate, as Vault writes it: hexadecimal bytes with colons between.
	//
	// +kubebuilder:validation:MaxLength=256
	SerialNumber string `json:"serialNumber,omitempty"`
	// Who signed the CA certificate: its issuer's distinguished name (RFC 2253).
	//
	// +kubebuilder:validation:MaxLength=32768
	Issuer string `json:"issuer,omitempty"`
	// Kind of the CA key, such as RSA 4096 or EC P-256.
	//
	// +kubebuilder:validation:MaxLength=64
	Key string `json:"key,omitempty"`
	// When the CA certificate became valid, which is about when it was issued.
	NotBefore *metav1.Time `json:"notBefore,omitempty"`
	// When the CA certificate expires, or the first certificate above it.
	NotAfter *metav1.Time `json:"notAfter,omitempty"`
	// When the root that it leads to expires.
	RootNotAfter *metav1.Time `json:"rootNotAfter,omitempty"`
	// The certificate above it that ends before ttlDays are over, and so cuts it short; empty when none does.
	//
	// +kubebuilder:validation:MaxLength=32768
	LimitedBy string `json:"limitedBy,omitempty"`
	// SHA-256 of the root certificate (DER) that the pod's CA certificate leads to, in hexadecimal.
	//
	// +kubebuilder:validation:MaxLength=128
	RootFingerprint string `json:"rootFingerprint,omitempty"`
	// Those of all roots that the pod's istiod publishes as trusted, in their order: one, but while the root changes.
	//
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:MaxLength=128
	TrustedRoots []string `json:"trustedRoots,omitempty"`
	// That of another root, to which Vault's last answer led; nothing of that answer was published. Absent while
	// Vault's root is istiod's.
	//
	// +kubebuilder:validation:MaxLength=128
	OfferedRootFingerprint string `json:"offeredRootFingerprint,omitempty"`
	// Whether istiod was seen to use this certificate.
	// +optional
	Confirmed bool `json:"confirmed"`
	// When the certificate will be renewed.
	RenewAt *metav1.Time `json:"renewAt,omitempty"`
	// Key of the error, such as VaultSealed (docs/agent.md lists them); empty when all is well.
	//
	// +kubebuilder:validation:MaxLength=64
	Reason string `json:"reason,omitempty"`
	// What went wrong last in this pod and what to do about it; empty when all is well.
	//
	// +kubebuilder:validation:MaxLength=32768
	Error string `json:"error,omitempty"`
}
