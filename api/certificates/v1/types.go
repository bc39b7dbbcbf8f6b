// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"cmp"
	"strings"

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
	// GroupVersion of this package.
	GroupVersion = schema.GroupVersion{Group: "certificates.mesh.gloo.solo.io", Version: "v1"}
	// IssuedCertificates is the resource, for untyped clients.
	IssuedCertificates = GroupVersion.WithResource("issuedcertificates")
	// PodBounceDirectives is the other resource.
	PodBounceDirectives = GroupVersion.WithResource("podbouncedirectives")
)

// AddToScheme registers the types of this package.
func AddToScheme(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion, &IssuedCertificate{}, &IssuedCertificateList{}, &PodBounceDirective{}, &PodBounceDirectiveList{})
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}

// An IssuedCertificate specifies the intermediate CA certificate of an istiod, and the CA that signs it. The agent
// beside that istiod gets the certificate, renews it and reports here.
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

	// The desired certificate.
	Spec IssuedCertificateSpec `json:"spec,omitzero"`
	// The progress that the agents report.
	Status IssuedCertificateStatus `json:"status,omitzero"`
}

// IssuedCertificateList is a list of IssuedCertificates.
// +kubebuilder:object:root=true
type IssuedCertificateList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty,omitzero"`

	Items []IssuedCertificate `json:"items"`
}

// IssuedCertificateSpec is the desired certificate. Fields of the public API that the agent does not know are
// preserved.
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:rule="!(has(self.glooMeshCa) && has(self.agentCa))",message="expected one CA: set agentCa or glooMeshCa, not both"
// +kubebuilder:validation:XValidation:rule="!has(self.certOptions) || !has(self.certOptions.secretRotationGracePeriodRatio) || self.certOptions.secretRotationGracePeriodRatio <= 0.9",fieldPath=".certOptions.secretRotationGracePeriodRatio",reason=FieldValueInvalid,message="expected at most 0.9: the part of the certificate's life that is left when it is renewed, such as 0.10"
type IssuedCertificateSpec struct {
	// The SPIFFE IDs of the certificate, at least one, none twice: spiffe://<trust domain>/ns/<namespace>/sa/<service
	// account>. An agent acts on the IssuedCertificates that contain the namespace and service account of its istiod.
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:MaxLength=2048
	Hosts []string `json:"hosts,omitempty"`

	// Deprecated: use certOptions.orgName, which precedes it. The organization of the certificate.
	// +kubebuilder:validation:MaxLength=1024
	Org string `json:"org,omitempty"`

	// Deprecated: replaced by glooMeshCa.signingCertificateSecret. The agent rejects it, since it uses agentCa only.
	SigningCertificateSecret *ObjectRef `json:"signingCertificateSecret,omitempty"`

	// The Secret for the certificate and its key. The agent rejects it: it writes them only to istiod's memory.
	IssuedCertificateSecret *ObjectRef `json:"issuedCertificateSecret,omitempty"`

	// The PodBounceDirective that names the Pods to restart when the root of trust changes. Default: no Pod restarts.
	PodBounceDirective *ObjectRef `json:"podBounceDirective,omitempty"`

	// Properties of the certificate and its key.
	CertOptions *CertOptions `json:"certOptions,omitempty"`

	// A CA whose key is on Gloo Mesh's management server. The agent rejects it; other programs use it.
	GlooMeshCA *GlooMeshCA `json:"glooMeshCa,omitempty"`

	// The CA that the agent requests the certificate from. Required by the agent.
	AgentCA *IntermediateCertificateAuthority `json:"agentCa,omitempty"`
}

// ObjectRef names an object.
type ObjectRef struct {
	// Name of the object.
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`
	// Namespace of the object. Default: the IssuedCertificate's own.
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`
}

