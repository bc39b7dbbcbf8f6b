// SPDX-License-Identifier: Apache-2.0

package checkup

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/version"

	"github.com/istiod-agent/istiod-agent/cli/shell"
	"github.com/istiod-agent/istiod-agent/internal/helm"
	"github.com/istiod-agent/istiod-agent/patches"
)

// minimum is the least version of Kubernetes: ValidatingAdmissionPolicy is in it for good.
const minimum = "1.30.0"

const guarded = "ValidatingAdmissionPolicy"

// decide says what facts mean, in the order in which a person would mend them. context is for the commands to run, now for
// what has expired.
func decide(context string, facts *Facts, now time.Time) []Line {
	d := &decision{facts: facts, kubectl: "kubectl --context=" + shell.Quote(context), now: now}
	if facts.Version.Err != nil {
		next := "kubectl --context=" + shell.Quote(context) + " version, until it answers; check the cluster's address and your login"
		d.add(Unknown, "Kubernetes", "asking the API server for its version: "+facts.Version.Err.Error(), next)
		return d.lines
	}
	d.version()
	d.definitions()
	d.webhook()
	d.probe()
	d.guard()
	d.namespaces()
	d.istiods()
	d.rights()
	d.servers()
	d.meshes()
	d.certificates()
	d.deciders()
	return d.lines
}

type decision struct {
	facts   *Facts
	kubectl string
	now     time.Time
	lines   []Line
}

func (d *decision) add(status Status, what, detail, next string) {
	d.lines = append(d.lines, Line{status, what, detail, next})
}

// unknown says that something could not be asked, and tells a missing right from the rest.
func (d *decision) unknown(what, doing, verb, resource string, err error) {
	next := "try again; the API server does not answer as it should"
	if apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) {
		next = fmt.Sprintf("get the right to %s %s (%s auth can-i %s %s -A)", verb, resource, d.kubectl, verb, resource)
	}
	d.add(Unknown, what, doing+": "+err.Error(), next)
}

// release returns the command that sets values of the chart: an upgrade where the cluster shows a release.
func (d *decision) release(flags ...string) string {
	if d.facts.Webhook.Value == nil {
		return helm.Install(flags...)
	}
	return helm.Upgrade(flags...)
}

func (d *decision) version() {
	is, err := version.ParseGeneric(d.facts.Version.Value)
	switch {
	case err != nil:
		d.add(Unknown, "Kubernetes", fmt.Sprintf("its version %q cannot be read", d.facts.Version.Value), d.kubectl+" version")
	case is.LessThan(version.MustParseGeneric(minimum)):
		d.add(Fail, "Kubernetes", d.facts.Version.Value+" is older than 1.30, which the guard policy needs", "upgrade the cluster")
	default:
		d.add(OK, "Kubernetes", d.facts.Version.Value, "")
	}
}

func (d *decision) definitions() {
	for _, each := range crds {
		crd, what := d.facts.CRDs[each.name], "CRD "+each.name
		switch {
		case crd.Err != nil:
			d.unknown(what, "reading it", "get", "customresourcedefinitions", crd.Err)
		case crd.Value == nil:
			d.add(Fail, what, "is not installed", d.release("--set crds.install=true"))
		case !slices.Contains(crd.Value.Served, "v1"):
			d.add(Fail, what, fmt.Sprintf("serves %s, and not v1", orNothing(crd.Value.Served)), "install the CRDs of this release: "+d.release("--set crds.install=true"))
		case !crd.Value.Established:
			d.add(Fail, what, "is not established: the API server does not serve it", d.kubectl+" describe crd "+each.name)
		case !crd.Value.Ours:
			d.add(OK, what, "is Gloo Mesh's or another's, serves "+strings.Join(crd.Value.Served, ", ")+"; it does as well, without the columns and the details of the status", "")
		default:
			d.add(OK, what, "serves "+strings.Join(crd.Value.Served, ", "), "")
		}
	}
}

func orNothing(values []string) string {
	if len(values) == 0 {
		return "nothing"
	}
	return strings.Join(values, ", ")
}

func (d *decision) webhook() {
	const what = "webhook configuration"
	found := d.facts.Webhook
	switch {
	case found.Err != nil:
		d.unknown(what, "listing MutatingWebhookConfigurations", "list", "mutatingwebhookconfigurations", found.Err)
		return
	case found.Value == nil:
		d.add(Fail, what, "is not there: no istiod is injected", d.release())
		return
	}
	for i := range found.Value.Webhooks {
		hook := &found.Value.Webhooks[i]
		if problem := d.bundleProblem(hook.ClientConfig.CABundle); problem != "" {
			d.add(Fail, what, fmt.Sprintf("%s: the caBundle of %s %s, so that the API server cannot trust the webhook", found.Value.Name, hook.Name, problem),
				d.kubectl+" "+d.pods()+"; a running replica fills it in, or with cert-manager its cainjector")
			return
		}
	}
	d.add(OK, what, found.Value.Name+" is there, its caBundle holds a certificate", "")
}

