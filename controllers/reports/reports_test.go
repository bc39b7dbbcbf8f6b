// SPDX-License-Identifier: Apache-2.0

package reports

import (
	"encoding/json"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
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
			if got := reporting(object); !slices.Equal(got, test.pods) {
				t.Errorf("got %q", got)
			}
			if got := namespace(object); got != test.namespace {
				t.Errorf("got %q", got)
			}
		})
	}
}

// The indices of a JSON patch are those after each operation before: the last entry goes first.
func TestTheRightEntriesGo(t *testing.T) {
	raw, err := json.Marshal(without("7", []int{0, 2}))
	if err != nil {
		t.Fatal(err)
	}
	const want = `[{"op":"replace","path":"/metadata/resourceVersion","value":"7"},{"op":"remove","path":"/status/certificates/2"},{"op":"remove","path":"/status/certificates/0"}]`
	if string(raw) != want {
		t.Errorf("got %s", raw)
	}
}
