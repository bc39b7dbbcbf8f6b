// SPDX-License-Identifier: Apache-2.0

package bypolicy

import (
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/plugin"
)

// TestCheck breaks one thing after the other, expects the line that `kubectl istiod-agent check` reports it by, and repairs it.
func TestCheck(t *testing.T) {
	kubeconfig, err := shared.Plane.Kubeconfig("admin", "system:masters")
	if err != nil {
		t.Fatal(err)
	}
	eventually := func(t *testing.T, code int, texts ...string) {
		t.Helper()
		cluster.Eventually(t, "check", func() error {
			return plugin.Run(t.Context(), "", "check", "--kubeconfig", kubeconfig).Check(code, texts...)
		})
	}
	namespace := shared.Namespace(t, true)
	healthy := []string{
		"ok       form of the injection  — policy\n", "ok       injection policy  — istiod-agent exists and is bound",
		"ok       decision policy  — istiod-agent-decision exists and is bound",
		"ok       Injection istiod-agent-system/istiod-agent  — injects " + shared.Webhook.AgentImage() + ", digest ",
		"ok       injection  — the API server injects an istiod in namespace " + namespace,
		"ok       guard policy  — istiod-agent-guard exists and is bound",
		"warn     allowed servers  — ", // from the ConfigMap, which no webhook configuration names
	}
	eventually(t, 0, healthy...)

	const binding = "istiod-agent.needs-injection.istiod-agent-system.istiod-agent"
	for name, test := range map[string]struct {
		object client.Object
		want   []string
	}{
		"the Injection": {injection(), []string{
			"fail     Injection istiod-agent-system/istiod-agent  — does not exist: every change of istiod is refused; next: kubectl --context=envtest get pods -n istiod-agent-system",
			"fail     injection  — creating an istiod in namespace " + namespace + " (a dry run): it is refused, since the policy does not find the Injection",
		}},
		"the policy": {&admissionregistrationv1.MutatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "istiod-agent"}}, []string{
			"fail     injection policy  — there is no MutatingAdmissionPolicy: no istiod is injected; next: ",
			"fail     injection  — creating an istiod in namespace " + namespace + " (a dry run): the policy did not inject it, and the guard refused it",
		}},
		"the policy's binding": {&admissionregistrationv1.MutatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: binding}}, []string{
			"fail     injection policy  — istiod-agent has no MutatingAdmissionPolicyBinding, and so no effect",
		}},
		"the decision policy": {&admissionregistrationv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "istiod-agent-decision"}}, []string{
			"fail     decision policy  — does not exist: an istiod that cannot be injected is stored without the agent",
		}},
		"the decision policy's binding": {&admissionregistrationv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: "istiod-agent-decision"}}, []string{
			"fail     decision policy  — istiod-agent-decision has no ValidatingAdmissionPolicyBinding",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := shared.Get(t.Context(), client.ObjectKeyFromObject(test.object), test.object); err != nil {
				t.Fatal(err)
			}
			if err := shared.Webhook.StopReplicas(); err != nil { // which would write the Injection again
				t.Fatal(err)
			}
			if err := shared.Delete(t.Context(), test.object.DeepCopyObject().(client.Object)); err != nil {
				t.Fatal(err)
			}
			eventually(t, 1, test.want...)
			test.object.SetResourceVersion("")
			test.object.SetUID("")
			if err := shared.Create(t.Context(), test.object); err != nil {
				t.Fatal(err)
			}
			if _, err := shared.Webhook.Scale(t.Context()); err != nil {
				t.Fatal(err)
			}
			eventually(t, 0, healthy...)
		})
	}

	// As after a change of injection.by whose second upgrade was forgotten.
	t.Run("both forms", func(t *testing.T) {
		url := "https://127.0.0.1:1"
		hook := &admissionregistrationv1.MutatingWebhookConfiguration{
			ObjectMeta: metav1.ObjectMeta{Name: "istiod-agent"},
			Webhooks: []admissionregistrationv1.MutatingWebhook{{
				Name: "deployments.istiod-agent.io", AdmissionReviewVersions: []string{"v1"}, SideEffects: new(admissionregistrationv1.SideEffectClassNone),
				ClientConfig: admissionregistrationv1.WebhookClientConfig{URL: &url},
			}},
		}
		if err := shared.Create(t.Context(), hook); err != nil {
			t.Fatal(err)
		}
		eventually(t, 1, "warn     form of the injection  — webhook and policy: a change of injection.by is not finished; next: when all Pods are ready: ",
			"fail     webhook configuration  — istiod-agent: the caBundle of deployments.istiod-agent.io is empty")
		if err := shared.Delete(t.Context(), hook); err != nil {
			t.Fatal(err)
		}
		eventually(t, 0, healthy...)
	})
}
