// SPDX-License-Identifier: Apache-2.0

package static

import (
	"encoding/json"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/cel-go/cel"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/structpb"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/cel/environment"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/patches"
	"github.com/istiod-agent/istiod-agent/policy"
)

// pieces of texts: what ends, escapes or continues a CEL string, in both of its languages.
var pieces = []string{
	`"`, `'`, "`", `\`, `"""`, `'''`, "\n", "\r", "\t", "\x00", "\x1f", "\x7f", "\u0085", "\u2028", "\ufeff", "\u202e", "\U0001f512", "\xff", "\xed\xa0\x80",
	"r", "b", "u", "x41", "n", "0", "101", "U0001f512", "$(", ")", "(", "{", "}", "[", "]", ",", ":", "+", "?", "dyn(", "variables.parameter", "params.spec", "//", "#", "---", " ", "",
}

func randomText(r *rand.Rand) string {
	var text strings.Builder
	for range r.IntN(12) {
		text.WriteString(pieces[r.IntN(len(pieces))])
	}
	return text.String()
}

// Whatever text a configuration has, the policy's constants are what the engine renders, and nothing else: the API server's
// own CEL environment evaluates them.
func TestConstants(t *testing.T) {
	env, err := environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()).Env(environment.StoredExpressions)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(15, 6))
	texts := append(slices.Collect(maps.Values(hostile)), strings.Join(pieces, ""))
	for range 500 {
		texts = append(texts, randomText(r))
	}
	for _, text := range texts {
		if checkConstants(t, env, text); t.Failed() {
			t.Fatalf("text %q", text)
		}
	}
}

func checkConstants(t *testing.T, env *cel.Env, text string) {
	t.Helper()
	config := v1alpha1.Default()
	config.Agent.Image = text
	config.Agent.VaultToken.Audience = text
	config.Agent.Env = []corev1.EnvVar{{Name: text, Value: text}, {Name: "SECRET", ValueFrom: &corev1.EnvVarSource{
		SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: text}, Key: text, Optional: new(true)},
	}}}
	engine, err := patches.New(config)
	if err != nil {
		t.Fatal(err)
	}
	static, err := policy.NewStatic(config, "istiod-agent")
	if err != nil {
		t.Fatal(err)
	}
	rendered := engine.Rendered()
	want := map[string]json.RawMessage{
		"initContainer": rendered.InitContainer, "container": rendered.Container, "volume": rendered.Volume,
	}
	if rendered.TokenVolume != nil {
		want["tokenVolume"] = rendered.TokenVolume
	}
	// As the API server reads it from the file.
	raw, err := json.Marshal(static.Mutating)
	if err != nil {
		t.Fatal(err)
	}
	mutating := &admissionv1.MutatingAdmissionPolicy{}
	if err := json.Unmarshal(raw, mutating); err != nil {
		t.Fatal(err)
	}
	for _, v := range mutating.Spec.Variables {
		field, isConstant := strings.CutPrefix(v.Name, "parameter_")
		if !isConstant || want[field] == nil {
			continue
		}
		ast, issues := env.Compile(v.Expression)
		if issues.Err() != nil {
			t.Fatalf("%s: %v", v.Expression, issues.Err())
		}
		program, err := env.Program(ast)
		if err != nil {
			t.Fatal(err)
		}
		value, _, err := program.Eval(map[string]any{})
		if err != nil {
			t.Fatalf("%s: %v", v.Expression, err)
		}
		// As the API server makes JSON of it (admission/plugin/policy/mutating/patch/json_patch.go).
		encoded, err := value.ConvertToNative(reflect.TypeFor[*structpb.Value]())
		if err != nil {
			t.Fatal(err)
		}
		got, err := json.Marshal(encoded)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(decoded(t, want[field]), decoded(t, got)); diff != "" {
			t.Errorf("%s (-engine +policy):\n%s", field, diff)
		}
		delete(want, field)
	}
	if len(want) > 0 {
		t.Errorf("the policy has no %v", slices.Sorted(maps.Keys(want)))
	}
}

func decoded(t *testing.T, raw []byte) (value any) {
	t.Helper()
	if err := json.Unmarshal(raw, &value); err != nil {
		t.Fatal(err)
	}
	return value
}
