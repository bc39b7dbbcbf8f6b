// SPDX-License-Identifier: Apache-2.0

package bypolicy

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istio"
)

// stopReplicas stops the program until the end of the test.
func stopReplicas(t *testing.T) {
	t.Helper()
	if err := shared.Webhook.StopReplicas(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := shared.Webhook.Scale(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// With every replica of the program gone, 1,000 creations, updates, scalings and rollbacks of istiod are stored with the
// agent.
func TestAlone(t *testing.T) {
	const operations, workers = 1000, 4
	namespace := shared.Namespace(t, true)
	istiod := cluster.Istiod(t, namespace)
	wantInjected(t, istiod)
	stopReplicas(t)
	first := shared.Stored(t, namespace, istiod.GetName())
	without := shared.Without(t, istiod)

	var running errgroup.Group
	for worker := range workers {
		running.Go(func() error {
			l := life{withName(istiod, fmt.Sprintf("istiod-%d", worker)), without, &first.Spec.Template}
			for done := 0; done < operations/workers; {
				for _, operation := range []struct {
					name string
					do   func(context.Context) error
				}{
					{"create", l.create},
					{"update", l.update},
					{"scale", l.scale},
					{"replicas", l.replicas},
					{"undo", l.undo},
					{"undo to a revision from before the injection", l.undoInjection},
					{"istioctl upgrade", l.istioctl},
					{"delete", l.delete},
				} {
					if err := operation.do(t.Context()); err != nil {
						return fmt.Errorf("operation %d of worker %d, %s: %w", done, worker, operation.name, err)
					}
					done++
				}
			}
			return nil
		})
	}
	if err := running.Wait(); err != nil {
		t.Error(err)
	}
}

// life is the life of one istiod. Each step requires the agent in what is stored.
type life struct {
	istiod            *unstructured.Unstructured
	without, injected *corev1.PodTemplateSpec
}

func (l life) create(ctx context.Context) error { return applyAs(ctx, shared, l.istiod, l.injected, 1) }

const newImage = "docker.io/istio/pilot:1.31.1"

func (l life) update(ctx context.Context) error {
	if _, err := shared.ServerSideApply(ctx, withImage(l.istiod, newImage)); err != nil {
		return err
	}
	return l.wantStored(ctx, 2, newImage)
}

// scale is `kubectl scale`, or an autoscaler.
func (l life) scale(ctx context.Context) error {
	body := &autoscalingv1.Scale{Spec: autoscalingv1.ScaleSpec{Replicas: 3}}
	if err := shared.SubResource("scale").Update(ctx, l.deployment(), client.WithSubResourceBody(body)); err != nil {
		return err
	}
	return l.wantStored(ctx, 3, newImage)
}

func (l life) replicas(ctx context.Context) error {
	if err := shared.Patch(ctx, l.deployment(), client.RawPatch(types.MergePatchType, []byte(`{"spec":{"replicas":2}}`))); err != nil {
		return err
	}
	return l.wantStored(ctx, 4, newImage)
}

// undo is `kubectl rollout undo`, which replaces the pod template.
func (l life) undo(ctx context.Context) error {
	if err := l.replace(ctx, l.injected); err != nil {
		return err
	}
	return l.wantStored(ctx, 5, l.injected.Spec.Containers[0].Image)
}

func (l life) undoInjection(ctx context.Context) error {
	if err := l.replace(ctx, l.without); err != nil {
		return err
	}
	return l.wantStored(ctx, 5, l.injected.Spec.Containers[0].Image) // the same object again
}

func (l life) replace(ctx context.Context, template *corev1.PodTemplateSpec) error {
	value, err := json.Marshal(template)
	if err != nil {
		return err
	}
	return shared.Patch(ctx, l.deployment(), client.RawPatch(types.JSONPatchType, fmt.Appendf(nil, `[{"op":"replace","path":"/spec/template","value":%s}]`, value)))
}

// istioctl applies server-side and forces conflicts.
func (l life) istioctl(ctx context.Context) error {
	if err := istio.ApplyAsIstioctl(ctx, shared, l.istiod.GetNamespace(), withImage(l.istiod, newImage)); err != nil {
		return err
	}
	return l.wantStored(ctx, 6, newImage)
}

func (l life) delete(ctx context.Context) error { return shared.Delete(ctx, l.deployment()) }

func (l life) deployment() *appsv1.Deployment {
	deployment := &appsv1.Deployment{}
	deployment.SetNamespace(l.istiod.GetNamespace())
	deployment.SetName(l.istiod.GetName())
	return deployment
}

func (l life) wantStored(ctx context.Context, generation int64, image string) error {
	stored := l.deployment()
	if err := shared.Get(ctx, client.ObjectKeyFromObject(stored), stored); err != nil {
		return err
	}
	expected := l.injected.DeepCopy()
	expected.Spec.Containers[0].Image = image
	if stored.Generation != generation {
		return fmt.Errorf("generation %d, want %d", stored.Generation, generation)
	}
	return differ(expected, &stored.Spec.Template)
}
