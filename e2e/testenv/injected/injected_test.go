// SPDX-License-Identifier: Apache-2.0

package injected

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Every point fails when, and only when, what it speaks of is not so.
func TestCheck(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func(*corev1.PodTemplateSpec)
		fails string
	}{
		"nothing": {func(*corev1.PodTemplateSpec) {}, ""},
		"the Secret is there as well": {func(p *corev1.PodTemplateSpec) {
			p.Spec.Volumes[1].Secret = &corev1.SecretVolumeSource{SecretName: "cacerts"}
		}, "volume cacerts is in memory, and nothing else"},
		"the volume is on disk": {func(p *corev1.PodTemplateSpec) {
			p.Spec.Volumes[1].EmptyDir.Medium = ""
		}, "volume cacerts is in memory, and nothing else"},
		"the volume has no limit": {func(p *corev1.PodTemplateSpec) {
			p.Spec.Volumes[1].EmptyDir.SizeLimit = nil
		}, "volume cacerts is in memory, and nothing else"},
		"istiod may write": {func(p *corev1.PodTemplateSpec) {
			p.Spec.Containers[0].VolumeMounts[0].ReadOnly = false
		}, "istiod keeps its read-only mount of /etc/cacerts"},
		"istiod may look elsewhere": {func(p *corev1.PodTemplateSpec) {
			p.Spec.Containers[0].Env = nil
		}, "istiod reads its CA from /etc/cacerts, whatever its envFrom and workingDir"},
		"another init container is first": {func(p *corev1.PodTemplateSpec) {
			slices.Reverse(p.Spec.InitContainers)
		}, "istiod-agent-init is the first init container"},
		"the agent is first": {func(p *corev1.PodTemplateSpec) {
			slices.Reverse(p.Spec.Containers)
		}, "istiod-agent is the last container"},
		"another image": {func(p *corev1.PodTemplateSpec) {
			p.Spec.Containers[1].Image = "agent:2"
		}, "istiod-agent runs the agent's image with its command"},
		"another command": {func(p *corev1.PodTemplateSpec) {
			p.Spec.InitContainers[0].Args = []string{"sidecar"}
		}, "istiod-agent-init runs the agent's image with its command"},
		"a variable is missing": {func(p *corev1.PodTemplateSpec) {
			p.Spec.Containers[1].Env = p.Spec.Containers[1].Env[1:]
		}, "istiod-agent has the guide's environment"},
		"the agent may not write": {func(p *corev1.PodTemplateSpec) {
			p.Spec.InitContainers[0].VolumeMounts[0].ReadOnly = true
		}, "istiod-agent-init may write /etc/cacerts"},
		"no CPU request": {func(p *corev1.PodTemplateSpec) {
			p.Spec.Containers[1].Resources.Requests = nil
		}, "istiod-agent requests CPU, so that istiod's autoscaler keeps working"},
		"a user id of its own": {func(p *corev1.PodTemplateSpec) {
			p.Spec.Containers[1].SecurityContext.RunAsUser = new(int64(1337))
		}, "istiod-agent has the restricted security context"},
		"a token for others": {func(p *corev1.PodTemplateSpec) {
			p.Spec.Volumes[2].Projected.Sources[0].ServiceAccountToken.Audience = "others"
		}, "a token for Vault alone is mounted in the agent's containers alone"},
		"istiod has the token": {func(p *corev1.PodTemplateSpec) {
			p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, forVaultMount())
		}, "a token for Vault alone is mounted in the agent's containers alone"},
		"no record": {func(p *corev1.PodTemplateSpec) {
			delete(p.Annotations, "istiod-agent.io/injected")
		}, "the pod template records the injection"},
		"istiod's image changed": {func(p *corev1.PodTemplateSpec) {
			p.Spec.Containers[0].Image = "pilot:2"
		}, "all else is as it was applied"},
		"another annotation": {func(p *corev1.PodTemplateSpec) {
			p.Annotations["a"] = "b"
		}, "all else is as it was applied"},
	} {
		t.Run(name, func(t *testing.T) {
			stored := wellInjected()
			test.spoil(stored)
			missing := Missing(Check(applied(), stored, Default("agent:1")))
			if test.fails == "" && len(missing) == 0 {
				return
			}
			if len(missing) != 1 || missing[0].Name != test.fails {
				t.Errorf("the points that fail are %v, want %q", missing, test.fails)
			}
		})
	}
}

func applied() *corev1.PodTemplateSpec {
	p := &corev1.PodTemplateSpec{Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{{Name: "own"}},
		Containers: []corev1.Container{{
			Name: "discovery", Image: "pilot:1",
			VolumeMounts: []corev1.VolumeMount{{Name: "cacerts", MountPath: "/etc/cacerts", ReadOnly: true}},
		}},
		Volumes: []corev1.Volume{{Name: "istio-token"}, {Name: "cacerts", VolumeSource: corev1.VolumeSource{
			Secret: &corev1.SecretVolumeSource{SecretName: "cacerts"},
		}}},
	}}
	p.Annotations = map[string]string{"sidecar.istio.io/inject": "false"}
	return p
}

func wellInjected() *corev1.PodTemplateSpec {
	agent := func(name, arg string) corev1.Container {
		return corev1.Container{
			Name: name, Image: "agent:1", ImagePullPolicy: corev1.PullIfNotPresent, Args: []string{arg}, Env: guideEnv(),
			VolumeMounts: []corev1.VolumeMount{{Name: "cacerts", MountPath: "/etc/cacerts"}, forVaultMount()},
			Resources:    corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m")}},
			SecurityContext: &corev1.SecurityContext{
				AllowPrivilegeEscalation: new(false),
				Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
				ReadOnlyRootFilesystem:   new(true),
				RunAsNonRoot:             new(true),
				SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
		}
	}
	p, limit := applied(), resource.MustParse("1Mi")
	p.Spec.InitContainers = append([]corev1.Container{agent("istiod-agent-init", "init-container")}, p.Spec.InitContainers...)
	p.Spec.Containers = append(p.Spec.Containers, agent("istiod-agent", "sidecar"))
	p.Spec.Volumes[1].VolumeSource = corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: &limit}}
	p.Spec.Volumes = append(p.Spec.Volumes, forVault())
	p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "ROOT_CA_DIR", Value: "/etc/cacerts"}}
	p.Annotations["istiod-agent.io/injected"] = "0123"
	return p
}
