// SPDX-License-Identifier: Apache-2.0

// Package policy compares what package policy makes of istiods with what package patches makes of them: evaluated by the
// API server's own packages in this process, and by a real API server.
package policy

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/controlplane"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istio"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/policyeval"
	"github.com/istiod-agent/istiod-agent/patches"
	"github.com/istiod-agent/istiod-agent/policy"
)

// plain is a namespace that is not labelled.
const plain = "plain"

// server is a real API server with the definition of the parameter.
type server struct{ client.Client }

func startServer(t *testing.T) *server {
	t.Helper()
	log.SetLogger(logr.Discard())
	plane, err := controlplane.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := plane.Stop(); err != nil {
			t.Error(err)
		}
	})
	plane.Config.QPS, plane.Config.WarningHandler = -1, rest.NoWarnings{}
	c, err := client.New(plane.Config, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := &server{c}
	s.namespace(t, plain, nil)
	s.namespace(t, "istiod-agent-system", nil)
	return s
}

// namespace with the service accounts that istiods name.
func (s *server) namespace(t *testing.T, name string, labels map[string]string) {
	t.Helper()
	objects := []client.Object{&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}}
	for _, account := range []string{"default", "istiod", "istiod-canary", "istio-pilot-service-account", "istiod-service-account"} {
		objects = append(objects, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: account}})
	}
	s.mustCreate(t, objects...)
}

func (s *server) mustCreate(t *testing.T, objects ...client.Object) {
	t.Helper()
	for _, o := range objects {
		if err := s.Create(t.Context(), o); err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatalf("creating %T %s: %v", o, o.GetName(), err)
		}
	}
}

// install the policy of a configuration for a namespace of its own, whose name is the policies'.
func (s *server) install(t *testing.T, name string, config *v1alpha1.InjectionConfiguration) *policy.Policy {
	t.Helper()
	p, err := policy.New(config, policy.Names{Policy: name})
	if err != nil {
		t.Fatal(err)
	}
	s.namespace(t, name, map[string]string{patches.InjectionLabel: patches.InjectionEnabled})
	own := metav1.LabelSelectorRequirement{Key: corev1.LabelMetadataName, Operator: metav1.LabelSelectorOpIn, Values: []string{name}}
	for _, m := range []*admissionv1.MatchResources{p.Mutating.Spec.MatchConstraints, p.Validating.Spec.MatchConstraints} {
		m.NamespaceSelector.MatchExpressions = append(m.NamespaceSelector.MatchExpressions, own)
	}
	s.mustCreate(t, p.Definition)
	eventually(t, "the parameter is stored", func() error {
		return client.IgnoreAlreadyExists(s.Create(t.Context(), p.Parameter.DeepCopy()))
	})
	s.mustCreate(t, p.Mutating, p.MutatingBinding, p.Validating, p.ValidatingBinding)
	return p
}

// inForce waits until an istiod without a container of istiod's is refused, and one with it is injected.
func (s *server) inForce(t *testing.T, namespace string, kind patches.Kind, istiod object) {
	t.Helper()
	eventually(t, "the policies of "+namespace+" are in force", func() error {
		o, err := s.admitted(t.Context(), namespace, as(kind, istiod))
		if err != nil {
			return err
		}
		if _, spec := podOf(o); len(agentsIn(spec)) == 0 {
			return fmt.Errorf("%s is not injected", kind)
		}
		bad := as(kind, istiod)
		_, spec := podOf(bad)
		for _, c := range spec["containers"].(items) {
			c.(object)["name"], c.(object)["volumeMounts"] = "other", nil
		}
		if _, err := s.admitted(t.Context(), namespace, bad); err == nil || !strings.Contains(err.Error(), "NoIstiodContainer") {
			return fmt.Errorf("no istiod: %w", err)
		}
		return nil
	})
}

func eventually(t *testing.T, what string, condition func() error) {
	t.Helper()
	var last error
	err := wait.PollUntilContextTimeout(t.Context(), 100*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		last = condition()
		return last == nil, nil
	})
	if err != nil {
		t.Fatalf("%s: %v", what, last)
	}
}

// admitted is an object as the API server would store it in a namespace, without what it alone sets.
func (s *server) admitted(ctx context.Context, namespace string, o object) (object, error) {
	u := &unstructured.Unstructured{Object: copied(o)}
	u.SetNamespace(namespace)
	if err := s.Create(ctx, u, client.DryRunAll); err != nil {
		return nil, err
	}
	meta := u.Object["metadata"].(object)
	for _, field := range []string{"uid", "creationTimestamp", "managedFields", "generation", "resourceVersion", "namespace"} {
		delete(meta, field)
	}
	delete(u.Object, "status")
	return copied(u.Object), nil
}

