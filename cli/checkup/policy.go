// SPDX-License-Identifier: Apache-2.0

package checkup

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/policy"
)

// policyState is what a cluster has of the injection by the API server itself.
type policyState struct {
	// Served is false where the API server does not serve MutatingAdmissionPolicy.
	Served bool
	// SwitchedOff is true where the feature gate is known to be off. Such an API server serves the kind all the same.
	SwitchedOff bool
	// Mutating injects; nil where it does not exist.
	Mutating fact[*admissionregistrationv1.MutatingAdmissionPolicy]
	// Binding is that of Mutating; nil where it does not exist.
	Binding fact[*admissionregistrationv1.MutatingAdmissionPolicyBinding]
	// Decision refuses what Mutating cannot inject; nil where it does not exist.
	Decision *admissionregistrationv1.ValidatingAdmissionPolicy
	// DecisionBinding is nil where it does not exist.
	DecisionBinding *admissionregistrationv1.ValidatingAdmissionPolicyBinding
	// Warns is true where the policy that warns exists and is bound.
	Warns bool
	// Key names the parameter in the bindings; nil without one.
	Key *client.ObjectKey
	// InjectionServed is false without the CRD of Injection.
	InjectionServed bool
	// Injection is nil where it does not exist.
	Injection fact[*unstructured.Unstructured]
}

// impossible returns why this API server cannot inject by policy, as far as is known; else "".
func (p *policyState) impossible() string {
	switch {
	case !p.Served:
		return fmt.Sprintf("this API server does not serve MutatingAdmissionPolicy, which Kubernetes has from 1.%d on unless it is switched off", policy.OldestMinor)
	case p.SwitchedOff:
		return "the feature gate MutatingAdmissionPolicy of this API server is off"
	}
	return ""
}

// exists reports whether the injection by policy is installed, in part or as a whole.
func (p *policyState) exists() bool { return p.Mutating.Value != nil || p.Decision != nil }

// ofChart reports whether the chart or its kustomization wrote the policies, and not `kubectl istiod-agent policy`.
func (p *policyState) ofChart() bool {
	labels := map[string]string{}
	if p.Mutating.Value != nil {
		labels = p.Mutating.Value.Labels
	} else if p.Decision != nil {
		labels = p.Decision.Labels
	}
	return ofChart(labels)
}

// ofChart reports whether an object has the label that the chart and its kustomization set.
func ofChart(labels map[string]string) bool { return labels[partOf] == partOfValue }

const partOf, partOfValue = "app.kubernetes.io/part-of", "istiod-agent"

// matches reports whether the policies are for a resource.
func (p *policyState) matches(resource string) bool {
	var constraints *admissionregistrationv1.MatchResources
	if p.Mutating.Value != nil {
		constraints = p.Mutating.Value.Spec.MatchConstraints
	} else if p.Decision != nil {
		constraints = p.Decision.Spec.MatchConstraints
	}
	return constraints != nil && slices.ContainsFunc(constraints.ResourceRules, func(rule admissionregistrationv1.NamedRuleWithOperations) bool {
		return slices.Contains(rule.Resources, resource)
	})
}

// maxMetrics bounds what is read of an API server's metrics, in bytes.
const maxMetrics = 64 << 20

// featureOff reports whether a feature gate of the API server is off, by its metric kubernetes_feature_enabled. It returns
// false where the metrics cannot be read.
func featureOff(ctx context.Context, server rest.Interface, gate string) bool {
	if server == nil {
		return false
	}
	metrics, err := server.Get().AbsPath("/metrics").Stream(ctx)
	if err != nil {
		return false
	}
	defer metrics.Close()
	prefix := `kubernetes_feature_enabled{name="` + gate + `",`
	for lines := bufio.NewScanner(io.LimitReader(metrics, maxMetrics)); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), prefix) {
			return strings.HasSuffix(lines.Text(), " 0")
		}
	}
	return false
}

