// SPDX-License-Identifier: Apache-2.0

package istiods

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/patches"
)

func TestTheWorstPodCounts(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		replicas any
		pods     []func(*testing.T, *Controller, *unstructured.Unstructured)
		state    patches.State
		reason   patches.Reason
		waiting  bool
	}{
		"none yet":                   {nil, nil, patches.StateMissing, "", true},
		"none yet of three":          {int64(3), nil, patches.StateMissing, "", true},
		"none wanted":                {int64(0), nil, patches.StateInjected, patches.AlreadyInjected, false},
		"all injected":               {nil, pods(carrying, carrying), patches.StateInjected, patches.AlreadyInjected, false},
		"one without the agent":      {nil, pods(carrying, plain, carrying), patches.StateMissing, patches.Injected, false},
		"one of another digest":      {nil, pods(carrying, outdated), patches.StateOutdated, patches.Injected, false},
		"missing is worse":           {nil, pods(outdated, plain, outdated), patches.StateMissing, patches.Injected, false},
		"one that says no":           {nil, pods(carrying, optedOut), patches.StateSkipped, patches.OptedOut, false},
		"outdated is worse than no":  {nil, pods(optedOut, outdated), patches.StateOutdated, patches.Injected, false},
		"one that goes":              {nil, pods(carrying, going), patches.StateInjected, patches.AlreadyInjected, false},
		"only ones that have ended":  {nil, pods(succeeded, failed), patches.StateMissing, "", true},
		"one that has ended, beside": {nil, pods(carrying, failed), patches.StateInjected, patches.AlreadyInjected, false},
		"another Deployment's":       {nil, pods(carrying, foreign), patches.StateInjected, patches.AlreadyInjected, false},
		"another namespace's":        {nil, pods(carrying, farAway), patches.StateInjected, patches.AlreadyInjected, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := reconciler(t, v1alpha1.TargetPods)
			var objects []client.Object
			for i, shape := range test.pods {
				p := podOf(istiod(), i)
				shape(t, r, p)
				objects = append(objects, p)
			}
			r.client = cluster(t, objects...)
			d := istiod()
			if test.replicas != nil {
				d.Object["spec"].(map[string]any)["replicas"] = test.replicas
			}
			found, err := r.inspect(t.Context(), d)
			if err != nil {
				t.Fatal(err)
			}
			if found.state != test.state || found.waiting != test.waiting || !test.waiting && found.result.Reason != test.reason {
				t.Errorf("%s (%s), waiting=%t; want %s (%s), waiting=%t", found.state, found.result.Reason, found.waiting, test.state, test.reason, test.waiting)
			}
		})
	}
}

// The cache holds neither the specification nor the selector of an object that is far larger than an istiod.
func TestObjectsThatAreTooLarge(t *testing.T) {
	t.Parallel()
	for _, target := range []v1alpha1.Target{v1alpha1.TargetDeployments, v1alpha1.TargetPods} {
		r, d := reconciler(t, target), istiod()
		p := podOf(d, 0)
		r.client = cluster(t, p)
		for _, object := range []*unstructured.Unstructured{d, p} {
			delete(object.Object, "spec")
			object.Object["tooLarge"] = true
		}
		for kind, inspect := range map[string]func() (inspection, error){
			"Deployment": func() (inspection, error) { return r.inspect(t.Context(), d) },
			"Pod":        func() (inspection, error) { return r.inspectObject(patches.Pod, p) },
		} {
			found, err := inspect()
			if err != nil {
				t.Fatal(err)
			}
			operations, report := r.decide(d, found)
			want := "cannot inspect the " + kind + ": it is far larger than an istiod"
			if found.state != patches.StateMissing || found.waiting || len(operations) > 0 || report.Reason != patches.Malformed || !strings.HasPrefix(report.Message, want) {
				t.Errorf("%s, %s: %s, %+v, %v", target, kind, found.state, report, operations)
			}
		}
	}
}