// difference between engine and policy where both are admitted by the API server. compared is false where it would take
// neither.
func (s *server) difference(ctx context.Context, t *testing.T, namespace string, engine *patches.Injector, o object) (difference string, compared, known bool) {
	t.Helper()
	before, err := s.admitted(ctx, plain, o)
	if err != nil {
		return "", false, false
	}
	sent, err := policyeval.Typed(engine.Target(), must(json.Marshal(before)))
	if err != nil {
		t.Fatal(err)
	}
	p := &pair{engine: engine}
	want, result, err := p.byEngine(sent)
	if err != nil {
		return "", false, false
	}
	got, err := s.admitted(ctx, namespace, before)
	switch {
	case want.reason != "":
		if err == nil || !strings.Contains(err.Error(), "istiod-agent: "+want.reason+": ") {
			return fmt.Sprintf("engine %s: %s, policy: %v", result.Reason, result.Message, err), true, false
		}
		return "", true, false
	case err != nil && strings.Contains(err.Error(), "istiod-agent: "+policyCannot) && (recordsNested(tree(sent)) || recordsNested(want.object)):
		return "", true, true
	}
	engines, engineErr := s.admitted(ctx, plain, want.object.(object))
	if engineErr != nil && err != nil {
		return "", false, false
	}
	if engineErr != nil || err != nil {
		return fmt.Sprintf("engine %s: %v, policy: %v", result.Reason, engineErr, err), true, false
	}
	engines, got = sansTokenVolume(engines), sansTokenVolume(got)
	if reflect.DeepEqual(engines, got) {
		return "", true, false
	}
	// The API server evaluates a policy again if the object has changed since, as it asks a webhook again. The engine changes
	// its own result where the API server derives a pod's own requests from the injected containers.
	if again := p.injected(engines); again != nil && hasOwnResources(engines) {
		if again, err := s.admitted(ctx, plain, again); err == nil && reflect.DeepEqual(sansTokenVolume(again), got) {
			return "", true, false
		}
	}
	return fmt.Sprintf("engine %s: %s\n(-engine +policy)\n%s", result.Reason, result.Message, cmp.Diff(engines, got)), true, false
}

// hasOwnResources reports whether a Pod has resources of its own, beside its containers'.
func hasOwnResources(pod object) bool {
	_, found, _ := unstructured.NestedMap(pod, "spec", "resources")
	return found
}

// sansTokenVolume gives the volume of a Pod's token, which the API server names at random, one name.
func sansTokenVolume(o object) object {
	_, spec := podOf(o)
	volumes, _ := spec["volumes"].(items)
	text := string(must(json.Marshal(o)))
	for _, v := range volumes {
		if name, _ := v.(object)["name"].(string); strings.HasPrefix(name, "kube-api-access-") {
			text = strings.ReplaceAll(text, name, "kube-api-access-x")
		}
	}
	return parsed(text).(object)
}

// A real API server stores what the engine would have it store: of every istiod that people have, of every golden input,
// and of such as somebody has edited.
func TestParityOnAnAPIServer(t *testing.T) {
	s := startServer(t)
	inputs := documents(t)
	istiods, err := istio.Inputs(t.Context(), plain)
	if err != nil {
		t.Fatal(err)
	}
	for name, u := range istiods {
		inputs[name] = copied(u.Object)
	}
	var names []string
	for name := range inputs {
		names = append(names, name)
	}
	slices.Sort(names)

	type installed struct {
		namespace string
		engine    *patches.Injector
	}
	var all []installed
	for name, text := range configurations {
		agent := agents[name]
		if agent == "" {
			agent = "{image: '" + ownImage + "'}"
		}
		config := decoded(t, text+"agent: "+agent)
		engine, err := patches.New(config)
		if err != nil {
			t.Fatal(err)
		}
		namespace := strings.NewReplacer(" ", "-", ",", "", "'", "").Replace("by-" + name)
		s.install(t, namespace, config)
		all = append(all, installed{namespace, engine})
	}
	slices.SortFunc(all, func(a, b installed) int { return strings.Compare(a.namespace, b.namespace) })
	for _, i := range all {
		s.inForce(t, i.namespace, i.engine.Target(), inputs["chart: default"])
	}

	compared, documented, failures := 0, 0, 0
	compare := func(i installed, what string, o object) {
		difference, valid, known := s.difference(t.Context(), t, i.namespace, i.engine, o)
		if difference != "" {
			t.Errorf("%s, %s: %s", i.namespace, what, difference)
			failures++
		}
		if valid {
			compared++
		}
		if known {
			documented++
		}
	}
	for n, name := range names {
		for m, i := range all {
			if os.Getenv("PARITY_ALL") != "" || (n+m)%3 == 0 {
				compare(i, name, as(i.engine.Target(), inputs[name]))
			}
		}
	}
	seeds := 400
	if testing.Short() {
		seeds = 50
	}
	for seed := range uint64(seeds) {
		r := rand.New(rand.NewPCG(seed, 37))
		i := all[r.IntN(len(all))]
		o := stored(as(i.engine.Target(), inputs[names[r.IntN(len(names))]]))
		if r.IntN(3) > 0 {
			by := all[r.IntN(len(all))]
			if by.engine.Target() == i.engine.Target() {
				if injected := (&pair{engine: by.engine}).injected(o); injected != nil {
					o = copied(injected)
				}
			}
		}
		compare(i, fmt.Sprint("seed ", seed, ", ", mutate(r, o)), o)
		if failures > 5 {
			break
		}
	}
	t.Logf("%d objects compared, %d of them documented differences", compared, documented)
	if compared < seeds/2 {
		t.Errorf("the test compares too little: %d objects", compared)
	}
}

