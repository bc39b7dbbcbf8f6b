// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
)

// way is an edit by which istiod could start without the agent's files, or another container could read the key.
type way struct {
	// from is the istiod that is edited.
	from form
	edit func(i *istiod)
	// alone is what the guard answers without the webhook, beside what is answered
	// with it: a part of the refusal, or one of the answers below.
	alone, beside string
}

// form of the istiod that is edited.
type form int

const (
	injectedForm form = iota
	nativeForm
	plainForm
)

// Answers of the guard and the webhook that are no refusals.
const (
	passes   = ""         // stored as it is
	injected = "injected" // stored with the agent, as the webhook renders it
)

// Refusals.
const (
	notMemory  = "which is not an in-memory emptyDir"
	noMount    = "istiod mounts nothing at /etc/cacerts"
	noAgent    = "istiod would start without istiod-agent"
	elsewhere  = "ROOT_CA_DIR"
	hidden     = "hides the files of istiod-agent"
	mounted    = "CACertsElsewhere"
	second     = "runs istiod too"
	stranger   = "which holds the CA key and is for istiod and istiod-agent only"
	ofProcess  = "could read the CA key through the processes of istiod"
	notCovered = passes
)

func agentEnv(name string) func(*istiod) {
	return func(i *istiod) { i.init().Env = append(i.init().Env, corev1.EnvVar{Name: name, Value: "/x"}) }
}

