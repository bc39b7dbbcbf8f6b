// SPDX-License-Identifier: Apache-2.0

package bypolicy

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	registrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/controlplane"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/injected"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

// Two releases, one by each form, are a mistake: they store the same objects as one, also when a third party makes the API
// server invoke both again.
func TestTwoReleases(t *testing.T) {
	namespace := shared.Namespace(t, true)
	addContainer(t, namespace)
	istiod := cluster.Istiod(t, namespace)
	added := withName(istiod, "istiod-added") // the third party changes this one
	added.SetAnnotations(map[string]string{"example.com/add": "true"})
	out := withName(istiod, "istiod-out")
	out.SetAnnotations(map[string]string{"istiod-agent.io/inject": "false"})
	without := shared.Without(t, istiod)

	store := func() (templates []*corev1.PodTemplateSpec) {
		for _, each := range []*unstructured.Unstructured{istiod, added, out} {
			stored := shared.MustApply(t, each)
			again := shared.MustApply(t, each)
			if again.Generation != 1 {
				t.Errorf("%s: a second apply leads to generation %d", each.GetName(), again.Generation)
			}
			if err := shared.Delete(t.Context(), again); err != nil {
				t.Fatal(err)
			}
			templates = append(templates, &stored.Spec.Template)
		}
		return templates
	}
	alone := store()
	if missing := injected.Missing(injected.Check(without, alone[0], injected.Default(shared.Webhook.AgentImage()))); len(missing) > 0 {
		t.Errorf("by one release: %v", missing)
	}
	if err := injected.Absent(without, alone[2]); err != nil {
		t.Errorf("opted out: %v", err)
	}

	second, err := webhookserver.Start(t.Context(), shared.Plane, webhookserver.Options{
		Release: helm.Release{Name: "second-istiod-agent", Namespace: "second"},
		Values:  helm.Values{"crds": helm.Values{"install": false}}, // the first release owns them
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := second.Stop(); err != nil {
			t.Error(err)
		}
	})
	cluster.Eventually(t, "the API server calls the second release's webhook", func() error {
		if _, err := shared.ServerSideApply(t.Context(), istiod, client.DryRunAll); err != nil {
			return err
		}
		if calls, _, err := second.Replicas[0].Sum(t.Context(), "istiod_agent_webhook_admissions_total{"); err != nil || calls == 0 {
			return errors.Join(err, errors.New("it does not"))
		}
		return nil
	})
	for i, template := range store() {
		if err := differ(alone[i], template); err != nil {
			t.Errorf("by two releases: %v", err)
		}
	}
	events, err := shared.Plane.AuditEvents(namespace)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(events, func(event controlplane.AuditEvent) bool {
		return strings.Contains(event.Annotations["mutation.webhook.admission.k8s.io/round_1_index_0"], "second-istiod-agent")
	}) {
		t.Error("the second release's webhook was never invoked again")
	}
}

// addContainer serves a webhook of a third party, called after the second release's, that adds a container to annotated
// istiods of a namespace.
func addContainer(t *testing.T, namespace string) {
	t.Helper()
	patch := []byte(`[{"op":"add","path":"/spec/template/spec/containers/-","value":{"name":"added","image":"registry.example/added:1"}}]`)
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review admissionv1.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true, Patch: patch, PatchType: new(admissionv1.PatchTypeJSONPatch)}
		review.Request = nil
		_ = json.NewEncoder(w).Encode(review)
	}))
	t.Cleanup(server.Close)
	configuration := &registrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "zz-third-party"},
		Webhooks: []registrationv1.MutatingWebhook{{
			Name: "third.example.com", AdmissionReviewVersions: []string{"v1"}, SideEffects: new(registrationv1.SideEffectClassNone),
			ClientConfig: registrationv1.WebhookClientConfig{
				URL: &server.URL, CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}),
			},
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: namespace}},
			Rules: []registrationv1.RuleWithOperations{{
				Operations: []registrationv1.OperationType{registrationv1.Create, registrationv1.Update},
				Rule:       registrationv1.Rule{APIGroups: []string{"apps"}, APIVersions: []string{"v1"}, Resources: []string{"deployments"}},
			}},
			MatchConditions: []registrationv1.MatchCondition{{
				Name:       "once",
				Expression: "has(object.metadata.annotations) && 'example.com/add' in object.metadata.annotations && !object.spec.template.spec.containers.exists(c, c.name == 'added')",
			}},
		}},
	}
	if err := shared.Create(t.Context(), configuration); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := shared.Delete(context.Background(), configuration); err != nil {
			t.Error(err)
		}
	})
	probe := cluster.Istiod(t, namespace)
	probe.SetAnnotations(map[string]string{"example.com/add": "true"})
	cluster.Eventually(t, "the third party adds its container", func() error {
		answer, err := shared.ServerSideApply(t.Context(), probe, client.DryRunAll)
		if err != nil {
			return err
		}
		containers, _, _ := unstructured.NestedSlice(answer.Object, "spec", "template", "spec", "containers")
		if !slices.ContainsFunc(containers, func(c any) bool { return c.(map[string]any)["name"] == "added" }) {
			return errors.New("not yet")
		}
		return nil
	})
}
