// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	_ "embed"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/patches"
)

// The parameter's kind.
const (
	group    = "istiod-agent.io"
	version  = "v1alpha1"
	kind     = "Injection"
	resource = "injections"
)

// InjectionKind is the parameter's kind.
var InjectionKind = schema.GroupVersionKind{Group: group, Version: version, Kind: kind}

// OldestMinor is the minor version of the oldest Kubernetes 1.x in which MutatingAdmissionPolicy is stable and on by
// default (pkg/features/kube_features.go, Kubernetes 1.37).
const OldestMinor = 36

// Names of the objects that New makes.
type Names struct {
	// Policy is the name of the policies and their bindings. Default: istiod-agent.
	Policy string
	// Namespace of the parameter object. Default: istiod-agent-system.
	Namespace string
	// Parameter is the name of the parameter object. Default: the policy's.
	Parameter string
}

// Policy is the injection of one configuration as objects of the API server's.
type Policy struct {
	// Definition is the CustomResourceDefinition of the parameter's kind.
	Definition *unstructured.Unstructured
	// Parameter holds the rendered containers and volumes.
	Parameter *unstructured.Unstructured
	// Mutating decides and injects. Validating refuses what must not be stored, with the reason.
	Mutating          *admissionv1.MutatingAdmissionPolicy
	MutatingBinding   *admissionv1.MutatingAdmissionPolicyBinding
	Validating        *admissionv1.ValidatingAdmissionPolicy
	ValidatingBinding *admissionv1.ValidatingAdmissionPolicyBinding
	// Warning refuses nothing: it warns where the webhook warns.
	Warning        *admissionv1.ValidatingAdmissionPolicy
	WarningBinding *admissionv1.ValidatingAdmissionPolicyBinding
	// Guard refuses an istiod that nothing has injected.
	Guard        *admissionv1.ValidatingAdmissionPolicy
	GuardBinding *admissionv1.ValidatingAdmissionPolicyBinding

	kind patches.Kind // of what is injected
}

//go:embed injections.yaml
var definition []byte

// New renders a configuration that has been decoded and validated by v1alpha1.Decode, or v1alpha1.Default.
func New(config *v1alpha1.InjectionConfiguration, names Names) (*Policy, error) {
	injector, err := patches.New(config)
	if err != nil {
		return nil, err
	}
	names.Policy = cmp.Or(names.Policy, "istiod-agent")
	names.Namespace = cmp.Or(names.Namespace, "istiod-agent-system")
	names.Parameter = cmp.Or(names.Parameter, names.Policy)

	p := &Policy{Definition: &unstructured.Unstructured{}, kind: injector.Target()}
	if err := yaml.Unmarshal(definition, &p.Definition.Object); err != nil {
		return nil, fmt.Errorf("reading the definition of %s: %w", resource, err)
	}
	if p.Parameter, err = Parameter(injector, names.Namespace, names.Parameter); err != nil {
		return nil, err
	}
	p.mutating(p.kind, names)
	p.validating(p.kind, names)
	p.warning(p.kind, names)
	p.guard(names)
	return p, nil
}

// Policies are the policies that take the parameter, and their bindings.
func (p *Policy) Policies() []runtime.Object {
	return []runtime.Object{p.Validating, p.ValidatingBinding, p.Warning, p.WarningBinding, p.Mutating, p.MutatingBinding}
}

// Parameter renders the Injection of a namespace and name.
func Parameter(injector *patches.Injector, namespace, name string) (*unstructured.Unstructured, error) {
	p, err := parameter(injector.Rendered(), namespace, name)
	if err != nil {
		return nil, fmt.Errorf("rendering the %s: %w", kind, err)
	}
	return p, nil
}

func parameter(r patches.Rendered, namespace, name string) (*unstructured.Unstructured, error) {
	spec := map[string]any{"digest": r.Digest, "annotate": r.Annotate, "multiRootMesh": r.MultiRootMesh}
	for field, value := range map[string]json.RawMessage{
		"initContainer": r.InitContainer, "container": r.Container, "volume": r.Volume, "tokenVolume": r.TokenVolume,
	} {
		if value == nil {
			continue
		}
		var object map[string]any
		// As an API server's client reads it: int64 for whole numbers.
		if err := utiljson.Unmarshal(value, &object); err != nil {
			return nil, err
		}
		spec[field] = object
	}
	u := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
	u.SetGroupVersionKind(InjectionKind)
	u.SetNamespace(namespace)
	u.SetName(name)
	return u, nil
}

