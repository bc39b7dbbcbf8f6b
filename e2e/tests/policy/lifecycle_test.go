// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	admission "k8s.io/api/admission/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/patches"
)

// step is a request about a stored istiod. It changes the stored object, or applies its owner's, which it may change before.
type step struct {
	name   string
	change func(r *rand.Rand, stored object)
	apply  bool
}

func meta(o object, kind string, key string, value any) {
	m := o["metadata"].(object)
	entries, _ := m[kind].(object)
	if entries == nil {
		entries = object{}
	}
	if entries[key] = value; value == nil {
		delete(entries, key)
	}
	m[kind] = entries
}

// steps are an istiod's life.
var steps = []step{
	{name: "label", change: func(_ *rand.Rand, o object) { meta(o, "labels", "changed", "true") }},
	{name: "apply", apply: true},
	{name: "scale", change: func(_ *rand.Rand, o object) { o["spec"].(object)["replicas"] = 3 }},
	{name: "drop the agent", change: func(_ *rand.Rand, o object) {
		_, spec := podOf(o)
		spec["containers"], spec["initContainers"] = without(spec["containers"], "istiod-agent"), without(spec["initContainers"], "istiod-agent-init")
	}},
	{name: "edit", change: func(r *rand.Rand, o object) { mutate(r, o) }},
	{name: "opt out", change: func(_ *rand.Rand, o object) { meta(o, "annotations", patches.InjectKey, "false") }},
	{name: "scale opted out", change: func(_ *rand.Rand, o object) { o["spec"].(object)["replicas"] = 2 }},
	{name: "apply opted out", apply: true},
	{name: "opt in", change: func(_ *rand.Rand, o object) { meta(o, "annotations", patches.InjectKey, nil) }},
	{name: "edit again", change: func(r *rand.Rand, o object) { mutate(r, o) }},
	{name: "opt out by label", change: func(_ *rand.Rand, o object) { meta(o, "labels", patches.InjectKey, "false") }},
	{name: "opt in by label", change: func(_ *rand.Rand, o object) { meta(o, "labels", patches.InjectKey, "true") }},
	{name: "apply at the end", apply: true},
	{name: "apply without a CA", apply: true, change: func(_ *rand.Rand, o object) {
		_, spec := podOf(o)
		istiod := istiodIn(spec)
		istiod["env"] = append(without(istiod["env"], "ENABLE_CA_SERVER"), object{"name": "ENABLE_CA_SERVER", "value": "false"})
	}},
	{name: "apply with a CA again", apply: true},
}

// Through its whole life an istiod is stored alike, whether a policy injects it, the webhook, or both at once: the same object,
// the same number of rollouts, the same refusals and warnings. With another webhook that changes it after the injection, too.
func TestLifecycles(t *testing.T) {
	s := startServer(t)
	inputs, names := inputs(t)
	s.mirror(t)
	configurations := s.installAll(t, inputs[chart], patches.Deployment)
	requests, removals, failures := 0, 0, 0
	for n, name := range names {
		owners := as(patches.Deployment, inputs[name])
		for m, i := range configurations {
			if !all() && (n*7+m)%17 != 0 && (name != chart || testing.Short() && m > 1) {
				continue
			}
			for _, mirrored := range []bool{false, true} {
				if owners = copied(owners); mirrored {
					meta(owners, "labels", "mirrored", "true")
				}
				owners["metadata"].(object)["name"] = fmt.Sprint("istiod-", n, "-", mirrored)
				made, removed, difference := s.live(t, i, owners, rand.New(rand.NewPCG(uint64(n), uint64(m))))
				requests, removals = requests+made, removals+removed
				if difference != "" {
					t.Errorf("%s, %s, mirrored %t, %s", i.name, name, mirrored, difference)
					if failures++; failures > 3 {
						t.FailNow()
					}
				}
			}
		}
	}
	t.Logf("%d requests compared, %d removals", requests, removals)
	if requests < 100 || removals < 10 {
		t.Errorf("the test compares too little: %d requests, %d removals", requests, removals)
	}
}

