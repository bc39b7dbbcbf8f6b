// SPDX-License-Identifier: Apache-2.0

package istiods

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	evanphx "github.com/evanphx/json-patch/v5"
	"github.com/go-logr/logr"
	"gomodules.xyz/jsonpatch/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/lru"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/patches"
)

// action is what is done to a Deployment.
type action string

const (
	nothing   action = "nothing"
	injected  action = "the injection's own operations"
	restarted action = "a restart"
)

func TestDecide(t *testing.T) {
	t.Parallel()
	// what injecting it would give, in the order of the table's columns.
	would := patches.Result{Operations: []jsonpatch.Operation{jsonpatch.NewOperation("add", "/spec/template/spec/a", 1)}, Report: patches.Report{Reason: patches.Injected}}
	is := func(reason patches.Reason) patches.Result {
		return patches.Result{Report: patches.Report{Reason: reason}}
	}
	tests := map[string]struct {
		target v1alpha1.Target
		found  inspection
		// desired is what happens when the configuration permits neither to inject
		// existing istiods nor to update outdated ones, only the first, only the
		// second, and both.
		desired [4]action
		// reason that is reported where nothing is done.
		reason patches.Reason
	}{
		"a Deployment as configured": {
			target: v1alpha1.TargetDeployments, found: inspection{state: patches.StateInjected, result: is(patches.AlreadyInjected)},
			desired: [4]action{nothing, nothing, nothing, nothing}, reason: patches.AlreadyInjected,
		},
		"a Deployment without the agent": {
			target: v1alpha1.TargetDeployments, found: inspection{state: patches.StateMissing, result: would},
			desired: [4]action{nothing, injected, nothing, injected}, reason: reasonMissing,
		},
		"an outdated Deployment": {
			target: v1alpha1.TargetDeployments, found: inspection{state: patches.StateOutdated, result: would},
			desired: [4]action{nothing, nothing, injected, injected}, reason: reasonOutdated,
		},
		"a Deployment that cannot be injected": {
			target: v1alpha1.TargetDeployments, found: inspection{state: patches.StateMissing, result: is(patches.NoIstiodContainer)},
			desired: [4]action{nothing, nothing, nothing, nothing}, reason: patches.NoIstiodContainer,
		},
		"a Deployment that has no CA": {
			target: v1alpha1.TargetDeployments, found: inspection{state: patches.StateSkipped, result: is(patches.NoBuiltInCA)},
			desired: [4]action{nothing, nothing, nothing, nothing}, reason: patches.NoBuiltInCA,
		},
		"a Deployment that still runs the agent, and has no CA": { // its istiod runs
			target: v1alpha1.TargetDeployments, found: inspection{state: patches.StateSkipped, result: patches.Result{Operations: would.Operations, Report: patches.Report{Reason: patches.NoBuiltInCA}}},
			desired: [4]action{nothing, nothing, injected, injected}, reason: patches.NoBuiltInCA,
		},
		"a Deployment that opted out while the webhook was away": {
			target: v1alpha1.TargetDeployments, found: inspection{state: patches.StateSkipped, result: patches.Result{Operations: would.Operations, Report: patches.Report{Reason: patches.OptedOut}}},
			desired: [4]action{nothing, injected, injected, injected}, reason: patches.OptedOut,
		},
		"Pods as configured": {
			target: v1alpha1.TargetPods, found: inspection{state: patches.StateInjected, result: is(patches.AlreadyInjected)},
			desired: [4]action{nothing, nothing, nothing, nothing}, reason: patches.AlreadyInjected,
		},
		"Pods without the agent": {
			target: v1alpha1.TargetPods, found: inspection{state: patches.StateMissing, result: would},
			desired: [4]action{nothing, restarted, nothing, restarted}, reason: reasonMissing,
		},
		"Pods without the agent, restarted for an earlier configuration": {
			target: v1alpha1.TargetPods, found: inspection{state: patches.StateMissing, result: would, restartedFor: "earlier"},
			desired: [4]action{nothing, restarted, nothing, restarted}, reason: reasonMissing,
		},
		"Pods without the agent, restarted already": {
			target: v1alpha1.TargetPods, found: inspection{state: patches.StateMissing, result: would, restartedFor: "now"},
			desired: [4]action{nothing, nothing, nothing, nothing}, reason: reasonMissing,
		},
		"outdated Pods": {
			target: v1alpha1.TargetPods, found: inspection{state: patches.StateOutdated, result: would},
			desired: [4]action{nothing, nothing, restarted, restarted}, reason: reasonOutdated,
		},
		"outdated Pods, restarted already": {
			target: v1alpha1.TargetPods, found: inspection{state: patches.StateOutdated, result: would, restartedFor: "now"},
			desired: [4]action{nothing, nothing, nothing, nothing}, reason: reasonOutdated,
		},
		"Pods that cannot be injected": {
			target: v1alpha1.TargetPods, found: inspection{state: patches.StateMissing, result: is(patches.CACertsElsewhere)},
			desired: [4]action{nothing, nothing, nothing, nothing}, reason: patches.CACertsElsewhere,
		},
		"a Pod that says no": {
			target: v1alpha1.TargetPods, found: inspection{state: patches.StateSkipped, result: patches.Result{Operations: would.Operations, Report: patches.Report{Reason: patches.OptedOut}}},
			desired: [4]action{nothing, nothing, nothing, nothing}, reason: patches.OptedOut,
		},
	}
	for name, test := range tests {
		for column, desired := range test.desired {
			injectExisting, automatic := column&1 > 0, column&2 > 0
			t.Run(fmt.Sprintf("%s, injectExisting=%t, automatic=%t", name, injectExisting, automatic), func(t *testing.T) {
				t.Parallel()
				r := reconciler(t, test.target)
				r.injectExisting, r.automatic = injectExisting, automatic
				found := test.found
				if found.restartedFor == "now" {
					found.restartedFor = r.injector.Digest()
				}
				operations, report := r.decide(istiod(), found)
				if got := actionOf(r, operations, found); got != desired {
					t.Errorf("does %s, want %s", got, desired)
				}
				reason := test.reason
				switch desired {
				case injected:
					reason = found.result.Reason
				case restarted:
					reason = reasonRestarted
				case nothing:
				}
				if report.Reason != reason || (reason == reasonMissing || reason == reasonOutdated) && !strings.HasSuffix(report.Message, "kubectl rollout restart -n istio-system deployment/istiod-canary") {
					t.Errorf("reports %s: %s, want %s", report.Reason, report.Message, reason)
				}
			})
		}
	}
}

