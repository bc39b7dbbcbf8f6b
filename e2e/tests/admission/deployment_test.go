// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/injected"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istio"
)

func TestCreation(t *testing.T) {
	inBothForms(t, func(t *testing.T, c *cluster.Cluster) {
		namespace := c.Namespace(t, true)
		inputs, err := istio.Inputs(t.Context(), namespace)
		if err != nil {
			t.Fatal(err)
		}
		for name, istiod := range inputs {
			t.Run(name, func(t *testing.T) {
				without := c.Without(t, istiod)
				stored := c.MustApply(t, istiod)
				wantInjected(t, without, stored)
				wantGeneration(t, stored, 1)

				wantGeneration(t, c.MustApply(t, istiod), 1) // the same once more

				if err := c.Delete(t.Context(), stored); err != nil {
					t.Fatal(err)
				}
			})
		}
	})
}

func TestUnlabelledNamespace(t *testing.T) {
	inBothForms(t, func(t *testing.T, c *cluster.Cluster) {
		istiod := cluster.Istiod(t, c.Namespace(t, false))
		stored := c.MustApply(t, istiod)
		if err := injected.Absent(c.Without(t, istiod), &stored.Spec.Template); err != nil {
			t.Error(err)
		}
	})
}

func TestReapply(t *testing.T) {
	inBothForms(t, func(t *testing.T, c *cluster.Cluster) {
		istiod := cluster.Istiod(t, c.Namespace(t, true))
		first := c.MustApply(t, istiod)
		again := c.MustApply(t, istiod)
		wantGeneration(t, again, 1)
		if first.ResourceVersion != again.ResourceVersion {
			t.Errorf("resourceVersion went from %s to %s", first.ResourceVersion, again.ResourceVersion)
		}
	})
}

func TestImageChange(t *testing.T) {
	inBothForms(t, func(t *testing.T, c *cluster.Cluster) {
		istiod := cluster.Istiod(t, c.Namespace(t, true))
		c.MustApply(t, istiod)

		setImage(t, istiod, "docker.io/istio/pilot:1.31.1")
		stored := c.MustApply(t, istiod)
		wantGeneration(t, stored, 2)
		wantInjected(t, c.Without(t, istiod), stored)
	})
}

func TestScale(t *testing.T) {
	inBothForms(t, func(t *testing.T, c *cluster.Cluster) {
		istiod := cluster.Istiod(t, c.Namespace(t, true))
		before := c.MustApply(t, istiod)

		scale := &autoscalingv1.Scale{Spec: autoscalingv1.ScaleSpec{Replicas: 3}}
		if err := c.SubResource("scale").Update(t.Context(), before.DeepCopy(), client.WithSubResourceBody(scale)); err != nil {
			t.Fatal(err)
		}
		scaled := c.Stored(t, before.Namespace, before.Name)
		if *scaled.Spec.Replicas != 3 {
			t.Errorf("%d replicas", *scaled.Spec.Replicas)
		}
		wantInjected(t, c.Without(t, istiod), scaled)

		patch(t, c, scaled, types.MergePatchType, `{"spec":{"replicas":2}}`)
		wantInjected(t, c.Without(t, istiod), c.Stored(t, before.Namespace, before.Name))
	})
}

// kubectl rollout undo writes an old ReplicaSet's pod template back.
func TestRolloutUndo(t *testing.T) {
	inBothForms(t, func(t *testing.T, c *cluster.Cluster) {
		istiod := cluster.Istiod(t, c.Namespace(t, true))
		old := c.MustApply(t, istiod)
		without := c.Without(t, istiod)
		setImage(t, istiod, "docker.io/istio/pilot:1.31.1")
		updated := c.MustApply(t, istiod)

		t.Run("to an injected template", func(t *testing.T) {
			updated.Spec.Template = *old.Spec.Template.DeepCopy()
			if err := c.Update(t.Context(), updated); err != nil {
				t.Fatal(err)
			}
			wantInjected(t, without, updated)
			wantGeneration(t, updated, 3)
		})
		t.Run("to one from before the injection", func(t *testing.T) {
			updated.Spec.Template = *without.DeepCopy()
			if err := c.Update(t.Context(), updated); err != nil {
				t.Fatal(err)
			}
			wantInjected(t, without, updated)
			wantGeneration(t, updated, 3) // what is stored is the same as before
		})
	})
}