// CertOptions are properties of the certificate and its key.
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:rule="!(has(self.rsaKeySizeBytes) && has(self.ecKeyCurve))",message="expected one kind of key: set rsaKeySizeBytes or ecKeyCurve, not both"
type CertOptions struct {
	// Validity of the certificate in days, 1 to 36500. The CA may shorten it; the agent renews by the actual end.
	// Default: 365.
	// +kubebuilder:validation:Minimum=0
	TTLDays *uint32 `json:"ttlDays,omitempty"`

	// Size of the RSA key in bits (not bytes, despite the name): 2048, 3072 or 4096. Not together with ecKeyCurve.
	// Default: 4096, unless ecKeyCurve is set.
	// +kubebuilder:validation:Minimum=0
	RSAKeySizeBytes *uint32 `json:"rsaKeySizeBytes,omitempty"`

	// Organization and common name of the certificate: printable, without commas, at most 64 characters. Default:
	// Istio; in an IssuedCertificate the deprecated spec.org precedes it.
	// +kubebuilder:validation:MaxLength=1024
	OrgName string `json:"orgName,omitempty"`

	// The fraction of the lifetime that remains at renewal, more than 0 and at most 0.9: 0.10 renews when a tenth
	// remains. Default: 0.10.
	SecretRotationGracePeriodRatio *float64 `json:"secretRotationGracePeriodRatio,omitempty"`

	// Curve of an elliptic curve key, P-256 or P-384, instead of an RSA key. Not together with rsaKeySizeBytes. Not in
	// the public API. Default: an RSA key.
	ECKeyCurve Curve `json:"ecKeyCurve,omitempty"`

	// The only trust domains that istiod's certificates may have: other SPIFFE IDs that istiod signs are rejected (name
	// constraints, RFC 5280). Each is a host, as cluster.local, or after a dot the domain of hosts, as
	// .example.com; they must permit the trust domain of every host. Requires Vault 1.19 or an issuer that signs the
	// constraints of a CSR; OpenBao cannot. ztunnel from Istio 1.29.3 rejects all certificates below them. Not in the
	// public API. Default: no limit.
	// +kubebuilder:validation:MaxItems=20
	// +kubebuilder:validation:items:MaxLength=254
	// +kubebuilder:validation:items:Pattern=`^\.?[a-z0-9_-]+(\.[a-z0-9_-]+)*$`
	PermittedURIDomains []string `json:"permittedURIDomains,omitempty"`
}

// Curve is an elliptic curve that istiod, Vault and every proxy support.
// +kubebuilder:validation:Enum=P-256;P-384
type Curve string

// The curves.
const (
	P256 Curve = "P-256"
	P384 Curve = "P-384"
)

// GlooMeshCA is a CA whose key is on Gloo Mesh's management server.
// +kubebuilder:pruning:PreserveUnknownFields
type GlooMeshCA struct {
	// The Secret of the management cluster with the certificate and key of the CA.
	SigningCertificateSecret *ObjectRef `json:"signingCertificateSecret,omitempty"`
}

// IntermediateCertificateAuthority is a CA that the agent requests certificates from.
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:rule="!(has(self.vault) && has(self.certManager))",message="expected one CA: set vault or certManager, not both"
type IntermediateCertificateAuthority struct {
	// A PKI secrets engine of Vault or OpenBao. Either this or certManager is required.
	Vault *VaultCA `json:"vault,omitempty"`

	// An issuer of cert-manager. Either this or vault is required. Not in the public API.
	CertManager *CertManagerCA `json:"certManager,omitempty"`

	// Accepted root certificates: the agent rejects a CA certificate that leads to another root. They complete the
	// chain if the CA does not know its own root. Not in the public API. Default: the root of the CA's answer.
	TrustedRoots *TrustedRoots `json:"trustedRoots,omitempty"`
}

// String names the CA in one line, such as Vault at https://vault.example.com or cert-manager's ClusterIssuer mesh; empty for none.
func (c *IntermediateCertificateAuthority) String() string {
	switch {
	case c == nil:
		return ""
	case c.Vault != nil:
		return "Vault at " + c.Vault.Server
	case c.CertManager != nil && c.CertManager.IssuerRef != nil:
		ref := c.CertManager.IssuerRef
		return "cert-manager's " + cmp.Or(ref.Kind, DefaultIssuerKind) + " " + ref.Name
	default:
		return ""
	}
}

