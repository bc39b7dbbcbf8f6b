// SPDX-License-Identifier: Apache-2.0

package checkup

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/internal/helm"
	"github.com/istiod-agent/istiod-agent/patches"
	"github.com/istiod-agent/istiod-agent/policy"
)

var now = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// healthy is a cluster where all is well.
func healthy(t *testing.T) *clusterFacts {
	t.Helper()
	ours, err := policy.New(v1alpha1.Default(), policy.Names{})
	if err != nil {
		t.Fatal(err)
	}
	facts := &clusterFacts{
		Version: fact[string]{Value: "v1.30.0"},
		CRDs:    map[string]fact[*crdState]{},
		Webhook: fact[*admissionregistrationv1.MutatingWebhookConfiguration]{Value: &admissionregistrationv1.MutatingWebhookConfiguration{
			ObjectMeta: metav1.ObjectMeta{Name: "istiod-agent"}, Webhooks: []admissionregistrationv1.MutatingWebhook{},
		}},
		Probe:      &probeResult{Namespace: "istio-system", Injected: true},
		Namespaces: fact[[]namespaceState]{Value: []namespaceState{{Name: "istio-system", Labelled: true}}},
		Policies:   fact[[]admissionregistrationv1.ValidatingAdmissionPolicy]{Value: []admissionregistrationv1.ValidatingAdmissionPolicy{*ours.Guard}},
		Bindings: fact[[]admissionregistrationv1.ValidatingAdmissionPolicyBinding]{Value: []admissionregistrationv1.ValidatingAdmissionPolicyBinding{{
			Spec: admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: ours.Guard.Name, ValidationActions: []admissionregistrationv1.ValidationAction{"Deny"}},
		}}},
		Istiods: fact[[]istiodState]{Value: []istiodState{{Name: "istiod", Namespace: "istio-system", ServiceAccount: "istiod", State: patches.StateInjected}}},
	}
	for _, each := range crds {
		facts.CRDs[each.name] = fact[*crdState]{Value: &crdState{Served: []string{"v1"}, Ours: true, Established: true}}
	}
	sample, err := os.ReadFile("../../config/samples/virtualmesh.yaml")
	if err != nil {
		t.Fatal(err)
	}
	facts.Configuration.Value = v1alpha1.Default()
	facts.Configuration.Value.Agent.AllowedServers = []string{"https://vault.example.com:8200"}
	facts.Meshes.Value = []unstructured.Unstructured{parse(t, string(sample)+"status: {state: ACCEPTED}\n")}
	facts.Certificates.Value = []unstructured.Unstructured{parse(t, `
metadata: {name: istiod-istio-system-cluster-1, namespace: istio-system}
spec: {hosts: [spiffe://cluster.local/ns/istio-system/sa/istiod]}
status: {state: FINISHED, certificates: [{pod: istiod-0, confirmed: true, notAfter: "2027-01-01T00:00:00Z"}]}
`)}
	return facts
}

// byPolicy makes of a cluster with the webhook one with the policy.
func byPolicy(change func(f *clusterFacts)) func(f *clusterFacts) {
	return func(f *clusterFacts) {
		f.Webhook.Value = nil
		addPolicy(f)
		change(f)
	}
}

func addPolicy(f *clusterFacts) {
	desired, err := policy.New(v1alpha1.Default(), policy.Names{})
	if err != nil {
		panic(err)
	}
	desired.Mutating.Labels = map[string]string{"app.kubernetes.io/part-of": "istiod-agent"}
	f.Version.Value = "v1.36.0"
	f.Policy = policyState{
		Served: true, InjectionServed: true, Warns: true, Decision: desired.Validating, DecisionBinding: desired.ValidatingBinding,
		Key: keyOf(desired.MutatingBinding.Spec.ParamRef),
	}
	f.Policy.Mutating.Value, f.Policy.Binding.Value, f.Policy.Injection.Value = desired.Mutating, desired.MutatingBinding, desired.Parameter
}

