// SPDX-License-Identifier: Apache-2.0

package checkup

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/patches"
)

const guarded = "ValidatingAdmissionPolicy"

func (d *decision) webhook() {
	const subject = "webhook configuration"
	found := d.facts.Webhook
	switch {
	case found.Err != nil:
		d.unknown(subject, "listing MutatingWebhookConfigurations", "list", "mutatingwebhookconfigurations", found.Err)
		return
	case found.Value == nil:
		return // form has its line
	}
	for i := range found.Value.Webhooks {
		hook := &found.Value.Webhooks[i]
		if problem := d.bundleProblem(hook.ClientConfig.CABundle); problem != "" {
			d.add(levelFail, subject, fmt.Sprintf("%s: the caBundle of %s %s, so the API server cannot verify the webhook", found.Value.Name, hook.Name, problem),
				d.kubectl+" "+d.pods()+"; a running replica sets it, or cert-manager's cainjector")
			return
		}
	}
	d.add(levelOK, subject, found.Value.Name+" exists, its caBundle holds a certificate", "")
}

// bundleProblem requires a certificate that is still valid.
func (d *decision) bundleProblem(bundle []byte) string {
	found, valid := false, false
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		if certificate, err := x509.ParseCertificate(block.Bytes); err == nil && block.Type == "CERTIFICATE" {
			found = true
			valid = valid || d.now.Before(certificate.NotAfter)
		}
	}
	switch {
	case len(bundle) == 0:
		return "is empty"
	case !found:
		return "holds no certificate"
	case !valid:
		return "holds only expired certificates"
	}
	return ""
}

// pods returns the arguments of kubectl that list the program's Pods.
func (d *decision) pods() string {
	if program := d.facts.program(); program != nil {
		return "get pods -n " + program.Namespace + " -l app.kubernetes.io/component=webhook"
	}
	return "get pods -A -l app.kubernetes.io/part-of=istiod-agent,app.kubernetes.io/component=webhook"
}

func (d *decision) guard() {
	const subject = "guard policy"
	switch {
	case d.facts.Policies.Err != nil:
		d.unknown(subject, "listing ValidatingAdmissionPolicies", "list", "validatingadmissionpolicies", d.facts.Policies.Err)
		return
	case d.facts.Bindings.Err != nil:
		d.unknown(subject, "listing ValidatingAdmissionPolicyBindings", "list", "validatingadmissionpolicybindings", d.facts.Bindings.Err)
		return
	}
	i := slices.IndexFunc(d.facts.Policies.Value, func(p admissionregistrationv1.ValidatingAdmissionPolicy) bool {
		return strings.HasSuffix(p.Name, "-guard") && ofProject(&p)
	})
	if i < 0 {
		d.add(levelWarn, subject, "does not exist: an istiod that is not injected starts with its own root", d.release("--set guard.enabled=true"))
		return
	}
	policy := &d.facts.Policies.Value[i]
	denies, bound := false, false
	for _, binding := range d.facts.Bindings.Value {
		if binding.Spec.PolicyName == policy.Name {
			bound = true
			denies = denies || slices.Contains(binding.Spec.ValidationActions, admissionregistrationv1.Deny)
		}
	}
	switch {
	case !bound:
		d.add(levelFail, subject, policy.Name+" has no ValidatingAdmissionPolicyBinding, and so no effect", d.release())
	case !denies:
		d.add(levelWarn, subject, policy.Name+" does not refuse an istiod without the agent, it only warns", d.release("--set 'guard.actions={Deny}'"))
	default:
		d.add(levelOK, subject, policy.Name+" exists and is bound", "")
	}
}

// ofProject reports whether a policy is for the namespaces of this project's label: without the chart, the guard has no label.
func ofProject(policy *admissionregistrationv1.ValidatingAdmissionPolicy) bool {
	constraints := policy.Spec.MatchConstraints
	return constraints != nil && constraints.NamespaceSelector != nil &&
		slices.ContainsFunc(constraints.NamespaceSelector.MatchExpressions, func(r metav1.LabelSelectorRequirement) bool { return r.Key == patches.InjectionLabel })
}

