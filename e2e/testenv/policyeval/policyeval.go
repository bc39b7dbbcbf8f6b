// SPDX-License-Identifier: Apache-2.0

// Package policyeval evaluates the objects of package policy in this process, by the API server's own packages.
package policyeval

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/istiod-agent/istiod-agent/patches"
	"github.com/istiod-agent/istiod-agent/policy"
)

// Evaluator is a configuration's policies, compiled.
type Evaluator struct {
	kind      patches.Kind
	parameter *unstructured.Unstructured
	compiler  *plugincel.CompositedCompiler
	mutation  plugincel.MutatingEvaluator
	// Match conditions that end the evaluation of an injected Deployment: by the policy that mutates, and by the one that
	// warns. Nil without such a condition.
	settled, silent  plugincel.ConditionEvaluator
	decision, advice *validator
}

// validator is a compiled ValidatingAdmissionPolicy.
type validator struct {
	compiler                          *plugincel.CompositedCompiler
	conditions, messages, annotations plugincel.ConditionEvaluator
}

// Outcome of an object's creation.
type Outcome struct {
	// Object as the API server would store it; nil if it is refused.
	Object runtime.Object
	// Refusal is the message of the first failed validation.
	Refusal string
	// Warnings of the policy that warns.
	Warnings []string
	// Reason in the audit log.
	Reason string
	// Settled and Silent are whether match conditions end the next evaluation of Object: of the policy that mutates, and of
	// the one that warns.
	Settled, Silent bool
}

// New compiles the policies for one kind.
func New(kind patches.Kind, p *policy.Policy) (*Evaluator, error) {
	e := &Evaluator{kind: kind, parameter: p.Parameter}
	var err error
	if e.compiler, err = compile(p.Mutating.Spec.Variables); err != nil {
		return nil, err
	}
	mutation := &patch.JSONPatchCondition{Expression: p.Mutating.Spec.Mutations[0].JSONPatch.Expression}
	e.mutation = e.compiler.CompileMutatingEvaluator(mutation, plugincel.OptionalVariableDeclarations{HasParams: true, HasPatchTypes: true}, environment.StoredExpressions)
	if err := errors.Join(e.mutation.CompilationErrors()...); err != nil {
		return nil, fmt.Errorf("mutation: %w\n%s", err, mutation.Expression)
	}
	if e.settled, err = condition(e.compiler, p.Mutating.Spec.MatchConditions, "not-settled"); err != nil {
		return nil, err
	}
	if e.silent, err = condition(e.compiler, p.Warning.Spec.MatchConditions, "not-silent"); err != nil {
		return nil, err
	}
	if e.decision, err = newValidator(&p.Validating.Spec); err != nil {
		return nil, err
	}
	e.advice, err = newValidator(&p.Warning.Spec)
	return e, err
}

// condition compiles the match condition of a name, if there is one.
func condition(compiler *plugincel.CompositedCompiler, conditions []admissionregistrationv1.MatchCondition, name string) (plugincel.ConditionEvaluator, error) {
	for _, c := range conditions {
		if c.Name != name {
			continue
		}
		compiled := compiler.CompileCondition([]plugincel.ExpressionAccessor{(*matchconditions.MatchCondition)(&c)}, plugincel.OptionalVariableDeclarations{HasParams: true}, environment.StoredExpressions)
		if err := errors.Join(compiled.CompilationErrors()...); err != nil {
			return nil, fmt.Errorf("match condition %s: %w", name, err)
		}
		return compiled, nil
	}
	return nil, nil //nolint:nilnil // none
}

func compile(variables []admissionregistrationv1.Variable) (*plugincel.CompositedCompiler, error) {
	compiler, err := plugincel.NewCompositedCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
	if err != nil {
		return nil, err
	}
	for _, v := range variables {
		accessor := &validating.Variable{Name: v.Name, Expression: v.Expression}
		if result := compiler.CompileAndStoreVariable(accessor, plugincel.OptionalVariableDeclarations{HasParams: true, HasAuthorizer: true}, environment.StoredExpressions); result.Error != nil {
			return nil, fmt.Errorf("variable %s: %s\n%s", v.Name, result.Error.Detail, v.Expression)
		}
	}
	return compiler, nil
}