func actionOf(r *Controller, operations []jsonpatch.Operation, found inspection) action {
	switch {
	case len(operations) == 0:
		return nothing
	case same(operations, found.result.Operations):
		return injected
	case same(operations, restart(istiod(), r.injector.Digest())):
		return restarted
	default:
		return action(fmt.Sprint(operations))
	}
}

func same(a, b []jsonpatch.Operation) bool {
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return string(x) == string(y)
}

func TestARestartAddsOneAnnotationAndKeepsTheOthers(t *testing.T) {
	t.Parallel()
	for name, annotations := range map[string]map[string]any{
		"no annotations": nil,
		"empty":          {},
		"others":         {"prometheus.io/scrape": "true"},
		"an earlier one": {restartedForAnnotation: "earlier", "a": "b"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before := istiod()
			if annotations != nil {
				if err := unstructured.SetNestedMap(before.Object, annotations, "spec", "template", "metadata", "annotations"); err != nil {
					t.Fatal(err)
				}
			}
			after := apply(t, before, restart(before, "digest"))
			got, _, err := unstructured.NestedStringMap(after.Object, "spec", "template", "metadata", "annotations")
			if err != nil {
				t.Fatal(err)
			}
			if got[restartedForAnnotation] != "digest" {
				t.Errorf("not restarted: %v", got)
			}
			for key, value := range annotations {
				if key != restartedForAnnotation && got[key] != value {
					t.Errorf("%s is lost: %v", key, got)
				}
			}
		})
	}
}

func apply(t *testing.T, object *unstructured.Unstructured, operations []jsonpatch.Operation) *unstructured.Unstructured {
	t.Helper()
	text, err := json.Marshal(operations)
	if err != nil {
		t.Fatal(err)
	}
	patch, err := evanphx.DecodePatch(text)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := object.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	if raw, err = patch.Apply(raw); err != nil {
		t.Fatal(err)
	}
	after := &unstructured.Unstructured{}
	if err := after.UnmarshalJSON(raw); err != nil {
		t.Fatal(err)
	}
	return after
}

func TestTheSameThingIsReportedOnce(t *testing.T) {
	t.Parallel()
	last := lru.New(maxRemembered)
	one, other := types.NamespacedName{Namespace: "istio-system", Name: "istiod"}, types.NamespacedName{Namespace: "elsewhere", Name: "istiod"}
	for i, step := range []struct {
		istiod types.NamespacedName
		what   string
		new    bool
	}{
		{one, "Missing", true},
		{one, "Missing", false},
		{other, "Missing", true},
		{one, "Injected", true},
		{one, "Missing", true},
		{one, "Missing", false},
		{other, "Missing", false},
	} {
		if got := changed(last, step.istiod, step.what); got != step.new {
			t.Errorf("step %d: new: %t, want %t", i, got, step.new)
		}
	}
	last.Remove(one)
	if !changed(last, one, "Missing") || changed(last, other, "Missing") {
		t.Error("forgetting one forgets the wrong one")
	}
}

