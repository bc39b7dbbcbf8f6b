// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"cmp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/istiod-agent/istiod-agent/internal/version"
)

// Default returns the configuration of an empty file.
func Default() *InjectionConfiguration {
	c := &InjectionConfiguration{APIVersion: APIVersion, Kind: Kind}
	c.setDefaults()
	return c
}

func (c *InjectionConfiguration) setDefaults() {
	c.By = cmp.Or(c.By, ByWebhook)
	c.Target = cmp.Or(c.Target, TargetDeployments)
	c.Sidecar = cmp.Or(c.Sidecar, SidecarContainer)
	c.CACerts.SizeLimit = cmp.Or(c.CACerts.SizeLimit, "1Mi")
	c.Annotate = cmp.Or(c.Annotate, new(true))
	c.InjectExisting = cmp.Or(c.InjectExisting, new(true))
	c.Rollout = cmp.Or(c.Rollout, RolloutManual)
	c.AgentRights.RoleBinding = cmp.Or(c.AgentRights.RoleBinding, "istiod-agent.istiods")

	a := &c.Agent
	a.Image = cmp.Or(a.Image, "ghcr.io/istiod-agent/istiod-agent:"+strings.TrimPrefix(version.Version, "v"))
	a.ImagePullPolicy = cmp.Or(a.ImagePullPolicy, corev1.PullIfNotPresent)
	a.Resources = cmp.Or(a.Resources, defaultResources())
	a.SecurityContext = cmp.Or(a.SecurityContext, restricted())
	a.VaultToken = cmp.Or(a.VaultToken, &VaultToken{Audience: "vault"})
	if a.VaultToken.Audience != "" {
		a.VaultToken.ExpirationSeconds = cmp.Or(a.VaultToken.ExpirationSeconds, new(int64(minTokenSeconds)))
	}

	s := &c.Server
	s.Port = cmp.Or(s.Port, 9443)
	s.HealthPort = cmp.Or(s.HealthPort, 8081)
	s.MetricsPort = cmp.Or(s.MetricsPort, 8080)
	s.LeaderElection = cmp.Or(s.LeaderElection, new(true))
	s.Namespace = cmp.Or(s.Namespace, "istiod-agent-system")
	s.WebhookConfiguration = cmp.Or(s.WebhookConfiguration, "istiod-agent")
	s.Injection = cmp.Or(s.Injection, "istiod-agent")

	cert := &s.ServingCertificate
	cert.Source = cmp.Or(cert.Source, CertificateSelfManaged)
	if len(cert.DNSNames) == 0 {
		cert.DNSNames = []string{"istiod-agent-webhook." + s.Namespace + ".svc"}
	}
	cert.SecretName = cmp.Or(cert.SecretName, "istiod-agent-webhook-ca")
	cert.CADuration = cmp.Or(cert.CADuration, "8760h") // a year
	cert.LeafDuration = cmp.Or(cert.LeafDuration, "168h")
	cert.Directory = cmp.Or(cert.Directory, "/tls")

	if bundle := &s.BundleEndpoint; bundle.Enabled() {
		if len(bundle.Namespaces) == 0 {
			bundle.Namespaces = []string{"istio-system"}
		}
		bundle.Directory = cmp.Or(bundle.Directory, "/bundle-tls")
	}

	if len(c.VirtualMesh.Namespaces) == 0 {
		c.VirtualMesh.Namespaces = slices.Compact([]string{"gloo-mesh", s.Namespace}) // Gloo Mesh's guides create VirtualMeshes in the former
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

// restricted is a container of the Pod Security Standards' level restricted. It names no user: the image does, and
// OpenShift assigns its own.
func restricted() *corev1.SecurityContext {
	return &corev1.SecurityContext{
		AllowPrivilegeEscalation: new(false),
		Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		ReadOnlyRootFilesystem:   new(true),
		RunAsNonRoot:             new(true),
		SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
}