// mutating makes the policy that injects, which is the same for every configuration of one target, and its binding.
func (p *Policy) mutating(kind patches.Kind, names Names) {
	p.Mutating = &admissionv1.MutatingAdmissionPolicy{
		TypeMeta:   metav1.TypeMeta{APIVersion: admissionv1.SchemeGroupVersion.String(), Kind: "MutatingAdmissionPolicy"},
		ObjectMeta: metav1.ObjectMeta{Name: names.Policy},
		Spec: admissionv1.MutatingAdmissionPolicySpec{
			// An istiod without the agent makes a root of its own and breaks the mesh's trust.
			FailurePolicy: new(admissionv1.Fail),
			// Another policy or webhook may add a container or a volume after this one.
			ReinvocationPolicy: admissionv1.IfNeededReinvocationPolicy,
			ParamKind:          paramKind(),
			MatchConstraints:   matchResources(kind),
			MatchConditions:    matchConditions(),
			Variables:          used(append(variables(kind), admissionv1.Variable{Name: "fresh", Expression: fresh()}), mutation(kind)),
			Mutations: []admissionv1.Mutation{{
				PatchType: admissionv1.PatchTypeJSONPatch,
				JSONPatch: &admissionv1.JSONPatch{Expression: mutation(kind)},
			}},
		},
	}
	if kind == patches.Deployment {
		p.Mutating.Spec.MatchConditions = append(p.Mutating.Spec.MatchConditions, notSettled())
	}
	p.MutatingBinding = &admissionv1.MutatingAdmissionPolicyBinding{
		TypeMeta: metav1.TypeMeta{APIVersion: admissionv1.SchemeGroupVersion.String(), Kind: "MutatingAdmissionPolicyBinding"},
		// The API server's message without the parameter names this binding and not what is missing.
		ObjectMeta: metav1.ObjectMeta{Name: names.Policy + ".needs-injection." + names.Namespace + "." + names.Parameter},
		Spec:       admissionv1.MutatingAdmissionPolicyBindingSpec{PolicyName: names.Policy, ParamRef: paramRef(names)},
	}
}

// validating makes the policy that refuses, in words, what the mutating one leaves as it is though it must not be stored.
func (p *Policy) validating(kind patches.Kind, names Names) {
	p.Validating, p.ValidatingBinding = validatingPolicy(kind, names, "-decision", admissionv1.Deny)
	spec := &p.Validating.Spec
	spec.Validations, spec.AuditAnnotations = refusals(), reason()
	if kind == patches.Deployment {
		unlessOrdinary(spec)
	}
	spec.Variables = used(spec.Variables, expressionsOf(spec)...)
}

// warning makes the policy that warns. It needs to be one of its own: the actions of a binding hold for all validations of
// its policy. A failure of its own stops nothing.
func (p *Policy) warning(kind patches.Kind, names Names) {
	p.Warning, p.WarningBinding = validatingPolicy(kind, names, "-warnings", admissionv1.Warn)
	spec := &p.Warning.Spec
	spec.FailurePolicy = new(admissionv1.Ignore)
	spec.Validations = warnings(kind)
	if kind == patches.Deployment {
		spec.MatchConditions = append(spec.MatchConditions, notSilent())
	}
	spec.Variables = used(spec.Variables, expressionsOf(spec)...)
	p.WarningBinding.Spec.ParamRef.ParameterNotFoundAction = new(admissionv1.AllowAction) // the others refuse
}

// guard makes the policy that holds where this injection does not.
func (p *Policy) guard(names Names) {
	p.Guard, p.GuardBinding = validatingPolicy(p.kind, names, "-guard", admissionv1.Deny)
	p.Guard.Spec = Guard(p.kind, fmt.Sprintf("The API server has not injected it: check that it is labelled app=istiod, and that MutatingAdmissionPolicy %s, its binding and Injection %s in namespace %s exist, and that the volume at /etc/cacerts is one that the policy can replace (reason PolicyCannot), then try again",
		names.Policy, names.Parameter, names.Namespace))
	p.GuardBinding.Spec.ParamRef = nil
}

