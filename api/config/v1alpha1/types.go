// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// APIVersion and Kind that a configuration file must state.
const (
	APIVersion = "config.istiod-agent.io/v1alpha1"
	Kind       = "InjectionConfiguration"
)

// InjectionConfiguration is the content of the configuration file.
type InjectionConfiguration struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`

	// Target is the kind of the injected objects. Default: deployments.
	Target Target `json:"target,omitempty"`
	// Sidecar is the form of the agent beside istiod. Default: container.
	Sidecar SidecarForm `json:"sidecar,omitempty"`
	// Agent is the injected container.
	Agent Agent `json:"agent,omitzero"`
	// CACerts is the in-memory volume that holds the intermediate CA.
	CACerts CACerts `json:"cacerts,omitzero"`
	// MultiRootMesh sets ISTIO_MULTIROOT_MESH=true in istiod's container, unless
	// the variable is already set: istiod then loads other roots of trust while it
	// runs, so that the root can change without a restart. Default: false.
	MultiRootMesh bool `json:"multiRootMesh,omitempty"`
	// Annotate records the injection on the pod template, as
	// istiod-agent.io/injected (a digest of the rendered injection). Default: true.
	// The replaced fields are recorded in any case, on the object itself, as
	// istiod-agent.io/original.
	Annotate *bool `json:"annotate,omitempty"`
	// InjectExisting injects existing istiods when their namespace is labelled,
	// which restarts them. Default: true.
	InjectExisting *bool `json:"injectExisting,omitempty"`
	// Rollout determines when a changed injection reaches injected istiods. Default: manual.
	Rollout Rollout `json:"rollout,omitempty"`
	// ClusterName is the name of this cluster in a VirtualMesh's spec.meshes:
	// <istiod's Deployment>-<its namespace>-<cluster>. Default: none, and
	// VirtualMeshes are answered with what to set; the command line ignores it.
	ClusterName string `json:"clusterName,omitempty"`
	// VirtualMesh limits which VirtualMeshes are acted on; the command line
	// ignores it.
	VirtualMesh VirtualMesh `json:"virtualMesh,omitzero"`
	// AgentRights are given by the program to the service accounts of injected
	// istiods; the command line ignores it.
	AgentRights AgentRights `json:"agentRights,omitzero"`
	// Server is how the webhook program serves; the command line ignores it.
	Server Server `json:"server,omitzero"`
}

// Target is the kind of object that is injected.
type Target string

const (
	// TargetDeployments injects istiod's Deployment as it is stored.
	TargetDeployments Target = "deployments"
	// TargetPods injects istiod's Pods as they are created and leaves the
	// Deployment as its owner wrote it, which is what GitOps tools want.
	TargetPods Target = "pods"
)

// SidecarForm is how the agent runs beside istiod.
type SidecarForm string

const (
	// SidecarContainer is an init container and an ordinary container.
	SidecarContainer SidecarForm = "container"
	// SidecarNative is one init container with restartPolicy Always
	// (Kubernetes 1.29 and later).
	SidecarNative SidecarForm = "native"
)

// Rollout is what happens to injected istiods when the injection changes.
type Rollout string

const (
	// RolloutManual reports outdated istiods; they are updated at their next
	// change or `kubectl rollout restart`.
	RolloutManual Rollout = "manual"
	// RolloutAutomatic updates outdated istiods at once, which restarts them.
	RolloutAutomatic Rollout = "automatic"
)

// Agent describes the injected containers. A field that is absent takes its
// default; an explicit {} in resources or securityContext means none.
type Agent struct {
	// Image of the agent. Default: this release's own.
	Image string `json:"image,omitempty"`
	// ImagePullPolicy of the agent. Default: IfNotPresent.
	ImagePullPolicy corev1.PullPolicy `json:"imagePullPolicy,omitempty"`
	// Env is added after the four variables that the agent always gets
	// (PILOT_CERT_PROVIDER, POD_NAME, POD_NAMESPACE, SERVICE_ACCOUNT).
	Env []corev1.EnvVar `json:"env,omitempty"`
	// VaultToken is the service account token that the agent logs in to Vault
	// with where a specification asks for its audience. Default: one for
	// audience vault. An explicit {} means none.
	VaultToken *VaultToken `json:"vaultToken,omitempty"`
	// AllowedServers are the Vault servers that specifications may name, each as
	// https://<host>[:<port>][/<prefix>]; a prefix must be the specification's. The
	// agent sends nothing to any other. Default: any server.
	AllowedServers []string `json:"allowedServers,omitempty"`
	// Resources of each injected container. Default: requests of 10m CPU and
	// 32Mi memory, a limit of 64Mi memory. Without a CPU request istiod's HorizontalPodAutoscaler stops.
	Resources *corev1.ResourceRequirements `json:"resources,omitempty"`
	// SecurityContext of each injected container. Default: what Pod Security's
	// "restricted" level asks for, with no user id; ids that istiod's container
	// sets are copied.
	SecurityContext *corev1.SecurityContext `json:"securityContext,omitempty"`
}

// VaultToken is a projected service account token.
type VaultToken struct {
	// Audience of the token; Vault's role and kubernetesAuth.audience name the
	// same. Empty means that no token is projected.
	Audience string `json:"audience,omitempty"`
	// ExpirationSeconds is the token's life, 600 or more; the kubelet replaces it
	// in time. Default: 600.
	ExpirationSeconds *int64 `json:"expirationSeconds,omitempty"`
}

// CACerts is the volume mounted at /etc/cacerts.
type CACerts struct {
	// SizeLimit of the in-memory volume, a quantity. "0" means none. Default: 1Mi.
	SizeLimit string `json:"sizeLimit,omitempty"`
}

// VirtualMesh limits which VirtualMeshes are acted on.
type VirtualMesh struct {
	// Namespaces whose VirtualMeshes are acted on, 64 at most. A user who may
	// write a VirtualMesh in one of them decides which CA signs istiod's
	// certificate. Default: gloo-mesh and server.namespace.
	Namespaces []string `json:"namespaces,omitempty"`
}

// AgentRights are the agent's rights for the service account of every injected
// istiod of some namespaces.
type AgentRights struct {
	// Namespaces whose istiods get the rights, 64 at most. Default: none.
	Namespaces []string `json:"namespaces,omitempty"`
	// RoleBinding in each of these namespaces, whose subjects the program keeps.
	// Default: istiod-agent.istiods.
	RoleBinding string `json:"roleBinding,omitempty"`
}

// DefaultServiceAccount is that of every Pod that names none. It never gets the
// agent's rights by AgentRights.
const DefaultServiceAccount = "default"

// Covers reports whether the program gives the rights in a namespace.
func (r *AgentRights) Covers(namespace string) bool { return slices.Contains(r.Namespaces, namespace) }

// Server is how the webhook program serves.
type Server struct {
	// BindAddress is the IP address to listen on. Default: all addresses.
	BindAddress string `json:"bindAddress,omitempty"`
	// Port serves admission over TLS. Default: 9443.
	Port int32 `json:"port,omitempty"`
	// HealthPort serves /healthz and /readyz over HTTP. Default: 8081.
	HealthPort int32 `json:"healthPort,omitempty"`
	// MetricsPort serves /metrics over HTTP. Default: 8080.
	MetricsPort int32 `json:"metricsPort,omitempty"`
	// ClientCA is a PEM file with the CA certificates of the API server's client
	// certificate for this webhook. With it the admission port answers no client
	// without such a certificate. Default: none, and any client is answered.
	ClientCA string `json:"clientCA,omitempty"`
	// LeaderElection of the controllers; admission never needs a leader.
	// Default: true.
	LeaderElection *bool `json:"leaderElection,omitempty"`
	// Namespace holds the Lease and, for self-managed certificates, the CA's
	// Secret. Default: istiod-agent-system.
	Namespace string `json:"namespace,omitempty"`
	// WebhookConfiguration is the name of the MutatingWebhookConfiguration
	// whose caBundle is kept. Default: istiod-agent.
	WebhookConfiguration string `json:"webhookConfiguration,omitempty"`
	// ServingCertificate is where the TLS certificate comes from.
	ServingCertificate ServingCertificate `json:"servingCertificate,omitzero"`
}

// CertificateSource names where the serving certificate comes from.
type CertificateSource string

const (
	// CertificateSelfManaged makes its own CA, keeps it in a Secret, and keeps
	// the webhook configuration's caBundle.
	CertificateSelfManaged CertificateSource = "self-managed"
	// CertificateCertManager reads files that cert-manager maintains; cainjector
	// maintains the caBundle.
	CertificateCertManager CertificateSource = "cert-manager"
	// CertificateSecret reads files that you maintain; with CABundle, the webhook
	// maintains the caBundle.
	CertificateSecret CertificateSource = "secret"
)

// ServingCertificate is where the webhook's TLS certificate comes from.
type ServingCertificate struct {
	// Source of the certificate. Default: self-managed.
	Source CertificateSource `json:"source,omitempty"`
	// DNSNames that the certificate must hold; the first is the one that the
	// readiness check asks for.
	// Default: istiod-agent-webhook.<namespace>.svc.
	DNSNames []string `json:"dnsNames,omitempty"`
	// SecretName holds the CA of self-managed certificates.
	// Default: istiod-agent-webhook-ca.
	SecretName string `json:"secretName,omitempty"`
	// CADuration of a self-managed CA, replaced after two thirds of it.
	// Default: 8760h.
	CADuration string `json:"caDuration,omitempty"`
	// LeafDuration of a self-managed serving certificate, replaced after two
	// thirds of it. Default: 168h.
	LeafDuration string `json:"leafDuration,omitempty"`
	// Directory that holds tls.crt and tls.key, for the sources cert-manager
	// and secret. Default: /tls.
	Directory string `json:"directory,omitempty"`
	// CABundle is a PEM file with the CA certificates that the API server must
	// trust, for the source secret: the program writes them to the webhook
	// configuration's caBundle. Default: none, and the caBundle is not touched.
	CABundle string `json:"caBundle,omitempty"`
}
