// SPDX-License-Identifier: Apache-2.0

// Package pods tests the webhook with target pods: it injects into istiod's Pods and does not change the Deployment.
package pods

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/injected"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

const agentImage = "registry.example/istiod-agent:1.2.3"

var shared *cluster.Cluster

func TestMain(m *testing.M) {
	cluster.Main(m, &shared, &webhookserver.Options{
		Values:        helm.Values{"injection": helm.Values{"target": "pods"}},
		Configuration: map[string]any{"agent": map[string]any{"image": agentImage}},
	})
}

func TestCreation(t *testing.T) {
	namespace := namespaceWithIstiod(t, true)
	istiod := cluster.Istiod(t, namespace)
	without := shared.Without(t, istiod)
	if err := injected.Absent(without, &shared.MustApply(t, istiod).Spec.Template); err != nil {
		t.Error(err)
	}

	reference := create(t, cluster.Pod(namespaceWithIstiod(t, false), without))
	pod := create(t, cluster.Pod(namespace, without))
	for _, point := range injected.Missing(injected.Check(cluster.TemplateOf(reference), cluster.TemplateOf(pod), injected.Default(agentImage))) {
		t.Errorf("not so: %s: %v", point.Name, point.Err)
	}

	t.Run("every container has the API token", func(t *testing.T) {
		for _, container := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
			if !slices.ContainsFunc(container.VolumeMounts, func(m corev1.VolumeMount) bool {
				return cluster.IsAPIToken(m.Name) && m.MountPath == "/var/run/secrets/kubernetes.io/serviceaccount"
			}) {
				t.Errorf("container %s has the mounts %+v", container.Name, container.VolumeMounts)
			}
		}
	})
	t.Run("the token is mounted at once, so the webhook is asked once", func(t *testing.T) {
		wantRounds(t, pod, true)
	})
	t.Run("a change of the Pod is no matter", func(t *testing.T) {
		patch := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"b"}}}`))
		if err := shared.Patch(t.Context(), pod, patch); err != nil {
			t.Error(err)
		}
	})
}

func TestOptOut(t *testing.T) {
	namespace := namespaceWithIstiod(t, true)
	out := cluster.Pod(namespace, shared.Without(t, cluster.Istiod(t, namespace)))
	out.Annotations["istiod-agent.io/inject"] = "false"
	if created := create(t, out); len(created.Spec.InitContainers) > 0 {
		t.Errorf("it has init containers %+v", created.Spec.InitContainers)
	}
}

func TestExistingPods(t *testing.T) {
	namespace := namespaceWithIstiod(t, false)
	istiod := cluster.Istiod(t, namespace)
	existing := create(t, cluster.Pod(namespace, shared.Without(t, istiod)))
	before := shared.MustApply(t, istiod)
	shared.Label(t, namespace, true)

	cluster.Eventually(t, "the Deployment is told to replace its Pods", func() error {
		stored := shared.Stored(t, namespace, "istiod")
		if stored.Spec.Template.Annotations["istiod-agent.io/restarted-for"] == "" {
			return fmt.Errorf("its template is annotated %v", stored.Spec.Template.Annotations)
		}
		return nil
	})
	once := shared.Stored(t, namespace, "istiod").Generation
	if once != before.Generation+1 {
		t.Errorf("it went from generation %d to %d", before.Generation, once)
	}

	t.Run("once, whatever becomes of them", func(t *testing.T) {
		// The Pod is still there, for no controller replaces it here; something
		// happens to it, which is looked at.
		looks := `controller_runtime_reconcile_total{controller="istiods",result="requeue_after"}`
		looked, _, err := shared.Webhook.Replicas[0].Sum(t.Context(), looks)
		if err != nil {
			t.Fatal(err)
		}
		patch := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"b"}}}`))
		if err := shared.Patch(t.Context(), existing, patch); err != nil {
			t.Fatal(err)
		}
		cluster.Eventually(t, "the webhook has looked again", func() error {
			again, _, err := shared.Webhook.Replicas[0].Sum(t.Context(), looks)
			if err != nil || again == looked {
				return fmt.Errorf("%v times, after %v (%w)", again, looked, err)
			}
			return nil
		})
		if again := shared.Stored(t, namespace, "istiod").Generation; again != once {
			t.Errorf("it went on from generation %d to %d", once, again)
		}
	})
}

func TestGuardAlone(t *testing.T) {
	namespace := namespaceWithIstiod(t, true)
	without := shared.Without(t, cluster.Istiod(t, namespace))
	if err := shared.Delete(t.Context(), webhookConfiguration()); err != nil {
		t.Fatal(err)
	}
	cluster.Eventually(t, "the guard refuses", func() error {
		err := shared.Create(t.Context(), cluster.Pod(namespace, without), client.DryRunAll)
		if err == nil || !strings.Contains(err.Error(), "istiod-agent-guard") {
			return fmt.Errorf("the answer is: %w", err)
		}
		return nil
	})
}

// namespaceWithIstiod returns a namespace with istiod's ServiceAccount, which the API server requires.
func namespaceWithIstiod(t *testing.T, labelled bool) string {
	t.Helper()
	namespace := shared.Namespace(t, labelled)
	shared.ServiceAccount(t, namespace)
	return namespace
}

func create(t *testing.T, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	if err := shared.Create(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	return pod
}