func validatingPolicy(kind patches.Kind, names Names, suffix string, action admissionv1.ValidationAction) (*admissionv1.ValidatingAdmissionPolicy, *admissionv1.ValidatingAdmissionPolicyBinding) {
	name := names.Policy + suffix
	policy := &admissionv1.ValidatingAdmissionPolicy{
		TypeMeta:   metav1.TypeMeta{APIVersion: admissionv1.SchemeGroupVersion.String(), Kind: "ValidatingAdmissionPolicy"},
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admissionv1.ValidatingAdmissionPolicySpec{
			FailurePolicy:    new(admissionv1.Fail),
			ParamKind:        paramKind(),
			MatchConstraints: matchResources(kind),
			MatchConditions:  matchConditions(),
			Variables:        append(variables(kind), wordsOf(kind)...),
		},
	}
	return policy, &admissionv1.ValidatingAdmissionPolicyBinding{
		TypeMeta:   metav1.TypeMeta{APIVersion: admissionv1.SchemeGroupVersion.String(), Kind: "ValidatingAdmissionPolicyBinding"},
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: name, ParamRef: paramRef(names), ValidationActions: []admissionv1.ValidationAction{action},
		},
	}
}

func expressionsOf(spec *admissionv1.ValidatingAdmissionPolicySpec) []string {
	var all []string
	for _, v := range spec.Validations {
		all = append(all, v.Expression, v.MessageExpression)
	}
	for _, a := range spec.AuditAnnotations {
		all = append(all, a.ValueExpression)
	}
	return all
}

var reference = regexp.MustCompile(`\bvariables\.([A-Za-z]+)`)

// used keeps the variables that expressions refer to, directly or by others.
func used(variables []admissionv1.Variable, expressions ...string) []admissionv1.Variable {
	needed := map[string]bool{}
	need := func(expression string) {
		for _, found := range reference.FindAllStringSubmatch(expression, -1) {
			needed[found[1]] = true
		}
	}
	for _, expression := range expressions {
		need(expression)
	}
	for _, v := range slices.Backward(variables) { // each refers to earlier ones
		if needed[v.Name] {
			need(v.Expression)
		}
	}
	return slices.DeleteFunc(variables, func(v admissionv1.Variable) bool { return !needed[v.Name] })
}

func paramKind() *admissionv1.ParamKind {
	return &admissionv1.ParamKind{APIVersion: group + "/" + version, Kind: kind}
}

// paramRef refuses istiod's change while the parameter is not there: nothing may start un-injected.
func paramRef(names Names) *admissionv1.ParamRef {
	return &admissionv1.ParamRef{Name: names.Parameter, Namespace: names.Namespace, ParameterNotFoundAction: new(admissionv1.DenyAction)}
}

// matchResources are those of the chart's webhook configuration (templates/webhook/mutatingwebhookconfiguration.yaml).
func matchResources(kind patches.Kind) *admissionv1.MatchResources {
	rule := admissionv1.Rule{APIGroups: []string{"apps"}, APIVersions: []string{"v1"}, Resources: []string{"deployments"}, Scope: new(admissionv1.NamespacedScope)}
	operations := []admissionv1.OperationType{admissionv1.Create, admissionv1.Update}
	if kind == patches.Pod { // whose volumes and containers cannot change after its creation
		rule.APIGroups, rule.Resources, operations = []string{""}, []string{"pods"}, operations[:1]
	}
	return &admissionv1.MatchResources{
		MatchPolicy: new(admissionv1.Equivalent),
		NamespaceSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: patches.InjectionLabel, Operator: metav1.LabelSelectorOpIn, Values: []string{patches.InjectionEnabled}},
			// Nothing here may ever stand in the way of the cluster's own recovery.
			{Key: corev1.LabelMetadataName, Operator: metav1.LabelSelectorOpNotIn, Values: []string{metav1.NamespaceSystem}},
		}},
		ObjectSelector: &metav1.LabelSelector{MatchLabels: istio.IstiodLabels},
		ResourceRules:  []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{Operations: operations, Rule: rule}}},
	}
}

func matchConditions() []admissionv1.MatchCondition {
	return []admissionv1.MatchCondition{{Name: "not-being-deleted", Expression: "request.operation == 'CREATE' || !has(oldObject.metadata.deletionTimestamp)"}}
}
