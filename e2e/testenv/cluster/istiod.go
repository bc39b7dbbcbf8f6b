// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istio"
)

// InjectionLabel selects the namespaces whose istiods are injected.
const InjectionLabel = "istiod-agent.io/injection"

// Namespace creates a namespace whose name starts with the test's.
func (c *Cluster) Namespace(t *testing.T, labelled bool) string {
	t.Helper()
	name := regexp.MustCompile("[^a-z0-9]+").ReplaceAllString(strings.ToLower(t.Name()), "-")
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: name[:min(len(name), 40)] + "-"}}
	if labelled {
		namespace.Labels = map[string]string{InjectionLabel: "enabled"}
	}
	if err := c.Create(t.Context(), namespace); err != nil {
		t.Fatal(err)
	}
	// No controller removes deleted namespaces here: the namespace stays, unlabelled and empty.
	t.Cleanup(func() {
		ctx := context.Background()
		c.Label(t, namespace.Name, false)
		for _, kind := range []client.Object{&appsv1.Deployment{}, &corev1.Pod{}} {
			if err := c.DeleteAllOf(ctx, kind, client.InNamespace(namespace.Name), client.GracePeriodSeconds(0)); err != nil {
				t.Error(err)
			}
		}
	})
	return namespace.Name
}

// Label adds or removes a namespace's injection label.
func (c *Cluster) Label(t *testing.T, namespace string, enabled bool) {
	t.Helper()
	if err := c.SetInjection(context.Background(), namespace, enabled); err != nil { // also in a Cleanup
		t.Fatal(err)
	}
}

// SetInjection does what `kubectl label namespace` does.
func (c *Cluster) SetInjection(ctx context.Context, namespace string, enabled bool) error {
	value := "null"
	if enabled {
		value = `"enabled"`
	}
	patch := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"`+InjectionLabel+`":`+value+`}}}`))
	return c.Patch(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, patch)
}

// Istiod renders istiod's Deployment from Istio's chart.
func Istiod(t *testing.T, namespace string, values ...helm.Values) *unstructured.Unstructured {
	t.Helper()
	deployment, err := istio.Deployment(t.Context(), namespace, istio.Values(namespace, "1.31.0", values...))
	if err != nil {
		t.Fatal(err)
	}
	return deployment
}

// MustApply does what `kubectl apply --server-side` does, without forcing conflicts, and returns the stored Deployment.
func (c *Cluster) MustApply(t *testing.T, object *unstructured.Unstructured) *appsv1.Deployment {
	t.Helper()
	if _, err := c.ServerSideApply(t.Context(), object); err != nil {
		t.Fatal(err)
	}
	return c.Stored(t, object.GetNamespace(), object.GetName())
}

// ServerSideApply is MustApply for a test that expects an error. It returns the API server's answer.
func (c *Cluster) ServerSideApply(ctx context.Context, object *unstructured.Unstructured, options ...client.ApplyOption) (*unstructured.Unstructured, error) {
	answer := object.DeepCopy()
	err := c.Apply(ctx, client.ApplyConfigurationFromUnstructured(answer), append(options, client.FieldOwner("kubectl"))...)
	return answer, err
}

// Stored reads a Deployment.
func (c *Cluster) Stored(t *testing.T, namespace, name string) *appsv1.Deployment {
	t.Helper()
	var deployment appsv1.Deployment
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, &deployment); err != nil {
		t.Fatal(err)
	}
	return &deployment
}

// Without returns the pod template that the API server would store for a Deployment without this project: with defaults
// and without the agent.
func (c *Cluster) Without(t *testing.T, deployment *unstructured.Unstructured) *corev1.PodTemplateSpec {
	t.Helper()
	without, err := c.WithoutWebhook(t.Context(), deployment)
	if err != nil {
		t.Fatal(err)
	}
	return &without.Spec.Template
}

// WithoutWebhook is Without for the whole Deployment.
func (c *Cluster) WithoutWebhook(ctx context.Context, deployment *unstructured.Unstructured) (*appsv1.Deployment, error) {
	var copied appsv1.Deployment
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(deployment.Object, &copied); err != nil {
		return nil, err
	}
	copied.Namespace = "default" // not labelled
	err := c.Create(ctx, &copied, client.DryRunAll)
	return &copied, err
}

// ServiceAccount creates istiod's ServiceAccount in a namespace, which the API server requires for a Pod of istiod's.
func (c *Cluster) ServiceAccount(t *testing.T, namespace string) {
	t.Helper()
	if err := c.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "istiod", Namespace: namespace}}); err != nil {
		t.Fatal(err)
	}
}

// Pod returns the Pod that the ReplicaSet controller creates from a template.
func Pod(namespace string, of *corev1.PodTemplateSpec) *corev1.Pod {
	of = of.DeepCopy()
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "istiod-7c9d-", Namespace: namespace, Labels: of.Labels, Annotations: of.Annotations},
		Spec:       of.Spec,
	}
}

// TemplateOf returns a Pod's template without the API token, whose volume name is random.
func TemplateOf(pod *corev1.Pod) *corev1.PodTemplateSpec {
	spec := pod.Spec.DeepCopy()
	spec.Volumes = slices.DeleteFunc(spec.Volumes, func(v corev1.Volume) bool { return IsAPIToken(v.Name) })
	for _, containers := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range containers {
			containers[i].VolumeMounts = slices.DeleteFunc(containers[i].VolumeMounts, func(m corev1.VolumeMount) bool { return IsAPIToken(m.Name) })
		}
	}
	return &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: pod.Labels, Annotations: pod.Annotations}, Spec: *spec}
}

// IsAPIToken reports whether a volume is the API token that the API server adds to each Pod.
func IsAPIToken(volume string) bool { return strings.HasPrefix(volume, "kube-api-access-") }

// Eventually waits up to 30 seconds until the condition returns no error.
func Eventually(t *testing.T, what string, condition func() error) {
	t.Helper()
	Within(t, 30*time.Second, what, condition)
}

// Within is Eventually with another limit.
func Within(t *testing.T, limit time.Duration, what string, condition func() error) {
	t.Helper()
	var last error
	err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, limit, true, func(context.Context) (bool, error) {
		last = condition()
		return last == nil, nil
	})
	if err != nil {
		t.Fatalf("%s: not so after %s: %v", what, limit, last)
	}
}
