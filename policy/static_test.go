// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/policy"
)

// An API server takes no static policy that has a parameter, or a name without its suffix.
func TestStatic(t *testing.T) {
	t.Parallel()
	for _, target := range []v1alpha1.Target{v1alpha1.TargetDeployments, v1alpha1.TargetPods} {
		config := v1alpha1.Default()
		config.Target = target
		static, err := policy.NewStatic(config, "mesh-ca")
		if err != nil {
			t.Fatal(err)
		}
		if static.Parameter != nil || static.Definition != nil {
			t.Error("there is a parameter")
		}
		bindings := map[string]bool{}
		for _, o := range append([]runtime.Object{static.GuardBinding, static.Guard, static.MutatingBinding, static.Mutating, static.ValidatingBinding, static.WarningBinding}, static.Policies()...) {
			raw, err := json.Marshal(o)
			if err != nil {
				t.Fatal(err)
			}
			u := &unstructured.Unstructured{}
			if err := u.UnmarshalJSON(raw); err != nil {
				t.Fatal(err)
			}
			name := u.GetName()
			if !strings.HasPrefix(name, "mesh-ca") || !strings.HasSuffix(name, ".static.k8s.io") {
				t.Errorf("%s %s", u.GetKind(), name)
			}
			if found := regexp.MustCompile(`\bparam[A-Z.s][A-Za-z.]*`).FindAll(raw, -1); found != nil {
				t.Errorf("%s %s has a parameter: %q", u.GetKind(), name, found)
			}
			if of, isBinding, _ := unstructured.NestedString(u.Object, "spec", "policyName"); isBinding {
				bindings[strings.TrimSuffix(u.GetKind(), "Binding")+of] = true
			} else if !bindings[u.GetKind()+name] {
				t.Errorf("%s %s is not bound", u.GetKind(), name)
			}
		}
		if len(bindings) != 4 {
			t.Errorf("bindings %v", bindings)
		}
	}
}

// What the configuration says is text in one place of the policy, whatever it looks like.
func TestStaticConstants(t *testing.T) {
	t.Parallel()
	config := v1alpha1.Default()
	config.Agent.Env = []corev1.EnvVar{{Name: "X", Value: `params.spec" + 'x' + "` + "\n"}}
	static, err := policy.NewStatic(config, "istiod-agent")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range static.Mutating.Spec.Variables {
		if v.Name == "parameter_initContainer" {
			if want := `dyn({"name": dyn("X"), "value": dyn("params.spec\" + 'x' + \"\n")})`; !strings.Contains(v.Expression, strings.ReplaceAll(want, "\n", `\n`)) {
				t.Errorf("got %s", v.Expression)
			}
			return
		}
	}
	t.Error("the containers are nowhere")
}

// A policy that an API server would not compile keeps it from starting, so it is not written.
func TestStaticRefuses(t *testing.T) {
	t.Parallel()
	large := v1alpha1.Default()
	for n := range 200 {
		large.Agent.Env = append(large.Agent.Env, corev1.EnvVar{Name: fmt.Sprint("VARIABLE_", n), Value: strings.Repeat("x", 500)})
	}
	for name, test := range map[string]struct {
		config     *v1alpha1.InjectionConfiguration
		name, want string
	}{
		"a name with a slash": {v1alpha1.Default(), "../x", `name "../x" of the policies: `},
		"a name that is long": {v1alpha1.Default(), strings.Repeat("x", 250), "of the policies: "},
		"no name":             {v1alpha1.Default(), "", `name "" of the policies: `},
		"too many variables":  {large, "istiod-agent", "an API server reads at most 100000"},
	} {
		if _, err := policy.NewStatic(test.config, test.name); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
