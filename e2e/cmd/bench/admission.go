// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istio"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/policyeval"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
	"github.com/istiod-agent/istiod-agent/patches"
	"github.com/istiod-agent/istiod-agent/policy"
)

// forms of an injection, each in a namespace of its name.
const (
	nothing   = "nothing"
	byPolicy  = "policy"
	byWebhook = "webhook"
	literal   = "literal" // what the API server itself takes for the same patch from policies that decide nothing
)

var forms = []string{nothing, byPolicy, byWebhook, literal}

// admissionLoads are the requests, by the variables that istiod has more than Istio's chart gives it, with the most
// milliseconds that the policy may add.
var admissionLoads = []struct {
	variables int
	most      float64
}{{0, 5}, {1500, 25}}

// measureAdmission compares how long a client waits for istiod's creation and update: on one API server, in turn, so that
// what else the machine does disturbs all alike.
func measureAdmission(ctx context.Context) (_ []result, err error) {
	c, err := cluster.Start()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	if err := c.Install(ctx, webhookserver.Options{}); err != nil {
		return nil, err
	}
	for _, form := range forms {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: form}}
		if form == byWebhook { // the policy matches its namespace by the name
			namespace.Labels = map[string]string{patches.InjectionLabel: patches.InjectionEnabled}
		}
		if err := c.Create(ctx, namespace); err != nil {
			return nil, err
		}
	}
	p, err := policy.New(v1alpha1.Default(), policy.Names{Namespace: byPolicy})
	if err != nil {
		return nil, err
	}
	if err := installPolicy(ctx, c, p, byPolicy); err != nil {
		return nil, err
	}
	least, err := literalPolicy()
	if err != nil {
		return nil, err
	}
	if err := installPolicy(ctx, c, least, literal); err != nil {
		return nil, err
	}
	istiods := map[int]map[string]*unstructured.Unstructured{}
	for _, l := range admissionLoads {
		istiods[l.variables] = map[string]*unstructured.Unstructured{}
		for _, form := range forms {
			if istiods[l.variables][form], err = istiodWith(ctx, form, l.variables); err != nil {
				return nil, err
			}
		}
	}
	for _, form := range forms {
		if err := waitInjected(ctx, c, istiods[0][form], form == byPolicy || form == byWebhook); err != nil {
			return nil, fmt.Errorf("%s: %w", form, err)
		}
	}
	results, err := admissionTimes(ctx, c, istiods)
	if err != nil {
		return nil, err
	}
	costs, err := policyCosts(ctx, c, p, istiods)
	return append(results, costs...), err
}

// literalPolicy is a policy with the parameter that injects into every object without the agent's note, as an istiod of
// Istio's chart needs it, and whose validations always pass.
func literalPolicy() (*policy.Policy, error) {
	p, err := policy.New(v1alpha1.Default(), policy.Names{Policy: literal, Namespace: literal})
	if err != nil {
		return nil, err
	}
	p.Mutating.Spec.Variables = nil
	p.Mutating.Spec.MatchConditions = []admissionregistrationv1.MatchCondition{{Name: "not-injected", Expression: "!has(object.metadata.annotations)"}}
	p.Mutating.Spec.Mutations[0].JSONPatch.Expression = `[
		JSONPatch{op: 'add', path: '/metadata/annotations', value: {'literal': 'true'}},
		JSONPatch{op: 'add', path: '/spec/template/metadata/annotations/literal', value: 'true'},
		JSONPatch{op: 'add', path: '/spec/template/spec/containers/0/env/-', value: {'name': 'ROOT_CA_DIR', 'value': '/etc/cacerts'}},
		JSONPatch{op: 'add', path: '/spec/template/spec/initContainers', value: [params.spec.initContainer]},
		JSONPatch{op: 'add', path: '/spec/template/spec/volumes/-', value: params.spec.tokenVolume},
		JSONPatch{op: 'add', path: '/spec/template/spec/volumes/-', value: {'name': dyn('in-memory'), 'emptyDir': params.spec.volume.emptyDir}}
	]`
	for _, v := range []*admissionregistrationv1.ValidatingAdmissionPolicy{p.Validating, p.Warning} {
		v.Spec.MatchConditions, v.Spec.Variables, v.Spec.AuditAnnotations = nil, nil, nil
		v.Spec.Validations = []admissionregistrationv1.Validation{{Expression: "true"}}
	}
	return p, nil
}

