// SPDX-License-Identifier: Apache-2.0

// Package injected checks point by point whether a stored istiod carries the agent. It has its own rules and shares no code
// with the injection.
package injected

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Form describes the expected injection. With Image alone it is the result of the Gloo Mesh guide's patch; Default is this
// project's.
type Form struct {
	Image string
	// SizeLimit of the volume; empty if it has none.
	SizeLimit string
	// Native means one restartable init container instead of two containers.
	Native bool
	// Hardened means a CPU request and the restricted security context.
	Hardened bool
	// VaultToken means a service account token for Vault in the agent's containers.
	VaultToken bool
	// Annotated means that the pod template records the injection, and that istiod's container has ROOT_CA_DIR.
	Annotated bool
}

// Default returns the injection of an empty configuration file with an image.
func Default(image string) Form {
	return Form{Image: image, SizeLimit: "1Mi", Hardened: true, VaultToken: true, Annotated: true}
}

// Point is a property of an injected istiod.
type Point struct {
	Name string
	// Err is nil if the point holds, else it describes what is stored.
	Err error
}

// Missing returns the points that do not hold, nil if all do.
func Missing(points []Point) []Point {
	return slices.DeleteFunc(slices.Clone(points), func(p Point) bool { return p.Err == nil })
}

// Check compares a stored pod template with the one that the API server stores for the same istiod without the webhook.
func Check(without, stored *corev1.PodTemplateSpec, form Form) []Point {
	pod := &stored.Spec
	points := []Point{
		{"volume cacerts is in memory, and nothing else", checkVolume(pod, form)},
		{"istiod keeps its read-only mount of /etc/cacerts", checkIstiodsMount(pod)},
		{"istiod reads its CA from /etc/cacerts, whatever its envFrom and workingDir", checkRootCADir(pod, form)},
	}
	if form.Native {
		points = append(points,
			Point{"istiod-agent is the first init container", checkPlace(pod.InitContainers, 0, "istiod-agent")},
			Point{"istiod-agent restarts by itself and holds istiod back until it is ready", checkNative(pod)})
		points = append(points, checkContainer(pod, pod.InitContainers, "istiod-agent", "sidecar", form)...)
	} else {
		points = append(points,
			Point{"istiod-agent-init is the first init container", checkPlace(pod.InitContainers, 0, "istiod-agent-init")},
			Point{"istiod-agent is the last container", checkPlace(pod.Containers, len(pod.Containers)-1, "istiod-agent")})
		points = append(points, checkContainer(pod, pod.InitContainers, "istiod-agent-init", "init-container", form)...)
		points = append(points, checkContainer(pod, pod.Containers, "istiod-agent", "sidecar", form)...)
	}
	return append(points,
		Point{"a token for Vault alone is mounted in the agent's containers alone", checkToken(pod, form)},
		Point{"the pod template records the injection", checkAnnotation(stored, form)},
		Point{"all else is as it was applied", checkRest(without, stored)})
}

// Absent checks that a stored pod template equals the one without the webhook.
func Absent(without, stored *corev1.PodTemplateSpec) error {
	if !apiequality.Semantic.DeepEqual(without, stored) {
		return fmt.Errorf("the pod template is not as it was applied: containers %v, init containers %v, annotations %v, volume %s",
			names(stored.Spec.Containers), names(stored.Spec.InitContainers), stored.Annotations, asJSON(volumes(&stored.Spec)))
	}
	return nil
}

func checkVolume(pod *corev1.PodSpec, form Form) error {
	emptyDir := &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}
	if form.SizeLimit != "" {
		limit := resource.MustParse(form.SizeLimit)
		emptyDir.SizeLimit = &limit
	}
	expected := []corev1.Volume{{Name: "cacerts", VolumeSource: corev1.VolumeSource{EmptyDir: emptyDir}}}
	return differ(expected, volumes(pod))
}

func checkIstiodsMount(pod *corev1.PodSpec) error {
	i := slices.IndexFunc(pod.Containers, func(c corev1.Container) bool { return c.Name == "discovery" })
	if i < 0 {
		return fmt.Errorf("no container discovery among %v", names(pod.Containers))
	}
	return differ([]corev1.VolumeMount{{Name: "cacerts", MountPath: "/etc/cacerts", ReadOnly: true}}, mounts(pod.Containers[i]))
}

