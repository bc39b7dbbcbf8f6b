// SPDX-License-Identifier: Apache-2.0

package meshes

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
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
	"github.com/istiod-agent/istiod-agent/patches"
)

// Indexes of the cache.
const (
	byMesh        = "meshes"      // VirtualMeshes by the meshes that they name
	byVirtualMesh = "virtualMesh" // what was made here by the VirtualMesh that it is for
	byName        = "name"        // IssuedCertificates by their name, the mesh's, in any namespace
)

// workers reconcile at a time: one would wait for the API server most of the time. Two never have the same VirtualMesh.
const workers = 4

// lookAgain is how often what is not watched is read again: whether rights to restart Pods have been given, and the
// ConfigMaps of revisions.
const lookAgain = 5 * time.Minute

// Rights says which rights to restart Pods are lacking, and how to give them.
type Rights interface {
	Lacking(ctx context.Context) (string, error)
}

// Controller keeps the IssuedCertificates of this cluster's istiods, and their PodBounceDirectives.
type Controller struct {
	client  client.Client
	live    client.Reader
	events  events.EventRecorder
	rights  Rights
	cluster string
	allowed v1alpha1.VirtualMesh
	target  patches.Kind
	written contested
}

// Kinds are those that the cluster must know before Setup.
var Kinds = []schema.GroupVersionKind{
	networkingv1.GroupVersion.WithKind(networkingv1.Kind), certificatesv1.GroupVersion.WithKind(certificatesv1.Kind),
	certificatesv1.GroupVersion.WithKind(certificatesv1.PodBounceDirectiveKind),
}

// Setup has the manager keep IssuedCertificates, on the leader.
func Setup(ctx context.Context, mgr ctrl.Manager, config *v1alpha1.InjectionConfiguration, target patches.Kind, rights Rights) error {
	c := &Controller{
		client: mgr.GetClient(), live: mgr.GetAPIReader(), events: mgr.GetEventRecorder(Manager), rights: rights,
		cluster: config.ClusterName, allowed: config.VirtualMesh, target: target,
	}
	err := mgr.GetFieldIndexer().IndexField(ctx, virtualMesh(), byMesh, func(object client.Object) []string {
		return named(object.(*unstructured.Unstructured)) //nolint:forcetypeassert // what was asked for
	})
	if err != nil {
		return fmt.Errorf("indexing VirtualMeshes: %w", err)
	}
	for _, made := range []*unstructured.Unstructured{issuedCertificate(), podBounceDirective()} {
		if err := mgr.GetFieldIndexer().IndexField(ctx, made, byVirtualMesh, madeFor); err != nil {
			return fmt.Errorf("indexing %ss: %w", made.GetKind(), err)
		}
	}
	err = mgr.GetFieldIndexer().IndexField(ctx, issuedCertificate(), byName, func(object client.Object) []string { return []string{object.GetName()} })
	if err != nil {
		return fmt.Errorf("indexing IssuedCertificates: %w", err)
	}
	mine := handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, object client.Object) []reconcile.Request {
		requests := c.naming(ctx, object.GetName())
		for _, key := range madeFor(object) {
			namespace, name, _ := strings.Cut(key, "/")
			requests = append(requests, reconcile.Request{NamespacedName: types.NamespacedName{Namespace: namespace, Name: name}})
		}
		return requests
	})
	return ctrl.NewControllerManagedBy(mgr).
		Named("meshes").
		WithOptions(controller.Options{MaxConcurrentReconciles: workers}).
		Watches(virtualMesh(), handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, object client.Object) []reconcile.Request {
			return c.concerned(ctx, object.(*unstructured.Unstructured)) //nolint:forcetypeassert // what is watched
		})).
		WatchesMetadata(&corev1.Namespace{}, handler.EnqueueRequestsFromMapFunc(c.within), builder.WithPredicates(predicate.LabelChangedPredicate{})).
		Watches(deployment(), handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, object client.Object) []reconcile.Request {
			return c.naming(ctx, Istiod{Name: object.GetName(), Namespace: object.GetNamespace()}.Mesh(c.cluster))
		})).
		Watches(&corev1.ConfigMap{}, handler.EnqueueRequestsFromMapFunc(c.configuredBy)).
		Watches(issuedCertificate(), mine).
		Watches(podBounceDirective(), mine, builder.WithPredicates(predicate.Or(predicate.GenerationChangedPredicate{}, predicate.LabelChangedPredicate{}, predicate.AnnotationChangedPredicate{}))).
		Complete(c)
}

