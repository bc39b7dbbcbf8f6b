// SPDX-License-Identifier: Apache-2.0

package meshes

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/controllers"
	"github.com/istiod-agent/istiod-agent/internal/istio"
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

// Users of any namespace can store Deployments and Pods labelled app=istiod, of a megabyte each.
func TestLargeDeploymentsAndPodsAreCachedBriefly(t *testing.T) {
	t.Parallel()
	transform := Transform(v1alpha1.VirtualMesh{})
	object := func(kind schema.GroupVersionKind, variables int) *unstructured.Unstructured {
		env := make([]any, variables)
		for i := range env {
			env[i] = map[string]any{"name": "a"}
		}
		object := controllers.Untyped(kind)
		object.SetNamespace("theirs")
		object.SetName("istiod")
		object.SetLabels(map[string]string{"app": "istiod"})
		spec := map[string]any{"serviceAccountName": "istiod", "containers": []any{map[string]any{"name": "discovery", "env": env}}}
		if kind == controllers.DeploymentKind {
			spec = map[string]any{"replicas": int64(3), "template": map[string]any{"spec": spec}}
		}
		object.Object["spec"], object.Object["status"] = spec, map[string]any{"replicas": int64(2), "conditions": env}
		return object
	}
	cached := func(object any) any {
		result, err := transform(object)
		if err != nil {
			t.Fatal(err)
		}
		return result
	}
	for _, kind := range []schema.GroupVersionKind{controllers.DeploymentKind, controllers.PodKind} {
		if got, whole := cached(object(kind, 50)), object(kind, 50); !reflect.DeepEqual(got, whole) || controllers.TooLarge(whole) != "" {
			t.Errorf("a %s like an istiod's is changed", kind.Kind)
		}
		large := object(kind, 50_000)
		long := strings.Repeat("long", 1<<16)
		large.SetAnnotations(map[string]string{"a": long})
		large.SetFinalizers([]string{long})
		brief := cached(large).(*unstructured.Unstructured)
		if raw, err := json.Marshal(brief); err != nil || len(raw) > 1<<10 {
			t.Errorf("%s: %d bytes, %v", kind.Kind, len(raw), err)
		}
		if controllers.TooLarge(brief) == "" || brief.GetName() != "istiod" || brief.GetNamespace() != "theirs" || brief.GetLabels()["app"] != "istiod" {
			t.Errorf("%s: cached as %v", kind.Kind, brief.Object)
		}
		if kind == controllers.DeploymentKind && (istio.ServiceAccount(brief) != "istiod" || istio.Replicas(brief) != 3) {
			t.Errorf("cached as %v", brief.Object)
		}
		large.SetLabels(map[string]string{"app": long})
		if raw, err := json.Marshal(cached(large)); err != nil || len(raw) > 1<<10 {
			t.Errorf("%s with long labels: %d bytes, %v", kind.Kind, len(raw), err)
		}
	}
	metadata := controllers.Metadata(controllers.PodKind)
	metadata.Namespace, metadata.Name, metadata.Labels = "theirs", "istiod", map[string]string{"app": strings.Repeat("long", 1<<16)}
	if got := cached(metadata).(*metav1.PartialObjectMetadata); got.Name != "istiod" || got.Namespace != "theirs" || got.Labels != nil {
		t.Errorf("cached as %+v", got.ObjectMeta)
	}
	namespace := controllers.Metadata(corev1.SchemeGroupVersion.WithKind("Namespace"))
	namespace.Name, namespace.Labels = "istio-system", controllers.NamespaceLabels
	if got := cached(namespace).(*metav1.PartialObjectMetadata); len(got.Labels) != 1 {
		t.Errorf("the namespace is cached as %+v", got.ObjectMeta)
	}
}
