// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
)

// patch is `kubectl patch`; object becomes what is stored then.
func patch(t *testing.T, c *cluster.Cluster, object client.Object, kind types.PatchType, content string) {
	t.Helper()
	if err := c.Patch(t.Context(), object, client.RawPatch(kind, []byte(content)), client.FieldOwner("somebody")); err != nil {
		t.Fatalf("patching with %s: %v", content, err)
	}
}

// setImage changes the image of istiod's own container, as a new tag would.
func setImage(t *testing.T, istiod *unstructured.Unstructured, image string) {
	t.Helper()
	containers, _, err := unstructured.NestedSlice(istiod.Object, "spec", "template", "spec", "containers")
	if err != nil {
		t.Fatal(err)
	}
	containers[0].(map[string]any)["image"] = image
	if err := unstructured.SetNestedSlice(istiod.Object, containers, "spec", "template", "spec", "containers"); err != nil {
		t.Fatal(err)
	}
}

func convert(t *testing.T, from *unstructured.Unstructured, into any) {
	t.Helper()
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(from.Object, into); err != nil {
		t.Fatal(err)
	}
}
