// SPDX-License-Identifier: Apache-2.0

package meshes

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/controllers"
	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/patches"
)

// Indexes of the cache.
const (
	byMesh        = "meshes"      // VirtualMeshes by the meshes in spec.meshes
	byVirtualMesh = "virtualMesh" // applied objects by their VirtualMesh
	byName        = "name"        // IssuedCertificates by name, in any namespace
)

// workers is the number of concurrent reconciles: a single one spends most of its time waiting for the API server.
const workers = 4

// Kinds must be installed before Setup.
var Kinds = []schema.GroupVersionKind{virtualMeshKind, issuedCertificateKind, podBounceDirectiveKind}

var (
	virtualMeshKind        = networkingv1.GroupVersion.WithKind(networkingv1.Kind)
	issuedCertificateKind  = certificatesv1.GroupVersion.WithKind(certificatesv1.Kind)
	podBounceDirectiveKind = certificatesv1.GroupVersion.WithKind(certificatesv1.PodBounceDirectiveKind)
)

// Setup registers the controller on the leader.
func Setup(ctx context.Context, mgr ctrl.Manager, config *v1alpha1.InjectionConfiguration, target patches.Kind, rights restartRights) error {
	c := &reconciler{
		client: mgr.GetClient(), live: mgr.GetAPIReader(), events: mgr.GetEventRecorder(controllers.Manager), rights: rights,
		cluster: config.ClusterName, allowed: config.VirtualMesh, target: target, written: newContested(),
	}
	err := mgr.GetFieldIndexer().IndexField(ctx, virtualMesh(), byMesh, func(object client.Object) []string {
		return meshKeys(object.(*unstructured.Unstructured)) //nolint:forcetypeassert // the indexed kind
	})
	if err != nil {
		return fmt.Errorf("indexing VirtualMeshes: %w", err)
	}
	for _, applied := range []*unstructured.Unstructured{issuedCertificate(), podBounceDirective()} {
		if err := mgr.GetFieldIndexer().IndexField(ctx, applied, byVirtualMesh, ownersOf); err != nil {
			return fmt.Errorf("indexing %ss: %w", applied.GetKind(), err)
		}
	}
	err = mgr.GetFieldIndexer().IndexField(ctx, issuedCertificate(), byName, func(object client.Object) []string { return []string{object.GetName()} })
	if err != nil {
		return fmt.Errorf("indexing IssuedCertificates: %w", err)
	}
	owned := handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, object client.Object) []reconcile.Request {
		requests := c.requestsForMeshes(ctx, object.GetName())
		for _, key := range ownersOf(object) {
			requests = append(requests, reconcile.Request{NamespacedName: keyOf(key)})
		}
		return requests
	})
	return ctrl.NewControllerManagedBy(mgr).
		Named("meshes").
		WithOptions(controller.Options{MaxConcurrentReconciles: workers}).
		Watches(virtualMesh(), handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, object client.Object) []reconcile.Request {
			return c.requestsForVirtualMesh(ctx, object.(*unstructured.Unstructured)) //nolint:forcetypeassert // the watched kind
		})).
		WatchesMetadata(&corev1.Namespace{}, handler.EnqueueRequestsFromMapFunc(c.requestsForNamespace), builder.WithPredicates(predicate.LabelChangedPredicate{})).
		Watches(controllers.Untyped(controllers.DeploymentKind), handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, object client.Object) []reconcile.Request {
			return c.requestsForMeshes(ctx, istio.MeshName(object.GetName(), object.GetNamespace(), c.cluster))
		})).
		Watches(&corev1.ConfigMap{}, handler.EnqueueRequestsFromMapFunc(c.requestsForConfigMap)).
		Watches(issuedCertificate(), owned).
		Watches(podBounceDirective(), owned, builder.WithPredicates(controllers.Edited())).
		Complete(c)
}

func virtualMesh() *unstructured.Unstructured { return controllers.Untyped(virtualMeshKind) }

func issuedCertificate() *unstructured.Unstructured {
	return controllers.Untyped(issuedCertificateKind)
}

func podBounceDirective() *unstructured.Unstructured {
	return controllers.Untyped(podBounceDirectiveKind)
}