// readPolicy finds the policies by their parameter's kind, since they may have any name.
func readPolicy(ctx context.Context, reader client.Reader, validating []admissionregistrationv1.ValidatingAdmissionPolicy, bindings []admissionregistrationv1.ValidatingAdmissionPolicyBinding) policyState {
	state := policyState{Served: true, InjectionServed: true}
	for i := range validating {
		if !injectionKind(validating[i].Spec.ParamKind) {
			continue
		}
		j := slices.IndexFunc(bindings, func(b admissionregistrationv1.ValidatingAdmissionPolicyBinding) bool {
			return b.Spec.PolicyName == validating[i].Name
		})
		switch name := validating[i].Name; {
		case strings.HasSuffix(name, "-warnings"):
			state.Warns = j >= 0
		case strings.HasSuffix(name, "-decision"):
			state.Decision = &validating[i]
			if j >= 0 {
				state.DecisionBinding = &bindings[j]
				state.Key = keyOf(bindings[j].Spec.ParamRef)
			}
		}
	}
	var policies admissionregistrationv1.MutatingAdmissionPolicyList
	err := reader.List(ctx, &policies)
	state.Served = !meta.IsNoMatchError(err)
	if state.Served {
		state.Mutating.Err = err
	}
	i := slices.IndexFunc(policies.Items, func(p admissionregistrationv1.MutatingAdmissionPolicy) bool { return injectionKind(p.Spec.ParamKind) })
	if i >= 0 {
		state.Mutating.Value = &policies.Items[i]
		var all admissionregistrationv1.MutatingAdmissionPolicyBindingList
		state.Binding.Err = reader.List(ctx, &all)
		for j := range all.Items {
			if all.Items[j].Spec.PolicyName == state.Mutating.Value.Name {
				state.Binding.Value = &all.Items[j]
				state.Key = keyOf(all.Items[j].Spec.ParamRef)
			}
		}
	}
	if state.Key != nil {
		injection := &unstructured.Unstructured{}
		injection.SetGroupVersionKind(policy.InjectionKind)
		switch err := reader.Get(ctx, *state.Key, injection); {
		case meta.IsNoMatchError(err):
			state.InjectionServed = false
		case err != nil:
			state.Injection.Err = client.IgnoreNotFound(err)
		default:
			state.Injection.Value = injection
		}
	}
	return state
}

func injectionKind(kind *admissionregistrationv1.ParamKind) bool {
	return kind != nil && kind.Kind == policy.InjectionKind.Kind && strings.HasPrefix(kind.APIVersion, policy.InjectionKind.Group+"/")
}

func keyOf(parameter *admissionregistrationv1.ParamRef) *client.ObjectKey {
	if parameter == nil || parameter.Name == "" {
		return nil
	}
	return &client.ObjectKey{Namespace: parameter.Namespace, Name: parameter.Name}
}

// form reports what injects, and which values of injection.by are possible.
func (d *decision) form() {
	const subject = "form of the injection"
	p := &d.facts.Policy
	possible := "injection.by=policy is possible too"
	if why := p.impossible(); why != "" {
		possible = "injection.by=policy is not possible: " + why
	}
	hook := d.facts.Webhook.Value
	switch {
	case hook != nil && p.Mutating.Value != nil && hook.Name != p.Mutating.Value.Name:
		d.add(levelWarn, subject, "two installations inject: webhook configuration "+hook.Name+" and policy "+p.Mutating.Value.Name, "uninstall one of them: helm list -A")
	case hook != nil && p.exists():
		d.add(levelWarn, subject, "webhook and policy: a change of injection.by is not finished", "when all Pods are ready: "+d.release())
	case hook != nil:
		d.add(levelOK, subject, "webhook; "+possible, "")
	case p.exists():
		d.add(levelOK, subject, "policy", "")
	case d.facts.Webhook.Err != nil || p.Mutating.Err != nil || d.facts.Policies.Err != nil:
		// webhook and policy have their lines.
	case d.facts.Probe != nil && d.facts.Probe.Injected:
		d.add(levelOK, subject, "an istiod is injected by what the API does not show: a static policy, or one that was deleted a moment ago", "")
	default:
		d.add(levelFail, subject, "there is neither a webhook configuration nor a policy: no istiod is injected; injection.by=webhook is possible, "+possible, d.release())
	}
}