func newValidator(spec *admissionregistrationv1.ValidatingAdmissionPolicySpec) (*validator, error) {
	compiler, err := compile(spec.Variables)
	if err != nil {
		return nil, err
	}
	var conditions, messages, annotations []plugincel.ExpressionAccessor
	for _, v := range spec.Validations {
		conditions = append(conditions, &validating.ValidationCondition{Expression: v.Expression})
		messages = append(messages, &validating.MessageExpressionCondition{MessageExpression: v.MessageExpression})
	}
	for _, a := range spec.AuditAnnotations {
		annotations = append(annotations, &validating.AuditAnnotationCondition{Key: a.Key, ValueExpression: a.ValueExpression})
	}
	options := plugincel.OptionalVariableDeclarations{HasParams: true}
	v := &validator{
		compiler, compiler.CompileCondition(conditions, options, environment.StoredExpressions),
		compiler.CompileCondition(messages, options, environment.StoredExpressions), compiler.CompileCondition(annotations, options, environment.StoredExpressions),
	}
	for _, compiled := range []plugincel.ConditionEvaluator{v.conditions, v.messages, v.annotations} {
		if err := errors.Join(compiled.CompilationErrors()...); err != nil {
			return nil, fmt.Errorf("validation: %w", err)
		}
	}
	return v, nil
}

// Cost is what the API server counts for one evaluation of each policy, of celconfig.RuntimeCELCostBudget.
type Cost struct{ Mutation, Decision, Warnings int64 }

// Most is the most expensive of them.
func (c Cost) Most() int64 { return max(c.Mutation, c.Decision, c.Warnings) }

// Cost of an object's creation.
func (e *Evaluator) Cost(object runtime.Object) (c Cost, err error) {
	attributes := e.attributes(object)
	result, remaining, err := e.mutation.ForInput(e.compiler.CreateContext(context.Background()), attributes, request(attributes), e.bindings(), nil, celconfig.RuntimeCELCostBudget)
	if err := errors.Join(err, result.Error); err != nil {
		return c, fmt.Errorf("mutation: %w", err)
	}
	c.Mutation = celconfig.RuntimeCELCostBudget - remaining
	for _, of := range []struct {
		v    *validator
		cost *int64
	}{{e.decision, &c.Decision}, {e.advice, &c.Warnings}} {
		ctx, remaining := of.v.compiler.CreateContext(context.Background()), int64(celconfig.RuntimeCELCostBudget)
		for _, compiled := range []plugincel.ConditionEvaluator{of.v.conditions, of.v.annotations} {
			var results []plugincel.EvaluationResult
			if results, remaining, err = compiled.ForInput(ctx, attributes, request(attributes), e.bindings(), nil, remaining); err != nil {
				return c, fmt.Errorf("validation: %w", err)
			}
			for _, result := range results {
				if result.Error != nil {
					return c, fmt.Errorf("validation: %w", result.Error)
				}
			}
		}
		*of.cost = celconfig.RuntimeCELCostBudget - remaining
	}
	return c, nil
}

// Create evaluates the policies as for an object's creation. It evaluates them even where a match condition ends their
// evaluation, and fails if that matters.
func (e *Evaluator) Create(object runtime.Object) (o Outcome, err error) {
	after, err := e.mutate(object)
	if err != nil {
		return o, err
	}
	attributes := e.attributes(after)
	if o.Settled, err = e.ends(e.settled, attributes); err != nil {
		return o, err
	}
	if o.Silent, err = e.ends(e.silent, attributes); err != nil {
		return o, err
	}
	defer func() {
		if err == nil && (o.Settled && (o.Refusal != "" || o.Reason != string(patches.Injected)) || o.Silent && (o.Refusal != "" || len(o.Warnings) > 0)) {
			err = fmt.Errorf("settled %t, silent %t, but the policies say %q, %q, %q", o.Settled, o.Silent, o.Reason, o.Refusal, o.Warnings)
		}
	}()
	if o.Settled {
		if _, err := e.mutate(after); err != nil { // as when the API server invokes the policy again
			return o, err
		}
	}
	refusals, annotations, err := e.validate(e.decision, attributes)
	if err != nil {
		return o, err
	}
	if len(annotations) > 0 {
		o.Reason = annotations[0]
	}
	if len(refusals) > 0 {
		o.Refusal = refusals[0]
		return o, nil
	}
	o.Object = after
	o.Warnings, _, err = e.validate(e.advice, attributes)
	return o, err
}

