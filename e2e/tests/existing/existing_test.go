// SPDX-License-Identifier: Apache-2.0

package existing

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/injected"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

func TestLabel(t *testing.T) {
	namespace := shared.Namespace(t, false)
	istiod := cluster.Istiod(t, namespace)
	before := shared.MustApply(t, istiod)
	shared.Label(t, namespace, true)

	wantInjected(t, namespace, shared.Without(t, istiod), "1")
	wantEvent(t, namespace, "Injected")
	wantState(t, namespace, "injected")
	if after := shared.Stored(t, namespace, "istiod"); after.Generation != before.Generation+1 {
		t.Errorf("istiod went from generation %d to %d", before.Generation, after.Generation)
	}

	t.Run("and removing it leaves istiod alone", func(t *testing.T) {
		before := shared.Stored(t, namespace, "istiod")
		shared.Label(t, namespace, false)
		cluster.Eventually(t, "the gauge forgets the namespace", func() error {
			for _, replica := range shared.Webhook.Replicas {
				if _, found, err := replica.Sum(t.Context(), fmt.Sprintf("istiod_agent_istiods{namespace=%q", namespace)); err != nil || found {
					return fmt.Errorf("found: %t, error: %w", found, err)
				}
			}
			return nil
		})
		if after := shared.Stored(t, namespace, "istiod"); after.ResourceVersion != before.ResourceVersion {
			t.Error("istiod was changed")
		}
	})
}

func TestNotInjected(t *testing.T) {
	for name, test := range map[string]struct {
		annotations map[string]string
		values      helm.Values
		reason      string
	}{
		"opted out":    {annotations: map[string]string{"istiod-agent.io/inject": "false"}, reason: "OptedOut"},
		"without a CA": {values: helm.Values{"env": helm.Values{"ENABLE_CA_SERVER": "false"}}, reason: "NoBuiltInCA"},
	} {
		t.Run(name, func(t *testing.T) {
			namespace := shared.Namespace(t, false)
			istiod := cluster.Istiod(t, namespace, test.values)
			istiod.SetAnnotations(test.annotations)
			before := shared.MustApply(t, istiod)
			shared.Label(t, namespace, true)
			wantEvent(t, namespace, test.reason)
			wantState(t, namespace, "skipped")
			if after := shared.Stored(t, namespace, "istiod"); after.ResourceVersion != before.ResourceVersion {
				t.Error("istiod was changed")
			}
		})
	}
}

func TestLeaderChange(t *testing.T) {
	for name, end := range map[string]func(*webhookserver.Replica) error{
		"in order":   shared.Webhook.Remove,
		"by a crash": shared.Webhook.Kill, // its lease, 15 seconds, has to run out
	} {
		t.Run(name, func(t *testing.T) {
			wantState(t, labelledIstiod(t), "injected")
			old, err := leader(t)
			if err != nil {
				t.Fatal(err)
			}
			if err := end(old); err != nil {
				t.Fatal(err)
			}

			namespace := shared.Namespace(t, false)
			istiod := cluster.Istiod(t, namespace)
			shared.MustApply(t, istiod)
			shared.Label(t, namespace, true)
			wantInjected(t, namespace, shared.Without(t, istiod), "1") // by the other one
			wantState(t, namespace, "injected")

			if _, err := shared.Webhook.Scale(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A new release of the webhook, or other options, change the injection.
func TestConfigurationChange(t *testing.T) {
	namespace := labelledIstiod(t)
	istiod := cluster.Istiod(t, namespace)
	without := shared.Without(t, istiod)
	t.Cleanup(func() { reconfigure(t, image("1"), map[string]any{"rollout": "manual"}) })

	t.Run("is only reported", func(t *testing.T) {
		before := shared.Stored(t, namespace, "istiod")
		reconfigure(t, image("2"))
		wantState(t, namespace, "outdated")
		wantEvent(t, namespace, "Outdated")
		if after := shared.Stored(t, namespace, "istiod"); after.Generation != before.Generation {
			t.Error("istiod was rolled out")
		}
	})
	t.Run("arrives with the next change", func(t *testing.T) {
		restart := `{"spec":{"template":{"metadata":{"annotations":{"kubectl.kubernetes.io/restartedAt":"2026-01-01T00:00:00Z"}}}}}`
		if err := shared.Patch(t.Context(), shared.Stored(t, namespace, "istiod"), client.RawPatch("application/merge-patch+json", []byte(restart))); err != nil {
			t.Fatal(err)
		}
		without.Annotations["kubectl.kubernetes.io/restartedAt"] = "2026-01-01T00:00:00Z"
		wantInjected(t, namespace, without, "2")
		wantState(t, namespace, "injected")
	})
	t.Run("is rolled out at once where that is asked for", func(t *testing.T) {
		reconfigure(t, image("3"), map[string]any{"rollout": "automatic"})
		wantInjected(t, namespace, without, "3")
		wantState(t, namespace, "injected")
		wantEvent(t, namespace, "Injected")
	})
}

func TestInjectExistingOff(t *testing.T) {
	t.Cleanup(func() { reconfigure(t, map[string]any{"injectExisting": true}) })
	reconfigure(t, map[string]any{"injectExisting": false})
	namespace := shared.Namespace(t, false)
	istiod := cluster.Istiod(t, namespace)
	before := shared.MustApply(t, istiod)
	shared.Label(t, namespace, true)
	wantState(t, namespace, "missing")
	wantEvent(t, namespace, "Missing")
	if after := shared.Stored(t, namespace, "istiod"); after.ResourceVersion != before.ResourceVersion {
		t.Error("istiod was changed")
	}
}

// labelledIstiod creates a labelled namespace with an injected istiod.
func labelledIstiod(t *testing.T) string {
	t.Helper()
	namespace := shared.Namespace(t, true)
	istiod := cluster.Istiod(t, namespace)
	shared.MustApply(t, istiod)
	wantInjected(t, namespace, shared.Without(t, istiod), "1")
	return namespace
}

// reconfigure restarts the webhook with changes of its configuration.
func reconfigure(t *testing.T, changes ...map[string]any) {
	t.Helper()
	all := map[string]any{}
	for _, change := range changes {
		maps.Copy(all, change)
	}
	if err := shared.Webhook.Reconfigure(context.Background(), all); err != nil { // also in a Cleanup
		t.Fatal(err)
	}
}

// wantInjected waits until the stored istiod is injected.
func wantInjected(t *testing.T, namespace string, without *corev1.PodTemplateSpec, tag string) {
	t.Helper()
	cluster.Eventually(t, "istiod has the agent "+tag, func() error {
		var stored appsv1.Deployment
		if err := shared.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "istiod"}, &stored); err != nil {
			return err
		}
		var wrong []string
		for _, point := range injected.Missing(injected.Check(without, &stored.Spec.Template, injected.Default("registry.example/istiod-agent:"+tag))) {
			wrong = append(wrong, fmt.Sprintf("not so: %s: %v", point.Name, point.Err))
		}
		if len(wrong) > 0 {
			return errors.New(strings.Join(wrong, "\n"))
		}
		return nil
	})
}