// ways are the rows of the table in docs/install.md, "What the guard covers".
var ways = map[string]way{
	"ROOT_CA_DIR elsewhere":                  {injectedForm, rootCADir(corev1.EnvVar{Value: "/elsewhere"}), elsewhere, elsewhere},
	"ROOT_CA_DIR from a ConfigMap":           {injectedForm, rootCADir(corev1.EnvVar{ValueFrom: fromConfigMap}), elsewhere, elsewhere},
	"ROOT_CA_DIR with a reference":           {injectedForm, rootCADir(corev1.EnvVar{Value: "/etc/cacerts$(X)"}), elsewhere, elsewhere},
	"ROOT_CA_DIR empty":                      {injectedForm, rootCADir(corev1.EnvVar{}), elsewhere, elsewhere},
	"ROOT_CA_DIR with ..":                    {injectedForm, rootCADir(corev1.EnvVar{Value: "/etc/x/../cacerts"}), elsewhere, elsewhere},
	"ROOT_CA_DIR relative, and a workingDir": {injectedForm, both(rootCADir(corev1.EnvVar{Value: "./etc/cacerts"}), workingDir), elsewhere, elsewhere},
	"ROOT_CA_DIR spelled oddly":              {injectedForm, rootCADir(corev1.EnvVar{Value: "//etc/./cacerts/"}), passes, passes},
	"envFrom":                                {injectedForm, both(noRootCADir, envFrom), elsewhere, injected},
	"envFrom and ROOT_CA_DIR":                {injectedForm, envFrom, passes, passes},
	"workingDir":                             {injectedForm, both(noRootCADir, workingDir), elsewhere, injected},
	"workingDir and ROOT_CA_DIR":             {injectedForm, workingDir, passes, passes},
	"CA off by a reference":                  {plainForm, env("EXTERNAL_CA", "$(X)", "PILOT_CERT_PROVIDER", "k8s.io/x"), notMemory, injected},

	"a mount below":          {injectedForm, mount("/etc/cacerts/ca-key.pem"), hidden, mounted},
	"a mount below, oddly":   {injectedForm, mount("//etc/cacerts/./..data"), hidden, mounted},
	"a mount of /etc":        {injectedForm, mount("/etc/"), hidden, mounted},
	"a mount of the root":    {injectedForm, mount("/"), hidden, mounted},
	"a mount with ..":        {injectedForm, mount("/x/../etc/cacerts"), hidden, mounted},
	"a second mount":         {injectedForm, mount("/etc/cacerts/"), hidden, mounted},
	"a mount beside":         {injectedForm, mount("/etc/cacerts-old"), passes, passes},
	"subPath":                {injectedForm, func(i *istiod) { i.ownMount().SubPath = "x" }, hidden, mounted},
	"subPathExpr":            {injectedForm, func(i *istiod) { i.ownMount().SubPathExpr = "$(POD_NAME)" }, hidden, mounted},
	"a device below":         {injectedForm, device, hidden, mounted},
	"the path spelled oddly": {injectedForm, func(i *istiod) { i.ownMount().MountPath = "/etc/./cacerts//" }, passes, passes},
	"the path relative":      {injectedForm, func(i *istiod) { i.ownMount().MountPath = "etc/cacerts" }, passes, passes},
	"a helper mounts it, and istiod nothing": {plainForm, func(i *istiod) {
		i.own().VolumeMounts = slices.DeleteFunc(i.own().VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == "/etc/cacerts" })
		i.add(corev1.Container{Name: "helper", Image: "helper", VolumeMounts: []corev1.VolumeMount{{Name: "local-certs", MountPath: "/etc/cacerts"}}})
	}, noMount, injected},
	"a second istiod": {injectedForm, func(i *istiod) {
		i.add(corev1.Container{Name: "pilot", Image: "pilot", Args: []string{"discovery"}})
	}, second, mounted},
	"a second istiod that starts first": {injectedForm, func(i *istiod) {
		always := corev1.ContainerRestartPolicyAlways
		i.pod().InitContainers = append(i.pod().InitContainers, corev1.Container{Name: "pilot", Image: "pilot", Args: []string{"discovery"}, RestartPolicy: &always})
	}, second, mounted},

	"an agent with another command": {injectedForm, func(i *istiod) { i.init().Command = []string{"true"} }, noAgent, injected},
	"an agent that prints its help": {injectedForm, func(i *istiod) { i.init().Args = append(i.init().Args, "--help") }, noAgent, injected},
	"an agent that istiod does not wait on": {injectedForm, func(i *istiod) {
		always := corev1.ContainerRestartPolicyAlways
		i.init().RestartPolicy = &always
	}, noAgent, injected},
	"an agent with another directory":     {injectedForm, agentEnv("ISTIOD_AGENT_CACERTS_DIR"), noAgent, injected},
	"an agent with its own specification": {injectedForm, agentEnv("ISTIOD_AGENT_SPEC"), noAgent, injected},
	"an agent with another API server":    {injectedForm, agentEnv("KUBECONFIG"), noAgent, injected},
	"an agent with others' variables": {injectedForm, func(i *istiod) {
		i.init().EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "x"}}}}
	}, noAgent, injected},
	"an agent with another volume":         {injectedForm, func(i *istiod) { i.init().VolumeMounts[0].Name = "local-certs" }, noAgent, injected},
	"an agent with subPath":                {injectedForm, func(i *istiod) { i.init().VolumeMounts[0].SubPath = "x" }, noAgent, injected},
	"an agent with a mount below":          {injectedForm, agentMount("/etc/cacerts/.staging"), noAgent, injected},
	"an agent with a mount over it":        {injectedForm, agentMount("/etc/cacerts/"), noAgent, injected},
	"a native agent without probe":         {nativeForm, func(i *istiod) { i.init().StartupProbe = nil }, noAgent, injected},
	"a native agent, another's probe":      {nativeForm, func(i *istiod) { i.init().StartupProbe.HTTPGet.Host = "example.com" }, noAgent, injected},
	"a native agent, another path's probe": {nativeForm, func(i *istiod) { i.init().StartupProbe.HTTPGet.Path = "/" }, noAgent, injected},
	"a native agent, another port's probe": {nativeForm, func(i *istiod) { i.init().StartupProbe.HTTPGet.Port.IntVal = 8080 }, noAgent, injected},
	"an agent of another image":            {injectedForm, func(i *istiod) { i.init().Image = "true" }, notCovered, notCovered},
	"an istiod with another command":       {injectedForm, func(i *istiod) { i.own().Command = []string{"sh"} }, notCovered, notCovered},

	"part-of istiod-agent": {plainForm, func(i *istiod) { i.meta().Labels["app.kubernetes.io/part-of"] = "istiod-agent" }, notMemory, injected},
	"app.kubernetes.io/name alone": {plainForm, func(i *istiod) {
		i.unlabel()
		i.own().Args = nil
		i.meta().Labels["app.kubernetes.io/name"] = "istiod"
	}, notMemory, notMemory},
	"no labels": {plainForm, func(i *istiod) { i.unlabel() }, notMemory, notMemory},
	"created as being deleted": {plainForm, func(i *istiod) {
		i.meta().DeletionTimestamp, i.meta().Finalizers = &longAgo, []string{"example.com/wait"}
	}, notMemory, injected},

	"a helper mounts the volume": {injectedForm, func(i *istiod) {
		i.add(corev1.Container{Name: "helper", Image: "helper", VolumeMounts: []corev1.VolumeMount{{Name: "cacerts", MountPath: "/x", ReadOnly: true}}})
	}, stranger, stranger},
	"an init container mounts the volume": {injectedForm, func(i *istiod) {
		i.pod().InitContainers = append(i.pod().InitContainers, corev1.Container{Name: "helper", Image: "helper", VolumeMounts: []corev1.VolumeMount{{Name: "cacerts", MountPath: "/etc/cacerts"}}})
	}, stranger, stranger},
	"a helper by the agent's other name": {nativeForm, func(i *istiod) {
		i.add(corev1.Container{Name: "istiod-agent-init", Image: "helper", VolumeMounts: []corev1.VolumeMount{{Name: "cacerts", MountPath: "/x"}}})
	}, stranger, injected},
	"processes shared in the Pod":  {injectedForm, func(i *istiod) { i.pod().ShareProcessNamespace = new(true) }, ofProcess, ofProcess},
	"processes shared on the node": {injectedForm, func(i *istiod) { i.pod().HostPID = true }, ofProcess, ofProcess},
}

