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

// meshKeys are the meshes that a VirtualMesh names, as far as it can be read, and the keys of its patterns.
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

// references are a VirtualMesh's spec.meshes, as far as they can be read.
func references(object *unstructured.Unstructured) []networkingv1.MeshRef {
	field, _, _ := unstructured.NestedFieldNoCopy(object.Object, "spec", "meshes")
	refs, _ := field.([]any)
	if len(refs) > networkingv1.MaxMeshes {
		return nil // it is invalid, and counts for none
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

// ownersOf is the VirtualMesh that an object was made for here, none for another's.
func ownersOf(object client.Object) []string {
	if object.GetLabels()[managedByLabel] != controllers.Manager {
		return nil
	}
	return []string{object.GetAnnotations()[virtualMeshAnnotation]}
}

// naming requests every VirtualMesh of an allowed namespace that names one of the meshes, or may match it by a pattern.
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
			if !c.allowed.Allows(found[i].GetNamespace()) {
				continue // nothing of this makes a difference to it
			}
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&found[i])})
		}
	}
	return requests
}

// concerned requests a VirtualMesh that has changed, and every one whose turn may come with that: those that name the same
// meshes, those that own an IssuedCertificate of these, and those that name a mesh whose IssuedCertificate it owns.
func (c *reconciler) requestsForVirtualMesh(ctx context.Context, mesh *unstructured.Unstructured) []reconcile.Request {
	self := client.ObjectKeyFromObject(mesh)
	names, err := c.namedMeshes(ctx, mesh)
	if err != nil {
		logf.FromContext(ctx).Error(err, "Failed to list istiods", "virtualMesh", self)
	}
	requests := []reconcile.Request{{NamespacedName: self}}
	if !c.allowed.Allows(self.Namespace) {
		return requests // it makes no difference to others
	}
	for _, selection := range append(matching(byName, names...), client.MatchingFields{byVirtualMesh: self.String()}) {
		certificates, err := c.list(ctx, issuedCertificateKind, selection)
		if err != nil {
			logf.FromContext(ctx).Error(err, "Failed to list IssuedCertificates", "virtualMesh", self)
			continue
		}
		for i := range certificates {
			for _, owner := range ownersOf(&certificates[i]) {
				namespace, name, _ := strings.Cut(owner, "/")
				requests = append(requests, reconcile.Request{NamespacedName: types.NamespacedName{Namespace: namespace, Name: name}})
				names = append(names, certificates[i].GetName())
			}
		}
	}
	slices.Sort(names)
	return append(requests, c.requestsForMeshes(ctx, slices.Compact(names)...)...)
}

// meshes are those that a VirtualMesh names, and those of the Deployments that its patterns match.
func (c *reconciler) namedMeshes(ctx context.Context, object *unstructured.Unstructured) ([]string, error) {
	var names []string
	patterns := map[string][]pattern{} // by their suffix
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

func matching(index string, values ...string) (selections []client.MatchingFields) {
	for _, value := range values {
		selections = append(selections, client.MatchingFields{index: value})
	}
	return selections
}

// configuredBy requests the VirtualMeshes of the istiods that a ConfigMap may configure.
func (c *reconciler) requestsForConfigMap(ctx context.Context, object client.Object) []reconcile.Request {
	return c.requestsForIstiods(ctx, object.GetNamespace(), func(istiod *unstructured.Unstructured) bool {
		return istio.MeshConfigMap(istio.Revision(istiod)) == object.GetName()
	})
}

// within requests the VirtualMeshes of the istiods of a namespace, which may have been labelled.
func (c *reconciler) requestsForNamespace(ctx context.Context, object client.Object) []reconcile.Request {
	return c.requestsForIstiods(ctx, object.GetName(), func(*unstructured.Unstructured) bool { return true })
}

// namingIstiods requests the VirtualMeshes that name some of the istiods of a namespace.
func (c *reconciler) requestsForIstiods(ctx context.Context, namespace string, desired func(*unstructured.Unstructured) bool) []reconcile.Request {
	deployments, err := c.list(ctx, controllers.DeploymentKind, client.InNamespace(namespace))
	if err != nil {
		logf.FromContext(ctx).Error(err, "Failed to list istiods", "namespace", namespace)
		return nil
	}
	var meshes []string
	for i := range deployments {
		if desired(&deployments[i]) {
			meshes = append(meshes, istio.MeshName(deployments[i].GetName(), namespace, c.cluster))
		}
	}
	return c.requestsForMeshes(ctx, meshes...)
}