// reapply returns the command that writes the policies again.
func (d *decision) reapply() string {
	if d.facts.Policy.exists() && !d.facts.Policy.ofChart() {
		return "kubectl istiod-agent policy --config FILE | " + d.kubectl + " apply -f -"
	}
	return d.release()
}

// restore returns the command that leads to a missing Injection.
func (d *decision) restore() string {
	if d.facts.Policy.ofChart() {
		return d.kubectl + " " + d.pods() + "; a running replica writes the Injection within seconds"
	}
	return d.reapply()
}

func (d *decision) policy() {
	const subject, decision = "injection policy", "decision policy"
	p := &d.facts.Policy
	if p.Mutating.Err != nil {
		d.unknown(subject, "listing MutatingAdmissionPolicies", "list", "mutatingadmissionpolicies", p.Mutating.Err)
		return
	}
	if !p.exists() {
		return // form has its line
	}
	problem := levelFail
	if d.facts.Webhook.Value != nil {
		problem = levelWarn // the webhook injects
	}
	switch {
	case p.impossible() != "":
		d.add(problem, subject, "injects nothing: "+p.impossible(),
			"start every API server without --feature-gates=MutatingAdmissionPolicy=false and without a --runtime-config that excludes it, or install the webhook: "+d.release("--set injection.by=webhook"))
	case p.Mutating.Value == nil:
		d.add(problem, subject, "there is no MutatingAdmissionPolicy: no istiod is injected", d.reapply())
	case p.Binding.Err != nil:
		d.unknown(subject, "listing MutatingAdmissionPolicyBindings", "list", "mutatingadmissionpolicybindings", p.Binding.Err)
	case p.Binding.Value == nil:
		d.add(problem, subject, p.Mutating.Value.Name+" has no MutatingAdmissionPolicyBinding, and so no effect", d.reapply())
	default:
		d.add(levelOK, subject, p.Mutating.Value.Name+" exists and is bound", "")
	}
	switch {
	case d.facts.Policies.Err != nil || d.facts.Bindings.Err != nil:
		// guard has the line.
	case p.Decision == nil:
		d.add(problem, decision, "does not exist: an istiod that cannot be injected is stored without the agent", d.reapply())
	case p.DecisionBinding == nil:
		d.add(problem, decision, p.Decision.Name+" has no ValidatingAdmissionPolicyBinding, and so no effect", d.reapply())
	default:
		d.add(levelOK, decision, p.Decision.Name+" exists and is bound", "")
		if !p.Warns {
			d.add(levelWarn, "warnings policy", "does not exist, or is not bound: nothing warns, for example of a volume that the injection replaces", d.reapply())
		}
	}
	d.injection()
}

// injection reports on the parameter, without which a bound policy refuses every istiod.
func (d *decision) injection() {
	p := &d.facts.Policy
	if p.Key == nil {
		return
	}
	subject := "Injection " + p.Key.String()
	switch {
	case !p.InjectionServed:
		d.add(levelFail, subject, "its CRD is not installed: every change of istiod is refused", d.release("--set crds.install=true"))
	case p.Injection.Err != nil:
		d.unknown(subject, "reading it", "get", "injections."+policy.InjectionKind.Group, p.Injection.Err)
	case p.Injection.Value == nil:
		d.add(levelFail, subject, "does not exist: every change of istiod is refused", d.restore())
	default:
		digest, _, _ := unstructured.NestedString(p.Injection.Value.Object, "spec", "digest")
		image, _, _ := unstructured.NestedString(p.Injection.Value.Object, "spec", "initContainer", "image")
		d.add(levelOK, subject, "injects "+image+", digest "+digest, "")
	}
}

// policyTooOld reports whether the policy is installed on a Kubernetes that does not have it.
func (d *decision) policyTooOld(of *version.Version) bool {
	return d.facts.Policy.exists() && of.LessThan(version.MajorMinor(1, policy.OldestMinor))
}