func TestBypasses(t *testing.T) {
	for _, target := range []v1alpha1.Target{v1alpha1.TargetDeployments, v1alpha1.TargetPods} {
		alone := guardedNamespace(t, target)
		webhook := injecting
		if target == v1alpha1.TargetPods {
			webhook = injectingPods
		}
		beside := withServiceAccount(t, webhook, webhook.Namespace(t, true))
		plain := newIstiod(t, target, cluster.Istiod(t, alone))
		forms := map[form]istiod{plainForm: plain, injectedForm: plain.injected(t, v1alpha1.SidecarContainer), nativeForm: plain.injected(t, v1alpha1.SidecarNative)}
		for _, name := range slices.Sorted(maps.Keys(ways)) {
			w := ways[name]
			edited := func() istiod {
				i := forms[w.from].copied()
				w.edit(&i)
				return i
			}
			t.Run(string(target)+"/"+name+"/alone", func(t *testing.T) { wantIn(t, shared, alone, edited(), w.alone) })
			t.Run(string(target)+"/"+name+"/beside the webhook", func(t *testing.T) { wantIn(t, webhook, beside, edited(), w.beside) })
		}
	}
}

// wantIn creates an istiod (dry run).
func wantIn(t *testing.T, c *cluster.Cluster, namespace string, i istiod, answer string) {
	t.Helper()
	i.object().SetNamespace(namespace)
	err := c.Create(t.Context(), i.object(), client.DryRunAll)
	switch answer {
	case passes, injected:
		if err != nil {
			t.Fatalf("refused: %v", err)
		}
		if problem := i.incomplete(); answer == injected && problem != nil {
			t.Errorf("stored, but %v", problem)
		}
	default:
		if err == nil {
			t.Fatalf("passes, want %q", answer)
		}
		if !strings.Contains(err.Error(), answer) {
			t.Errorf("refused, without %q: %v", answer, err)
		}
	}
}

// incomplete returns an error that names the missing parts of the injection.
func (i istiod) incomplete() error {
	pod := i.pod()
	if len(pod.InitContainers) == 0 || pod.InitContainers[0].Name != "istiod-agent-init" || len(pod.InitContainers[0].Command) > 0 ||
		!slices.Equal(pod.InitContainers[0].Args, []string{"init-container"}) || pod.InitContainers[0].RestartPolicy != nil || pod.InitContainers[0].Image == "true" {
		return errors.New("istiod-agent-init is not the first init container, or not as rendered")
	}
	if mount := i.ownMount(); mount == nil || mount.Name != "cacerts" {
		return errors.New("istiod does not mount volume cacerts")
	}
	if volume := i.volume(); volume.EmptyDir == nil || volume.EmptyDir.Medium != corev1.StorageMediumMemory {
		return errors.New("volume cacerts is not in memory")
	}
	if !slices.Contains(i.own().Env, corev1.EnvVar{Name: "ROOT_CA_DIR", Value: "/etc/cacerts"}) {
		return errors.New("ROOT_CA_DIR is not /etc/cacerts")
	}
	return nil
}
