// SPDX-License-Identifier: Apache-2.0

package checkup

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/istiod-agent/istiod-agent/internal/helm"
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
		d.add(Fail, subject, "does not exist: no istiod is injected", d.release())
		return
	}
	for i := range found.Value.Webhooks {
		hook := &found.Value.Webhooks[i]
		if problem := d.bundleProblem(hook.ClientConfig.CABundle); problem != "" {
			d.add(Fail, subject, fmt.Sprintf("%s: the caBundle of %s %s, so the API server cannot verify the webhook", found.Value.Name, hook.Name, problem),
				d.kubectl+" "+d.pods()+"; a running replica sets it, or cert-manager's cainjector")
			return
		}
	}
	d.add(OK, subject, found.Value.Name+" exists, its caBundle holds a certificate", "")
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

// pods returns the arguments of kubectl that list the webhook's Pods.
func (d *decision) pods() string {
	if service := serviceOf(d.facts.Webhook.Value); service != nil {
		return "get pods -n " + service.Namespace + " -l app.kubernetes.io/component=webhook"
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
		return strings.HasSuffix(p.Name, "-guard") && p.Labels["app.kubernetes.io/part-of"] == "istiod-agent"
	})
	if i < 0 {
		d.add(Warn, subject, "does not exist: without the webhook, an istiod starts with its own root", d.release("--set guard.enabled=true"))
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
		d.add(Fail, subject, policy.Name+" has no ValidatingAdmissionPolicyBinding, and so no effect", d.release())
	case !denies:
		d.add(Warn, subject, policy.Name+" does not refuse an istiod without the agent, it only warns", d.release("--set 'guard.actions={Deny}'"))
	default:
		d.add(OK, subject, policy.Name+" exists and is bound", "")
	}
}

func (d *decision) probe() {
	const subject = "webhook"
	p := d.facts.Probe
	if d.facts.Webhook.Value == nil {
		return // webhook has its line
	}
	if p == nil {
		if d.facts.Namespaces.Err == nil {
			d.add(Warn, subject, "was not called, since no namespace is labelled "+injectionLabel+"=enabled", d.kubectl+" label namespace istio-system "+injectionLabel+"=enabled")
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
		d.add(OK, subject, "the API server calls it, and it injects an istiod in namespace "+p.Namespace, "")
	case p.Err == nil:
		d.add(Fail, subject, doing+": it is not injected: the API server did not call the webhook", d.kubectl+" get mutatingwebhookconfiguration "+d.facts.Webhook.Value.Name+" -o yaml; compare its selectors, then "+helm.Upgrade())
	case calling && (strings.Contains(message, "x509:") || strings.Contains(message, "tls:")):
		d.add(Fail, subject, doing+": the API server cannot verify its certificate by the caBundle: "+message, d.kubectl+" "+strings.Replace(d.pods(), "get pods", "logs --tail=50", 1))
	case calling:
		d.add(Fail, subject, doing+": the API server cannot reach it: "+message, d.kubectl+" "+d.pods()+"; with private nodes, open the webhook's port to the control plane")
	case strings.Contains(message, guarded) && strings.Contains(message, "-guard'"):
		d.add(Fail, subject, doing+": the webhook did not inject it, and the guard refused it", d.kubectl+" get mutatingwebhookconfiguration "+d.facts.Webhook.Value.Name+" -o yaml; compare its selectors, then "+helm.Upgrade())
	case apierrors.IsForbidden(p.Err) && strings.Contains(message, "cannot create"):
		d.unknown(subject, doing, "create", "deployments.apps", p.Err)
	default:
		d.add(Unknown, subject, doing+": "+message, "find out which admission policy or webhook refuses it")
	}
}
