// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
)

// OldestStaticMinor is the minor version of the oldest Kubernetes 1.x that reads policies from the API server's own disk by
// default (feature ManifestBasedAdmissionControlConfig in pkg/features/kube_features.go of k8s.io/apiserver, v0.37).
const OldestStaticMinor = 37

// What an API server requires of such policies (k8s.io/apiserver, pkg/admission/plugin/manifest/validation.go), and what it
// compiles (cel-go, parser/parser.go).
const (
	staticSuffix  = ".static.k8s.io"
	maxExpression = 100_000 // code points
)

// NewStatic renders a configuration, as New does, as policies that an API server reads from its own disk: no request changes
// or removes them, and none returns them. They have no parameter, and therefore no definition of one: what the configuration
// renders stands in the policies. name is the prefix of all names.
func NewStatic(config *v1alpha1.InjectionConfiguration, name string) (*Policy, error) {
	// The longest name. A name that the API server does not take keeps it from starting.
	if problems := validation.IsDNS1123Subdomain(name + "-decision" + staticSuffix); len(problems) > 0 {
		return nil, fmt.Errorf("name %q of the policies: %s", name, problems[0])
	}
	p, err := New(config, Names{Policy: name})
	if err != nil {
		return nil, err
	}
	spec, _, err := unstructured.NestedMap(p.Parameter.Object, "spec")
	if err != nil {
		return nil, err
	}
	parameter, err := constants(spec)
	if err != nil {
		return nil, err
	}

	p.Mutating.Name += staticSuffix
	p.Mutating.Spec.ParamKind = nil
	p.Mutating.Spec.MatchConditions, p.Warning.Spec.MatchConditions = matchConditions(), matchConditions() // they see no variables
	p.Mutating.Spec.Variables = withConstants(parameter, p.Mutating.Spec.Variables)
	p.Mutating.Spec.Mutations[0].JSONPatch.Expression = sansParams(p.Mutating.Spec.Mutations[0].JSONPatch.Expression)
	p.MutatingBinding.Name, p.MutatingBinding.Spec = p.Mutating.Name, admissionv1.MutatingAdmissionPolicyBindingSpec{PolicyName: p.Mutating.Name}

	p.Guard.Spec = Guard(p.kind, "Nothing has injected it: check that it is labelled app=istiod, and that every API server reads MutatingAdmissionPolicy "+
		p.Mutating.Name+" from its disk or that istiod-agent is installed and ready (kubectl istiod-agent check), then try again")
	for _, policy := range []*admissionv1.ValidatingAdmissionPolicy{p.Validating, p.Warning} {
		policy.Spec.ParamKind = nil
		policy.Spec.Variables = withConstants(parameter, policy.Spec.Variables)
		for i := range policy.Spec.Validations {
			v := &policy.Spec.Validations[i]
			v.Expression, v.MessageExpression = sansParams(v.Expression), sansParams(v.MessageExpression)
		}
	}
	for policy, binding := range map[*admissionv1.ValidatingAdmissionPolicy]*admissionv1.ValidatingAdmissionPolicyBinding{
		p.Guard: p.GuardBinding, p.Validating: p.ValidatingBinding, p.Warning: p.WarningBinding,
	} {
		policy.Name += staticSuffix
		binding.Name, binding.Spec.PolicyName, binding.Spec.ParamRef = policy.Name, policy.Name, nil
	}
	p.Definition, p.Parameter = nil, nil
	return p, nil
}

// constants are the parameter's fields as variables: each is an expression of its own, as their length is limited.
func constants(spec map[string]any) ([]admissionv1.Variable, error) {
	var all []admissionv1.Variable
	members := make([]string, 0, len(spec))
	for _, field := range slices.Sorted(maps.Keys(spec)) {
		text := literal(spec[field])
		if length := utf8.RuneCountInString(text); length > maxExpression {
			return nil, fmt.Errorf("the rendered %s has %d characters as a CEL literal, and an API server reads at most %d: shorten the agent's env", field, length, maxExpression)
		}
		name := "parameter_" + field
		all = append(all, admissionv1.Variable{Name: name, Expression: text})
		members = append(members, quote(field)+": dyn(variables."+name+")")
	}
	return append(all, admissionv1.Variable{Name: "parameter", Expression: "{" + strings.Join(members, ", ") + "}"}), nil
}

func withConstants(parameter, variables []admissionv1.Variable) []admissionv1.Variable {
	all := slices.Clone(parameter)
	for _, v := range variables {
		v.Expression = sansParams(v.Expression)
		all = append(all, v)
	}
	return all
}

// sansParams is an expression of New's policies with the constants in place of the parameter.
func sansParams(expression string) string {
	return strings.ReplaceAll(expression, "params.spec", "variables.parameter")
}