// installPolicy for one namespace.
func installPolicy(ctx context.Context, c *cluster.Cluster, p *policy.Policy, namespace string) error {
	only := &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: namespace}}
	for _, m := range []*admissionregistrationv1.MatchResources{p.Mutating.Spec.MatchConstraints, p.Validating.Spec.MatchConstraints, p.Warning.Spec.MatchConstraints} {
		m.NamespaceSelector = only
	}
	if err := ctrlclient.IgnoreAlreadyExists(c.Create(ctx, p.Definition)); err != nil {
		return err
	}
	var last error
	if err := wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		last = c.Create(ctx, p.Parameter.DeepCopy())
		return last == nil, nil
	}); err != nil {
		return fmt.Errorf("storing the parameter: %w", last)
	}
	for _, o := range []ctrlclient.Object{p.Mutating, p.MutatingBinding, p.Validating, p.ValidatingBinding, p.Warning, p.WarningBinding} {
		if err := c.Create(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

func istiodWith(ctx context.Context, namespace string, variables int) (*unstructured.Unstructured, error) {
	env := map[string]any{}
	for i := range variables {
		env[fmt.Sprintf("VARIABLE_%04d", i)] = fmt.Sprintf("the value of variable number %d", i)
	}
	return istio.Deployment(ctx, namespace, istio.Values(namespace, "1.31.0", map[string]any{"env": env}))
}

func waitInjected(ctx context.Context, c *cluster.Cluster, istiod *unstructured.Unstructured, injected bool) error {
	var last error
	err := wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		u := istiod.DeepCopy()
		if last = c.Create(ctx, u, ctrlclient.DryRunAll); last != nil {
			return false, nil //nolint:nilerr // tried again
		}
		containers, _, _ := unstructured.NestedSlice(u.Object, "spec", "template", "spec", "containers")
		last = fmt.Errorf("%d containers", len(containers))
		return (len(containers) > 1) == injected, nil
	})
	if err != nil {
		return fmt.Errorf("injected %t: %w", injected, last)
	}
	return nil
}

// admissionTimes creates, changes and deletes istiods in turn. When a bound is passed, it may be that other programs
// disturbed these rounds: it measures more, twice at most, and gives the medians of all.
func admissionTimes(ctx context.Context, c *cluster.Cluster, istiods map[int]map[string]*unstructured.Unstructured) ([]result, error) {
	const rounds, attempts = 60, 3
	took := map[admissionRequest][]float64{}
	for attempt := 1; ; attempt++ {
		for round := range rounds {
			for _, l := range admissionLoads {
				for turn := range forms {
					form := forms[(round+turn)%len(forms)]
					create, update, err := admissionOf(ctx, c, istiods[l.variables][form].DeepCopy())
					if err != nil {
						return nil, fmt.Errorf("%s: %w", form, err)
					}
					if attempt == 1 && round < 3 { // warming up
						continue
					}
					for verb, t := range map[string]float64{"create": create, "update": update} {
						key := admissionRequest{l.variables, verb, form}
						took[key] = append(took[key], t)
					}
				}
			}
		}
		medians := map[admissionRequest]float64{}
		for key, values := range took {
			medians[key] = median(values)
		}
		results := admissionResults(medians)
		i := slices.IndexFunc(results, func(r result) bool { return !r.ok() })
		if i < 0 || attempt == attempts {
			return results, nil
		}
		fmt.Printf("  %s: %s is over its bound after %d rounds; measuring %d more ...\n", results[i].measure, results[i].value, attempt*rounds, rounds)
	}
}

type admissionRequest struct {
	variables  int
	verb, form string
}