// TrustedRoots are root certificates from one source.
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:rule="has(self.pem) != has(self.configMapRef)",message="expected one source of the roots: set pem or configMapRef"
type TrustedRoots struct {
	// The root certificates in PEM, at most 20, each self-signed; nothing else. Either this or configMapRef is
	// required.
	// +kubebuilder:validation:MaxLength=65536
	PEM string `json:"pem,omitempty"`

	// A ConfigMap in istiod's namespace that holds them, under the same limits. The agent needs the right to get it,
	// and reads it for each certificate.
	ConfigMapRef *ConfigMapKeyRef `json:"configMapRef,omitempty"`
}

// ConfigMapKeyRef names a value in a ConfigMap.
type ConfigMapKeyRef struct {
	// Name of the ConfigMap.
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`
	// Namespace of the ConfigMap. Default: that of istiod; no other is accepted.
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`
	// Key of the value. Default: root-cert.pem.
	// +kubebuilder:validation:MaxLength=253
	Key string `json:"key,omitempty"`
}

// CertManagerCA is an issuer of cert-manager. The agent makes the key in istiod's Pod and creates a CertificateRequest for
// each certificate.
// +kubebuilder:pruning:PreserveUnknownFields
type CertManagerCA struct {
	// The issuer that signs the certificate. Required.
	IssuerRef *IssuerRef `json:"issuerRef,omitempty"`

	// Accept a CA certificate without a path length of 0, its own or one that a certificate above it implies: istiod
	// could then sign further CAs. Some issuers ignore the requested path length. Default: false.
	AllowUnboundedPathLength bool `json:"allowUnboundedPathLength,omitempty"`
}

