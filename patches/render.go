// SPDX-License-Identifier: Apache-2.0

package patches

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
)

// HealthPort serves the agent's /healthz, /readyz and /metrics. No istiod (8080, 9876, 15010, 15012, 15014, 15017) and no
// proxy uses it.
const HealthPort = 15085

// rendering is the injection of one configuration, for an istiod that sets no ids and names its volume cacerts.
type rendering struct {
	init    *corev1.Container // first in initContainers
	sidecar *corev1.Container // last in containers; nil in the native form
	volume  corev1.Volume
	token   *corev1.Volume // of the token for Vault; nil for none

	annotate bool
	digest   string
	// json holds the encoded forms, for istiods that need no adaptation.
	json struct{ init, sidecar, volume, token json.RawMessage }
	// multiRoot is true if istiod must accept other roots of trust while it runs.
	multiRoot bool
	// copiesIDs is false if the configuration has no security context.
	copiesIDs bool
}

func render(config *v1alpha1.InjectionConfiguration) (rendering, error) {
	r := rendering{
		annotate:  *config.Annotate,
		multiRoot: config.MultiRootMesh,
		copiesIDs: *config.Agent.SecurityContext != (corev1.SecurityContext{}),
	}

	emptyDir := &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}
	limit, err := resource.ParseQuantity(config.CACerts.SizeLimit)
	if err != nil {
		return r, err
	}
	if !limit.IsZero() {
		emptyDir.SizeLimit = &limit
	}
	r.volume = corev1.Volume{Name: caCertsVolume, VolumeSource: corev1.VolumeSource{EmptyDir: emptyDir}}

	r.token = tokenVolume(config.Agent.VaultToken)

	sidecar := container(config.Agent, AgentContainer, "sidecar")
	if config.Sidecar == v1alpha1.SidecarNative {
		sidecar.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
		sidecar.StartupProbe = publishedProbe()
		r.init = sidecar
	} else {
		r.init, r.sidecar = container(config.Agent, InitContainer, "init-container"), sidecar
	}

	for _, c := range []*corev1.Container{r.init, r.sidecar} {
		if c != nil {
			setMultiRoot(c, r.multiRoot)
		}
	}
	if r.json.init, err = containerJSON(r.init); err != nil {
		return r, err
	}
	if r.json.volume, err = json.Marshal(r.volume); err != nil {
		return r, err
	}
	parts := [][]byte{r.json.init, r.json.volume}
	if r.sidecar != nil {
		if r.json.sidecar, err = containerJSON(r.sidecar); err != nil {
			return r, err
		}
		parts = append(parts, r.json.sidecar)
	}
	if r.token != nil {
		if r.json.token, err = json.Marshal(r.token); err != nil {
			return r, err
		}
		parts = append(parts, r.json.token)
	}
	sum := sha256.Sum256(bytes.Join(parts, []byte{'\n'}))
	r.digest = hex.EncodeToString(sum[:8])
	return r, nil
}

// container is the guide's, extended by the configuration.
func container(agent v1alpha1.Agent, name, command string) *corev1.Container {
	c := &corev1.Container{
		Name:            name,
		Image:           agent.Image,
		ImagePullPolicy: agent.ImagePullPolicy,
		Args:            []string{command},
		Env: append([]corev1.EnvVar{
			{Name: "PILOT_CERT_PROVIDER", Value: "istiod"},
			fromField("POD_NAME", "metadata.name"),
			fromField("POD_NAMESPACE", "metadata.namespace"),
			fromField("SERVICE_ACCOUNT", "spec.serviceAccountName"),
		}, agent.Env...),
		Resources:    *agent.Resources.DeepCopy(),
		VolumeMounts: []corev1.VolumeMount{{Name: caCertsVolume, MountPath: CACertsPath}},
	}
	if len(agent.AllowedServers) > 0 {
		c.Env = append(c.Env, corev1.EnvVar{Name: v1alpha1.AllowedServersVariable, Value: strings.Join(agent.AllowedServers, ",")})
	}
	if agent.VaultToken.Audience != "" {
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: VaultTokenVolume, MountPath: VaultTokenPath, ReadOnly: true})
	}
	if *agent.SecurityContext != (corev1.SecurityContext{}) {
		c.SecurityContext = agent.SecurityContext.DeepCopy()
	}
	return c
}

// tokenVolume projects a service account token with Vault's audience: the pod's default token opens the API server.
func tokenVolume(config *v1alpha1.VaultToken) *corev1.Volume {
	if config.Audience == "" {
		return nil
	}
	return &corev1.Volume{Name: VaultTokenVolume, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{
			Audience: config.Audience, ExpirationSeconds: config.ExpirationSeconds, Path: vaultTokenFile,
		}}},
	}}}
}

func fromField(name, path string) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{
		FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: path},
	}}
}

// publishedProbe keeps istiod waiting until its files are in place. Without it, a native sidecar counts as started once it
// runs, and istiod would create its own root. After an hour of failures the kubelet restarts the agent.
func publishedProbe() *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{
			Path: "/readyz", Port: intstr.FromInt32(HealthPort), Scheme: corev1.URISchemeHTTP,
		}},
		TimeoutSeconds:   1,
		PeriodSeconds:    1,
		SuccessThreshold: 1,
		FailureThreshold: 3600,
	}
}

// containerJSON omits the empty "resources" that the API type always encodes.
func containerJSON(c *corev1.Container) (json.RawMessage, error) {
	raw, err := json.Marshal(c)
	return bytes.Replace(raw, []byte(`"resources":{},`), nil, 1), err
}
