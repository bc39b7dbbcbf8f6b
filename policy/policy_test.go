// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"encoding/json"
	"reflect"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/patches"
	"github.com/istiod-agent/istiod-agent/policy"
)

func newPolicy(t *testing.T, change func(*v1alpha1.InjectionConfiguration)) (*policy.Policy, *patches.Injector) {
	t.Helper()
	config := v1alpha1.Default()
	change(config)
	p, err := policy.New(config, policy.Names{})
	if err != nil {
		t.Fatal(err)
	}
	engine, err := patches.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return p, engine
}

func TestParameter(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*v1alpha1.InjectionConfiguration)
		absent []string
	}{
		"default":  {func(*v1alpha1.InjectionConfiguration) {}, nil},
		"native":   {func(c *v1alpha1.InjectionConfiguration) { c.Sidecar = v1alpha1.SidecarNative }, []string{"container"}},
		"no token": {func(c *v1alpha1.InjectionConfiguration) { c.Agent.VaultToken = &v1alpha1.VaultToken{} }, []string{"tokenVolume"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, engine := newPolicy(t, test.change)
			spec := p.Parameter.Object["spec"].(map[string]any)
			if spec["digest"] != engine.Digest() {
				t.Errorf("digest %v", spec["digest"])
			}
			for _, field := range []string{"initContainer", "container", "volume", "tokenVolume"} {
				want := true
				for _, absent := range test.absent {
					want = want && absent != field
				}
				if _, exists := spec[field]; exists != want {
					t.Errorf("field %s exists: %t", field, exists)
				}
			}
			var want any
			if err := json.Unmarshal(engine.Rendered().InitContainer, &want); err != nil {
				t.Fatal(err)
			}
			raw, err := json.Marshal(spec["initContainer"])
			if err != nil {
				t.Fatal(err)
			}
			var got any
			if err := json.Unmarshal(raw, &got); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("got %s", raw)
			}
		})
	}
}

// The policy holds nothing of the configuration but its target.
func TestPolicyIsConstant(t *testing.T) {
	t.Parallel()
	first, _ := newPolicy(t, func(*v1alpha1.InjectionConfiguration) {})
	other, _ := newPolicy(t, func(c *v1alpha1.InjectionConfiguration) {
		c.Agent.Image, c.Sidecar, c.MultiRootMesh, c.Annotate = "other:1", v1alpha1.SidecarNative, true, new(false)
	})
	if !reflect.DeepEqual(first.Mutating, other.Mutating) || !reflect.DeepEqual(first.Validating, other.Validating) {
		t.Error("the policies differ")
	}
	pods, _ := newPolicy(t, func(c *v1alpha1.InjectionConfiguration) { c.Target = v1alpha1.TargetPods })
	rule := pods.Mutating.Spec.MatchConstraints.ResourceRules[0]
	if !reflect.DeepEqual(rule.Resources, []string{"pods"}) || !reflect.DeepEqual(rule.Operations, []admissionv1.OperationType{admissionv1.Create}) {
		t.Errorf("rule for Pods: %v", rule)
	}
}

// Nothing may start un-injected: neither without the parameter, nor where an expression fails.
func TestFailsClosed(t *testing.T) {
	t.Parallel()
	p, _ := newPolicy(t, func(*v1alpha1.InjectionConfiguration) {})
	if *p.Mutating.Spec.FailurePolicy != admissionv1.Fail || *p.Validating.Spec.FailurePolicy != admissionv1.Fail {
		t.Error("a failure is ignored")
	}
	for _, ref := range []*admissionv1.ParamRef{p.MutatingBinding.Spec.ParamRef, p.ValidatingBinding.Spec.ParamRef} {
		if *ref.ParameterNotFoundAction != admissionv1.DenyAction || ref.Name != p.Parameter.GetName() || ref.Namespace != p.Parameter.GetNamespace() {
			t.Errorf("parameter: %v", ref)
		}
	}
}

func TestDefinition(t *testing.T) {
	t.Parallel()
	p, _ := newPolicy(t, func(*v1alpha1.InjectionConfiguration) {})
	group, _, _ := unstructured.NestedString(p.Definition.Object, "spec", "group")
	kind, _, _ := unstructured.NestedString(p.Definition.Object, "spec", "names", "kind")
	if p.Definition.GetName() != "injections.istiod-agent.io" || group != "istiod-agent.io" || kind != "Injection" {
		t.Errorf("definition of %s in %s", kind, group)
	}
}
