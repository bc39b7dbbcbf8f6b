// SPDX-License-Identifier: Apache-2.0

package clisetup

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/plugin"
)

const (
	configuration = "istiod-agent"
	guard         = "istiod-agent-guard"
)

// TestCheck breaks one thing after the other, expects the line that reports it, and repairs it.
func TestCheck(t *testing.T) {
	ctx := t.Context()
	surroundings(t) // the namespace, and the rights of istiod's service account
	check := []string{"check", "--kubeconfig", admin(t)}
	eventually(t, check, 0, "warn     webhook  — was not tried, since no namespace is labelled", "warn     VirtualMesh  — there is no VirtualMesh")

	istiod := cluster.Istiod(t, namespace)
	_, err := shared.ServerSideApply(ctx, istiod)
	must(t, err)
	eventually(t, check, 0, "warn     namespace istio-system  — has an istiod and is not labelled", "label namespace istio-system istiod-agent.io/injection=enabled")

	must(t, shared.SetInjection(ctx, namespace, true))
	must(t, client.IgnoreAlreadyExists(shared.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "gloo-mesh"}})))
	must(t, shared.Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "istio", Labels: map[string]string{"istio.io/rev": "default"}},
		Data:       map[string]string{"mesh": "trustDomain: cluster.local\n"},
	}))
	mesh := object(t, virtualMesh("https://vault.vault:8200", false))
	_, err = shared.ServerSideApply(ctx, mesh)
	must(t, err)
	t.Cleanup(func() { // the other tests have IssuedCertificates and the namespace to themselves
		ctx := context.Background()
		must(t, shared.SetInjection(ctx, namespace, false))
		must(t, shared.Delete(ctx, mesh))
		must(t, shared.DeleteAllOf(ctx, &appsv1.Deployment{}, client.InNamespace(namespace)))
		err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
			all := &unstructured.UnstructuredList{}
			all.SetAPIVersion("certificates.mesh.gloo.solo.io/v1")
			all.SetKind("IssuedCertificateList")
			return shared.List(ctx, all) == nil && len(all.Items) == 0, nil
		})
		must(t, err)
	})
	healthy := []string{
		"ok       Kubernetes  — v1.", "ok       CRD virtualmeshes.networking.mesh.gloo.solo.io  — serves v1",
		"ok       form of the injection  — webhook; injection.by=policy is possible too", "ok       webhook configuration  — istiod-agent exists", "ok       webhook  — the API server calls it, and it injects",
		"ok       guard policy  — istiod-agent-guard exists and is bound", "ok       istiod istio-system/istiod  — has the agent",
		"ok       rights of service account istio-system/istiod", "ok       VirtualMesh gloo-mesh/virtual-mesh",
		"warn     IssuedCertificate istio-system/istiod-istio-system-cluster-1  — no agent has reported yet",
	}
	eventually(t, check, 0, healthy...)
	certificate := &unstructured.Unstructured{}
	certificate.SetAPIVersion("certificates.mesh.gloo.solo.io/v1")
	certificate.SetKind("IssuedCertificate")
	certificate.SetNamespace(namespace)
	certificate.SetName("istiod-istio-system-" + clusterName)
	status := func(content string) func() error {
		return func() error {
			patch := client.RawPatch("application/merge-patch+json", []byte(`{"status":`+content+`}`))
			return shared.Status().Patch(ctx, certificate.DeepCopy(), patch)
		}
	}
	finished := status(`{"state":"FINISHED","error":null,"certificates":[{"pod":"istiod-0","confirmed":true}]}`)
	must(t, finished())
	eventually(t, check, 0, "ok       IssuedCertificate istio-system/istiod-istio-system-cluster-1  — istiod uses its certificate in 1 Pod", "ok       Vault  — seen from istiod's Pods")

	hooks := &admissionregistrationv1.MutatingWebhookConfiguration{}
	must(t, shared.Get(ctx, client.ObjectKey{Name: configuration}, hooks))
	bindings := &admissionregistrationv1.ValidatingAdmissionPolicyBinding{}
	must(t, shared.Get(ctx, client.ObjectKey{Name: guard}, bindings))
	policy := &admissionregistrationv1.ValidatingAdmissionPolicy{}
	must(t, shared.Get(ctx, client.ObjectKey{Name: guard}, policy))
	rights := &rbacv1.RoleBinding{}
	must(t, shared.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "istiod-agent"}, rights))
	stranger := httptest.NewTLSServer(http.NotFoundHandler())
	defer stranger.Close()
	setHooks := func(change func(hook *admissionregistrationv1.MutatingWebhook)) func() error {
		return func() error {
			edited := &admissionregistrationv1.MutatingWebhookConfiguration{}
			if err := shared.Get(ctx, client.ObjectKey{Name: configuration}, edited); err != nil {
				return err
			}
			for i := range edited.Webhooks {
				change(&edited.Webhooks[i])
			}
			return shared.Update(ctx, edited)
		}
	}
	again := func(object client.Object) func() error {
		return func() error {
			object.SetResourceVersion("")
			object.SetUID("")
			return client.IgnoreAlreadyExists(shared.Create(ctx, object))
		}
	}
	deleted := func(object client.Object) func() error {
		return func() error { return shared.Delete(ctx, object.DeepCopyObject().(client.Object)) }
	}
	asBefore := func() error {
		edited := &admissionregistrationv1.MutatingWebhookConfiguration{}
		if err := shared.Get(ctx, client.ObjectKey{Name: configuration}, edited); err != nil {
			return err
		}
		edited.Webhooks = hooks.Webhooks
		return shared.Update(ctx, edited)
	}
	meshSpec := func(change string) func() error {
		return func() error {
			return shared.Patch(ctx, mesh.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(change)))
		}
	}
	ztunnel := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "ztunnel"}, Spec: appsv1.DaemonSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "ztunnel"}},
		Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "ztunnel"}},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "istio-proxy", Image: "ztunnel"}}},
		},
	}}
	constraints := func(domains string) func() error {
		return meshSpec(`{"spec":{"mtlsConfig":{"shared":{"intermediateCertOptions":{"permittedURIDomains":` + domains + `}}}}}`)
	}
	steps := []struct {
		name           string
		breaks, mend   func() error
		code           int
		want           []string
		withoutReplica bool
	}{
		{"another's certificate", setHooks(func(h *admissionregistrationv1.MutatingWebhook) { h.ClientConfig.URL = new(stranger.URL) }), asBefore, 1, []string{"fail     webhook  — ", "cannot verify the webhook's certificate by the caBundle"}, false},
		{"the guard's binding is gone", deleted(bindings), again(bindings), 1, []string{"fail     guard policy  — istiod-agent-guard has no ValidatingAdmissionPolicyBinding"}, false},
		{"the guard is gone", deleted(policy), again(policy), 0, []string{"warn     guard policy  — does not exist"}, false},
		{"the rights are gone", deleted(rights), again(rights), 1, []string{"fail     rights of service account istio-system/istiod  — it may not list issuedcertificates", "add {name: istiod, namespace: istio-system} to istiodSidecar.serviceAccounts"}, false},
		{"Vault refuses", status(`{"state":"FAILED","error":"asking Vault at https://vault.vault:8200 to log in: it is sealed; unseal it (vault operator unseal)"}`), finished, 1, []string{"fail     Vault  — seen from istiod's Pods: asking Vault at https://vault.vault:8200 to log in: it is sealed"}, false},
		{"the mesh is not there", meshSpec(`{"spec":{"meshes":[{"name":"istiod-other-cluster-1"}]}}`), meshSpec(`{"spec":{"meshes":[{"name":"istiod-istio-system-cluster-1"}]}}`), 0, []string{"warn     VirtualMesh gloo-mesh/virtual-mesh  — ", "waiting for an istiod Deployment with this name"}, false},
		{"name constraints in ambient mode", func() error { return errors.Join(constraints(`["cluster.local"]`)(), again(ztunnel)()) }, func() error { return errors.Join(constraints("null")(), deleted(ztunnel)()) }, 1, []string{"fail     name constraints  — VirtualMesh gloo-mesh/virtual-mesh limits istiod's CA", "ztunnel (istio-system/ztunnel) from Istio 1.29.3 rejects"}, false},
		{"the webhook is down", func() error { return nil }, func() error { return nil }, 1, []string{"fail     webhook  — ", "the API server cannot reach the webhook"}, true},
		{"no caBundle", setHooks(func(h *admissionregistrationv1.MutatingWebhook) { h.ClientConfig.CABundle = nil }), asBefore, 1, []string{"fail     webhook configuration  — istiod-agent: the caBundle of deployments.istiod-agent.io is empty"}, true},
		{"the webhook matches nothing", setHooks(func(h *admissionregistrationv1.MutatingWebhook) {
			h.ObjectSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "other"}}
		}), asBefore, 1, []string{"fail     webhook  — ", "the webhook did not inject it, and the guard refused it"}, true},
		{"no webhook configuration", deleted(hooks), again(hooks), 1, []string{"fail     form of the injection  — there is neither a webhook configuration nor a policy: no istiod is injected"}, true},
	}
	for _, step := range steps {
		t.Run(step.name, func(t *testing.T) {
			if step.withoutReplica { // which would put it right
				must(t, shared.Webhook.StopReplicas())
			}
			must(t, step.breaks())
			eventually(t, check, step.code, step.want...)
			must(t, step.mend())
			if step.withoutReplica {
				_, err := shared.Webhook.Scale(t.Context())
				must(t, err)
			}
			if step.name == "the mesh is not there" {
				// Its IssuedCertificate was deleted, and made again without a status.
				cluster.Eventually(t, "there is an IssuedCertificate again", finished)
			}
			eventually(t, check, 0, "ok       webhook  — the API server calls it", "ok       guard policy", "ok       VirtualMesh gloo-mesh/virtual-mesh", "ok       Vault  — seen from")
		})
	}

	t.Run("an istiod without the agent", func(t *testing.T) {
		bare := cluster.Istiod(t, namespace)
		bare.SetName("istiod-bare")
		must(t, shared.SetInjection(t.Context(), namespace, false))
		cluster.Eventually(t, "an istiod can be stored without the agent", func() error {
			if err := client.IgnoreAlreadyExists(shared.Create(t.Context(), bare.DeepCopy(), client.FieldOwner("test"))); err != nil {
				return err
			}
			stored := shared.Stored(t, namespace, "istiod-bare")
			for _, container := range stored.Spec.Template.Spec.Containers {
				if container.Name == "istiod-agent" {
					return errors.Join(errors.New("it was injected"), shared.Delete(t.Context(), stored))
				}
			}
			return nil
		})
		must(t, shared.Webhook.StopReplicas()) // which would bring it in
		must(t, shared.SetInjection(t.Context(), namespace, true))
		eventually(t, check, 1, "fail     istiod istio-system/istiod-bare  — runs without the agent", "rollout restart -n istio-system deployment/istiod-bare")
		must(t, shared.Delete(t.Context(), &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "istiod-bare"}}))
		_, err := shared.Webhook.Scale(t.Context())
		must(t, err)
	})
}