// IssuerRef names an issuer of cert-manager, or of an external issuer's own kind.
// +kubebuilder:pruning:PreserveUnknownFields
type IssuerRef struct {
	// Name of the issuer; an Issuer is one of istiod's namespace. Required.
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`
	// Kind of the issuer: Issuer, ClusterIssuer, or that of an external issuer. Default: Issuer.
	// +kubebuilder:validation:MaxLength=63
	Kind string `json:"kind,omitempty"`
	// API group of the issuer. Default: cert-manager.io.
	// +kubebuilder:validation:MaxLength=253
	Group string `json:"group,omitempty"`
}

// VaultCA is a PKI secrets engine of a Vault, and the login there.
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:rule="[has(self.tokenSecretRef), has(self.kubernetesAuth), has(self.jwtAuth), has(self.appRoleAuth), has(self.certAuth)].filter(set, set).size() <= 1",message="expected one way to log in: set only one of kubernetesAuth, jwtAuth, appRoleAuth, certAuth and tokenSecretRef"
// +kubebuilder:validation:XValidation:rule="[has(self.caBundle), has(self.caSecretRef), has(self.caLocalPath)].filter(set, set).size() <= 1",message="expected one source of Vault's CA: set only one of caBundle, caSecretRef and caLocalPath"
type VaultCA struct {
	// Path of the endpoint that signs the certificate. Required. It must sign intermediate CAs:
	// <mount>/root/sign-intermediate or <mount>/issuer/<issuer>/sign-intermediate, with or without a leading /v1/.
	// Endpoints that sign leaf certificates (<mount>/sign/<role>) are rejected, since istiod needs a CA.
	// +kubebuilder:validation:MaxLength=1024
	CAPath string `json:"caPath,omitempty"`

	// Path of the endpoint that generates and exports the CA key: <mount>/intermediate/generate/exported or
	// <mount>/issuers/generate/intermediate/exported, with or without a leading /v1/. .../internal is rejected, since
	// such a key never leaves Vault. Default: the agent generates the key, which never leaves istiod's Pod.
	// +kubebuilder:validation:MaxLength=1024
	CSRPath string `json:"csrPath,omitempty"`

	// Address of Vault: https://<host>[:<port>], followed by the path prefix of a gateway, if any, such as
	// https://gateway.example.com/vault. Required. http:// is accepted with a warning: it sends the login token and,
	// with csrPath, the CA key unencrypted.
	// +kubebuilder:validation:MaxLength=2048
	Server string `json:"server,omitempty"`

	// PEM certificates, in base64, that Vault's server certificate must lead to; nothing else. Default: the system's
	// root certificates, in the agent's image those of Mozilla.
	// +kubebuilder:validation:MaxLength=350000
	CABundle []byte `json:"caBundle,omitempty"`

	// A Secret in istiod's namespace with these certificates, instead of caBundle. The agent needs the right to get it,
	// and reads it for each certificate.
	CASecretRef *SecretKeyRef `json:"caSecretRef,omitempty"`

	// Absolute path of a file in the agent's container with these certificates, below /var/run/secrets, instead of
	// caBundle. The agent reads it for each certificate.
	// +kubebuilder:validation:MaxLength=1024
	CALocalPath string `json:"caLocalPath,omitempty"`

	// Vault namespace (Vault Enterprise, OpenBao) of all calls, such as admin/mesh. Default: the root namespace.
	// +kubebuilder:validation:MaxLength=1024
	Namespace string `json:"namespace,omitempty"`

	// The Secret in istiod's namespace with a Vault token under the key token. The agent never revokes that token, and
	// rejects Secrets with a service account token. One of the five logins is required.
	TokenSecretRef *ObjectRef `json:"tokenSecretRef,omitempty"`

	// Login as a service account, by Vault's Kubernetes auth method: Vault asks the API server about the token.
	KubernetesAuth *KubernetesAuth `json:"kubernetesAuth,omitempty"`

	// Login as a service account, by Vault's JWT auth method: Vault verifies the token with the API server's keys.
	// Not in the public API.
	JWTAuth *JWTAuth `json:"jwtAuth,omitempty"`

	// Login with a role id and a secret id, by Vault's AppRole auth method. Not in the public API.
	AppRoleAuth *AppRoleAuth `json:"appRoleAuth,omitempty"`

	// Login with a TLS client certificate, by Vault's certificate auth method. Not in the public API.
	CertAuth *CertAuth `json:"certAuth,omitempty"`
}

// SecretKeyRef names a value in a Secret.
type SecretKeyRef struct {
	// Name of the Secret.
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`
	// Namespace of the Secret. Default: that of istiod; no other is accepted.
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`
	// Key of the value. Default: root-cert.pem, or else ca.crt, in caSecretRef; secret-id in secretIdSecretRef.
	// +kubebuilder:validation:MaxLength=253
	Key string `json:"key,omitempty"`
}

// JWTAuth is a login to Vault as a service account whose token Vault verifies by the API server's public keys. Its fields
// are those of KubernetesAuth.
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:rule="!(has(self.serviceAccountRef) && has(self.mountedSaPath))",message="expected one source of the token: set serviceAccountRef or mountedSaPath, not both"
// +kubebuilder:validation:XValidation:rule="has(self.role) && size(self.role) > 0",fieldPath=".role",reason=FieldValueRequired,message="expected the name of a role of Vault's JWT auth method"
// +kubebuilder:validation:XValidation:rule="has(self.audience) && size(self.audience) > 0",fieldPath=".audience",reason=FieldValueRequired,message="expected the audience that Vault's role requires (bound_audiences), such as vault"
type JWTAuth struct {
	// Path of the auth method: /v1/auth/<mount> or auth/<mount>. Default: /v1/auth/jwt.
	// +kubebuilder:validation:MaxLength=1024
	MountPath string `json:"mountPath,omitempty"`

	// Vault role of the login. Required.
	// +kubebuilder:validation:MaxLength=1024
	Role string `json:"role,omitempty"`

	// Name of the token file in mountedSaPath. Default: token.
	// +kubebuilder:validation:MaxLength=253
	SecretTokenKey string `json:"secretTokenKey,omitempty"`

	// The service account in istiod's namespace whose token is requested (TokenRequest); the agent needs that right.
	// Not together with mountedSaPath. Default: istiod's own, if no mounted token has the audience.
	ServiceAccountRef *ObjectRef `json:"serviceAccountRef,omitempty"`

	// Absolute path of a directory with a mounted service account token, below /var/run/secrets, used if its token is
	// for the audience. Not together with serviceAccountRef. Default: /var/run/secrets/kubernetes.io/serviceaccount.
	// +kubebuilder:validation:MaxLength=1024
	MountedSAPath string `json:"mountedSaPath,omitempty"`

	// Audience of the token, such as vault, which Vault's role must require too (bound_audiences). Required; the API
	// server's own is rejected. The agent sends a mounted token with exactly this audience (the injection mounts one
	// for vault), or else requests one from the API server.
	// +kubebuilder:validation:MaxLength=1024
	Audience string `json:"audience,omitempty"`
}

// AppRoleAuth is a login to Vault with a role id and a secret id.
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:rule="has(self.secretIdSecretRef) != has(self.secretIdLocalPath)",message="expected one source of the secret id: set secretIdSecretRef or secretIdLocalPath"
// +kubebuilder:validation:XValidation:rule="has(self.roleId) && size(self.roleId) > 0",fieldPath=".roleId",reason=FieldValueRequired,message="expected the role id: vault read auth/approle/role/<role>/role-id"
type AppRoleAuth struct {
	// Path of the auth method: /v1/auth/<mount> or auth/<mount>. Default: /v1/auth/approle.
	// +kubebuilder:validation:MaxLength=1024
	MountPath string `json:"mountPath,omitempty"`

	// Role id of the AppRole. Required.
	// +kubebuilder:validation:MaxLength=1024
	RoleID string `json:"roleId,omitempty"`

	// The Secret in istiod's namespace with the secret id. The agent reads it for each login, and rejects a service
	// account token or a key. Either this or secretIdLocalPath is required.
	SecretIDSecretRef *SecretKeyRef `json:"secretIdSecretRef,omitempty"`

	// Absolute path of a file in the agent's container with the secret id, below /var/run/secrets/istiod-agent.io. The
	// agent reads it for each login. Either this or secretIdSecretRef is required.
	// +kubebuilder:validation:MaxLength=1024
	SecretIDLocalPath string `json:"secretIdLocalPath,omitempty"`

	// The Secret or file contains a response-wrapping token of the secret id instead (vault write -wrap-ttl=…). The
	// agent unwraps each once, if this AppRole mount created it, and keeps the secret id in memory. A wrapping token is
	// for one Pod. Default: false.
	Wrapped bool `json:"wrapped,omitempty"`
}

// CertAuth is a login to Vault with a TLS client certificate. The server must be an https:// one.
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:rule="has(self.certSecretRef) != has(self.certLocalPath)",message="expected one source of the client certificate: set certSecretRef or certLocalPath"
type CertAuth struct {
	// Path of the auth method: /v1/auth/<mount> or auth/<mount>. Default: /v1/auth/cert.
	// +kubebuilder:validation:MaxLength=1024
	MountPath string `json:"mountPath,omitempty"`

	// Vault role of the login. Default: any that trusts the certificate.
	// +kubebuilder:validation:MaxLength=1024
	Role string `json:"role,omitempty"`

	// The Secret of type kubernetes.io/tls in istiod's namespace with the client certificate (tls.crt) and its key
	// (tls.key). The agent reads it for each login. Either this or certLocalPath is required.
	CertSecretRef *ObjectRef `json:"certSecretRef,omitempty"`

	// Absolute path of a directory in the agent's container with tls.crt and tls.key, below
	// /var/run/secrets/istiod-agent.io. The agent reads them for each login. Either this or certSecretRef is required.
	// +kubebuilder:validation:MaxLength=1024
	CertLocalPath string `json:"certLocalPath,omitempty"`
}

// KubernetesAuth is a login to Vault as a service account.
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:rule="!(has(self.serviceAccountRef) && has(self.mountedSaPath))",message="expected one source of the token: set serviceAccountRef or mountedSaPath, not both"
type KubernetesAuth struct {
	// Path of the auth method: /v1/auth/<mount> or auth/<mount>. Default: /v1/auth/kubernetes.
	// +kubebuilder:validation:MaxLength=1024
	MountPath string `json:"mountPath,omitempty"`

	// Vault role of the login. Required.
	// +kubebuilder:validation:MaxLength=1024
	Role string `json:"role,omitempty"`

	// Name of the token file in mountedSaPath. Default: token.
	// +kubebuilder:validation:MaxLength=253
	SecretTokenKey string `json:"secretTokenKey,omitempty"`

	// The service account in istiod's namespace whose token is requested (TokenRequest); the agent needs that right.
	// Not together with mountedSaPath. Default: the token in mountedSaPath.
	ServiceAccountRef *ObjectRef `json:"serviceAccountRef,omitempty"`

	// Absolute path of the directory with a mounted service account token, below /var/run/secrets. Not together with
	// serviceAccountRef. Default: /var/run/secrets/kubernetes.io/serviceaccount, that of the Pod.
	// +kubebuilder:validation:MaxLength=1024
	MountedSAPath string `json:"mountedSaPath,omitempty"`

	// Audience of the token, such as vault, which Vault's role must require too. The agent sends a mounted token with
	// exactly this audience (the injection mounts one for vault), or else requests one from the API server. Not in the
	// public API. Default: none; the token in mountedSaPath is sent, which by default the API server accepts too.
	// +kubebuilder:validation:MaxLength=1024
	Audience string `json:"audience,omitempty"`
}

// State is the progress of an IssuedCertificate.
type State string

// The states, in order; Failed can occur at any time and ends with the cause.
const (
	// Pending: nothing was requested yet.
	Pending State = "PENDING"
	// Requested: the CA has not answered yet.
	Requested State = "REQUESTED"
	// Issued: istiod does not use the certificate yet.
	Issued State = "ISSUED"
	// Finished: istiod uses the certificate.
	Finished State = "FINISHED"
	// Failed: an error occurred; istiod keeps its current certificate.
	Failed State = "FAILED"
)

// IssuedCertificateStatus is the progress that the agents report.
type IssuedCertificateStatus struct {
	// The metadata.generation that this status describes.
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// The last error and its remedy; empty when there is none.
	// +kubebuilder:validation:MaxLength=32768
	Error string `json:"error,omitempty"`

	// The state: PENDING, REQUESTED (the CA has not answered), ISSUED (istiod has the files), FINISHED (istiod uses them) or
	// FAILED (see error). With several Pods it is that of one of them; see certificates.
	// +kubebuilder:validation:MaxLength=64
	State State `json:"state,omitempty"`

	// The earliest expiration of the Pods' CA certificates and their chains. Not in the public API.
	NotAfter *metav1.Time `json:"notAfter,omitempty"`

	// The roots of the Pods' CA certificates: the first 12 digits of each SHA-256. Not in the public API.
	// +kubebuilder:validation:MaxLength=128
	Root string `json:"root,omitempty"`

	// The earliest expiration of these roots. Not in the public API.
	RootNotAfter *metav1.Time `json:"rootNotAfter,omitempty"`

	// Ready: every reporting istiod has a valid CA certificate in its files. Confirmed: each has loaded it.
	// RootTrusted: the certificates lead to a root that all istiods trust. TokenAudienceBound: the token that the agent
	// sends to Vault is useless elsewhere. PathLengthLimited, only while False: istiod's CA may sign further CAs. Not in
	// the public API.
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=16
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// The certificate of each Pod of istiod. Not in the public API.
	// +listType=map
	// +listMapKey=pod
	// +kubebuilder:validation:MaxItems=1000
	Certificates []CertificateStatus `json:"certificates,omitempty"`
}

// TokenAudienceBoundCondition is true when the token that the agent sends to Vault is useless elsewhere, and false when
// Vault's server could use it as istiod's service account at the API server.
const TokenAudienceBoundCondition = "TokenAudienceBound"

// PathLengthLimitedCondition is false while istiod's CA certificate may sign further CAs, which
// agentCa.certManager.allowUnboundedPathLength permits. It is absent otherwise.
const PathLengthLimitedCondition = "PathLengthLimited"

// CertificateStatus is the certificate of one Pod of istiod.
type CertificateStatus struct {
	// Name of the Pod.
	// +kubebuilder:validation:MaxLength=253
	Pod string `json:"pod"`
	// Serial number of the CA certificate as Vault writes it: hexadecimal bytes separated by colons.
	// +kubebuilder:validation:MaxLength=256
	SerialNumber string `json:"serialNumber,omitempty"`
	// Distinguished name of the issuer of the CA certificate (RFC 2253).
	// +kubebuilder:validation:MaxLength=32768
	Issuer string `json:"issuer,omitempty"`
	// Kind of the CA key, such as RSA 4096 or EC P-256.
	// +kubebuilder:validation:MaxLength=64
	Key string `json:"key,omitempty"`
	// When the CA certificate became valid, about when it was issued.
	NotBefore *metav1.Time `json:"notBefore,omitempty"`
	// When the CA certificate, or the first one in its chain, expires.
	NotAfter *metav1.Time `json:"notAfter,omitempty"`
	// When its root expires.
	RootNotAfter *metav1.Time `json:"rootNotAfter,omitempty"`
	// The certificate in the chain that expires before ttlDays are over; empty when none does.
	// +kubebuilder:validation:MaxLength=32768
	LimitedBy string `json:"limitedBy,omitempty"`
	// SHA-256 of the root certificate (DER) of the CA certificate, in hexadecimal.
	// +kubebuilder:validation:MaxLength=128
	RootFingerprint string `json:"rootFingerprint,omitempty"`
	// SHA-256 of all roots that istiod publishes as trusted, in order: one, except during a root change.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:MaxLength=128
	TrustedRoots []string `json:"trustedRoots,omitempty"`
	// SHA-256 of the root of the CA's last answer, if it is another root; the answer was not published. Absent when
	// it is the same.
	// +kubebuilder:validation:MaxLength=128
	OfferedRootFingerprint string `json:"offeredRootFingerprint,omitempty"`
	// Whether the agent has confirmed that istiod uses this certificate.
	// +optional
	Confirmed bool `json:"confirmed"`
	// When the agent will renew the certificate.
	RenewAt *metav1.Time `json:"renewAt,omitempty"`
	// The remote clusters that istiod reads services and endpoints from; absent until the agent has read them from
	// istiod.
	RemoteClusters *RemoteClusters `json:"remoteClusters,omitempty"`
	// Key of the error, such as VaultSealed (see docs/reasons.md); empty when there is none.
	// +kubebuilder:validation:MaxLength=64
	Reason string `json:"reason,omitempty"`
	// The last error of this Pod and its remedy; empty when there is none.
	// +kubebuilder:validation:MaxLength=32768
	Error string `json:"error,omitempty"`
}

// FieldManagerPrefix begins the field managers of the agents.
const FieldManagerPrefix = "istiod-agent/"

// FieldManager returns the field manager of a Pod's agent, of 128 characters at most.
func FieldManager(pod string) string {
	name := FieldManagerPrefix + pod
	return name[:min(len(name), 128)]
}

// State is the Pod's state, as far as its entry shows it.
func (c *CertificateStatus) State() State {
	switch {
	case c.Waiting():
		return Requested
	case c.Error != "":
		return Failed
	case c.Confirmed:
		return Finished
	case c.SerialNumber != "":
		return Issued
	}
	return Pending
}

// Waiting reports whether the error is only that a request of this Pod waits for the decision of the CA.
func (c *CertificateStatus) Waiting() bool {
	return c.Error != "" && strings.HasPrefix(c.Reason, "CertManagerWaiting")
}
