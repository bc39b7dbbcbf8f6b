// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/istiod-agent/istiod-agent/internal/version"
)

// AgentImageRepository is where releases of the agent are published.
const AgentImageRepository = "ghcr.io/istiod-agent/istiod-agent"

// GuideNamespace is the namespace of Gloo Mesh's management plane, in which its guides create VirtualMeshes.
const GuideNamespace = "gloo-mesh"

// Default returns the configuration that an empty file stands for.
func Default() *InjectionConfiguration {
	c := &InjectionConfiguration{APIVersion: APIVersion, Kind: Kind}
	c.setDefaults()
	return c
}

func (c *InjectionConfiguration) setDefaults() {
	orElse(&c.Target, TargetDeployments)
	orElse(&c.Sidecar, SidecarContainer)
	orElse(&c.Agent.Image, AgentImageRepository+":"+strings.TrimPrefix(version.Version, "v"))
	orElse(&c.Agent.ImagePullPolicy, corev1.PullIfNotPresent)
	if c.Agent.Resources == nil {
		c.Agent.Resources = defaultResources()
	}
	if c.Agent.VaultToken == nil {
		c.Agent.VaultToken = &VaultToken{Audience: "vault"}
	}
	if token := c.Agent.VaultToken; token.Audience != "" {
		orElse(&token.ExpirationSeconds, new(int64(minTokenSeconds)))
	}
	if c.Agent.SecurityContext == nil {
		c.Agent.SecurityContext = restricted()
	}
	orElse(&c.CACerts.SizeLimit, "1Mi")
	orElse(&c.Annotate, new(true))
	orElse(&c.InjectExisting, new(true))
	orElse(&c.Rollout, RolloutManual)

	orElse(&c.AgentRights.RoleBinding, "istiod-agent.istiods")

	s := &c.Server
	orElse(&s.Port, 9443)
	orElse(&s.HealthPort, 8081)
	orElse(&s.MetricsPort, 8080)
	orElse(&s.LeaderElection, new(true))
	orElse(&s.Namespace, "istiod-agent-system")
	orElse(&s.WebhookConfiguration, "istiod-agent")
	orElse(&s.ServingCertificate.Source, CertificateSelfManaged)
	if len(s.ServingCertificate.DNSNames) == 0 {
		s.ServingCertificate.DNSNames = []string{"istiod-agent-webhook." + s.Namespace + ".svc"}
	}
	orElse(&s.ServingCertificate.SecretName, "istiod-agent-webhook-ca")
	orElse(&s.ServingCertificate.CADuration, "8760h") // a year
	orElse(&s.ServingCertificate.LeafDuration, "168h")
	orElse(&s.ServingCertificate.Directory, "/tls")

	if len(c.VirtualMesh.Namespaces) == 0 {
		c.VirtualMesh.Namespaces = slices.Compact([]string{GuideNamespace, s.Namespace})
	}
}

func orElse[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func defaultResources() *corev1.ResourceRequirements {
	return &corev1.ResourceRequirements{
		Requests: corev1.ResourceList{
			corev1.ResourceCPU:    resource.MustParse("10m"),
			corev1.ResourceMemory: resource.MustParse("32Mi"),
		},
		// The sidecar is below 18 MiB at rest; the limit bounds what a hostile answer can make of it.
		Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")},
	}
}

// restricted is what the Pod Security Standards' "restricted" level asks of a
// container. It names no user: the image does, and OpenShift assigns its own.
func restricted() *corev1.SecurityContext {
	return &corev1.SecurityContext{
		AllowPrivilegeEscalation: new(false),
		Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		ReadOnlyRootFilesystem:   new(true),
		RunAsNonRoot:             new(true),
		SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
}
