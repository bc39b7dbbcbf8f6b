// SPDX-License-Identifier: Apache-2.0

// Package outage tests admissions while the webhook does not answer, without its configuration, and without the guard.
package outage

import (
	"fmt"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istio"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

var shared *cluster.Cluster

func TestMain(m *testing.M) { cluster.Main(m, &shared, &webhookserver.Options{}) }

// somethingElse is a Deployment that is not istiod.
func somethingElse(namespace string) *unstructured.Unstructured {
	labels := map[string]any{"app": "something-else"}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apps/v1", "kind": "Deployment",
		"metadata": map[string]any{"name": "something-else", "namespace": namespace, "labels": labels},
		"spec": map[string]any{
			"selector": map[string]any{"matchLabels": labels},
			"template": map[string]any{
				"metadata": map[string]any{"labels": labels},
				"spec":     map[string]any{"containers": []any{map[string]any{"name": "something", "image": "registry.example/something"}}},
			},
		},
	}}
}

// Each step removes one more part.
func TestOutage(t *testing.T) {
	namespace := shared.Namespace(t, true)
	istiod := cluster.Istiod(t, namespace)
	release := installByHelm3(t)

	wantCheck(t, true, "deployments.istiod-agent.io injects")
	if err := shared.Webhook.StopReplicas(); err != nil {
		t.Fatal(err)
	}
	t.Run("webhook down", func(t *testing.T) {
		wantCheck(t, false, "deployments.istiod-agent.io")
		_, err := shared.ServerSideApply(t.Context(), istiod)
		wantRefused(t, err, "deployments.istiod-agent.io")
		wantRefused(t, upgrade(t, release, "1.31.1"), "deployments.istiod-agent.io")

		shared.MustApply(t, cluster.Istiod(t, shared.Namespace(t, false))) // elsewhere nobody notices
		other := somethingElse(namespace)
		shared.MustApply(t, other)

		t.Run("taking the label off does not help", func(t *testing.T) {
			edit(t, shared.Stored(t, release.Namespace, "istiod"), `{"metadata":{"labels":null}}`, "deployments.istiod-agent.io")
		})
		t.Run("deleting is no problem", func(t *testing.T) {
			scratch := other.DeepCopy()
			scratch.SetName("istiod-scratch")
			scratch.SetFinalizers([]string{"example.com/waits"})
			deployment := shared.MustApply(t, scratch)
			if err := shared.Delete(t.Context(), deployment); err != nil {
				t.Fatal(err)
			}
			edit(t, deployment, `{"metadata":{"labels":{"app":"istiod"}}}`, "")
			edit(t, deployment, `{"metadata":{"finalizers":null}}`, "")
		})
	})

	remove(t, &admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "istiod-agent"}})
	t.Run("only the guard left", func(t *testing.T) {
		wantCheck(t, false, "not found")
		cluster.Eventually(t, "the API server has noticed that the webhook is gone", func() error {
			if _, err := shared.ServerSideApply(t.Context(), istiod, client.DryRunAll); err != nil && !strings.Contains(err.Error(), "istiod-agent-guard") {
				return err
			}
			return nil
		})
		_, err := shared.ServerSideApply(t.Context(), istiod)
		wantRefused(t, err, "istiod-agent-guard", "cacerts", "MutatingWebhookConfiguration istiod-agent")

		t.Run("a server-side re-apply is refused", func(t *testing.T) {
			_, err := shared.ServerSideApply(t.Context(), rendered(t, release, "1.31.0"), client.ForceOwnership)
			wantRefused(t, err, "")
		})
		t.Run("Helm 3's way of upgrading is refused", func(t *testing.T) {
			wantRefused(t, upgrade(t, release, "1.31.1"), "istiod-agent-guard")
			wantVolume(t, release.Namespace, "in memory")
		})
		t.Run("what is injected may change otherwise", func(t *testing.T) {
			edit(t, shared.Stored(t, release.Namespace, "istiod"), `{"spec":{"replicas":2}}`, "")
		})
		t.Run("taking the agent out is refused", func(t *testing.T) {
			edit(t, shared.Stored(t, release.Namespace, "istiod"), `{"spec":{"template":{"spec":{"initContainers":null}}}}`, "istiod-agent-guard")
		})
		t.Run("who opts out may", func(t *testing.T) {
			out := istiod.DeepCopy()
			out.SetName("istiod-out")
			out.SetAnnotations(map[string]string{"istiod-agent.io/inject": "false"})
			shared.MustApply(t, out)
		})
		t.Run("who needs no agent may", func(t *testing.T) {
			without := cluster.Istiod(t, namespace, helm.Values{"env": helm.Values{"ENABLE_CA_SERVER": "false"}})
			without.SetName("istiod-without-ca")
			shared.MustApply(t, without)
		})
		t.Run("elsewhere nobody notices", func(t *testing.T) {
			shared.MustApply(t, cluster.Istiod(t, shared.Namespace(t, false)))
		})
	})

	// Why the guard is there: this is what would happen without it.
	remove(t, &admissionregistrationv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: "istiod-agent-guard"}})
	t.Run("neither webhook nor guard", func(t *testing.T) {
		cluster.Eventually(t, "the API server has noticed that the guard is gone", func() error {
			_, err := shared.ServerSideApply(t.Context(), istiod, client.DryRunAll)
			return err
		})
		t.Run("server-side apply is still refused", func(t *testing.T) {
			_, err := shared.ServerSideApply(t.Context(), rendered(t, release, "1.31.0"), client.ForceOwnership)
			wantRefused(t, err, "may not specify more than 1 volume type")
		})
		t.Run("Helm 3's way silently brings the Secret back", func(t *testing.T) {
			if err := upgrade(t, release, "1.31.2"); err != nil {
				t.Fatal(err)
			}
			wantVolume(t, release.Namespace, "a Secret")
			stored := shared.Stored(t, release.Namespace, "istiod")
			if agent := stored.Spec.Template.Spec.Containers; len(agent) != 2 || agent[1].Name != "istiod-agent" {
				t.Error("the agent's container was thought to stay")
			}
		})
	})
}

