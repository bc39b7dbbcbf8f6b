// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	evanphx "github.com/evanphx/json-patch/v5"
	gocmp "github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/policyeval"
	"github.com/istiod-agent/istiod-agent/patches"
	"github.com/istiod-agent/istiod-agent/policy"
)

// configurations that people choose between, by what is special about them. The image is that of mutations.
var configurations = map[string]string{
	"default":        "",
	"native":         "sidecar: native\n",
	"multi-root":     "multiRootMesh: true\n",
	"the guide's":    "annotate: false\ncacerts: {sizeLimit: '0'}\n",
	"not annotated":  "annotate: false\nsidecar: native\n",
	"no token":       "multiRootMesh: true\n",
	"pods":           "target: pods\n",
	"pods, native":   "target: pods\nsidecar: native\n",
	"pods, the rest": "target: pods\nannotate: false\nmultiRootMesh: true\n",
}

// agents of the configurations.
var agents = map[string]string{
	"default":       "{image: '" + ownImage + "', env: [{name: EXTRA, value: x}], allowedServers: ['https://vault:8200']}",
	"the guide's":   "{image: '" + ownImage + "', securityContext: {}, resources: {}, vaultToken: {}}",
	"no token":      "{image: '" + ownImage + "', vaultToken: {}, env: [{name: ISTIO_MULTIROOT_MESH, value: 'false'}]}",
	"pods, native":  "{image: '" + ownImage + "', env: [{name: ISTIO_MULTIROOT_MESH, value: 'true'}]}",
	"not annotated": "{image: '" + ownImage + "', securityContext: {runAsUser: 1000, runAsNonRoot: true}}",
}

// pair is one configuration's engine and policy.
type pair struct {
	name   string
	engine *patches.Injector
	policy *policyeval.Evaluator
}

func pairOf(t testing.TB, name string, config *v1alpha1.InjectionConfiguration) pair {
	t.Helper()
	p, err := policy.New(config, policy.Names{})
	if err != nil {
		t.Fatal(err)
	}
	return pairWith(t, name, config, p)
}

// staticPairOf is the pair with the policies for an API server's own disk.
func staticPairOf(t testing.TB, name string, config *v1alpha1.InjectionConfiguration) pair {
	t.Helper()
	p, err := policy.NewStatic(config, "static")
	if err != nil {
		t.Fatal(err)
	}
	return pairWith(t, name+", static", config, p)
}

func pairWith(t testing.TB, name string, config *v1alpha1.InjectionConfiguration, p *policy.Policy) pair {
	t.Helper()
	engine, err := patches.New(config)
	if err != nil {
		t.Fatal(err)
	}
	compiled, err := policyeval.New(engine.Target(), p)
	if err != nil {
		t.Fatal(err)
	}
	return pair{name, engine, compiled}
}

func pairs(t testing.TB) []pair {
	t.Helper()
	var all []pair
	for _, name := range slices.Sorted(maps.Keys(configurations)) {
		all = append(all, pairOf(t, name, configuration(t, name)))
	}
	for _, name := range []string{"default", "native", "pods, the rest"} {
		all = append(all, staticPairOf(t, name, configuration(t, name)))
	}
	return all
}

func configuration(t testing.TB, name string) *v1alpha1.InjectionConfiguration {
	t.Helper()
	return decoded(t, configurations[name]+"agent: "+cmp.Or(agents[name], "{image: '"+ownImage+"'}"))
}

func decoded(t testing.TB, text string) *v1alpha1.InjectionConfiguration {
	t.Helper()
	config, err := v1alpha1.Decode([]byte("apiVersion: " + v1alpha1.APIVersion + "\nkind: " + v1alpha1.Kind + "\n" + text))
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// documents of the golden inputs that hold an istiod, by file.
func documents(t testing.TB) map[string]object {
	t.Helper()
	root, err := built.Root()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(root, "golden", "testdata", "*.yaml"))
	if err != nil || len(files) < 20 {
		t.Fatal(files, err)
	}
	found := map[string]object{}
	for _, file := range files {
		if strings.HasSuffix(file, ".config.yaml") {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for n, document := range strings.Split("\n"+string(text), "\n---") {
			var o object
			if err := yaml.Unmarshal([]byte(document), &o); err != nil {
				continue // a golden input may hold what no API server takes
			}
			list, _ := o["items"].(items)
			for i, entry := range append(list, any(o)) {
				if o, ok := entry.(object); ok && (o["kind"] == "Deployment" || o["kind"] == "Pod") && labelled(o) {
					found[fmt.Sprint(filepath.Base(file), " ", n, ".", i)] = o
				}
			}
		}
	}
	return found
}

func labelled(o object) bool {
	meta, _ := o["metadata"].(object)
	labels, _ := meta["labels"].(object)
	spec, _ := o["spec"].(object)
	template, _ := spec["template"].(object)
	_, pod := template["spec"].(object)
	return labels["app"] == "istiod" && (pod || o["kind"] == "Pod" && spec["containers"] != nil)
}

// as the other kind.
func as(kind patches.Kind, o object) object {
	o = copied(o)
	switch {
	case o["kind"] == string(kind):
		return o
	case kind == patches.Pod:
		pod := o["spec"].(object)["template"].(object)
		meta, _ := pod["metadata"].(object)
		if meta == nil {
			meta = object{}
		}
		meta["name"], meta["namespace"] = "istiod-1", "istio-system"
		if labels, _ := meta["labels"].(object); labels["app"] == nil {
			meta["labels"] = object{"app": "istiod"} // else the policy does not match it
		}
		pod["apiVersion"], pod["kind"], pod["metadata"] = "v1", "Pod", meta
		return pod
	default:
		labels := object{"app": "istiod"}
		return object{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": object{"name": "istiod", "namespace": "istio-system", "labels": labels}, "spec": object{
			"selector": object{"matchLabels": labels}, "template": object{"metadata": o["metadata"], "spec": o["spec"]},
		}}
	}
}