func checkRootCADir(pod *corev1.PodSpec, form Form) error {
	for _, c := range pod.Containers {
		if c.Name == "discovery" && slices.ContainsFunc(c.Env, isRootCADir) != form.Annotated {
			return fmt.Errorf("its environment is %s; want it: %t", asJSON(c.Env), form.Annotated)
		}
	}
	return nil
}

func isRootCADir(e corev1.EnvVar) bool {
	return e.Name == "ROOT_CA_DIR" && e.Value == "/etc/cacerts" && e.ValueFrom == nil
}

func checkPlace(containers []corev1.Container, index int, name string) error {
	found := slices.IndexFunc(containers, func(c corev1.Container) bool { return c.Name == name })
	if found != index || found < 0 {
		return fmt.Errorf("the containers are %v", names(containers))
	}
	return nil
}

func checkNative(pod *corev1.PodSpec) error {
	if len(pod.InitContainers) == 0 {
		return fmt.Errorf("no init container")
	}
	agent := pod.InitContainers[0]
	if agent.RestartPolicy == nil || *agent.RestartPolicy != corev1.ContainerRestartPolicyAlways {
		return fmt.Errorf("restartPolicy is %v", agent.RestartPolicy)
	}
	if agent.StartupProbe == nil || agent.StartupProbe.HTTPGet == nil || agent.StartupProbe.HTTPGet.Path != "/readyz" {
		return fmt.Errorf("startupProbe is %+v", agent.StartupProbe)
	}
	return nil
}

func checkContainer(pod *corev1.PodSpec, containers []corev1.Container, name, arg string, form Form) []Point {
	i := slices.IndexFunc(containers, func(c corev1.Container) bool { return c.Name == name })
	if i < 0 {
		return []Point{{name + " is there", fmt.Errorf("the containers are %v", names(containers))}}
	}
	c := containers[i]
	points := []Point{
		{name + " runs the agent's image with its command", checkCommand(c, form.Image, arg)},
		{name + " has the guide's environment", differ(guideEnv(), c.Env)},
		{name + " may write /etc/cacerts", differ([]corev1.VolumeMount{{Name: "cacerts", MountPath: "/etc/cacerts"}}, mounts(c))},
	}
	if form.Hardened {
		points = append(points,
			Point{name + " requests CPU, so that istiod's autoscaler keeps working", checkCPU(c)},
			Point{name + " has the restricted security context", checkSecurityContext(c, istiodsSecurityContext(pod))})
	}
	return points
}

func checkCommand(c corev1.Container, image, arg string) error {
	if c.Image != image || c.ImagePullPolicy != corev1.PullIfNotPresent || len(c.Command) > 0 || !slices.Equal(c.Args, []string{arg}) {
		return fmt.Errorf("image %s (%s), command %v, args %v; want %s with args [%s]", c.Image, c.ImagePullPolicy, c.Command, c.Args, image, arg)
	}
	return nil
}

// guideEnv is the environment in the guide's patch.
func guideEnv() []corev1.EnvVar {
	field := func(name, path string) corev1.EnvVar {
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{
			FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: path},
		}}
	}
	return []corev1.EnvVar{
		{Name: "PILOT_CERT_PROVIDER", Value: "istiod"},
		field("POD_NAME", "metadata.name"),
		field("POD_NAMESPACE", "metadata.namespace"),
		field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
	}
}

func checkCPU(c corev1.Container) error {
	if c.Resources.Requests.Cpu().IsZero() {
		return fmt.Errorf("its requests are %v", c.Resources.Requests)
	}
	return nil
}