func TestDecisions(t *testing.T) {
	t.Parallel()
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "things"}, "", errors.New("no"))
	for name, test := range map[string]struct {
		change func(f *clusterFacts)
		status level
		want   string
	}{
		"healthy":    {func(*clusterFacts) {}, levelOK, "Vault  — seen from istiod's Pods: it issued the certificates of 1 IssuedCertificate"},
		"any server": {func(f *clusterFacts) { f.Configuration.Value.Agent.AllowedServers = nil }, levelWarn, "allowed servers  — istiod's agents log in to any server that a VirtualMesh or IssuedCertificate names; next: " + helm.Upgrade("--set 'injection.agent.allowedServers={https://vault.example.com:8200}'")},
		"one server": {func(*clusterFacts) {}, levelOK, "allowed servers  — istiod's agents log in to https://vault.example.com:8200 only"},
		"a token that opens more": {func(f *clusterFacts) {
			status := f.Certificates.Value[0].Object["status"].(map[string]any)
			status["conditions"] = []any{map[string]any{"type": "TokenAudienceBound", "status": "False", "reason": "NoAudience", "message": "The agent sends a token."}}
		}, levelWarn, "IssuedCertificate istio-system/istiod-istio-system-cluster-1  — The agent sends a token; next: set audience=vault in Vault's role"},
		"joined clusters": {func(f *clusterFacts) {
			set(f.Meshes.Value, []any{map[string]any{"type": "Ready", "status": "True", "message": "all"}, map[string]any{"type": "Federated", "status": "True", "message": "istiod reads all"}}, "status", "conditions")
		}, levelOK, "VirtualMesh gloo-mesh/virtual-mesh  — Federated: istiod reads all"},
		"a cluster that is not joined": {func(f *clusterFacts) {
			set(f.Meshes.Value, []any{map[string]any{"type": "Federated", "status": "False", "message": "0 of 1 joined; run kubectl istiod-agent join"}}, "status", "conditions")
		}, levelWarn, "VirtualMesh gloo-mesh/virtual-mesh  — Federated: 0 of 1 joined; run kubectl istiod-agent join; next: kubectl --context=a describe -n gloo-mesh virtualmesh/virtual-mesh"},
		"remote clusters that istiod cannot read": {func(f *clusterFacts) {
			var clusters []any
			for _, name := range []string{"c1", "c2", "c3", "c4", "c5", "c6", "c7\x1b[2J"} {
				clusters = append(clusters, map[string]any{"name": name, "state": "Failing"})
			}
			entry := map[string]any{"pod": "istiod-0", "confirmed": true, "remoteClusters": map[string]any{"count": int64(7), "clusters": clusters}}
			set(f.Certificates.Value, []any{entry}, "status", "certificates")
		}, levelFail, "Pod istiod-0: each of the remote clusters c1, c2, c3, c4, c5, and 2 more: istiod's requests to its API server fail, most often because the token of the remote secret has expired; next: kubectl istiod-agent join --renew"},
		"unreachable":    {func(f *clusterFacts) { f.Version.Err = errors.New("refused") }, levelUnknown, "Kubernetes  — reading the API server's version: refused; next: kubectl --context=a version"},
		"an old cluster": {func(f *clusterFacts) { f.Version.Value = "v1.29.9-gke.1" }, levelFail, "Kubernetes  — v1.29.9-gke.1 is older than 1.30"},
		"no CRD":         {func(f *clusterFacts) { f.CRDs[crds[0].name] = fact[*crdState]{} }, levelFail, "CRD virtualmeshes.networking.mesh.gloo.solo.io  — is not installed; next: " + helm.Upgrade("--set crds.install=true")},
		"nothing installed": {
			func(f *clusterFacts) { f.CRDs[crds[0].name], f.Webhook.Value, f.Probe = fact[*crdState]{}, nil, nil }, levelFail,
			"CRD virtualmeshes.networking.mesh.gloo.solo.io  — is not installed; next: " + helm.Install("--set crds.install=true"),
		},
		"Gloo's CRD":         {func(f *clusterFacts) { f.CRDs[crds[0].name].Value.Ours = false }, levelOK, "CRD virtualmeshes.networking.mesh.gloo.solo.io  — is of Gloo Mesh or another project, serves v1"},
		"an old CRD":         {func(f *clusterFacts) { f.CRDs[crds[1].name].Value.Served = []string{"v1alpha2"} }, levelFail, "CRD issuedcertificates.certificates.mesh.gloo.solo.io  — serves v1alpha2, but not v1"},
		"no CRD of restarts": {func(f *clusterFacts) { f.CRDs[crds[2].name] = fact[*crdState]{} }, levelFail, "CRD podbouncedirectives.certificates.mesh.gloo.solo.io  — is not installed"},
		"neither form": {
			func(f *clusterFacts) { f.Webhook.Value, f.Policy.Served, f.Probe = nil, true, nil }, levelFail,
			"form of the injection  — there is neither a webhook configuration nor a policy: no istiod is injected; injection.by=webhook is possible, injection.by=policy is possible too; next: " + helm.Install(),
		},
		"neither form, and no policies": {
			func(f *clusterFacts) { f.Webhook.Value, f.Probe = nil, nil }, levelFail,
			"injection.by=webhook is possible, injection.by=policy is not possible: this API server does not serve MutatingAdmissionPolicy, which Kubernetes has from 1.36 on unless it is switched off",
		},
		"neither form, but an istiod is injected": {
			func(f *clusterFacts) { f.Webhook.Value = nil; f.Probe.Injected = true }, levelOK, "injected by what the API does not show: a static policy",
		},
		"by the webhook":                {func(*clusterFacts) {}, levelOK, "form of the injection  — webhook; injection.by=policy is not possible: this API server"},
		"by the policy":                 {byPolicy(func(*clusterFacts) {}), levelOK, "form of the injection  — policy\n"},
		"the policy":                    {byPolicy(func(*clusterFacts) {}), levelOK, "injection policy  — istiod-agent exists and is bound"},
		"its decisions":                 {byPolicy(func(*clusterFacts) {}), levelOK, "decision policy  — istiod-agent-decision exists and is bound"},
		"the Injection":                 {byPolicy(func(*clusterFacts) {}), levelOK, "Injection istiod-agent-system/istiod-agent  — injects " + v1alpha1.Default().Agent.Image + ", digest "},
		"the policy injects":            {byPolicy(func(*clusterFacts) {}), levelOK, "injection  — the API server injects an istiod in namespace istio-system"},
		"a change that is not finished": {addPolicy, levelWarn, "form of the injection  — webhook and policy: a change of injection.by is not finished; next: when all Pods are ready: " + helm.Upgrade()},
		"a change that has begun": {func(f *clusterFacts) {
			addPolicy(f)
			f.Policy.Binding.Value, f.Policy.DecisionBinding, f.Policy.Key = nil, nil, nil
		}, levelWarn, "injection policy  — istiod-agent has no MutatingAdmissionPolicyBinding, and so no effect"},
		"two releases": {func(f *clusterFacts) {
			addPolicy(f)
			f.Policy.Mutating.Value.Name = "b-istiod-agent"
		}, levelWarn, "two installations inject: webhook configuration istiod-agent and policy b-istiod-agent"},
		"a policy on an old cluster": {byPolicy(func(f *clusterFacts) {
			f.Version.Value, f.Policy.Served, f.Policy.Mutating.Value = "v1.35.1", false, nil
		}), levelFail, "Kubernetes  — v1.35.1 is older than 1.36, which injection.by=policy needs; next: upgrade the cluster, or " + helm.Install("--set injection.by=webhook")},
		"a policy that is switched off": {byPolicy(func(f *clusterFacts) {
			f.Policy.Served, f.Policy.Mutating.Value = false, nil
		}), levelFail, "injection policy  — injects nothing: this API server does not serve MutatingAdmissionPolicy"},
		"a policy whose feature gate is off": {byPolicy(func(f *clusterFacts) { f.Policy.SwitchedOff = true }), levelFail, "injection policy  — injects nothing: the feature gate MutatingAdmissionPolicy of this API server is off; next: start every API server without"},
		"no policy, only its decisions":      {byPolicy(func(f *clusterFacts) { f.Policy.Mutating.Value = nil }), levelFail, "injection policy  — there is no MutatingAdmissionPolicy"},
		"an unbound policy":                  {byPolicy(func(f *clusterFacts) { f.Policy.Binding.Value = nil }), levelFail, "injection policy  — istiod-agent has no MutatingAdmissionPolicyBinding, and so no effect; next: " + helm.Upgrade()},
		"no decision policy":                 {byPolicy(func(f *clusterFacts) { f.Policy.Decision = nil }), levelFail, "decision policy  — does not exist"},
		"an unbound decision policy":         {byPolicy(func(f *clusterFacts) { f.Policy.DecisionBinding = nil }), levelFail, "decision policy  — istiod-agent-decision has no"},
		"no warnings policy":                 {byPolicy(func(f *clusterFacts) { f.Policy.Warns = false }), levelWarn, "warnings policy  — does not exist, or is not bound"},
		"no right to list policies": {byPolicy(func(f *clusterFacts) {
			f.Policy.Mutating = fact[*admissionregistrationv1.MutatingAdmissionPolicy]{Err: forbidden}
		}), levelUnknown, "auth can-i list mutatingadmissionpolicies -A"},
		"no Injection": {byPolicy(func(f *clusterFacts) { f.Policy.Injection.Value = nil }), levelFail, "Injection istiod-agent-system/istiod-agent  — does not exist: every change of istiod is refused; next: kubectl --context=a get pods -n istiod-agent-system -l app.kubernetes.io/component=webhook"},
		"no Injection, printed policies": {byPolicy(func(f *clusterFacts) {
			f.Policy.Injection.Value, f.Policy.Mutating.Value.Labels = nil, nil
		}), levelFail, "every change of istiod is refused; next: kubectl istiod-agent policy --config FILE | kubectl --context=a apply -f -"},
		"no CRD of the Injection":       {byPolicy(func(f *clusterFacts) { f.Policy.InjectionServed = false }), levelFail, "Injection istiod-agent-system/istiod-agent  — its CRD is not installed"},
		"no right to see the Injection": {byPolicy(func(f *clusterFacts) { f.Policy.Injection = fact[*unstructured.Unstructured]{Err: forbidden} }), levelUnknown, "auth can-i get injections.istiod-agent.io -A"},
		"the policy does not match":     {byPolicy(func(f *clusterFacts) { f.Probe = &probeResult{} }), levelFail, "it is not injected: the policy has no effect on it; next: kubectl --context=a get mutatingadmissionpolicy istiod-agent -o yaml"},
		"the policy does not match, guarded": {byPolicy(func(f *clusterFacts) {
			f.Probe = &probeResult{Err: errors.New(`ValidatingAdmissionPolicy 'istiod-agent-guard' with binding 'istiod-agent-guard' denied request`)}
		}), levelFail, "the policy did not inject it, and the guard refused it"},
		"the policy finds no Injection": {byPolicy(func(f *clusterFacts) {
			f.Probe = &probeResult{Err: errors.New("policy 'istiod-agent' with binding 'istiod-agent.needs-injection.istiod-agent-system.istiod-agent' denied request: failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction")}
		}), levelFail, "it is refused, since the policy does not find the Injection"},
		"no labelled namespace for the policy": {
			byPolicy(func(f *clusterFacts) { f.Probe, f.Namespaces.Value, f.Istiods.Value = nil, nil, nil }), levelWarn,
			"injection  — was not tried, since no namespace is labelled istiod-agent.io/injection=enabled",
		},
		"no right to see it":   {func(f *clusterFacts) { f.Webhook.Err = forbidden }, levelUnknown, "kubectl --context=a auth can-i list mutatingwebhookconfigurations -A"},
		"no caBundle":          {func(f *clusterFacts) { hook(f, "") }, levelFail, "caBundle of deployments.istiod-agent.io is empty"},
		"no certificate there": {func(f *clusterFacts) { hook(f, "text") }, levelFail, "caBundle of deployments.istiod-agent.io holds no certificate"},
		"no labelled namespace": {
			func(f *clusterFacts) { f.Probe, f.Namespaces.Value, f.Istiods.Value = nil, nil, nil }, levelWarn,
			"webhook  — was not tried, since no namespace is labelled istiod-agent.io/injection=enabled",
		},
		"not reached": {func(f *clusterFacts) {
			f.Probe = &probeResult{Err: errors.New(`failed calling webhook "deployments.istiod-agent.io": connect: connection refused`)}
		}, levelFail, "webhook  — creating an istiod in namespace"},
		"not trusted": {func(f *clusterFacts) {
			f.Probe = &probeResult{Err: errors.New(`failed calling webhook "deployments.istiod-agent.io": tls: failed to verify certificate: x509: unknown authority`)}
		}, levelFail, "cannot verify the webhook's certificate by the caBundle"},
		"not called": {func(f *clusterFacts) { f.Probe = &probeResult{} }, levelFail, "it is not injected: the API server did not call the webhook"},
		"not called, guarded": {func(f *clusterFacts) {
			f.Probe = &probeResult{Err: errors.New(`ValidatingAdmissionPolicy 'istiod-agent-guard' with binding 'istiod-agent-guard' denied request`)}
		}, levelFail, "the webhook did not inject it, and the guard refused it"},
		"another's refusal": {func(f *clusterFacts) {
			f.Probe = &probeResult{Err: errors.New("admission webhook \"other\" denied it")}
		}, levelUnknown, "webhook  — creating an istiod"},
		"no guard":                {func(f *clusterFacts) { f.Policies.Value = nil }, levelWarn, "guard policy  — does not exist"},
		"an unbound guard":        {func(f *clusterFacts) { f.Bindings.Value = nil }, levelFail, "guard policy  — istiod-agent-guard has no ValidatingAdmissionPolicyBinding"},
		"a guard that only tells": {func(f *clusterFacts) { f.Bindings.Value[0].Spec.ValidationActions = nil }, levelWarn, "guard policy  — istiod-agent-guard does not refuse"},
		"a namespace without it":  {func(f *clusterFacts) { f.Namespaces.Value[0].Labelled = false }, levelWarn, "namespace istio-system  — has an istiod and is not labelled"},
		"a namespace that is not listed": {
			func(f *clusterFacts) { f.Configuration.Value.Namespaces = []string{"mesh"} }, levelFail,
			"namespace istio-system  — is labelled, but not in the chart's value rbac.namespaces: istiod is injected there and waits in Init, since the controllers do not see it; next: " +
				helm.Upgrade("--set 'rbac.namespaces={mesh,istio-system}'"),
		},
		"a namespace that is listed": {func(f *clusterFacts) { f.Configuration.Value.Namespaces = []string{"istio-system"} }, levelOK, "namespaces  — every namespace with an istiod is labelled"},
		"an istiod without it":       {func(f *clusterFacts) { f.Istiods.Value[0].State = patches.StateMissing }, levelFail, "istiod istio-system/istiod  — runs without the agent"},
		"an istiod that opted out": {func(f *clusterFacts) {
			f.Istiods.Value[0].State, f.Istiods.Value[0].Reason = patches.StateSkipped, patches.OptedOut
		}, levelOK, "is not injected: OptedOut"},
		"no rights":       {func(f *clusterFacts) { f.Istiods.Value[0].Lacking.Value = []string{"list a", "watch a"} }, levelFail, "rights of service account istio-system/istiod  — it may not list a, nor watch a"},
		"no right to ask": {func(f *clusterFacts) { f.Istiods.Value[0].Lacking.Err = forbidden }, levelUnknown, "rights of service account istio-system/istiod"},
		"no VirtualMesh":  {func(f *clusterFacts) { f.Meshes.Value = nil }, levelWarn, "VirtualMesh  — there is no VirtualMesh"},
		"a bad VirtualMesh": {func(f *clusterFacts) {
			set(f.Meshes.Value, "x", "spec", "globalAccessPolicy")
			set(f.Meshes.Value, "x", "spec", "meshes")
		}, levelFail, "VirtualMesh gloo-mesh/virtual-mesh  — spec.meshes"},
		"nothing acts on it": {func(f *clusterFacts) { delete(f.Meshes.Value[0].Object, "status") }, levelWarn, "VirtualMesh gloo-mesh/virtual-mesh  — is valid, but the controller has not acted on it yet"},
		"a mesh that failed": {func(f *clusterFacts) {
			set(f.Meshes.Value, map[string]any{"state": "FAILED", "errors": []any{"why"}}, "status")
		}, levelFail, "VirtualMesh gloo-mesh/virtual-mesh  — FAILED: why"},
		"no cluster name": {func(f *clusterFacts) {
			set(f.Meshes.Value, map[string]any{"state": "FAILED", "errors": []any{"set clusterName"}}, "status")
		}, levelFail, "clusterName  — is not set"},
		"a tenant's VirtualMesh": {func(f *clusterFacts) {
			f.Meshes.Value = append(f.Meshes.Value, parse(t, "{metadata: {name: mesh, namespace: tenant}, spec: {meshes: x}, status: {state: FAILED}}"))
		}, levelWarn, "VirtualMesh  — tenant/mesh: not acted on, since the namespace is not one of gloo-mesh, istiod-agent-system"},
		"a tenant's VirtualMesh, without a right to read the configuration": {func(f *clusterFacts) {
			f.Configuration.Err = forbidden
			f.Meshes.Value = append(f.Meshes.Value, parse(t, "{metadata: {name: mesh, namespace: tenant}, spec: {meshes: x}, status: {state: FAILED, conditions: [{reason: NamespaceNotAllowed}]}}"))
		}, levelWarn, "VirtualMesh  — tenant/mesh: not acted on"},
		"nobody else decides":   {func(*clusterFacts) {}, levelOK, "who decides about the CA  — only cluster administrators"},
		"no right to read RBAC": {func(f *clusterFacts) { f.Grants.Err = forbidden }, levelUnknown, "who decides about the CA  — listing Roles"},
		"no IssuedCertificate":  {func(f *clusterFacts) { f.Certificates.Value = nil }, levelWarn, "IssuedCertificate  — there is no IssuedCertificate for istiod istio-system/istiod"},
		"a reviewer that is gone": {func(f *clusterFacts) {
			set(f.Certificates.Value, "asking Vault at x to log in: the token_reviewer_jwt in auth/kubernetes/config has probably expired", "status", "error")
		}, levelFail, "shows the differences; if logins worked before, rewrite the login's configuration in Vault's Pod, without token_reviewer_jwt and kubernetes_ca_cert: vault write auth/kubernetes/config kubernetes_host=https://kubernetes.default.svc"},
		"a reviewer that is gone, at another mount": {func(f *clusterFacts) {
			set(f.Certificates.Value, "asking Vault at x to log in: the token_reviewer_jwt in auth/clusters/one/config has probably expired", "status", "error")
			set(f.Certificates.Value, "/v1/auth/clusters/one", "spec", "agentCa", "vault", "kubernetesAuth", "mountPath")
		}, levelFail, "kubernetes_ca_cert: vault write auth/clusters/one/config kubernetes_host=https://kubernetes.default.svc"},
		"an agent that fails": {func(f *clusterFacts) { set(f.Certificates.Value, "asking Vault at x: no", "status", "error") }, levelFail, "Vault  — seen from istiod's Pods: asking Vault at x: no"},
		"an expired certificate": {func(f *clusterFacts) {
			set(f.Certificates.Value, []any{map[string]any{"pod": "istiod-0", "notAfter": "2025-01-01T00:00:00Z"}}, "status", "certificates")
		}, levelFail, "the CA certificate of Pod istiod-0 expired at 2025-01-01"},
		"a root that ends soon": {func(f *clusterFacts) {
			set(f.Certificates.Value, []any{map[string]any{"pod": "istiod-0", "rootNotAfter": "2026-03-31T00:00:00Z"}, map[string]any{"pod": "istiod-1", "rootNotAfter": "2036-01-01T00:00:00Z"}}, "status", "certificates")
		}, levelWarn, "the root of its CA expires at 2026-03-31T00:00:00Z"},
		"an issuer that cuts short": {func(f *clusterFacts) {
			set(f.Certificates.Value, []any{map[string]any{"pod": "istiod-0", "limitedBy": "CN=mid, which ends at 2026-01-20T00:00:00Z" + strings.Repeat("x", 30000)}}, "status", "certificates")
		}, levelWarn, "the lifetime of istiod's CA is shorter than ttlDays: it is limited by CN=mid, which ends at 2026-01-20T00:00:00Z"},
		"an agent that asks": {func(f *clusterFacts) { set(f.Certificates.Value, "REQUESTED", "status", "state") }, levelWarn, "is REQUESTED, not FINISHED yet"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			facts := healthy(t)
			test.change(facts)
			contexts := []contextFindings{{"a", decide("kubectl --context=a", facts, now)}}
			var text bytes.Buffer
			printText(&text, contexts)
			said := false
			for line := range strings.Lines(text.String()) {
				said = said || strings.HasPrefix(line, string(test.status)+" ") && strings.Contains(line, test.want)
			}
			if !said {
				t.Errorf("want %s with %q in\n%s", test.status, test.want, &text)
			}
			if fails := count(contexts, levelFail) > 0; fails != (test.status == levelFail) {
				t.Errorf("fails is %t:\n%s", fails, &text)
			}
			for _, line := range contexts[0].Lines {
				if line.Status != levelOK && line.Next == "" {
					t.Errorf("no next command: %+v", line)
				}
			}
		})
	}
}

func hook(f *clusterFacts, bundle string) {
	f.Webhook.Value.Webhooks = []admissionregistrationv1.MutatingWebhook{{
		Name: "deployments.istiod-agent.io", ClientConfig: admissionregistrationv1.WebhookClientConfig{CABundle: []byte(bundle)},
	}}
}

func set(objects []unstructured.Unstructured, value any, path ...string) {
	if err := unstructured.SetNestedField(objects[0].Object, value, path...); err != nil {
		panic(err)
	}
}

func parse(t *testing.T, text string) (object unstructured.Unstructured) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(text), &object.Object); err != nil {
		t.Fatal(err)
	}
	return object
}
