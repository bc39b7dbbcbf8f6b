// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"encoding/json"
	"slices"
	"testing"

	jsonpatch "github.com/evanphx/json-patch/v5"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/patches"
)

// forms of the injected agent.
var forms = []v1alpha1.SidecarForm{v1alpha1.SidecarContainer, v1alpha1.SidecarNative}

// istiod is a Deployment, or a Pod of its controller.
type istiod struct {
	deployment *appsv1.Deployment
	single     *corev1.Pod
}

func newIstiod(t *testing.T, target v1alpha1.Target, from *unstructured.Unstructured) istiod {
	t.Helper()
	deployment := &appsv1.Deployment{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(from.Object, deployment); err != nil {
		t.Fatal(err)
	}
	if target == v1alpha1.TargetDeployments {
		return istiod{deployment: deployment}
	}
	pod := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: deployment.Spec.Template.ObjectMeta,
		Spec:       deployment.Spec.Template.Spec,
	}
	pod.GenerateName = deployment.Name + "-"
	pod.Spec.ServiceAccountName = "istiod"
	return istiod{single: pod}
}

func (i istiod) object() client.Object {
	if i.single != nil {
		return i.single
	}
	return i.deployment
}

func (i istiod) copied() istiod {
	return istiod{deployment: i.deployment.DeepCopy(), single: i.single.DeepCopy()}
}

// meta returns the object's metadata.
func (i istiod) meta() *metav1.ObjectMeta {
	if i.single != nil {
		return &i.single.ObjectMeta
	}
	return &i.deployment.ObjectMeta
}

func (i istiod) pod() *corev1.PodSpec {
	if i.single != nil {
		return &i.single.Spec
	}
	return &i.deployment.Spec.Template.Spec
}

// unlabel removes the labels that identify an istiod.
func (i istiod) unlabel() {
	labels := []map[string]string{i.meta().Labels}
	if i.deployment != nil {
		labels = append(labels, i.deployment.Spec.Template.Labels)
	}
	for _, l := range labels {
		delete(l, "app")
		delete(l, "app.kubernetes.io/name")
	}
}

// own returns istiod's container, the first one.
func (i istiod) own() *corev1.Container { return &i.pod().Containers[0] }

func (i istiod) volume() *corev1.Volume {
	volumes := i.pod().Volumes
	return &volumes[slices.IndexFunc(volumes, func(v corev1.Volume) bool { return v.Name == "cacerts" })]
}

// injected returns the istiod as the webhook injects it.
func (i istiod) injected(t *testing.T, form v1alpha1.SidecarForm) istiod {
	t.Helper()
	config := v1alpha1.Default()
	config.Sidecar = form
	kind := patches.Deployment
	if i.single != nil {
		config.Target, kind = v1alpha1.TargetPods, patches.Pod
	}
	injector, err := patches.New(config)
	if err != nil {
		t.Fatal(err)
	}
	before, err := json.Marshal(i.object())
	if err != nil {
		t.Fatal(err)
	}
	operations, err := json.Marshal(injector.Inject(kind, before).Operations)
	if err != nil {
		t.Fatal(err)
	}
	patch, err := jsonpatch.DecodePatch(operations)
	if err != nil {
		t.Fatal(err)
	}
	after, err := patch.Apply(before)
	if err != nil {
		t.Fatal(err)
	}
	result := istiod{}
	if i.single != nil {
		result.single = &corev1.Pod{}
	} else {
		result.deployment = &appsv1.Deployment{}
	}
	if err := json.Unmarshal(after, result.object()); err != nil {
		t.Fatal(err)
	}
	return result
}