// Without the parameter istiod cannot change; nonsense is refused by the schema; what is injected already stays as it is.
func TestParameter(t *testing.T) {
	s := startServer(t)
	const namespace = "by-default"
	p := s.install(t, namespace, v1alpha1.Default())
	inputs, err := istio.Inputs(t.Context(), namespace)
	if err != nil {
		t.Fatal(err)
	}
	istiod := copied(inputs["chart: default"].Object)
	s.inForce(t, namespace, patches.Deployment, istiod)

	parameter := client.ObjectKeyFromObject(p.Parameter)
	for name, change := range map[string]func(spec object){
		"another volume":    func(spec object) { spec["volume"].(object)["name"] = "other" },
		"a volume on disk":  func(spec object) { spec["volume"].(object)["emptyDir"].(object)["medium"] = "" },
		"no image":          func(spec object) { delete(spec["initContainer"].(object), "image") },
		"an odd digest":     func(spec object) { spec["digest"] = "x" },
		"text for a list":   func(spec object) { spec["container"].(object)["env"] = "x" },
		"too few variables": func(spec object) { spec["initContainer"].(object)["env"] = items{} },
		"another container": func(spec object) { spec["container"].(object)["name"] = "other" },
		"another command":   func(spec object) { spec["container"].(object)["args"] = items{"sh"} },
		"nothing":           func(spec object) { clear(spec) },
	} {
		edited := p.Parameter.DeepCopy()
		change(edited.Object["spec"].(object))
		edited.SetResourceVersion("")
		edited.SetName("edited")
		if err := s.Create(t.Context(), edited, client.DryRunAll); !apierrors.IsInvalid(err) {
			t.Errorf("%s: %v", name, err)
		}
	}

	// Stored once, admitted again: the generation stays.
	u := &unstructured.Unstructured{Object: copied(istiod)}
	u.SetNamespace(namespace)
	s.mustCreate(t, u)
	u.SetLabels(map[string]string{"app": "istiod", "changed": "true"})
	if err := s.Update(t.Context(), u); err != nil || u.GetGeneration() != 1 {
		t.Errorf("generation %d after an update of a label: %v", u.GetGeneration(), err)
	}
	// A container that somebody removes is there again.
	_, spec := podOf(u.Object)
	spec["containers"] = without(spec["containers"], "istiod-agent")
	if err := s.Update(t.Context(), u); err != nil || u.GetGeneration() != 1 {
		t.Errorf("generation %d after the removal of a container: %v", u.GetGeneration(), err)
	}
	// An opt-out takes all of it out.
	u.SetAnnotations(map[string]string{"istiod-agent.io/inject": "false"})
	if err := s.Update(t.Context(), u); err != nil {
		t.Error(err)
	}
	if _, spec := podOf(u.Object); len(agentsIn(spec)) > 0 || named(spec["volumes"], "cacerts")["secret"] == nil {
		t.Errorf("after an opt-out: %v", spec)
	}
	if err := s.Delete(t.Context(), u); err != nil {
		t.Fatal(err)
	}

	stored := &unstructured.Unstructured{}
	stored.SetGroupVersionKind(p.Parameter.GroupVersionKind())
	if err := s.Get(t.Context(), parameter, stored); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), stored); err != nil {
		t.Fatal(err)
	}
	eventually(t, "istiod is refused without the parameter", func() error {
		if _, err := s.admitted(t.Context(), namespace, istiod); err == nil || !strings.Contains(err.Error(), "no params found") {
			return fmt.Errorf("got %w", err)
		}
		return nil
	})
	s.mustCreate(t, p.Parameter.DeepCopy())
	s.inForce(t, namespace, patches.Deployment, istiod)
}
