// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/istiod-agent/istiod-agent/patches"
	"github.com/istiod-agent/istiod-agent/policy"
)

// evaluator is a policy compiled by the API server's own packages.
type evaluator struct {
	kind      patches.Kind
	parameter *unstructured.Unstructured
	compiler  *plugincel.CompositedCompiler
	mutation  plugincel.MutatingEvaluator
	patcher   patch.Patcher
	decision  plugincel.ConditionEvaluator
}

func newEvaluator(t testing.TB, kind patches.Kind, p *policy.Policy) *evaluator {
	t.Helper()
	compiler, err := plugincel.NewCompositedCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
	if err != nil {
		t.Fatal(err)
	}
	options := plugincel.OptionalVariableDeclarations{HasParams: true, HasAuthorizer: true}
	for _, v := range p.Mutating.Spec.Variables {
		accessor := &validating.Variable{Name: v.Name, Expression: v.Expression}
		if result := compiler.CompileAndStoreVariable(accessor, options, environment.StoredExpressions); result.Error != nil {
			t.Errorf("variable %s: %s\n%s", v.Name, result.Error.Detail, v.Expression)
		}
	}
	if t.Failed() {
		t.FailNow()
	}
	e := &evaluator{kind: kind, parameter: p.Parameter, compiler: compiler}
	patchOptions := options
	patchOptions.HasPatchTypes = true
	expression := p.Mutating.Spec.Mutations[0].JSONPatch.Expression
	e.mutation = compiler.CompileMutatingEvaluator(&patch.JSONPatchCondition{Expression: expression}, patchOptions, environment.StoredExpressions)
	if err := errors.Join(e.mutation.CompilationErrors()...); err != nil {
		t.Fatalf("mutation: %v\n%s", err, expression)
	}
	e.patcher = patch.NewJSONPatcher(e.mutation)
	var conditions []plugincel.ExpressionAccessor
	for _, v := range p.Validating.Spec.Validations {
		conditions = append(conditions, &validating.ValidationCondition{Expression: v.Expression})
	}
	for _, v := range p.Validating.Spec.Validations {
		conditions = append(conditions, &validating.MessageExpressionCondition{MessageExpression: v.MessageExpression})
	}
	e.decision = compiler.CompileCondition(conditions, options, environment.StoredExpressions)
	if err := errors.Join(e.decision.CompilationErrors()...); err != nil {
		t.Fatalf("validations: %v", err)
	}
	return e
}

// refusal is an answer of the validating policy's.
type refusal struct{ message string }

func (r *refusal) Error() string { return r.message }

// cost of evaluating the mutation.
func (e *evaluator) cost(object runtime.Object) (int64, error) {
	attributes := e.attributes(object)
	result, remaining, err := e.mutation.ForInput(e.compiler.CreateContext(context.Background()), attributes, e.request(attributes),
		plugincel.OptionalVariableBindings{VersionedParams: e.parameter}, nil, celconfig.RuntimeCELCostBudget)
	return celconfig.RuntimeCELCostBudget - remaining, errors.Join(err, result.Error)
}

func (e *evaluator) request(attributes *admission.VersionedAttributes) *admissionv1.AdmissionRequest {
	return plugincel.CreateAdmissionRequest(attributes.Attributes, metav1.GroupVersionResource(attributes.GetResource()), metav1.GroupVersionKind(attributes.VersionedKind))
}

// evaluate gives what the API server would go on with.
func (e *evaluator) evaluate(object runtime.Object) (runtime.Object, error) {
	attributes := e.attributes(object)
	ctx := e.compiler.CreateContext(context.Background())
	bindings := plugincel.OptionalVariableBindings{VersionedParams: e.parameter}
	after, err := e.patcher.Patch(ctx, patch.Request{
		MatchedResource: attributes.GetResource(), VersionedAttributes: attributes, ObjectInterfaces: admission.NewObjectInterfacesFromScheme(scheme.Scheme), OptionalVariables: bindings,
	}, celconfig.RuntimeCELCostBudget)
	if err != nil {
		return nil, fmt.Errorf("mutation: %w", err)
	}

	attributes = e.attributes(after)
	ctx = e.compiler.CreateContext(context.Background())
	results, _, err := e.decision.ForInput(ctx, attributes, e.request(attributes), bindings, nil, celconfig.RuntimeCELCostBudget)
	if err != nil {
		return nil, fmt.Errorf("validation: %w", err)
	}
	half := len(results) / 2
	for i, result := range results[:half] {
		if result.Error != nil {
			return nil, fmt.Errorf("validation: %w", result.Error)
		}
		if result.EvalResult.Value() == true {
			continue
		}
		if err := results[half+i].Error; err != nil {
			return nil, fmt.Errorf("message: %w", err)
		}
		message, _ := results[half+i].EvalResult.Value().(string)
		return nil, &refusal{message}
	}
	return after, nil
}

func (e *evaluator) attributes(object runtime.Object) *admission.VersionedAttributes {
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

// typed reads JSON as the API server does.
func typed(kind patches.Kind, raw []byte) (runtime.Object, error) {
	if kind == patches.Pod {
		pod := &corev1.Pod{}
		return pod, json.Unmarshal(raw, pod)
	}
	deployment := &appsv1.Deployment{}
	return deployment, json.Unmarshal(raw, deployment)
}