func TestOptOutAndBackIn(t *testing.T) {
	inBothForms(t, func(t *testing.T, c *cluster.Cluster) {
		istiod := cluster.Istiod(t, c.Namespace(t, true))
		without := c.Without(t, istiod)
		stored := c.MustApply(t, istiod)

		patch(t, c, stored, types.MergePatchType, `{"metadata":{"annotations":{"istiod-agent.io/inject":"false"}}}`)
		if err := injected.Absent(without, &stored.Spec.Template); err != nil {
			t.Error("after opting out:", err)
		}
		if again := c.MustApply(t, istiod); again.Generation != stored.Generation {
			t.Errorf("a re-apply of what is opted out went from generation %d to %d", stored.Generation, again.Generation)
		}

		patch(t, c, stored, types.MergePatchType, `{"metadata":{"annotations":{"istiod-agent.io/inject":null}}}`)
		wantInjected(t, without, stored)
	})
}

func TestLabelRemoved(t *testing.T) {
	inBothForms(t, func(t *testing.T, c *cluster.Cluster) {
		namespace := c.Namespace(t, true)
		istiod := cluster.Istiod(t, namespace)
		stored := c.MustApply(t, istiod)
		c.Label(t, namespace, false)

		t.Run("what is injected stays through other changes", func(t *testing.T) {
			patch(t, c, stored, types.MergePatchType, `{"spec":{"replicas":2}}`)
			wantInjected(t, c.Without(t, istiod), stored)
		})
		t.Run("a server-side re-apply is refused", func(t *testing.T) {
			_, err := c.ServerSideApply(t.Context(), istiod)
			if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "may not specify more than 1 volume type") {
				t.Errorf("got %v", err)
			}
		})
		t.Run("opting out first is the way out", func(t *testing.T) {
			c.Label(t, namespace, true)
			patch(t, c, stored, types.MergePatchType, `{"metadata":{"annotations":{"istiod-agent.io/inject":"false"}}}`)
			c.Label(t, namespace, false)
			if err := injected.Absent(c.Without(t, istiod), &c.MustApply(t, istiod).Spec.Template); err != nil {
				t.Error(err)
			}
		})
	})
}

func TestOtherManagers(t *testing.T) {
	inBothForms(t, func(t *testing.T, c *cluster.Cluster) {
		istiod := cluster.Istiod(t, c.Namespace(t, true))
		stored := c.MustApply(t, istiod)
		edited := c.Without(t, istiod)

		t.Run("are kept", func(t *testing.T) {
			patch(t, c, stored, types.StrategicMergePatchType,
				`{"spec":{"template":{"metadata":{"annotations":{"kubectl.kubernetes.io/restartedAt":"2026-01-01T00:00:00Z"}},
			  "spec":{"priorityClassName":"system-cluster-critical","containers":[{"name":"discovery","env":[{"name":"A","value":"b"}]}]}}}}`)
			if edited.Annotations == nil {
				edited.Annotations = map[string]string{}
			}
			edited.Annotations["kubectl.kubernetes.io/restartedAt"] = "2026-01-01T00:00:00Z"
			edited.Spec.PriorityClassName = "system-cluster-critical"
			edited.Spec.Containers[0].Env = append([]corev1.EnvVar{{Name: "A", Value: "b"}}, edited.Spec.Containers[0].Env...)
			wantInjected(t, edited, stored)
			wantGeneration(t, stored, 2)
			wantGeneration(t, c.MustApply(t, istiod), 2)
		})
		t.Run("of the agent are put right", func(t *testing.T) {
			before := c.Stored(t, stored.Namespace, stored.Name)
			for _, edit := range []string{
				`[{"op":"remove","path":"/spec/template/spec/containers/1"}]`,
				`[{"op":"remove","path":"/spec/template/spec/initContainers"}]`,
				`[{"op":"replace","path":"/spec/template/spec/containers/1/image","value":"gcr.io/gloo-mesh/istiod-agent:1"}]`,
				`[{"op":"replace","path":"/spec/template/spec/containers/1/args","value":["sidecar","--debug"]}]`,
				`[{"op":"remove","path":"/spec/template/metadata/annotations/istiod-agent.io~1injected"}]`,
			} {
				patch(t, c, stored, types.JSONPatchType, edit)
				if stored.Generation != before.Generation {
					t.Errorf("after %s istiod is rolled out", edit)
				}
				wantInjected(t, edited, stored)
			}
		})
	})
}

