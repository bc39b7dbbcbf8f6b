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

	// By is what injects. Default: webhook. The command line's inject ignores it.
	By By `json:"by,omitempty"`
	// Target is the kind of object to inject. Default: deployments.
	Target Target `json:"target,omitempty"`
	// Sidecar is the form of the agent beside istiod. Default: container.
	Sidecar SidecarForm `json:"sidecar,omitempty"`
	// Agent is the injected container.
	Agent Agent `json:"agent,omitzero"`
	// CACerts is the in-memory volume that holds the intermediate CA.
	CACerts CACerts `json:"cacerts,omitzero"`
	// MultiRootMesh sets ISTIO_MULTIROOT_MESH=true in istiod's container, unless the container sets it: istiod then
	// accepts other roots of trust while it runs, so that the root can change without a restart. Default: false.
	MultiRootMesh bool `json:"multiRootMesh,omitempty"`
	// Annotate records a digest of the rendered injection on the pod template, as istiod-agent.io/injected. Default:
	// true. istiod-agent.io/original on the object itself records what a removal restores, in any case.
	Annotate *bool `json:"annotate,omitempty"`
	// InjectExisting injects existing istiods when their namespace is labelled, which restarts them. Default: true.
	InjectExisting *bool `json:"injectExisting,omitempty"`
	// Rollout is what happens to injected istiods when the rendered injection changes. Default: manual.
	Rollout Rollout `json:"rollout,omitempty"`
	// ClusterName is this cluster's part of the mesh names in a VirtualMesh, <istiod's Deployment>-<its
	// namespace>-<cluster>. Default: none; VirtualMeshes then get a message. The command line ignores it.
	ClusterName string `json:"clusterName,omitempty"`
	// Namespaces that the controllers act in, 64 at most: those with rights, where the chart grants them per namespace
	// (rbac.namespaces). Admission answers for every labelled namespace. Default: all; the command line ignores it.
	Namespaces []string `json:"namespaces,omitempty"`
	// VirtualMesh limits the VirtualMeshes to act on; the command line ignores it.
	VirtualMesh VirtualMesh `json:"virtualMesh,omitzero"`
	// AgentRights are the rights of the service accounts of injected istiods; the command line ignores it.
	AgentRights AgentRights `json:"agentRights,omitzero"`
	// Server configures the servers of the webhook program; the command line ignores it.
	Server Server `json:"server,omitzero"`
}

// By is what injects istiod when it is stored.
type By string

const (
	// ByWebhook is this program, which the API server calls.
	ByWebhook By = "webhook"
	// ByPolicy is the API server itself, by a MutatingAdmissionPolicy (Kubernetes 1.36 and later). The program then keeps
	// the policy's parameter and serves no admission.
	ByPolicy By = "policy"
)

// Target is the kind of object that is injected.
type Target string

const (
	// TargetDeployments injects istiod's Deployment as it is stored.
	TargetDeployments Target = "deployments"
	// TargetPods injects istiod's Pods when they are created. The Deployment stays as its owner wrote it, as GitOps
	// tools require.
	TargetPods Target = "pods"
)

// SidecarForm is the form of the agent beside istiod.
type SidecarForm string

const (
	// SidecarContainer is an init container and an ordinary container.
	SidecarContainer SidecarForm = "container"
	// SidecarNative is one init container with restartPolicy Always (Kubernetes 1.29 and later).
	SidecarNative SidecarForm = "native"
)

// Rollout is what happens to injected istiods when the injection changes.
type Rollout string

const (
	// RolloutManual reports outdated istiods. Their next change or `kubectl rollout restart` updates them.
	RolloutManual Rollout = "manual"
	// RolloutAutomatic updates outdated istiods at once, which restarts them.
	RolloutAutomatic Rollout = "automatic"
)

// Agent configures the injected containers. {} as resources or securityContext means none.
type Agent struct {
	// Image of the agent. Default: this release's own.
	Image string `json:"image,omitempty"`
	// ImagePullPolicy of the agent. Default: IfNotPresent.
	ImagePullPolicy corev1.PullPolicy `json:"imagePullPolicy,omitempty"`
	// Env follows the variables that the agent always has (PILOT_CERT_PROVIDER, POD_NAME, POD_NAMESPACE,
	// SERVICE_ACCOUNT).
	Env []corev1.EnvVar `json:"env,omitempty"`
	// VaultToken is the agent's service account token for logins to Vault with its audience. {} means none. Default:
	// one for audience vault.
	VaultToken *VaultToken `json:"vaultToken,omitempty"`
	// AllowedServers are the Vault servers that specifications may name, each as https://<host>[:<port>][/<prefix>]
	// with the same prefix. The agent sends nothing to any other. Default: any server.
	AllowedServers []string `json:"allowedServers,omitempty"`
	// Resources of each injected container. Default: requests of 10m CPU and 32Mi memory, a limit of 64Mi memory.
	// Without a CPU request istiod's HorizontalPodAutoscaler stops.
	Resources *corev1.ResourceRequirements `json:"resources,omitempty"`
	// SecurityContext of each injected container. Default: that of Pod Security's level restricted, without a user id;
	// ids of istiod's container are copied.
	SecurityContext *corev1.SecurityContext `json:"securityContext,omitempty"`
}

// VaultToken is a projected service account token.
type VaultToken struct {
	// Audience of the token, as in Vault's role and kubernetesAuth.audience. Empty: no token is projected.
	Audience string `json:"audience,omitempty"`
	// ExpirationSeconds is the lifetime of the token, at least 600; the kubelet renews it. Default: 600.
	ExpirationSeconds *int64 `json:"expirationSeconds,omitempty"`
}