// Objects are read untyped: what a CRD of Gloo Mesh's let in need not fit our types.
func virtualMesh() *unstructured.Unstructured {
	return untyped(networkingv1.GroupVersion.WithKind(networkingv1.Kind))
}

func issuedCertificate() *unstructured.Unstructured {
	return untyped(certificatesv1.GroupVersion.WithKind(certificatesv1.Kind))
}

func podBounceDirective() *unstructured.Unstructured {
	return untyped(certificatesv1.GroupVersion.WithKind(certificatesv1.PodBounceDirectiveKind))
}

func deployment() *unstructured.Unstructured {
	return untyped(schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"})
}

func untyped(kind schema.GroupVersionKind) *unstructured.Unstructured {
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(kind)
	return object
}

// list reads all objects of a kind from the cache, which are not to be changed.
func (c *Controller) list(ctx context.Context, of *unstructured.Unstructured, options ...client.ListOption) ([]unstructured.Unstructured, error) {
	list := &unstructured.UnstructuredList{}
	kind := of.GroupVersionKind()
	list.SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
	err := c.client.List(ctx, list, append(options, client.UnsafeDisableDeepCopy)...)
	return list.Items, err
}

// Reconcile implements reconcile.Reconciler.
func (c *Controller) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	object := virtualMesh()
	err := c.client.Get(ctx, request.NamespacedName, object)
	if client.IgnoreNotFound(err) != nil {
		return reconcile.Result{}, err
	}
	if apierrors.IsNotFound(err) {
		c.written.forget(request.NamespacedName)
	}
	if err != nil || object.GetDeletionTimestamp() != nil { // another's finalizer; what it asks for does not count any more
		if !c.allowed.Allows(request.Namespace) {
			return reconcile.Result{}, nil // it owns nothing, also of what was made for it when it was acted on
		}
		return again(c.prune(ctx, request.NamespacedName, (&Plan{}).keepings()...))
	}
	facts, err := c.gather(ctx, object)
	if err != nil {
		return reconcile.Result{}, err
	}
	before := statusOf(object)
	plan := Translate(sourceOf(object), before, facts)
	if plan.Status.RootRotation.At() != before.RootRotation.At() {
		// A stage is kept before it is acted on. Were it asked for first and this program killed, replicas that have gone on
		// would be taken for such that lag behind, and be called back.
		return c.settle(ctx, object, before, plan.Status, facts.Now.Time)
	}
	for _, each := range plan.Directives { // before what names them
		if err := c.ensure(ctx, each, podBounceDirective()); err != nil {
			return reconcile.Result{}, err
		}
	}
	for _, each := range plan.Certificates {
		if err := c.ensure(ctx, each, issuedCertificate()); err != nil {
			return reconcile.Result{}, err
		}
	}
	if !plan.KeepAll {
		if err := c.prune(ctx, request.NamespacedName, plan.keepings()...); err != nil {
			return again(err)
		}
	}
	result, err := c.settle(ctx, object, before, plan.Status, facts.Now.Time)
	if err == nil && result.IsZero() && (facts.MayNotRestart != "" || facts.unwatched()) {
		result.RequeueAfter = lookAgain
	}
	return result, err
}

// again tries a conflict again without making an error of it: what has changed meanwhile is read anew.
func again(err error) (reconcile.Result, error) {
	if apierrors.IsConflict(err) {
		return reconcile.Result{RequeueAfter: time.Second}, nil
	}
	return reconcile.Result{}, err
}