// bundleProblem wants a certificate that is still valid.
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
		return "holds none but expired certificates"
	}
	return ""
}

// pods are the webhook's.
func (d *decision) pods() string {
	if at := service(d.facts.Webhook.Value); at != nil {
		return "get pods -n " + at.Namespace + " -l app.kubernetes.io/component=webhook"
	}
	return "get pods -A -l app.kubernetes.io/part-of=istiod-agent,app.kubernetes.io/component=webhook"
}

func (d *decision) probe() {
	const what = "webhook"
	p := d.facts.Probe
	if d.facts.Webhook.Value == nil {
		return // said already
	}
	if p == nil {
		if d.facts.Namespaces.Err == nil {
			d.add(Warn, what, "was not tried, since no namespace is labelled "+injectionLabel+"=enabled", d.kubectl+" label namespace istio-system "+injectionLabel+"=enabled")
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
		d.add(OK, what, "the API server reaches it, trusts it, and has it inject an istiod in namespace "+p.Namespace, "")
	case p.Err == nil:
		d.add(Fail, what, doing+": it was stored without the agent: the API server did not call the webhook", d.kubectl+" get mutatingwebhookconfiguration "+d.facts.Webhook.Value.Name+" -o yaml; compare its selectors, then "+helm.Upgrade())
	case calling && (strings.Contains(message, "x509:") || strings.Contains(message, "tls:")):
		d.add(Fail, what, doing+": the API server does not trust its certificate by the caBundle: "+message, d.kubectl+" "+strings.Replace(d.pods(), "get pods", "logs --tail=50", 1))
	case calling:
		d.add(Fail, what, doing+": the API server does not reach it: "+message, d.kubectl+" "+d.pods()+"; with private nodes open the webhook's port to the control plane")
	case strings.Contains(message, guarded) && strings.Contains(message, "-guard'"):
		d.add(Fail, what, doing+": the webhook did not inject it, and the guard refused it", d.kubectl+" get mutatingwebhookconfiguration "+d.facts.Webhook.Value.Name+" -o yaml; compare its selectors, then "+helm.Upgrade())
	case apierrors.IsForbidden(p.Err) && strings.Contains(message, "cannot create"):
		d.unknown(what, doing, "create", "deployments.apps", p.Err)
	default:
		d.add(Unknown, what, doing+": "+message, "see who refuses it; another admission policy may do so before the webhook is asked")
	}
}

func (d *decision) guard() {
	const what = "guard policy"
	switch {
	case d.facts.Policies.Err != nil:
		d.unknown(what, "listing ValidatingAdmissionPolicies", "list", "validatingadmissionpolicies", d.facts.Policies.Err)
		return
	case d.facts.Bindings.Err != nil:
		d.unknown(what, "listing ValidatingAdmissionPolicyBindings", "list", "validatingadmissionpolicybindings", d.facts.Bindings.Err)
		return
	}
	at := slices.IndexFunc(d.facts.Policies.Value, func(p admissionregistrationv1.ValidatingAdmissionPolicy) bool {
		return strings.HasSuffix(p.Name, "-guard") && p.Labels["app.kubernetes.io/part-of"] == "istiod-agent"
	})
	if at < 0 {
		d.add(Warn, what, "is not there: without the webhook an istiod would start with a root of its own", d.release("--set guard.enabled=true"))
		return
	}
	policy := &d.facts.Policies.Value[at]
	denies, bound := false, false
	for _, binding := range d.facts.Bindings.Value {
		if binding.Spec.PolicyName == policy.Name {
			bound = true
			denies = denies || slices.Contains(binding.Spec.ValidationActions, admissionregistrationv1.Deny)
		}
	}
	switch {
	case !bound:
		d.add(Fail, what, policy.Name+" is there without its ValidatingAdmissionPolicyBinding, and so does nothing", d.release())
	case !denies:
		d.add(Warn, what, policy.Name+" does not refuse an istiod without the agent; it only tells", d.release("--set 'guard.actions={Deny}'"))
	default:
		d.add(OK, what, policy.Name+" is there and bound", "")
	}
}

func (d *decision) labelled(namespace string) bool {
	return slices.ContainsFunc(d.facts.Namespaces.Value, func(n Namespace) bool { return n.Name == namespace && n.Labelled })
}

func (d *decision) namespaces() {
	const what = "namespaces"
	switch {
	case d.facts.Namespaces.Err != nil:
		d.unknown(what, "listing namespaces", "list", "namespaces", d.facts.Namespaces.Err)
		return
	case d.facts.Istiods.Err != nil:
		return // said below
	}
	var missing []string
	for _, istiod := range d.facts.Istiods.Value {
		if !d.labelled(istiod.Namespace) && !exempt(istiod) && !slices.Contains(missing, istiod.Namespace) {
			missing = append(missing, istiod.Namespace)
		}
	}
	for _, namespace := range missing {
		d.add(Warn, "namespace "+namespace, "has an istiod and is not labelled: the agent is not injected there", d.kubectl+" label namespace "+namespace+" "+injectionLabel+"=enabled")
	}
	if len(missing) == 0 && len(d.facts.Istiods.Value) > 0 {
		d.add(OK, what, "every one with an istiod is labelled", "")
	}
}

// left alone, since somebody wants it so.
func exempt(istiod Istiod) bool {
	return istiod.State == patches.StateSkipped && (istiod.Reason == patches.OptedOut || istiod.Reason == patches.NoBuiltInCA || istiod.Reason == patches.BeingDeleted)
}

func (d *decision) istiods() {
	switch {
	case d.facts.Istiods.Err != nil:
		d.unknown("istiods", "listing Deployments and Pods labelled app=istiod", "list", "deployments.apps", d.facts.Istiods.Err)
		return
	case len(d.facts.Istiods.Value) == 0:
		d.add(OK, "istiods", "there is none yet; install Istio", "")
		return
	}
	for _, istiod := range d.facts.Istiods.Value {
		what := "istiod " + istiod.Namespace + "/" + istiod.Name
		restart := d.kubectl + " rollout restart -n " + istiod.Namespace + " deployment/" + istiod.Name
		switch {
		case istiod.State == patches.StateInjected, istiod.State == patches.StateOutdated:
			d.add(OK, what, "has the agent", "")
		case exempt(istiod):
			d.add(OK, what, "is left alone: "+string(istiod.Reason), "")
		case !d.labelled(istiod.Namespace):
			// The namespace's line says what to do.
		case istiod.State == "":
			d.add(Warn, what, "has no Pod to look at", d.kubectl+" describe -n "+istiod.Namespace+" deployment/"+istiod.Name)
		case istiod.Reason == patches.NoIstiodContainer, istiod.Reason == patches.CACertsElsewhere:
			d.add(Fail, what, "cannot be injected: "+string(istiod.Reason)+": "+istiod.Message, "change it as it says")
		default:
			d.add(Fail, what, "runs without the agent, and so with a root of its own", restart)
		}
	}
}

// servers warns where the author of a VirtualMesh chooses the server that istiod's agents log in to.
func (d *decision) servers() {
	const what = "allowed servers"
	switch configuration := d.facts.Configuration; {
	case d.facts.Webhook.Value == nil, configuration.Err != nil:
	case len(configuration.Value.Agent.AllowedServers) == 0:
		d.add(Warn, what, "istiod's agents log in to any server that a VirtualMesh or IssuedCertificate names", helm.Upgrade("--set 'injection.agent.allowedServers={https://vault.example.com:8200}'")+", with your Vault's address; then restart istiod")
	default:
		d.add(OK, what, "istiod's agents log in to "+listed(configuration.Value.Agent.AllowedServers)+" only", "")
	}
}

func (d *decision) rights() {
	done := map[string]bool{}
	for _, istiod := range d.facts.Istiods.Value {
		account := istiod.Namespace + "/" + istiod.ServiceAccount
		if done[account] || exempt(istiod) {
			continue
		}
		done[account] = true
		what := "rights of service account " + account
		switch {
		case istiod.Lacking.Err != nil:
			d.unknown(what, "asking what it may do", "create", "subjectaccessreviews.authorization.k8s.io", istiod.Lacking.Err)
		case len(istiod.Lacking.Value) > 0:
			d.add(Fail, what, "it may not "+strings.Join(istiod.Lacking.Value, ", nor ")+"; istiod waits in Init until it may",
				fmt.Sprintf("add {name: %s, namespace: %s} to istiodSidecar.serviceAccounts in your values, if it is missing, and run %s", istiod.ServiceAccount, istiod.Namespace, d.release("-f values.yaml")))
		default:
			d.add(OK, what, "has what the agent needs", "")
		}
	}
}