// check reports contexts that do not answer, and missing rights, and continues with the others.
func TestContexts(t *testing.T) {
	file := t.TempDir() + "/config"
	away := t.TempDir() + "/away"
	must(t, plugin.Unreachable(away))
	must(t, plugin.Kubeconfig(file, map[string]string{"away": away, "here": admin(t)}))

	r := run(t, "", "check", "--kubeconfig", file, "--context", "away", "--context", "here", "--context", "gone")
	r.Wants(t, 2, "Context away\nunknown  Kubernetes  — reading the API server's version", "Context here\nok       Kubernetes",
		"Context gone\nunknown  kubeconfig  — the kubeconfig has no context \"gone\"")
	if strings.Contains(r.Stdout, "\x1b") {
		t.Error("there are colours, and no terminal")
	}
	r = run(t, "", "check", "--kubeconfig", file, "--context", "away", "-o", "json")
	var answer struct {
		Contexts []struct {
			Context string
			Checks  []struct{ Status, What, Detail, Next string }
		}
	}
	must(t, json.Unmarshal([]byte(r.Stdout), &answer))
	if got := answer.Contexts[0]; got.Context != "away" || got.Checks[0].Status != "unknown" || got.Checks[0].Next == "" {
		t.Errorf("got %+v", got)
	}

	nobody, err := shared.Plane.Kubeconfig("nobody")
	must(t, err)
	run(t, "", "check", "--kubeconfig", nobody).Wants(t, 2, "unknown  webhook configuration  — listing MutatingWebhookConfigurations", "get the right to list mutatingwebhookconfigurations", "unknown  istiods")
	run(t, "", "check", "-o", "xml").Wants(t, 2, "json")
}