// admissionOf returns how many milliseconds a client waits for an istiod's creation, and for a change as kubectl apply makes
// one.
func admissionOf(ctx context.Context, c *cluster.Cluster, istiod *unstructured.Unstructured) (create, update float64, err error) {
	start := time.Now()
	if err := c.Create(ctx, istiod); err != nil {
		return 0, 0, err
	}
	created := time.Now()
	patch := ctrlclient.RawPatch(types.StrategicMergePatchType, []byte(`{"spec":{"template":{"metadata":{"annotations":{"changed":"true"}}}}}`))
	if err := c.Patch(ctx, istiod, patch); err != nil {
		return 0, 0, err
	}
	updated := time.Now()
	milliseconds := func(d time.Duration) float64 { return d.Seconds() * 1000 }
	return milliseconds(created.Sub(start)), milliseconds(updated.Sub(created)), c.Delete(ctx, istiod)
}

// admissionResults holds the medians to their bounds.
func admissionResults(medians map[admissionRequest]float64) (results []result) {
	for _, l := range admissionLoads {
		for _, verb := range []string{"create", "update"} {
			of := func(form string) float64 { return medians[admissionRequest{l.variables, verb, form}] }
			measure := verb + " of " + istiodOf(l.variables)
			policyAdds, webhookAdds, literalAdds := of(byPolicy)-of(nothing), of(byWebhook)-of(nothing), of(literal)-of(nothing)
			results = append(results,
				result{
					measure: measure + ": added by the policy", found: policyAdds, limit: l.most, unit: " ms",
					value: fmt.Sprintf("%.1f ms", policyAdds), how: fmt.Sprintf("%.1f - %.1f ms", of(byPolicy), of(nothing)),
				},
				result{
					measure: measure + ": added by the policy / by the webhook", found: policyAdds / webhookAdds, limit: 1,
					value: fmt.Sprintf("%.2f", policyAdds/webhookAdds), how: fmt.Sprintf("%.1f / %.1f ms", policyAdds, webhookAdds),
				},
				result{
					measure: measure + ": added by policies of one literal patch", found: literalAdds,
					value: fmt.Sprintf("%.1f ms", literalAdds), how: fmt.Sprintf("%.1f - %.1f ms", of(literal), of(nothing)),
				})
		}
	}
	return results
}

func istiodOf(variables int) string {
	if variables == 0 {
		return "istiod of Istio 1.31"
	}
	return fmt.Sprintf("istiod with %d more variables", variables)
}

// policyCosts are the units that an evaluation takes, of those that the API server allows for one. The API server estimates
// none for an admission policy: it counts while it evaluates.
func policyCosts(ctx context.Context, c *cluster.Cluster, p *policy.Policy, istiods map[int]map[string]*unstructured.Unstructured) ([]result, error) {
	evaluator, err := policyeval.New(patches.Deployment, p)
	if err != nil {
		return nil, err
	}
	var results []result
	for _, l := range admissionLoads {
		for _, form := range []string{nothing, byPolicy} {
			u := istiods[l.variables][form].DeepCopy()
			if err := c.Create(ctx, u, ctrlclient.DryRunAll); err != nil {
				return nil, err
			}
			raw, err := u.MarshalJSON()
			if err != nil {
				return nil, err
			}
			istiod, err := policyeval.Typed(patches.Deployment, raw)
			if err != nil {
				return nil, err
			}
			cost, err := evaluator.Cost(istiod) //nolint:contextcheck // it computes, and waits for nothing
			if err != nil {
				return nil, err
			}
			what := istiodOf(l.variables)
			if form == byPolicy {
				what += ", injected"
			}
			results = append(results, result{
				measure: "cost of an evaluation: " + what, found: float64(cost.Most()), limit: celconfig.RuntimeCELCostBudget / 10,
				value: fmt.Sprint(cost.Most()), how: fmt.Sprintf("mutation %d, decision %d, warnings %d", cost.Mutation, cost.Decision, cost.Warnings),
			})
		}
	}
	return results, nil
}
