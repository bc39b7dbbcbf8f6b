// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	_ "embed"
	"encoding/json"
	"fmt"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
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

	p := &Policy{Definition: &unstructured.Unstructured{}}
	if err := yaml.Unmarshal(definition, &p.Definition.Object); err != nil {
		return nil, fmt.Errorf("reading the definition of %s: %w", resource, err)
	}
	if p.Parameter, err = Parameter(injector, names.Namespace, names.Parameter); err != nil {
		return nil, err
	}
	p.mutating(injector.Target(), names)
	p.validating(injector.Target(), names)
	return p, nil
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
		if err := yaml.Unmarshal(value, &object, integers); err != nil {
			return nil, err
		}
		spec[field] = object
	}
	u := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
	u.SetAPIVersion(group + "/" + version)
	u.SetKind(kind)
	u.SetNamespace(namespace)
	u.SetName(name)
	// As an API server's client would read it: int64 in place of json.Number.
	raw, err := u.MarshalJSON()
	if err != nil {
		return nil, err
	}
	return u, u.UnmarshalJSON(raw)
}

func integers(d *json.Decoder) *json.Decoder {
	d.UseNumber()
	return d
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
			Variables:          variables(kind),
			Mutations: []admissionv1.Mutation{{
				PatchType: admissionv1.PatchTypeJSONPatch,
				JSONPatch: &admissionv1.JSONPatch{Expression: mutation(kind)},
			}},
		},
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
	name := names.Policy + "-decision"
	p.Validating = &admissionv1.ValidatingAdmissionPolicy{
		TypeMeta:   metav1.TypeMeta{APIVersion: admissionv1.SchemeGroupVersion.String(), Kind: "ValidatingAdmissionPolicy"},
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admissionv1.ValidatingAdmissionPolicySpec{
			FailurePolicy:    new(admissionv1.Fail),
			ParamKind:        paramKind(),
			MatchConstraints: matchResources(kind),
			MatchConditions:  matchConditions(),
			Variables:        variables(kind),
			Validations:      validations(),
			AuditAnnotations: []admissionv1.AuditAnnotation{{Key: "reason", ValueExpression: "variables.decision == 'Removed' ? 'OptedOut' : variables.decision"}},
		},
	}
	p.ValidatingBinding = &admissionv1.ValidatingAdmissionPolicyBinding{
		TypeMeta:   metav1.TypeMeta{APIVersion: admissionv1.SchemeGroupVersion.String(), Kind: "ValidatingAdmissionPolicyBinding"},
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: name, ParamRef: paramRef(names), ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny},
		},
	}
}

func validations() []admissionv1.Validation {
	const prefix = "'istiod-agent: ' + variables.decision + ': "
	return []admissionv1.Validation{
		{
			Expression: "variables.decision != " + quote(string(patches.NoIstiodContainer)),
			MessageExpression: prefix + `cannot inject: looked for a container that mounts /etc/cacerts, else one called "discovery", and found ` +
				"' + (size(variables.containers) == 0 ? 'no containers' : 'containers ' + variables.containers.map(c, string(c.name)).join(', '))",
		},
		{
			Expression: "variables.decision != " + quote(string(patches.CACertsElsewhere)),
			MessageExpression: prefix + "cannot inject: istiod would not read the agent\\'s files: ' + (" +
				"size(variables.second) > 0 ? 'container ' + variables.second[0] + ' runs istiod beside container ' + variables.istiod.name + ', which alone can be injected; remove it' : " +
				"!variables.readsCACerts ? 'ROOT_CA_DIR, envFrom or workingDir of container ' + variables.istiod.name + ' lead elsewhere; set ROOT_CA_DIR to the plain value /etc/cacerts' : " +
				"variables.hidden ? 'container ' + variables.istiod.name + ' mounts something that hides them; mount the whole volume at /etc/cacerts once, and nothing above or below it, nor a path with ..' : " +
				"'container ' + variables.istiod.name + ' mounts volume ' + variables.istiodVolume + ' at /etc/cacerts, which is that of the agent\\'s token; give its volume another name')",
		},
		{
			Expression:        "variables.problem == ''",
			MessageExpression: "'istiod-agent: PolicyCannot: ' + variables.problem",
		},
	}
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