func TestSecretAndEmptyDirTogether(t *testing.T) {
	inBothForms(t, func(t *testing.T, c *cluster.Cluster) {
		istiod := cluster.Istiod(t, c.Namespace(t, true))
		without := c.Without(t, istiod)
		volumes, _, _ := unstructured.NestedSlice(istiod.Object, "spec", "template", "spec", "volumes")
		for _, volume := range volumes {
			if volume.(map[string]any)["name"] == "cacerts" {
				volume.(map[string]any)["emptyDir"] = map[string]any{"medium": "Memory"}
			}
		}
		if err := unstructured.SetNestedSlice(istiod.Object, volumes, "spec", "template", "spec", "volumes"); err != nil {
			t.Fatal(err)
		}
		wantInjected(t, without, c.MustApply(t, istiod))
	})
}

func TestDryRun(t *testing.T) {
	inBothForms(t, func(t *testing.T, c *cluster.Cluster) {
		istiod := cluster.Istiod(t, c.Namespace(t, true))
		without := c.Without(t, istiod)

		var created appsv1.Deployment
		convert(t, istiod, &created)
		if err := c.Create(t.Context(), &created, client.DryRunAll); err != nil {
			t.Fatal(err)
		}
		wantInjected(t, without, &created)
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(istiod), &appsv1.Deployment{}); !apierrors.IsNotFound(err) {
			t.Errorf("after a dry run the Deployment is there: %v", err)
		}

		// What `kubectl diff --server-side` and Flux compare with what is stored.
		stored := c.MustApply(t, istiod)
		diffed, err := c.ServerSideApply(t.Context(), istiod, client.DryRunAll)
		if err != nil {
			t.Fatal(err)
		}
		if diffed.GetGeneration() != stored.Generation {
			t.Errorf("a dry run of what is stored already shows a difference: %v", diffed.Object["spec"])
		}
	})
}

func TestDeleteWhileHalfInjected(t *testing.T) {
	inBothForms(t, func(t *testing.T, c *cluster.Cluster) {
		namespace := c.Namespace(t, false)
		istiod := cluster.Istiod(t, namespace)
		var half appsv1.Deployment
		convert(t, istiod, &half)
		half.Finalizers = []string{"example.com/waits"}
		half.Spec.Template.Spec.Containers = append(half.Spec.Template.Spec.Containers, corev1.Container{Name: "istiod-agent", Image: "old"})
		if err := c.Create(t.Context(), &half); err != nil {
			t.Fatal(err)
		}
		if err := c.Delete(t.Context(), &half); err != nil {
			t.Fatal(err)
		}
		c.Label(t, namespace, true)

		patch(t, c, &half, types.MergePatchType, `{"metadata":{"labels":{"still":"there"}}}`)
		if len(half.Spec.Template.Spec.InitContainers) > 0 {
			t.Error("a Deployment being deleted was changed")
		}
		patch(t, c, &half, types.MergePatchType, `{"metadata":{"finalizers":null}}`)
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(&half), &half); !apierrors.IsNotFound(err) {
			t.Errorf("the Deployment is not gone: %v", err)
		}
	})
}