// mutate returns the object after the mutation.
func (e *Evaluator) mutate(object runtime.Object) (runtime.Object, error) {
	attributes := e.attributes(object)
	settled, err := e.ends(e.settled, attributes)
	if err != nil {
		return nil, err
	}
	after, err := patch.NewJSONPatcher(e.mutation).Patch(e.compiler.CreateContext(context.Background()), patch.Request{
		MatchedResource: attributes.GetResource(), VersionedAttributes: attributes, ObjectInterfaces: admission.NewObjectInterfacesFromScheme(scheme.Scheme), OptionalVariables: e.bindings(),
	}, celconfig.RuntimeCELCostBudget)
	if err != nil {
		return nil, fmt.Errorf("mutation: %w", err)
	}
	if settled && after != object {
		return nil, errors.New("the object is settled, but the mutation changes it")
	}
	return after, nil
}

// ends reports whether a match condition, if any, ends the evaluation of an object.
func (e *Evaluator) ends(condition plugincel.ConditionEvaluator, attributes *admission.VersionedAttributes) (bool, error) {
	if condition == nil {
		return false, nil
	}
	results, _, err := condition.ForInput(context.Background(), attributes, request(attributes), e.bindings(), nil, celconfig.RuntimeCELCostBudgetMatchConditions)
	if err != nil {
		return false, fmt.Errorf("match condition: %w", err)
	}
	if results[0].Error != nil {
		return false, fmt.Errorf("match condition: %w", results[0].Error)
	}
	return results[0].EvalResult.Value() == false, nil
}

// validate returns the messages of failed validations, and the audit annotations' values.
func (e *Evaluator) validate(v *validator, attributes *admission.VersionedAttributes) (messages, annotations []string, err error) {
	ctx := v.compiler.CreateContext(context.Background())
	evaluate := func(compiled plugincel.ConditionEvaluator) []plugincel.EvaluationResult {
		results, _, failed := compiled.ForInput(ctx, attributes, request(attributes), e.bindings(), nil, celconfig.RuntimeCELCostBudget)
		err = errors.Join(err, failed)
		return results
	}
	text := func(result plugincel.EvaluationResult) string {
		if result.Error != nil {
			err = errors.Join(err, fmt.Errorf("message: %w", result.Error))
			return ""
		}
		text, _ := result.EvalResult.Value().(string)
		return text
	}
	conditions, texts := evaluate(v.conditions), evaluate(v.messages)
	for i, result := range conditions {
		switch {
		case result.Error != nil:
			err = errors.Join(err, fmt.Errorf("validation: %w", result.Error))
		case result.EvalResult.Value() != true:
			messages = append(messages, text(texts[i]))
		}
	}
	for _, result := range evaluate(v.annotations) {
		annotations = append(annotations, text(result))
	}
	return messages, annotations, err
}

func (e *Evaluator) bindings() plugincel.OptionalVariableBindings {
	return plugincel.OptionalVariableBindings{VersionedParams: e.parameter}
}

func request(attributes *admission.VersionedAttributes) *admissionv1.AdmissionRequest {
	return plugincel.CreateAdmissionRequest(attributes.Attributes, metav1.GroupVersionResource(attributes.GetResource()), metav1.GroupVersionKind(attributes.VersionedKind))
}

func (e *Evaluator) attributes(object runtime.Object) *admission.VersionedAttributes {
	kind, resource := appsv1.SchemeGroupVersion.WithKind("Deployment"), appsv1.SchemeGroupVersion.WithResource("deployments")
	if e.kind == patches.Pod {
		kind, resource = corev1.SchemeGroupVersion.WithKind("Pod"), corev1.SchemeGroupVersion.WithResource("pods")
	}
	a := admission.NewAttributesRecord(object, nil, kind, "istio-system", "istiod", resource, "", admission.Create, &metav1.CreateOptions{}, false, nil)
	attributes := &admission.VersionedAttributes{Attributes: a, VersionedKind: kind, VersionedObject: admission.NewLazyObject(object)}
	// As after the evaluation of match conditions.
	attributes.VersionedObject.UseSchemalessTypeRef = true //nolint:staticcheck // until it is the default
	return attributes
}

// Typed reads JSON as the API server does.
func Typed(kind patches.Kind, raw []byte) (runtime.Object, error) {
	var o runtime.Object = &appsv1.Deployment{}
	if kind == patches.Pod {
		o = &corev1.Pod{}
	}
	return o, json.Unmarshal(raw, o)
}