// live leads an istiod through its life in all namespaces.
func (s *server) live(t *testing.T, i installed, owners object, r *rand.Rand) (requests, removals int, difference string) {
	t.Helper()
	ctx := t.Context()
	stored := map[string]*unstructured.Unstructured{}
	defer func() {
		for _, u := range stored {
			if err := s.Delete(ctx, u); client.IgnoreNotFound(err) != nil {
				t.Error(err)
			}
		}
	}()
	seed := r.Uint64()
	for n, step := range append([]step{{name: "create", apply: true}}, steps...) {
		got := map[string]admitted{}
		before := stored[i.byWebhook()]
		for _, namespace := range i.namespaces() {
			u := stored[namespace]
			if u == nil {
				u = &unstructured.Unstructured{}
			}
			next := u.DeepCopy()
			if step.apply {
				applied := copied(owners)
				if step.change != nil {
					step.change(nil, applied)
				}
				got[namespace] = s.apply(ctx, namespace, applied, next)
			} else {
				next.Object = copied(next.Object)
				step.change(rand.New(rand.NewPCG(seed, uint64(n))), next.Object) // the same in each namespace
				got[namespace] = s.send(ctx, next, func(ctx context.Context) error { return s.Update(ctx, next) })
			}
			if got[namespace].err == nil {
				stored[namespace] = next
			}
		}
		requests++
		policys, webhooks, both := got[i.byPolicy()], got[i.byWebhook()], got[i.byBoth()]
		// The API server may find what the injection would have mended before the policy refuses.
		validated := apierrors.IsInvalid(policys.err) && policys.reason() == ""
		if (policys.reason() == policyCannot || validated) && webhooks.err == nil && (recordsNested(webhooks.object) || before != nil && recordsNested(before.Object)) {
			return requests, removals, "" // documented; from here on their lives differ
		}
		for _, w := range webhooks.warnings {
			if strings.Contains(w, "the agent is removed") {
				removals++
			}
		}
		for what, other := range map[string]admitted{"policy": policys, "both": both} {
			switch {
			case webhooks.reason() != "" && apierrors.IsInvalid(other.err) && other.reason() == "": // validated before the policy refuses
			case other.reason() != webhooks.reason() || (other.err == nil) != (webhooks.err == nil):
				return requests, removals, fmt.Sprintf("%s: by webhook %v, by %s %v", step.name, webhooks.err, what, other.err)
			case !reflect.DeepEqual(other.object, webhooks.object):
				return requests, removals, fmt.Sprintf("%s: (-webhook +%s)\n%s", step.name, what, gocmp.Diff(webhooks.object, other.object))
			}
		}
		// Before a validating policy could warn.
		if difference := differentWarnings(webhooks.warnings, policys.warnings); difference != "" && !validated {
			return requests, removals, step.name + ": " + difference
		}
		if stored[i.byWebhook()] == nil {
			return requests, removals, "" // refused at its creation, by all
		}
		if a, b, c := stored[i.byPolicy()].GetGeneration(), stored[i.byWebhook()].GetGeneration(), stored[i.byBoth()].GetGeneration(); a != b || b != c {
			return requests, removals, fmt.Sprintf("%s: generation %d by policy, %d by webhook, %d by both", step.name, a, b, c)
		}
	}
	return requests, removals, ""
}

// apply an owner's object as Helm and istioctl do.
func (s *server) apply(ctx context.Context, namespace string, owners object, stored *unstructured.Unstructured) admitted {
	u := &unstructured.Unstructured{Object: copied(owners)}
	u.SetNamespace(namespace)
	a := s.send(ctx, u, func(ctx context.Context) error {
		return s.Apply(ctx, client.ApplyConfigurationFromUnstructured(u), client.ForceOwnership, client.FieldOwner("helm"))
	})
	if a.err == nil {
		stored.Object = u.Object
	}
	return a
}

// differentWarnings compares the warnings about an update, but for those that differ by intention (policy, Differences). A value
// that the policy does not show may be one that the API server does not pass on from the webhook either.
func differentWarnings(webhooks, policys []string) string {
	known := func(warnings []string) []string {
		kept := answer{warnings: warnings}.created(object{"metadata": object{}, "spec": object{}}).warnings
		return slices.DeleteFunc(kept, func(text string) bool { return strings.Contains(text, "is replaced: istiod no longer reads it") })
	}
	webhooks = known(webhooks)
	policys = slices.DeleteFunc(known(policys), func(text string) bool {
		shown, _, hidden := strings.Cut(text, notShown)
		if at := slices.IndexFunc(webhooks, func(other string) bool { return strings.HasPrefix(other, shown) }); hidden && at >= 0 {
			webhooks = slices.Delete(webhooks, at, at+1)
		}
		return hidden
	})
	return differentWords(answer{warnings: webhooks}.printable(), answer{warnings: policys}.printable())
}

// mirror registers a webhook that is asked after the injection and changes its result, as such webhooks do: another registry
// for each image, a variable, and a container of its own behind the others.
func (s *server) mirror(t *testing.T) {
	t.Helper()
	s.paths.HandleFunc("/mirror", func(w http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(r.Body)
		var review admission.AdmissionReview
		if err != nil || json.Unmarshal(raw, &review) != nil {
			http.Error(w, "no review", http.StatusBadRequest)
			return
		}
		var o object
		if err := json.Unmarshal(review.Request.Object.Raw, &o); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		patch := items{}
		_, spec := podOf(o)
		for _, list := range []string{"initContainers", "containers"} {
			containers, _ := spec[list].(items)
			for i, c := range containers {
				if image, _ := c.(object)["image"].(string); !strings.HasPrefix(image, "mirror.example/") {
					patch = append(patch, object{"op": "add", "path": fmt.Sprintf("/spec/template/spec/%s/%d/image", list, i), "value": "mirror.example/" + image})
				}
			}
		}
		if named(spec["containers"], "zz-last") == nil {
			patch = append(patch, object{"op": "add", "path": "/spec/template/spec/containers/-", "value": object{"name": "zz-last", "image": "mirror.example/last"}})
		}
		review.Response = &admission.AdmissionResponse{UID: review.Request.UID, Allowed: true, Patch: must(json.Marshal(patch)), PatchType: new(admission.PatchTypeJSONPatch)}
		review.Request = nil
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(review)
	})
	s.register(t, "zz-mirror", admissionv1.MutatingWebhook{
		Name: "zz-mirror.example.com", AdmissionReviewVersions: []string{"v1"}, SideEffects: new(admissionv1.SideEffectClassNone),
		ReinvocationPolicy: new(admissionv1.IfNeededReinvocationPolicy), ObjectSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"mirrored": "true"}},
		Rules: []admissionv1.RuleWithOperations{{
			Operations: []admissionv1.OperationType{admissionv1.Create, admissionv1.Update},
			Rule:       admissionv1.Rule{APIGroups: []string{"apps"}, APIVersions: []string{"v1"}, Resources: []string{"deployments"}},
		}},
	}, "/mirror")
}
