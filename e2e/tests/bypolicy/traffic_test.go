// SPDX-License-Identifier: Apache-2.0

package bypolicy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/injected"
)

// traffic applies istiods all the time, at most a hundred times a second for each kind of request. Each answer of the API server must be
// the object from before the traffic.
type traffic struct {
	*cluster.Load
	c *cluster.Cluster
	// unchanged is an istiod that is applied as it is: a new generation would restart it.
	unchanged *unstructured.Unstructured
}

// startTraffic applies an istiod unchanged, another one with a new image each time, and creates and deletes further ones.
// With target pods it creates and deletes their Pods.
func startTraffic(t *testing.T, c *cluster.Cluster, target string) *traffic {
	t.Helper()
	istiod := cluster.Istiod(t, c.Namespace(t, true))
	namespace := istiod.GetNamespace()
	without := c.Without(t, istiod)
	stored := c.MustApply(t, istiod).Spec.Template
	reference, wanted := without, &stored
	if target == "pods" {
		created := func(namespace string) *corev1.PodTemplateSpec {
			c.ServiceAccount(t, namespace)
			pod := cluster.Pod(namespace, without)
			if err := c.Create(t.Context(), pod); err != nil {
				t.Fatal(err)
			}
			return cluster.TemplateOf(pod)
		}
		reference, wanted = created(c.Namespace(t, false)), created(namespace)
	}
	if missing := injected.Missing(injected.Check(reference, wanted, injected.Default(c.Webhook.AgentImage()))); len(missing) > 0 {
		t.Fatalf("not injected before the change: %v", missing)
	}

	unchanged := func(ctx context.Context) error { return applyAs(ctx, c, istiod, &stored, 1) }
	if target == "pods" {
		return &traffic{cluster.Repeat(t, 10*time.Millisecond, unchanged, func(ctx context.Context) error {
			pod := cluster.Pod(namespace, without)
			if err := c.Create(ctx, pod); err != nil {
				return fmt.Errorf("creating a Pod: %w", err)
			}
			if err := differ(wanted, cluster.TemplateOf(pod)); err != nil {
				return fmt.Errorf("a new Pod: %w", err)
			}
			return c.Delete(ctx, pod, client.GracePeriodSeconds(0))
		}), c, istiod}
	}

	changing := withName(istiod, "istiod-changing")
	changes, changed, creations := 0, int64(0), 0
	return &traffic{cluster.Repeat(t, 10*time.Millisecond, unchanged, func(ctx context.Context) error {
		changes++
		tag := fmt.Sprintf("1.31.%d", changes)
		expected := stored.DeepCopy()
		expected.Annotations["example.com/change"] = tag
		expected.Spec.Containers[0].Image = "docker.io/istio/pilot:" + tag
		istiod := withImage(changing, expected.Spec.Containers[0].Image)
		if err := unstructured.SetNestedField(istiod.Object, tag, "spec", "template", "metadata", "annotations", "example.com/change"); err != nil {
			return err
		}
		err := applyAs(ctx, c, istiod, expected, changed+1)
		if err == nil {
			changed++
		}
		return err
	}, func(ctx context.Context) error {
		creations++
		created := withName(istiod, fmt.Sprintf("istiod-%d", creations))
		if err := applyAs(ctx, c, created, &stored, 1); err != nil {
			return err
		}
		return c.Delete(ctx, created)
	}), c, istiod}
}

func withName(istiod *unstructured.Unstructured, name string) *unstructured.Unstructured {
	renamed := istiod.DeepCopy()
	renamed.SetName(name)
	return renamed
}

// withImage changes the image of istiod's own container, as a new tag does.
func withImage(istiod *unstructured.Unstructured, image string) *unstructured.Unstructured {
	changed := istiod.DeepCopy()
	containers, _, _ := unstructured.NestedFieldNoCopy(changed.Object, "spec", "template", "spec", "containers")
	containers.([]any)[0].(map[string]any)["image"] = image
	return changed
}

// applyAs applies an istiod and compares the stored pod template and its generation.
func applyAs(ctx context.Context, c *cluster.Cluster, istiod *unstructured.Unstructured, expected *corev1.PodTemplateSpec, generation int64) error {
	answer, err := c.ServerSideApply(ctx, istiod)
	if err != nil {
		return fmt.Errorf("applying %s: %w", istiod.GetName(), err)
	}
	var stored appsv1.Deployment
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(answer.Object, &stored); err != nil {
		return err
	}
	if err := differ(expected, &stored.Spec.Template); err != nil {
		return fmt.Errorf("%s: %w", istiod.GetName(), err)
	}
	if stored.Generation != generation {
		return fmt.Errorf("%s is at generation %d, want %d", istiod.GetName(), stored.Generation, generation)
	}
	return nil
}

// differ compares pod templates as the API server writes them.
func differ(expected, stored *corev1.PodTemplateSpec) error {
	texts := make([]string, 0, 2)
	for _, template := range []*corev1.PodTemplateSpec{expected, stored} {
		text, err := json.MarshalIndent(template, "", " ")
		if err != nil {
			return err
		}
		texts = append(texts, string(text))
	}
	if texts[0] != texts[1] {
		return fmt.Errorf("stored otherwise: %s", cmp.Diff(strings.Split(texts[0], "\n"), strings.Split(texts[1], "\n")))
	}
	return nil
}

// continues waits until more istiods have been admitted.
func (l *traffic) continues(t *testing.T) {
	t.Helper()
	before := l.Admitted()
	cluster.Eventually(t, "30 more istiods are admitted", func() error {
		if more := l.Admitted() - before; more < 30 {
			return fmt.Errorf("%d", more)
		}
		return nil
	})
}

// wantUninterrupted ends the traffic and expects that no istiod was refused, stored otherwise or restarted.
func (l *traffic) wantUninterrupted(t *testing.T) {
	t.Helper()
	admitted, failed := l.Stop()
	t.Logf("%d istiods, %d refused or stored otherwise", admitted, len(failed))
	for _, err := range failed[:min(len(failed), 3)] {
		t.Error(err)
	}
	l.wantRunning(t)
}

// wantRefusedAtMost ends the traffic and expects that istiods were refused with a message that names this project, and none
// stored otherwise or restarted. Where nothing injects, the API server itself refuses an applied istiod that is injected
// already: its volume then has the sources of both.
func (l *traffic) wantRefusedAtMost(t *testing.T) {
	t.Helper()
	admitted, failed := l.Stop()
	t.Logf("%d istiods, %d refused", admitted, len(failed))
	for _, err := range failed {
		var status apierrors.APIStatus
		twoSources := apierrors.IsInvalid(err) && strings.Contains(err.Error(), "may not specify more than 1 volume type")
		if !errors.As(err, &status) || !strings.Contains(err.Error(), "istiod-agent") && !twoSources {
			t.Errorf("not a refusal that names the cause: %v", err)
		}
	}
	if len(failed) > 0 {
		t.Log("the first refusal:", failed[0])
	}
	l.wantRunning(t)
}

func (l *traffic) wantRunning(t *testing.T) {
	t.Helper()
	if now := l.c.Stored(t, l.unchanged.GetNamespace(), l.unchanged.GetName()); now.Generation != 1 {
		t.Errorf("the unchanged istiod is at generation %d", now.Generation)
	}
}