// wantCheck runs the check of `helm test`.
func wantCheck(t *testing.T, passes bool, words string) {
	t.Helper()
	output, err := shared.Webhook.Check(t.Context())
	if (err == nil) != passes || !strings.Contains(output, words) {
		t.Errorf("the check ended with %v and said %q; want %q", err, output, words)
	}
}

// installByHelm3 installs an istiod while the webhook works.
func installByHelm3(t *testing.T) helm.Release {
	t.Helper()
	release := helm.Release{Name: "istiod", Namespace: shared.Namespace(t, true), ClientSide: true}
	chart, err := istio.Discovery()
	if err != nil {
		t.Fatal(err)
	}
	if err := shared.Helm.Install(t.Context(), release, chart, istio.Values(release.Namespace, "1.31.0")); err != nil {
		t.Fatal(err)
	}
	wantVolume(t, release.Namespace, "in memory")
	return release
}

func upgrade(t *testing.T, release helm.Release, tag string) error {
	t.Helper()
	chart, err := istio.Discovery()
	if err != nil {
		t.Fatal(err)
	}
	return shared.Helm.Upgrade(t.Context(), release, chart, istio.Values(release.Namespace, tag))
}

func rendered(t *testing.T, release helm.Release, tag string) *unstructured.Unstructured {
	t.Helper()
	deployment, err := istio.Deployment(t.Context(), release.Namespace, istio.Values(release.Namespace, tag))
	if err != nil {
		t.Fatal(err)
	}
	return deployment
}

// edit does what `kubectl patch` does. If there is a text, it must be refused with that.
func edit(t *testing.T, deployment *appsv1.Deployment, content, refusal string) {
	t.Helper()
	err := shared.Patch(t.Context(), deployment, client.RawPatch(types.MergePatchType, []byte(content)))
	if refusal != "" {
		wantRefused(t, err, refusal)
	} else if err != nil {
		t.Errorf("patching with %s: %v", content, err)
	}
}

func remove(t *testing.T, object client.Object) {
	t.Helper()
	if err := shared.Delete(t.Context(), object); err != nil {
		t.Fatal(err)
	}
}

func wantRefused(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Error("it was admitted")
		return
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the refusal does not mention %q: %v", word, err)
		}
	}
}

// wantVolume checks the source of istiod's CA.
func wantVolume(t *testing.T, namespace, want string) {
	t.Helper()
	stored := shared.Stored(t, namespace, "istiod")
	found := "nowhere"
	for _, volume := range stored.Spec.Template.Spec.Volumes {
		switch {
		case volume.Name != "cacerts":
		case volume.Secret != nil:
			found = "a Secret"
		case volume.EmptyDir != nil && volume.EmptyDir.Medium == corev1.StorageMediumMemory:
			found = "in memory"
		default:
			found = fmt.Sprintf("%+v", volume.VolumeSource)
		}
	}
	if found != want {
		t.Errorf("the volume cacerts is %s, want %s", found, want)
	}
}