// CACerts is the volume mounted at /etc/cacerts.
type CACerts struct {
	// SizeLimit of the in-memory volume, a quantity. "0" means none. Default: 1Mi.
	SizeLimit string `json:"sizeLimit,omitempty"`
}

// VirtualMesh limits the VirtualMeshes to act on.
type VirtualMesh struct {
	// Namespaces of these VirtualMeshes, 64 at most. A user who may write a VirtualMesh there chooses the CA of istiod's
	// certificate. Default: gloo-mesh and that of the server.
	Namespaces []string `json:"namespaces,omitempty"`
}

// AgentRights are the agent's rights for the service account of every injected istiod of some namespaces.
type AgentRights struct {
	// Namespaces whose istiods get the rights, 64 at most. Default: none.
	Namespaces []string `json:"namespaces,omitempty"`
	// RoleBinding is the one in each of these namespaces whose subjects the program writes. Default:
	// istiod-agent.istiods.
	RoleBinding string `json:"roleBinding,omitempty"`
}

// Covers reports whether the rights are granted in a namespace.
func (r *AgentRights) Covers(namespace string) bool { return slices.Contains(r.Namespaces, namespace) }

// Server configures the servers of the webhook program.
type Server struct {
	// BindAddress is the IP address to listen on. Default: all addresses.
	BindAddress string `json:"bindAddress,omitempty"`
	// Port serves admission over TLS. Default: 9443.
	Port int32 `json:"port,omitempty"`
	// HealthPort serves /healthz and /readyz over HTTP. Default: 8081.
	HealthPort int32 `json:"healthPort,omitempty"`
	// MetricsPort serves /metrics over HTTP. Default: 8080.
	MetricsPort int32 `json:"metricsPort,omitempty"`
	// ClientCA is a PEM file with the CA certificates of the API server's client certificate. The admission port then
	// requires such a certificate. Default: none; any client is answered.
	ClientCA string `json:"clientCA,omitempty"`
	// LeaderElection of the controllers; admission never needs a leader. Default: true.
	LeaderElection *bool `json:"leaderElection,omitempty"`
	// Namespace of the Lease, of the Injection and of the Secret with the self-managed CA. Default: istiod-agent-system.
	Namespace string `json:"namespace,omitempty"`
	// WebhookConfiguration is the MutatingWebhookConfiguration whose caBundle the program writes. Default:
	// istiod-agent.
	WebhookConfiguration string `json:"webhookConfiguration,omitempty"`
	// Injection is the object of this kind that the program keeps: what it injects, and the admission policy's parameter.
	// Default: istiod-agent.
	Injection string `json:"injection,omitempty"`
	// ServingCertificate is the source of the TLS certificate.
	ServingCertificate ServingCertificate `json:"servingCertificate,omitzero"`
	// BundleEndpoint serves a mesh's roots of trust.
	BundleEndpoint BundleEndpoint `json:"bundleEndpoint,omitzero"`
}

// BundleEndpoint serves the roots of trust of one mesh as a SPIFFE bundle, to any client.
type BundleEndpoint struct {
	// Port serves the bundle over TLS. Default: none; no bundle is served.
	Port int32 `json:"port,omitempty"`
	// Namespaces of the mesh's istiods, 64 at most, whose published roots are served. Default: istio-system.
	Namespaces []string `json:"namespaces,omitempty"`
	// Directory of tls.crt and tls.key. Default: /bundle-tls.
	Directory string `json:"directory,omitempty"`
}

// Enabled reports whether a bundle is served.
func (b *BundleEndpoint) Enabled() bool { return b.Port != 0 }

// CertificateSource is a source of the serving certificate.
type CertificateSource string

const (
	// CertificateSelfManaged creates a CA in a Secret, and writes the webhook configuration's caBundle.
	CertificateSelfManaged CertificateSource = "self-managed"
	// CertificateCertManager reads files from cert-manager, whose cainjector writes the caBundle.
	CertificateCertManager CertificateSource = "cert-manager"
	// CertificateSecret reads files from another program; with a file in caBundle, this program writes that of the webhook configuration.
	CertificateSecret CertificateSource = "secret"
)

// ServingCertificate is the webhook's TLS certificate.
type ServingCertificate struct {
	// Source of the certificate. Default: self-managed.
	Source CertificateSource `json:"source,omitempty"`
	// DNSNames of the certificate; the readiness check uses the first. Default: istiod-agent-webhook.<namespace>.svc.
	DNSNames []string `json:"dnsNames,omitempty"`
	// SecretName is the Secret of the self-managed CA. Default: istiod-agent-webhook-ca.
	SecretName string `json:"secretName,omitempty"`
	// CADuration of a self-managed CA, replaced after two thirds of it. Default: 8760h.
	CADuration string `json:"caDuration,omitempty"`
	// LeafDuration of a self-managed serving certificate, replaced after two thirds of it. Default: 168h.
	LeafDuration string `json:"leafDuration,omitempty"`
	// Directory of tls.crt and tls.key, for the sources cert-manager and secret. Default: /tls.
	Directory string `json:"directory,omitempty"`
	// CABundle is a PEM file with the CA certificates that the program writes to the webhook configuration's caBundle,
	// for the source secret. Default: none; the caBundle is not written.
	CABundle string `json:"caBundle,omitempty"`
}