func (d *decision) probe() {
	p := d.facts.Probe
	byWebhook, byPolicy := d.facts.Webhook.Value != nil, d.facts.Policy.exists()
	subject, injector, did := "webhook", "the webhook", "the API server calls it, and it injects"
	if byPolicy {
		subject, injector, did = "injection", "the policy", "the API server injects"
	}
	if !byWebhook && !byPolicy {
		return // form has its line
	}
	if p == nil {
		if d.facts.Namespaces.Err == nil {
			d.add(levelWarn, subject, "was not tried, since no namespace is labelled "+patches.InjectionLabel+"="+patches.InjectionEnabled, d.kubectl+" label namespace istio-system "+patches.InjectionLabel+"="+patches.InjectionEnabled)
		}
		return
	}
	doing := "creating an istiod in namespace " + p.Namespace + " (a dry run)"
	message := ""
	if p.Err != nil {
		message = p.Err.Error()
	}
	calling := strings.Contains(message, "failed calling webhook") && strings.Contains(message, "istiod-agent.io")
	switch {
	case p.Err == nil && p.Injected:
		d.add(levelOK, subject, did+" an istiod in namespace "+p.Namespace, "")
	case p.Err == nil && byPolicy:
		d.add(levelFail, subject, doing+": it is not injected: the policy has no effect on it", d.compare())
	case p.Err == nil:
		d.add(levelFail, subject, doing+": it is not injected: the API server did not call the webhook", d.compare())
	case calling && (strings.Contains(message, "x509:") || strings.Contains(message, "tls:")):
		d.add(levelFail, subject, doing+": the API server cannot verify the webhook's certificate by the caBundle: "+message, d.kubectl+" "+strings.Replace(d.pods(), "get pods", "logs --tail=50", 1))
	case calling:
		d.add(levelFail, subject, doing+": the API server cannot reach the webhook: "+message, d.kubectl+" "+d.pods()+"; with private nodes, open the webhook's port to the control plane")
	case strings.Contains(message, noParameter) && byPolicy:
		d.add(levelFail, subject, doing+": it is refused, since the policy does not find the Injection", d.restore())
	case strings.Contains(message, guarded) && strings.Contains(message, "-guard'"):
		d.add(levelFail, subject, doing+": "+injector+" did not inject it, and the guard refused it", d.compare())
	case apierrors.IsForbidden(p.Err) && strings.Contains(message, "cannot create"):
		d.unknown(subject, doing, "create", "deployments.apps", p.Err)
	default:
		d.add(levelUnknown, subject, doing+": "+message, "find out which admission policy or webhook refuses it")
	}
}

// noParameter is the API server's message where the parameter of a policy does not exist
// (staging/src/k8s.io/apiserver/pkg/admission/plugin/policy/generic/policy_dispatcher.go, Kubernetes 1.37).
const noParameter = "no params found"

// compare returns the commands that show why an istiod is not injected.
func (d *decision) compare() string {
	what := d.facts.Policy.Mutating.Value
	switch {
	case what != nil:
		return d.kubectl + " get mutatingadmissionpolicy " + what.Name + " -o yaml; compare its matchConstraints, then " + d.reapply()
	case d.facts.Webhook.Value != nil:
		return d.kubectl + " get mutatingwebhookconfiguration " + d.facts.Webhook.Value.Name + " -o yaml; compare its selectors, then " + d.release()
	}
	return d.reapply()
}

type probeResult struct {
	Namespace string
	Injected  bool
	Err       error
}

// probedNamespace returns a labelled namespace, preferably with an istiod.
func probedNamespace(facts *clusterFacts) string {
	found := ""
	for _, namespace := range facts.Namespaces.Value {
		if !namespace.Labelled || namespace.Deleting || namespace.Name == metav1.NamespaceSystem {
			continue
		}
		hasIstiod := slices.ContainsFunc(facts.Istiods.Value, func(i istiodState) bool { return i.Namespace == namespace.Name })
		if found == "" || hasIstiod {
			found = namespace.Name
		}
	}
	return found
}

// probe creates an istiod in a dry run, so that the API server injects it.
func probe(ctx context.Context, writer client.Writer, namespace string, target v1alpha1.Target) *probeResult {
	labels := istio.IstiodLabels
	metadata := metav1.ObjectMeta{Name: "istiod-agent-check", Namespace: namespace, Labels: labels}
	spec := corev1.PodSpec{Containers: []corev1.Container{{
		Name: patches.IstiodContainer, Image: "pilot",
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: new(false), RunAsNonRoot: new(true), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
	}}}
	result := &probeResult{Namespace: namespace}
	var stored *corev1.PodSpec
	if target == v1alpha1.TargetPods {
		pod := &corev1.Pod{ObjectMeta: metadata, Spec: spec}
		result.Err = writer.Create(ctx, pod, client.DryRunAll)
		stored = &pod.Spec
	} else {
		deployment := &appsv1.Deployment{ObjectMeta: metadata, Spec: appsv1.DeploymentSpec{
			Replicas: new(int32(0)), Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: spec},
		}}
		result.Err = writer.Create(ctx, deployment, client.DryRunAll)
		stored = &deployment.Spec.Template.Spec
	}
	result.Injected = patches.RunsAgent(stored)
	return result
}