func TestAnEventFitsWhatTheAPITakes(t *testing.T) {
	t.Parallel()
	recorder := events.NewFakeRecorder(2)
	r := &Controller{events: recorder, reported: lru.New(maxRemembered)}
	long := strings.Repeat("ü", 2000)
	r.notify(t.Context(), istiod(), "Warning", reasonMissing, long)
	r.notify(t.Context(), istiod(), "Warning", reasonMissing, long)
	if got := len(recorder.Events); got != 1 {
		t.Fatalf("want one event, got %d", got)
	}
	note := strings.TrimPrefix(<-recorder.Events, "Warning Missing ")
	if len(note) > 1024 || !utf8.ValidString(note) || len(note) < 1000 || !strings.HasPrefix(long, strings.TrimSuffix(note, "…")) || !strings.HasSuffix(note, "…") {
		t.Errorf("the note has %d bytes: %q", len(note), note)
	}
}

// A start of the program says nothing about what was well before; of a new istiod, and of one that has become well, it
// does.
func TestWhatWasWellIsNoNews(t *testing.T) {
	t.Parallel()
	startedAt := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	for name, test := range map[string]struct {
		age     time.Duration // before the program's start
		said    string        // before
		desired int
	}{
		"an old one":                       {time.Hour, "", 0},
		"a new one":                        {-time.Hour, "", 1},
		"an old one that was not well yet": {time.Hour, "Outdated: it is", 1},
		"one that was just injected":       {-time.Hour, "Injected: it is", 0},
	} {
		t.Run(name, func(t *testing.T) {
			recorder := events.NewFakeRecorder(2)
			r := reconciler(t, v1alpha1.TargetDeployments)
			r.events, r.startedAt = recorder, startedAt
			d := istiod()
			d.SetCreationTimestamp(metav1.NewTime(startedAt.Add(-test.age)))
			raw, err := d.MarshalJSON()
			if err != nil {
				t.Fatal(err)
			}
			d = apply(t, d, r.injector.Inject(patches.Deployment, raw).Operations)
			r.client = cluster(t, d, namespace(d.GetNamespace()))
			key := client.ObjectKeyFromObject(d)
			if test.said != "" {
				changed(r.reported, key, test.said)
			}
			for range 2 {
				if _, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: key}); err != nil {
					t.Fatal(err)
				}
			}
			if got := len(recorder.Events); got != test.desired {
				t.Errorf("%d Events, want %d", got, test.desired)
			}
		})
	}
}

// A failing reconcile needs a person: its line has error level, and the cause is under the key err.
func TestFailureIsLoggedAtErrorLevel(t *testing.T) {
	t.Parallel()
	r := reconciler(t, v1alpha1.TargetDeployments)
	r.events, r.injectExisting = events.NewFakeRecorder(2), true
	d := istiod()
	r.client = interceptor.NewClient(cluster(t, d, namespace(d.GetNamespace())).(client.WithWatch), interceptor.Funcs{
		Patch: func(context.Context, client.WithWatch, client.Object, client.Patch, ...client.PatchOption) error {
			return errors.New("refused")
		},
	})
	var log bytes.Buffer
	ctx := logf.IntoContext(t.Context(), logr.FromSlogHandler(slog.NewJSONHandler(&log, nil)))
	if _, err := r.Reconcile(ctx, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(d)}); err == nil {
		t.Error("no error is returned")
	}
	var line struct{ Level, Err string }
	if err := json.Unmarshal(log.Bytes(), &line); err != nil || line.Level != "ERROR" || !strings.Contains(line.Err, "refused") {
		t.Errorf("logged %s (%v)", log.String(), err)
	}
}

func reconciler(t *testing.T, target v1alpha1.Target) *Controller {
	t.Helper()
	config := v1alpha1.Default()
	config.Target = target
	injector, err := patches.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return &Controller{injector: injector, reported: lru.New(maxRemembered), lacking: lru.New(maxRemembered)}
}

func istiod() *unstructured.Unstructured {
	d := deployment()
	d.Object["spec"] = map[string]any{
		"selector": map[string]any{"matchLabels": map[string]any{"app": "istiod", "istio.io/rev": "canary"}},
		"template": map[string]any{
			"metadata": map[string]any{"labels": map[string]any{"app": "istiod"}},
			"spec":     map[string]any{"containers": []any{map[string]any{"name": "discovery"}}},
		},
	}
	d.SetNamespace("istio-system")
	d.SetName("istiod-canary")
	return d
}
