// SPDX-License-Identifier: Apache-2.0

package meshes

import (
	"context"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/controllers"
	"github.com/istiod-agent/istiod-agent/internal/istio"
)

// meshKeys are the index keys of a VirtualMesh: its meshes and its patterns, as far as they are readable.
func meshKeys(object *unstructured.Unstructured) []string {
	var names []string
	for _, ref := range references(object) {
		if p, ok := patternOf(ref); ok {
			names = append(names, p.key())
		} else {
			names = append(names, istio.NormalMeshName(ref.Name))
		}
	}
	return names
}

// references are the readable elements of spec.meshes.
func references(object *unstructured.Unstructured) []networkingv1.MeshRef {
	field, _, _ := unstructured.NestedFieldNoCopy(object.Object, "spec", "meshes")
	refs, _ := field.([]any)
	if len(refs) > networkingv1.MaxMeshes {
		return nil // invalid
	}
	var readable []networkingv1.MeshRef
	for _, ref := range refs {
		if ref, ok := ref.(map[string]any); ok {
			if name, ok := ref["name"].(string); ok {
				readable = append(readable, networkingv1.MeshRef{Name: name})
			}
		}
	}
	return readable
}

// ownersOf is the VirtualMesh that an object was applied for, as a list for the index.
func ownersOf(object client.Object) []string {
	if object.GetLabels()[managedByLabel] != controllers.Manager {
		return nil
	}
	return []string{object.GetAnnotations()[virtualMeshAnnotation]}
}

// keyOf is the key of an element of ownersOf.
func keyOf(owner string) types.NamespacedName {
	namespace, name, _ := strings.Cut(owner, "/")
	return types.NamespacedName{Namespace: namespace, Name: name}
}

// requestsForMeshes requests the VirtualMeshes of allowed namespaces that name one of the meshes or may match it.
func (c *reconciler) requestsForMeshes(ctx context.Context, meshes ...string) []reconcile.Request {
	var keys []string
	for _, mesh := range meshes {
		keys = append(keys, keysOf(mesh)...)
	}
	slices.Sort(keys)
	var requests []reconcile.Request
	for _, key := range slices.Compact(keys) {
		found, err := c.list(ctx, virtualMeshKind, client.MatchingFields{byMesh: key})
		if err != nil {
			logf.FromContext(ctx).Error(err, "Failed to list VirtualMeshes", "mesh", key)
			continue
		}
		for i := range found {
			if c.allowed.Allows(found[i].GetNamespace()) {
				requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&found[i])})
			}
		}
	}
	return requests
}

// requestsForVirtualMesh requests a changed VirtualMesh and those that the change may affect: those that name the same
// meshes, those that own IssuedCertificates of these meshes, and those that name a mesh whose IssuedCertificate it
// owns.
func (c *reconciler) requestsForVirtualMesh(ctx context.Context, mesh *unstructured.Unstructured) []reconcile.Request {
	self := client.ObjectKeyFromObject(mesh)
	names, err := c.namedMeshes(ctx, mesh)
	if err != nil {
		logf.FromContext(ctx).Error(err, "Failed to list istiods", "virtualMesh", self)
	}
	requests := []reconcile.Request{{NamespacedName: self}}
	if !c.allowed.Allows(self.Namespace) {
		return requests // others ignore it
	}
	selections := []client.MatchingFields{{byVirtualMesh: self.String()}}
	for _, name := range names {
		selections = append(selections, client.MatchingFields{byName: name})
	}
	for _, selection := range selections {
		certificates, err := c.list(ctx, issuedCertificateKind, selection)
		if err != nil {
			logf.FromContext(ctx).Error(err, "Failed to list IssuedCertificates", "virtualMesh", self)
			continue
		}
		for i := range certificates {
			for _, owner := range ownersOf(&certificates[i]) {
				requests = append(requests, reconcile.Request{NamespacedName: keyOf(owner)})
				names = append(names, certificates[i].GetName())
			}
		}
	}
	slices.Sort(names)
	return append(requests, c.requestsForMeshes(ctx, slices.Compact(names)...)...)
}

// namedMeshes are the meshes that a VirtualMesh names, and those of the Deployments that its patterns match.
func (c *reconciler) namedMeshes(ctx context.Context, object *unstructured.Unstructured) ([]string, error) {
	var names []string
	patterns := map[string][]pattern{} // by suffix
	for _, ref := range references(object) {
		if p, ok := patternOf(ref); ok {
			patterns[p.suffix] = append(patterns[p.suffix], p)
		} else {
			names = append(names, istio.NormalMeshName(ref.Name))
		}
	}
	if len(patterns) == 0 {
		return names, nil
	}
	deployments, err := c.list(ctx, controllers.DeploymentKind)
	for i := range deployments {
		namespace := deployments[i].GetNamespace()
		mesh := istio.MeshName(deployments[i].GetName(), namespace, c.cluster)
		if slices.ContainsFunc(patterns[suffixOf(namespace, c.cluster)], func(p pattern) bool { return p.matches(mesh, namespace, c.cluster) }) {
			names = append(names, mesh)
		}
	}
	return names, err
}

// requestsForConfigMap requests the VirtualMeshes of the istiods that may read a ConfigMap.
func (c *reconciler) requestsForConfigMap(ctx context.Context, object client.Object) []reconcile.Request {
	return c.requestsForIstiods(ctx, object.GetNamespace(), func(istiod *unstructured.Unstructured) bool {
		return istio.MeshConfigMap(istio.Revision(istiod)) == object.GetName()
	})
}

// requestsForNamespace requests the VirtualMeshes of all istiods of a namespace whose labels changed.
func (c *reconciler) requestsForNamespace(ctx context.Context, object client.Object) []reconcile.Request {
	return c.requestsForIstiods(ctx, object.GetName(), func(*unstructured.Unstructured) bool { return true })
}

// requestsForIstiods requests the VirtualMeshes that name the selected istiods of a namespace.
func (c *reconciler) requestsForIstiods(ctx context.Context, namespace string, selected func(*unstructured.Unstructured) bool) []reconcile.Request {
	deployments, err := c.list(ctx, controllers.DeploymentKind, client.InNamespace(namespace))
	if err != nil {
		logf.FromContext(ctx).Error(err, "Failed to list istiods", "namespace", namespace)
		return nil
	}
	var meshes []string
	for i := range deployments {
		if selected(&deployments[i]) {
			meshes = append(meshes, istio.MeshName(deployments[i].GetName(), namespace, c.cluster))
		}
	}
	return c.requestsForMeshes(ctx, meshes...)
}
