// SPDX-License-Identifier: Apache-2.0

package bypolicy

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

func registration(kind, name string) *unstructured.Unstructured {
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(schema.GroupVersionKind{Group: "admissionregistration.k8s.io", Version: "v1", Kind: kind})
	object.SetName(name)
	return object
}

const (
	mutatingPolicy  = "istiod-agent"
	mutatingBinding = "istiod-agent.needs-injection.istiod-agent-system.istiod-agent"
	decision        = "istiod-agent-decision"
)

// Without the policy or its binding, the guard refuses istiods, and the next upgrade of the chart restores them.
func TestDeletedPolicy(t *testing.T) {
	for _, object := range []*unstructured.Unstructured{
		registration("MutatingAdmissionPolicy", mutatingPolicy), registration("MutatingAdmissionPolicyBinding", mutatingBinding),
	} {
		t.Run(object.GetKind(), func(t *testing.T) {
			istiod := cluster.Istiod(t, shared.Namespace(t, true))
			if err := shared.Delete(t.Context(), object); err != nil {
				t.Fatal(err)
			}
			cluster.Eventually(t, "the guard refuses an istiod", func() error {
				_, err := shared.ServerSideApply(t.Context(), istiod, client.DryRunAll)
				if err == nil {
					return errors.New("it is stored")
				}
				if !strings.Contains(err.Error(), "istiod-agent-guard") {
					return fmt.Errorf("refused by another one: %w", err)
				}
				return nil
			})
			if output, err := shared.Webhook.Check(t.Context()); err == nil || !strings.Contains(output, object.GetName()) {
				t.Errorf("check reports %q", output)
			}
			upgrade(t, shared, by("policy", "deployments"))
			wantInjected(t, istiod)
			if output, err := shared.Webhook.Check(t.Context()); err != nil {
				t.Errorf("check: %v: %s", err, output)
			}
		})
	}
}

// Without the other policy, which explains refusals, istiods are injected as before.
func TestDeletedDecision(t *testing.T) {
	istiod := cluster.Istiod(t, shared.Namespace(t, true))
	if err := shared.Delete(t.Context(), registration("ValidatingAdmissionPolicy", decision)); err != nil {
		t.Fatal(err)
	}
	wantInjected(t, istiod)
	if output, err := shared.Webhook.Check(t.Context()); err == nil || !strings.Contains(output, decision) {
		t.Errorf("check reports %q", output)
	}
	if err := shared.Webhook.Upgrade(t.Context(), webhookserver.Release, by("policy", "deployments")); err != nil {
		t.Fatal(err)
	}
	wantInjected(t, istiod)
}
