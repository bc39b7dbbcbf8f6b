// SPDX-License-Identifier: Apache-2.0

package reports

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

func TestWhoReportsAndFromWhere(t *testing.T) {
	for name, test := range map[string]struct {
		object    string
		pods      []string
		namespace string
	}{
		"two pods": {
			`{"metadata":{"namespace":"istio-system"},"spec":{"hosts":["spiffe://cluster.local/ns/istio-system/sa/istiod"]},"status":{"certificates":[{"pod":"a"},{"pod":"b"}]}}`,
			[]string{"a", "b"},
			"istio-system",
		},
		"kept elsewhere": {
			`{"metadata":{"namespace":"gloo-mesh"},"spec":{"hosts":["spiffe://td/ns/istio-system/sa/istiod"]}}`, nil, "istio-system",
		},
		"an entry of another's": {
			`{"metadata":{"namespace":"istio-system"},"spec":{"hosts":["x"]},"status":{"certificates":[1,{"pod":2},{"pod":"b"}]}}`,
			[]string{"", "", "b"},
			"istio-system",
		},
	} {
		t.Run(name, func(t *testing.T) {
			object := &unstructured.Unstructured{}
			if err := json.Unmarshal([]byte(test.object), &object.Object); err != nil {
				t.Fatal(err)
			}
			if got := reportingPods(object); !slices.Equal(got, test.pods) {
				t.Errorf("got %q", got)
			}
			if got := namespace(object); got != test.namespace {
				t.Errorf("got %q", got)
			}
		})
	}
}

// The object of an evicted Pod stays, and the cache does not hold it.
func TestATerminatedPodCountsAsDeleted(t *testing.T) {
	for phase, want := range map[corev1.PodPhase]bool{
		"": false, corev1.PodPending: false, corev1.PodRunning: false, corev1.PodUnknown: false, corev1.PodFailed: true, corev1.PodSucceeded: true,
	} {
		key := types.NamespacedName{Namespace: "istio-system", Name: "a"}
		stored := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}, Status: corev1.PodStatus{Phase: phase}}
		c := &reconciler{client: fake.NewClientBuilder().Build(), live: fake.NewClientBuilder().WithObjects(stored).Build()}
		if got, err := c.isDeleted(t.Context(), key); got != want || err != nil {
			t.Errorf("phase %q: got %t, %v", phase, got, err)
		}
	}
}

// Only agents whose Pod has no entry lose their managedFields. The name of a manager is cut, so that two Pods may share one.
func TestTheRightManagersGo(t *testing.T) {
	long := strings.Repeat("p", 200)
	object := &unstructured.Unstructured{Object: map[string]any{"status": map[string]any{"certificates": []any{map[string]any{"pod": "a"}, map[string]any{"pod": long + "1"}}}}}
	var all []metav1.ManagedFieldsEntry
	for _, manager := range []string{"helm", "istiod-agent-webhook", "istiod-agent", "istiod-agent/a", "istiod-agent/gone", certificatesv1.FieldManager(long + "2"), "istiod-agent/"} {
		all = append(all, metav1.ManagedFieldsEntry{Manager: manager})
	}
	object.SetManagedFields(all)
	var got []string
	for _, entry := range remainingManagers(object) {
		got = append(got, entry.Manager)
	}
	if want := []string{"helm", "istiod-agent-webhook", "istiod-agent", "istiod-agent/a", certificatesv1.FieldManager(long + "1")}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if len(object.GetManagedFields()) != len(all) {
		t.Error("the object was changed")
	}
}

// The indices of a JSON patch are those after each operation before: the last entry goes first. The conditions are those
// of the Pods that remain.
func TestTheRightEntriesGo(t *testing.T) {
	const removed = `{"op":"replace","path":"/metadata/resourceVersion","value":"7"},{"op":"remove","path":"/status/certificates/2"},{"op":"remove","path":"/status/certificates/0"}`
	for name, test := range map[string]struct{ status, want string }{
		"without conditions": {`{"certificates":[{"pod":"a"},{"pod":"b"},{"pod":"c"}]}`, "[" + removed + "]"},
		"of another type":    {`{"state":3,"certificates":[{"pod":"a"},{"pod":"b"},{"pod":"c"}]}`, "[" + removed + "]"},
		"with conditions": {
			`{"state":"FAILED","error":"sealed","notAfter":"2025-01-01T00:00:00Z","certificates":[{"pod":"a","error":"sealed"},{"pod":"b","serialNumber":"01","confirmed":true,"rootFingerprint":"aaaaaaaaaaaaaaaa"},{"pod":"c"}],
			"conditions":[{"type":"Ready","status":"False","reason":"Initial","message":"","observedGeneration":3,"lastTransitionTime":"2025-01-01T00:00:00Z"}]}`,
			"[" + removed + `,{"op":"add","path":"/status/conditions","value":[` +
				`{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"Every reporting istiod has a valid CA certificate (Pods: 1).","observedGeneration":3,"reason":"Published","status":"True","type":"Ready"},` +
				`{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"Every reporting istiod has loaded its CA certificate (Pods: 1).","observedGeneration":3,"reason":"Confirmed","status":"True","type":"Confirmed"},` +
				`{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"The CA certificates lead to a root that every reporting istiod publishes as trusted.","observedGeneration":3,"reason":"Trusted","status":"True","type":"RootTrusted"}]},` +
				`{"op":"remove","path":"/status/notAfter"},{"op":"add","path":"/status/root","value":"aaaaaaaaaaaa"},` +
				`{"op":"remove","path":"/status/error"},{"op":"add","path":"/status/state","value":"FINISHED"}]`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			object := &unstructured.Unstructured{}
			if err := json.Unmarshal([]byte(`{"metadata":{"resourceVersion":"7"},"status":`+test.status+`}`), &object.Object); err != nil {
				t.Fatal(err)
			}
			raw, err := json.Marshal(removalPatch(object, []int{0, 2}, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)))
			if err != nil {
				t.Fatal(err)
			}
			if string(raw) != test.want {
				t.Errorf("got %s", raw)
			}
		})
	}
}

// lookups records the keys that are looked up, and finds nothing.
type lookups struct {
	client.Client
	keys []string
}

func (l *lookups) Get(_ context.Context, key client.ObjectKey, _ client.Object, _ ...client.GetOption) error {
	l.keys = append(l.keys, key.String())
	return apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, key.Name)
}

// Every user who may write a status chooses the names in it.
func TestNamesThatNoPodCanHaveAreNotLookedUp(t *testing.T) {
	for _, name := range []string{"../../../pods", "..", "a/b", "a?b", "A", "istiod-0"} {
		cached, live := &lookups{}, &lookups{}
		deleted, err := (&reconciler{client: cached, live: live}).isDeleted(t.Context(), types.NamespacedName{Namespace: "istio-system", Name: name})
		if !deleted || err != nil {
			t.Errorf("%q: deleted %t, %v", name, deleted, err)
		}
		var want []string
		if name == "istiod-0" {
			want = []string{"istio-system/istiod-0"}
		}
		if !slices.Equal(cached.keys, want) || !slices.Equal(live.keys, want) {
			t.Errorf("%q: %q and %q are looked up", name, cached.keys, live.keys)
		}
	}
}
