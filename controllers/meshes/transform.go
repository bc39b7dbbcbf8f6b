// SPDX-License-Identifier: Apache-2.0

package meshes

import (
	"encoding/json"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/cache"
	ctrlcache "sigs.k8s.io/controller-runtime/pkg/cache"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/controllers"
)

// maxCachedStatus is the maximum size, in bytes, of the cached status of an ignored VirtualMesh.
const maxCachedStatus = 16 << 10

// keptMetadata are the cached metadata fields of an ignored VirtualMesh.
var keptMetadata = []string{"name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp"}

// Transform is the default transform of the manager's cache. It shortens large Deployments and Pods (controllers.Shorten), and
// keeps only the fields of an ignored VirtualMesh that writing its status needs. Otherwise a user who can create these in one
// namespace could fill the memory of every replica.
func Transform(allowed v1alpha1.VirtualMesh) cache.TransformFunc {
	kind := networkingv1.GroupVersion.WithKind(networkingv1.Kind)
	strip := ctrlcache.TransformStripManagedFields()
	return func(object any) (any, error) {
		mesh, ok := object.(*unstructured.Unstructured)
		if !ok || mesh.GroupVersionKind() != kind || allowed.Allows(mesh.GetNamespace()) {
			stripped, err := strip(object)
			return controllers.Shorten(stripped), err
		}
		brief, metadata := virtualMesh(), map[string]any{}
		whole, _, _ := unstructured.NestedMap(mesh.Object, "metadata")
		for _, field := range keptMetadata {
			if value, ok := whole[field]; ok {
				metadata[field] = value
			}
		}
		brief.Object["metadata"] = metadata
		if raw, err := json.Marshal(mesh.Object["status"]); err == nil && len(raw) <= maxCachedStatus && mesh.Object["status"] != nil {
			brief.Object["status"] = mesh.Object["status"]
		}
		return brief, nil
	}
}
