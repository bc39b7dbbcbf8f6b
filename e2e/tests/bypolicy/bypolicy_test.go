// SPDX-License-Identifier: Apache-2.0

// Package bypolicy tests the chart with injection.by=policy: the API server injects by itself, and the program keeps what it
// injects. Package policy tests the policy's own decisions.
package bypolicy

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/injected"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

var shared *cluster.Cluster

func TestMain(m *testing.M) {
	cluster.Main(m, &shared, &webhookserver.Options{Values: helm.Values{"injection": helm.Values{"by": "policy"}}})
}

var injectionKey = client.ObjectKey{Namespace: webhookserver.Release.Namespace, Name: "istiod-agent"}

func injection() *unstructured.Unstructured {
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(schema.GroupVersionKind{Group: "istiod-agent.io", Version: "v1alpha1", Kind: "Injection"})
	object.SetNamespace(injectionKey.Namespace)
	object.SetName(injectionKey.Name)
	return object
}

func TestInjects(t *testing.T) {
	namespace := shared.Namespace(t, true)
	wantInjected(t, cluster.Istiod(t, namespace))
	output, err := shared.Webhook.Check(t.Context())
	if err != nil || !strings.Contains(output, "Injection istiod-agent is as this version writes it") {
		t.Errorf("check: %v: %s", err, output)
	}
}

// wantInjected applies an istiod until the API server has the policy, and requires the agent in what is stored.
func wantInjected(t *testing.T, istiod *unstructured.Unstructured) {
	t.Helper()
	cluster.Eventually(t, "the API server injects an istiod", func() error {
		_, err := shared.ServerSideApply(t.Context(), istiod, client.DryRunAll)
		return err
	})
	stored := shared.MustApply(t, istiod)
	without := shared.Without(t, istiod)
	if missing := injected.Missing(injected.Check(without, &stored.Spec.Template, injected.Default(shared.Webhook.AgentImage()))); len(missing) > 0 {
		t.Errorf("not injected: %v", missing)
	}
}

// What is injected follows from the configuration alone: whoever changes or deletes the Injection has it back.
func TestInjectionIsKept(t *testing.T) {
	first := injection()
	if err := shared.Get(t.Context(), injectionKey, first); err != nil {
		t.Fatal(err)
	}
	wantBack := func(t *testing.T) {
		t.Helper()
		cluster.Eventually(t, "the Injection is as before", func() error {
			now := injection()
			if err := shared.Get(t.Context(), injectionKey, now); err != nil {
				return err
			}
			if diff := cmp.Diff(first.Object["spec"], now.Object["spec"]); diff != "" {
				return errors.New(diff)
			}
			return nil
		})
	}
	edit := func(t *testing.T, patch string) error {
		t.Helper()
		return shared.Patch(t.Context(), injection(), client.RawPatch(types.MergePatchType, []byte(patch)))
	}
	t.Run("another image", func(t *testing.T) {
		if err := edit(t, `{"spec":{"initContainer":{"image":"registry.example/other:1"},"container":{"image":"registry.example/other:1"}}}`); err != nil {
			t.Fatal(err)
		}
		wantBack(t)
	})
	t.Run("a command", func(t *testing.T) { // the schema does not know the field
		if err := edit(t, `{"spec":{"initContainer":{"command":["sh"]}}}`); err != nil {
			t.Fatal(err)
		}
		wantBack(t)
	})
	t.Run("no token", func(t *testing.T) {
		if err := edit(t, `{"spec":{"tokenVolume":null}}`); !apierrors.IsInvalid(err) {
			t.Errorf("containers mount a volume that is not there, and the schema takes it: %v", err)
		}
	})
	t.Run("deleted", func(t *testing.T) {
		if err := shared.Delete(t.Context(), injection()); err != nil {
			t.Fatal(err)
		}
		wantBack(t)
	})
}

// Without the Injection no istiod is stored.
func TestWithoutInjection(t *testing.T) {
	namespace := shared.Namespace(t, true)
	istiod := cluster.Istiod(t, namespace)
	wantInjected(t, istiod)
	if err := shared.Webhook.StopReplicas(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if _, err := shared.Webhook.Scale(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	if err := shared.Delete(t.Context(), injection()); err != nil {
		t.Fatal(err)
	}
	cluster.Eventually(t, "an istiod is refused", func() error {
		_, err := shared.ServerSideApply(t.Context(), istiod, client.DryRunAll)
		if err == nil {
			return errors.New("it is stored")
		}
		if strings.Contains(err.Error(), "no params found") && strings.Contains(err.Error(), "needs-injection.istiod-agent-system.istiod-agent") {
			return nil
		}
		return fmt.Errorf("refused without the name of what is missing: %w", err)
	})
}

// Without the binding of the policy nothing injects: the guard refuses istiod, and names what to look for.
func TestGuard(t *testing.T) {
	namespace := shared.Namespace(t, true)
	istiod := cluster.Istiod(t, namespace)
	wantInjected(t, istiod)
	binding := &admissionregistrationv1.MutatingAdmissionPolicyBinding{}
	if err := shared.Get(t.Context(), client.ObjectKey{Name: "istiod-agent.needs-injection.istiod-agent-system.istiod-agent"}, binding); err != nil {
		t.Fatal(err)
	}
	if err := shared.Delete(t.Context(), binding.DeepCopy()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		binding.ResourceVersion, binding.UID = "", ""
		if err := shared.Create(t.Context(), binding); err != nil {
			t.Error(err)
		}
		wantInjected(t, istiod)
	}()
	istiod.SetName("istiod-other")
	cluster.Eventually(t, "the guard refuses an istiod, and names the policy", func() error {
		_, err := shared.ServerSideApply(t.Context(), istiod, client.DryRunAll)
		if err == nil {
			return errors.New("it is stored")
		}
		for _, part := range []string{"istiod-agent-guard", "MutatingAdmissionPolicy istiod-agent, its binding and Injection istiod-agent in namespace istiod-agent-system"} {
			if !strings.Contains(err.Error(), part) {
				return err
			}
		}
		return nil
	})
}