func checkSecurityContext(c corev1.Container, istiod *corev1.SecurityContext) error {
	no, yes := false, true
	expected := &corev1.SecurityContext{
		AllowPrivilegeEscalation: &no,
		Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		ReadOnlyRootFilesystem:   &yes,
		RunAsNonRoot:             &yes,
		SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	if istiod != nil { // explicit ids are copied
		expected.RunAsUser, expected.RunAsGroup = istiod.RunAsUser, istiod.RunAsGroup
	}
	return differ(expected, c.SecurityContext)
}

func istiodsSecurityContext(pod *corev1.PodSpec) *corev1.SecurityContext {
	for _, c := range pod.Containers {
		if c.Name == "discovery" {
			return c.SecurityContext
		}
	}
	return nil
}

const tokenVolume = "istiod-agent-vault-token"

func checkToken(pod *corev1.PodSpec, form Form) error {
	expected, mount := []corev1.Volume{forVault()}, []corev1.VolumeMount{forVaultMount()}
	if !form.VaultToken {
		expected, mount = []corev1.Volume{}, []corev1.VolumeMount{}
	}
	if err := differ(expected, slices.DeleteFunc(slices.Clone(pod.Volumes), func(v corev1.Volume) bool { return v.Name != tokenVolume })); err != nil {
		return err
	}
	for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
		expected := mount
		if !isAgent(c) {
			expected = []corev1.VolumeMount{}
		}
		if err := differ(expected, slices.DeleteFunc(slices.Clone(c.VolumeMounts), func(m corev1.VolumeMount) bool { return m.Name != tokenVolume })); err != nil {
			return fmt.Errorf("container %s: %w", c.Name, err)
		}
	}
	return nil
}

func forVault() corev1.Volume {
	seconds, mode := int64(600), corev1.ProjectedVolumeSourceDefaultMode
	return corev1.Volume{Name: tokenVolume, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		DefaultMode: &mode,
		Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{
			Audience: "vault", ExpirationSeconds: &seconds, Path: "token",
		}}},
	}}}
}

func forVaultMount() corev1.VolumeMount {
	return corev1.VolumeMount{Name: tokenVolume, MountPath: "/var/run/secrets/istiod-agent.io/vault", ReadOnly: true}
}

func isAgent(c corev1.Container) bool { return strings.HasPrefix(c.Name, "istiod-agent") }

func checkAnnotation(template *corev1.PodTemplateSpec, form Form) error {
	digest, found := template.Annotations["istiod-agent.io/injected"]
	if found != form.Annotated || (found && strings.TrimSpace(digest) == "") {
		return fmt.Errorf("istiod-agent.io/injected is %q; want it: %t", digest, form.Annotated)
	}
	return nil
}

// checkRest compares what the other points do not cover.
func checkRest(without, stored *corev1.PodTemplateSpec) error {
	a, b := bare(without), bare(stored)
	return differ(a, b)
}

func bare(template *corev1.PodTemplateSpec) *corev1.PodTemplateSpec {
	t := template.DeepCopy()
	t.Spec.Containers = slices.DeleteFunc(t.Spec.Containers, isAgent)
	t.Spec.InitContainers = slices.DeleteFunc(t.Spec.InitContainers, isAgent)
	t.Spec.Volumes = slices.DeleteFunc(t.Spec.Volumes, isInjected)
	for i, c := range t.Spec.Containers {
		t.Spec.Containers[i].VolumeMounts = slices.DeleteFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return isCACertsMount(m) || m.Name == tokenVolume })
		t.Spec.Containers[i].Env = slices.DeleteFunc(c.Env, isRootCADir)
	}
	delete(t.Annotations, "istiod-agent.io/injected")
	delete(t.Annotations, "istiod-agent.io/original")
	return t
}

func differ(expected, found any) error {
	if apiequality.Semantic.DeepEqual(expected, found) {
		return nil
	}
	return fmt.Errorf("found %s, want %s", asJSON(found), asJSON(expected))
}

func asJSON(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func isCACerts(v corev1.Volume) bool { return v.Name == "cacerts" }

func isInjected(v corev1.Volume) bool { return isCACerts(v) || v.Name == tokenVolume }

func isCACertsMount(m corev1.VolumeMount) bool { return m.MountPath == "/etc/cacerts" }

func volumes(pod *corev1.PodSpec) []corev1.Volume {
	return slices.DeleteFunc(slices.Clone(pod.Volumes), func(v corev1.Volume) bool { return !isCACerts(v) })
}

func mounts(c corev1.Container) []corev1.VolumeMount {
	return slices.DeleteFunc(slices.Clone(c.VolumeMounts), func(m corev1.VolumeMount) bool { return !isCACertsMount(m) })
}

func names(containers []corev1.Container) []string {
	list := make([]string, 0, len(containers))
	for _, c := range containers {
		list = append(list, c.Name)
	}
	return list
}