func copied(o object) object {
	raw, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	var c object
	if err := json.Unmarshal(raw, &c); err != nil {
		panic(err)
	}
	return c
}

// stored gives the object some of the defaults that tell the engine that an API server has seen it.
func stored(o object) object {
	_, spec := podOf(o)
	maps.Copy(spec, object{"dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler"})
	for _, list := range []string{"containers", "initContainers"} {
		l, _ := spec[list].(items)
		for _, c := range l {
			if c := c.(object); c["imagePullPolicy"] == nil {
				c["imagePullPolicy"] = "IfNotPresent"
			}
		}
	}
	volumes, _ := spec["volumes"].(items)
	for _, v := range volumes {
		if secret, ok := v.(object)["secret"].(object); ok && secret["defaultMode"] == nil {
			secret["defaultMode"] = 420
		}
	}
	return o
}

// outcome of a decision: what is stored, or why nothing is.
type outcome struct {
	object any
	reason string
}

// byEngine is the engine's outcome on what the API server would send its webhook.
func (p *pair) byEngine(o runtime.Object) (outcome, patches.Result, error) {
	raw, err := json.Marshal(o)
	if err != nil {
		return outcome{}, patches.Result{}, err
	}
	result := p.engine.InjectNew(p.engine.Target(), raw)
	if result.Denied() {
		return outcome{reason: string(result.Reason)}, result, nil
	}
	text, err := json.Marshal(result.Operations)
	if err != nil {
		return outcome{}, result, err
	}
	patch, err := evanphx.DecodePatch(text)
	if err != nil {
		return outcome{}, result, err
	}
	after, err := patch.Apply(raw)
	if err != nil {
		return outcome{}, result, err
	}
	final, err := policyeval.Typed(p.engine.Target(), after)
	if err != nil {
		return outcome{}, result, err
	}
	return outcome{object: tree(final)}, result, nil
}

func (p *pair) byPolicy(o runtime.Object) (outcome, policyeval.Outcome, error) {
	made, err := p.policy.Create(o)
	if err != nil || made.Refusal == "" {
		return outcome{object: tree(made.Object)}, made, err
	}
	reason, _, _ := strings.Cut(strings.TrimPrefix(made.Refusal, "istiod-agent: "), ":")
	return outcome{reason: reason}, made, nil
}

// tree of a typed object without what is empty, which the API server does not store.
func tree(o any) any {
	raw, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	var value any
	if err := json.Unmarshal(raw, &value); err != nil {
		panic(err)
	}
	return value
}

// policyCannot is the reason of the documented differences: what CEL cannot write or read as JSON.
const policyCannot = "PolicyCannot"

// injected is the object as the engine admits it; nil where it is refused.
func (p *pair) injected(o object) object {
	sent, err := policyeval.Typed(p.engine.Target(), must(json.Marshal(o)))
	if err != nil {
		return nil
	}
	after, _, err := p.byEngine(sent)
	if err != nil {
		return nil
	}
	o, _ = after.object.(object)
	return o
}