func TestIstiodsAreCountedByNamespaceAndState(t *testing.T) {
	t.Parallel()
	r := reconciler(t, v1alpha1.TargetDeployments)
	done := istiod()
	raw, err := done.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	done = apply(t, done, r.injector.Inject(patches.Deployment, raw).Operations)
	done.SetName("istiod")
	without, no, elsewhere := istiod(), istiod(), istiod()
	no.SetName("istiod-out")
	no.SetAnnotations(map[string]string{patches.InjectKey: "false"})
	elsewhere.SetNamespace("not-labelled")
	for _, each := range []*unstructured.Unstructured{done, without, no, elsewhere} {
		if err := unstructured.SetNestedField(each.Object, int64(2), "status", "availableReplicas"); err != nil {
			t.Fatal(err)
		}
	}
	r.client = cluster(t, done, without, no, elsewhere, namespace("istio-system"), namespace("empty"))

	desired := map[string]float64{
		"istio-system injected": 1, "istio-system missing": 1, "istio-system skipped": 1, "istio-system outdated": 0,
		"istio-system replicas": 2, "empty replicas": 0, // those of the injected one
		"empty injected": 0, "empty missing": 0, "empty skipped": 0, "empty outdated": 0,
	}
	elected := make(chan struct{})
	g := &gauge{istiods: r, elected: elected}
	if got := gathered(t, g); len(got) != 0 {
		t.Errorf("a replica that does not lead reports %v", got)
	}
	close(elected)
	if got := gathered(t, g); !reflect.DeepEqual(got, desired) {
		t.Errorf("got %v, want %v", got, desired)
	}
}

func gathered(t *testing.T, g *gauge) map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(g)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			labels := metric.GetLabel() // sorted: namespace, state
			what := "replicas"
			if len(labels) > 1 {
				what = labels[1].GetValue()
			}
			values[labels[0].GetValue()+" "+what] = metric.GetGauge().GetValue()
		}
	}
	return values
}

// cluster holds objects without an API server; it has no labelled cache, so
// what it holds is what the cache would.
func cluster(t *testing.T, objects ...client.Object) client.Client {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	return fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).Build()
}

func namespace(name string) client.Object {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

func podOf(d *unstructured.Unstructured, number int) *unstructured.Unstructured {
	p := pod()
	labels, _, _ := unstructured.NestedStringMap(d.Object, "spec", "selector", "matchLabels")
	spec, _, _ := unstructured.NestedMap(d.Object, "spec", "template", "spec")
	p.Object["spec"] = spec
	p.SetLabels(labels)
	p.SetNamespace(d.GetNamespace())
	p.SetName(fmt.Sprint(d.GetName(), "-", number))
	return p
}

func pods(shapes ...func(*testing.T, *Controller, *unstructured.Unstructured)) []func(*testing.T, *Controller, *unstructured.Unstructured) {
	return shapes
}

func plain(*testing.T, *Controller, *unstructured.Unstructured) {}

func carrying(t *testing.T, r *Controller, p *unstructured.Unstructured) {
	t.Helper()
	raw, err := p.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	p.Object = apply(t, p, r.injector.Inject(patches.Pod, raw).Operations).Object
}

func outdated(t *testing.T, r *Controller, p *unstructured.Unstructured) {
	t.Helper()
	carrying(t, r, p)
	annotations := p.GetAnnotations()
	annotations[patches.InjectedAnnotation] = "earlier"
	p.SetAnnotations(annotations)
}

func optedOut(_ *testing.T, _ *Controller, p *unstructured.Unstructured) {
	p.SetAnnotations(map[string]string{patches.InjectKey: "false"})
}

func going(_ *testing.T, _ *Controller, p *unstructured.Unstructured) {
	p.SetDeletionTimestamp(&metav1.Time{Time: metav1.Now().Time})
	p.SetFinalizers([]string{"example.com/wait"})
}

func succeeded(_ *testing.T, _ *Controller, p *unstructured.Unstructured) {
	p.Object["status"] = map[string]any{"phase": "Succeeded"}
}

func failed(_ *testing.T, _ *Controller, p *unstructured.Unstructured) {
	p.Object["status"] = map[string]any{"phase": "Failed"}
}

func foreign(_ *testing.T, _ *Controller, p *unstructured.Unstructured) {
	p.SetLabels(map[string]string{"app": "istiod", "istio.io/rev": "stable"})
}

func farAway(_ *testing.T, _ *Controller, p *unstructured.Unstructured) { p.SetNamespace("elsewhere") }