// check contacts Vault from this machine only if the user requests it.
func TestCheckVault(t *testing.T) {
	s := start(t, true)
	mesh := virtualMesh(s.vault.Address, false)
	check := func(t *testing.T) plugin.Result {
		t.Helper()
		return run(t, mesh, "check", "--kubeconfig", admin(t), "--vault", "-f", "-")
	}
	check(t).Wants(t, 1, "ok       Vault of VirtualMesh gloo-mesh/virtual-mesh, from this machine  — "+s.vault.Address+" answers",
		"from this machine  — policy istiod-agent-istiod does not exist; next: kubectl istiod-agent vault -f - --apply")
	s.run(t, mesh, append(s.reviewer, "--apply")...).Wants(t, 0)
	check(t).Wants(t, 0, "the role, the policies, the mounts and their longest lease are as required")
	t.Setenv("VAULT_TOKEN", "")
	check(t).Wants(t, 0, "warn     Vault of VirtualMesh", "VAULT_TOKEN is not set")
	t.Setenv("VAULT_ADDR", "http://127.0.0.1:1")
	check(t).Wants(t, 1, "fail     Vault of VirtualMesh gloo-mesh/virtual-mesh, from this machine  — asking Vault at http://127.0.0.1:1")
}

// eventually waits until a change is effective in the API server.
func eventually(t *testing.T, arguments []string, code int, texts ...string) {
	t.Helper()
	cluster.Eventually(t, strings.Join(arguments[:1], " "), func() error {
		return run(t, "", arguments...).Check(code, texts...)
	})
}

func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	object := &unstructured.Unstructured{}
	must(t, yaml.Unmarshal([]byte(text), &object.Object))
	return object
}
