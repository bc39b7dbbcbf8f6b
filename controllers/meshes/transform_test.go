// SPDX-License-Identifier: Apache-2.0

package meshes

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
)

// Users of other namespaces can store as many VirtualMeshes of a megabyte as etcd holds.
func TestVirtualMeshesThatAreNotAllowedAreCachedBriefly(t *testing.T) {
	t.Parallel()
	allowed := v1alpha1.VirtualMesh{Namespaces: []string{"gloo-mesh"}}
	object := func(namespace, status string) *unstructured.Unstructured {
		long := strings.Repeat("long", 1<<16)
		mesh := virtualMesh()
		mesh.Object["metadata"] = map[string]any{
			"name": "a", "namespace": namespace, "uid": "1", "resourceVersion": "2", "generation": int64(3), "creationTimestamp": "2026-01-01T00:00:00Z",
			"annotations": map[string]any{"a": long}, "labels": map[string]any{long: "a"}, "finalizers": []any{long}, "managedFields": []any{},
		}
		mesh.Object["spec"] = map[string]any{"mtlsConfig": long, "meshes": []any{map[string]any{"name": ours}}}
		mesh.Object["status"] = map[string]any{"state": "FAILED", "errors": []any{status}}
		return mesh
	}
	transform := Transform(allowed)
	cached := func(object *unstructured.Unstructured) *unstructured.Unstructured {
		result, err := transform(object)
		if err != nil {
			t.Fatal(err)
		}
		return result.(*unstructured.Unstructured)
	}
	for _, status := range []string{"brief", strings.Repeat("long", 1<<18)} {
		brief := cached(object("theirs", status))
		if raw, err := json.Marshal(brief); err != nil || len(raw) > 2*maxCachedStatus {
			t.Errorf("%d bytes, %v", len(raw), err)
		}
		if brief.GetName() != "a" || brief.GetNamespace() != "theirs" || brief.GetUID() != "1" || brief.GetResourceVersion() != "2" || brief.GetGeneration() != 3 {
			t.Errorf("metadata %v", brief.Object["metadata"])
		}
		if status == "brief" && statusOf(brief).State != networkingv1.Failed {
			t.Errorf("status %v", brief.Object["status"])
		}
		// It is answered as before.
		facts := clusterFacts{Cluster: "cluster-1", Allowed: allowed, Now: metav1.Now()}
		before := networkingv1.VirtualMeshStatus{}
		if a, b := translate(sourceOf(brief), before, facts), translate(sourceOf(object("theirs", status)), before, facts); !reflect.DeepEqual(a.Status, b.Status) {
			t.Errorf("status %+v, and %+v of the whole", a.Status, b.Status)
		}
	}
	whole := object("gloo-mesh", "brief")
	whole.SetManagedFields(nil)
	if got := cached(object("gloo-mesh", "brief")); !reflect.DeepEqual(got, whole) {
		t.Error("one that is allowed is changed")
	}
}