// difference between the two outcomes; "" for none. known tells that it is a documented one.
func (p *pair) difference(t testing.TB, o object) (difference string, known bool) {
	t.Helper()
	raw, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	sent, err := policyeval.Typed(p.engine.Target(), raw)
	if err != nil {
		return "", false // no API server takes it
	}
	want, result, err := p.byEngine(sent)
	if err != nil {
		return "", false // a patch that does not apply refuses the object
	}
	got, made, err := p.byPolicy(sent)
	if err != nil {
		return fmt.Sprintf("engine %s: %s, policy: %v", result.Reason, result.Message, err), false
	}
	if got.reason == policyCannot && want.reason == "" && (recordsNested(tree(sent)) || recordsNested(want.object)) {
		return "", true
	}
	if got.reason != want.reason {
		return fmt.Sprintf("engine %s: %s, policy %q", result.Reason, result.Message, got.reason), false
	}
	if !reflect.DeepEqual(got.object, want.object) {
		return fmt.Sprintf("engine %s: %s\n(-engine +policy)\n%s", result.Reason, result.Message, gocmp.Diff(want.object, got.object)), false
	}
	said := answer{reason: made.Reason, refusal: made.Refusal, warnings: made.Warnings}
	return differentWords(answerOf(result).created(tree(sent).(object)), said.created(tree(sent).(object))), false
}

var plainText = regexp.MustCompile("^[A-Za-z0-9_./-]*$")

// recordsNested reports whether an object's record of its replaced volume holds more than plain values.
func recordsNested(o any) bool {
	template, _ := podOf(o.(object))
	for _, meta := range []any{o.(object)["metadata"], template["metadata"]} {
		m, _ := meta.(object)
		annotations, _ := m["annotations"].(object)
		text, _ := annotations[patches.OriginalAnnotation].(string)
		var note struct{ Volume object }
		if json.Unmarshal([]byte(text), &note) != nil {
			continue
		}
		for key, source := range note.Volume {
			members, _ := source.(object)
			for _, member := range members {
				text, isText := member.(string)
				_, isMap := member.(object)
				_, isList := member.(items)
				if key != "name" && (isMap || isList || isText && !plainText.MatchString(text)) {
					return true
				}
			}
		}
	}
	return false
}

func must(raw []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return raw
}

// What the engine makes of each golden input is what the policy makes of it, whatever the configuration.
func TestParityOfGoldenInputs(t *testing.T) {
	inputs := documents(t)
	if len(inputs) < 30 {
		t.Fatalf("%d inputs", len(inputs))
	}
	for _, p := range pairs(t) {
		for name, input := range inputs {
			difference, known := p.difference(t, stored(as(p.engine.Target(), input)))
			if difference != "" {
				t.Errorf("%s, %s: %s", p.name, name, difference)
			}
			if known {
				t.Logf("%s, %s: a documented difference", p.name, name)
			}
		}
	}
}

// The same for objects that somebody has edited at random, before or after an injection by this or another configuration.
func TestParityOfMutatedInputs(t *testing.T) {
	all, inputs := pairs(t), documents(t)
	var bases []object
	for _, name := range slices.Sorted(maps.Keys(inputs)) { // for a seed to mean the same each time
		bases = append(bases, inputs[name])
	}
	count := 3000
	if testing.Short() {
		count = 300
	}
	failures, documented, reasons, warned := 0, 0, map[string]int{}, 0
	for seed := range uint64(count) {
		r := rand.New(rand.NewPCG(seed, 15))
		p := all[r.IntN(len(all))]
		o := stored(as(p.engine.Target(), bases[r.IntN(len(bases))]))
		state := "fresh"
		if r.IntN(3) > 0 { // injected before, by this configuration or another
			by := p
			if r.IntN(2) == 0 {
				by = all[r.IntN(len(all))]
			}
			if by.engine.Target() == p.engine.Target() {
				if injected := by.injected(o); injected != nil {
					o, state = injected, "injected by "+by.name
				}
			}
		}
		o = copied(o)
		made := mutate(r, o)
		difference, known := p.difference(t, o)
		if difference == "" && !known && seed%4 == 0 { // reinvoked
			if again := p.injected(o); again != nil {
				made += ", then admitted again"
				difference, known = p.difference(t, again)
			}
		}
		if known {
			documented++
		}
		if sent, err := policyeval.Typed(p.engine.Target(), must(json.Marshal(o))); err == nil {
			if _, result, err := p.byEngine(sent); err == nil {
				reasons[string(result.Reason)]++
				warned += len(answerOf(result).created(tree(sent).(object)).warnings)
			}
		}
		if difference != "" {
			t.Errorf("seed %d, %s, %s, then %s: %s", seed, p.name, state, made, difference)
			if failures++; failures > 8 {
				t.FailNow()
			}
		}
	}
	t.Logf("%d objects, %d documented differences, %d warnings, decisions %v", count, documented, warned, reasons)
	if warned < count/10 {
		t.Errorf("the test compares too few warnings: %d", warned)
	}
	for _, reason := range []patches.Reason{patches.Injected, patches.AlreadyInjected, patches.OptedOut, patches.NoBuiltInCA, patches.NoIstiodContainer, patches.CACertsElsewhere} {
		if reasons[string(reason)] < count/200 {
			t.Errorf("the test compares too little: %d of %s", reasons[string(reason)], reason)
		}
	}
}
