// SPDX-License-Identifier: Apache-2.0

package meshes

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
)

// Indexes of the cache.
const (
	byMesh        = "meshes"      // VirtualMeshes by the meshes that they name
	byVirtualMesh = "virtualMesh" // what was made here by the VirtualMesh that it is for
)

// workers reconcile at a time: one would wait for the API server most of the time. Two never have the same VirtualMesh.
const workers = 4

// rightsAgain is how often it is looked whether rights to restart Pods have been given.
const rightsAgain = 5 * time.Minute

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
	written contested
}

// Kinds are those that the cluster must know before Setup.
var Kinds = []schema.GroupVersionKind{
	networkingv1.GroupVersion.WithKind(networkingv1.Kind), certificatesv1.GroupVersion.WithKind(certificatesv1.Kind),
	certificatesv1.GroupVersion.WithKind(certificatesv1.PodBounceDirectiveKind),
}

// Setup has the manager keep IssuedCertificates, on the leader. cluster is what this cluster is called in the names of
// meshes.
func Setup(ctx context.Context, mgr ctrl.Manager, cluster string, rights Rights) error {
	c := &Controller{client: mgr.GetClient(), live: mgr.GetAPIReader(), events: mgr.GetEventRecorder(Manager), rights: rights, cluster: cluster}
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
			self := reconcile.Request{NamespacedName: client.ObjectKeyFromObject(object)}
			return append(c.naming(ctx, named(object.(*unstructured.Unstructured))...), self) //nolint:forcetypeassert // what is watched
		})).
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

// named are the meshes that a VirtualMesh names, as far as it can be read. One that names too many is invalid and counts for
// none.
func named(object *unstructured.Unstructured) []string {
	field, _, _ := unstructured.NestedFieldNoCopy(object.Object, "spec", "meshes")
	refs, _ := field.([]any)
	if len(refs) > networkingv1.MaxMeshes {
		return nil
	}
	var names []string
	for _, ref := range refs {
		if ref, ok := ref.(map[string]any); ok {
			if name, ok := ref["name"].(string); ok {
				names = append(names, sanitized(name))
			}
		}
	}
	return names
}

// madeFor is the VirtualMesh that an object was made for here, none for another's.
func madeFor(object client.Object) []string {
	if object.GetLabels()[ManagedByLabel] != Manager {
		return nil
	}
	return []string{object.GetAnnotations()[VirtualMeshAnnotation]}
}

// naming requests every VirtualMesh that names one of the meshes.
func (c *Controller) naming(ctx context.Context, meshes ...string) []reconcile.Request {
	var requests []reconcile.Request
	for _, mesh := range meshes {
		found, err := c.list(ctx, virtualMesh(), client.MatchingFields{byMesh: mesh})
		if err != nil {
			logf.FromContext(ctx).Error(err, "Listing VirtualMeshes", "mesh", mesh)
			continue
		}
		for i := range found {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&found[i])})
		}
	}
	return requests
}

// configuredBy requests the VirtualMeshes of the istiods that a ConfigMap may configure.
func (c *Controller) configuredBy(ctx context.Context, object client.Object) []reconcile.Request {
	deployments, err := c.list(ctx, deployment(), client.InNamespace(object.GetNamespace()))
	if err != nil {
		logf.FromContext(ctx).Error(err, "Listing istiods", "namespace", object.GetNamespace())
		return nil
	}
	var meshes []string
	for i := range deployments {
		if configuration(&deployments[i]) == object.GetName() {
			meshes = append(meshes, Istiod{Name: deployments[i].GetName(), Namespace: deployments[i].GetNamespace()}.Mesh(c.cluster))
		}
	}
	return c.naming(ctx, meshes...)
}

// Reconcile implements reconcile.Reconciler.
func (c *Controller) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	object := virtualMesh()
	err := c.client.Get(ctx, request.NamespacedName, object)
	switch {
	case apierrors.IsNotFound(err):
		c.written.forget(request.NamespacedName)
		return again(c.prune(ctx, request.NamespacedName, keepNothing...))
	case err != nil:
		return reconcile.Result{}, err
	case object.GetDeletionTimestamp() != nil: // somebody's finalizer; what it asks for does not count any more
		return again(c.prune(ctx, request.NamespacedName, keepNothing...))
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
	keep := []keeping{{podBounceDirective(), maps.Clone(plan.Keep)}, {issuedCertificate(), plan.Keep}}
	for _, each := range plan.Directives { // before what names them
		if err := c.ensure(ctx, each, podBounceDirective()); err != nil {
			return reconcile.Result{}, err
		}
		keep[0].keys[client.ObjectKeyFromObject(each)] = true
	}
	for _, each := range plan.Certificates {
		if err := c.ensure(ctx, each, issuedCertificate()); err != nil {
			return reconcile.Result{}, err
		}
		keep[1].keys[client.ObjectKeyFromObject(each)] = true
	}
	if !plan.KeepAll {
		if err := c.prune(ctx, request.NamespacedName, keep...); err != nil {
			return again(err)
		}
	}
	result, err := c.settle(ctx, object, before, plan.Status, facts.Now.Time)
	if err == nil && result.IsZero() && facts.MayNotRestart != "" {
		result.RequeueAfter = rightsAgain
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

func sourceOf(object *unstructured.Unstructured) Source {
	mesh, unknown, errs := networkingv1.FromObject(object.Object)
	return Source{VirtualMesh: mesh, Unknown: unknown, Unreadable: errs}
}

// statusOf reads the status as far as it is ours.
func statusOf(object *unstructured.Unstructured) (status networkingv1.VirtualMeshStatus) {
	stored, _, _ := unstructured.NestedMap(object.Object, "status")
	if runtime.DefaultUnstructuredConverter.FromUnstructured(stored, &status) != nil {
		return networkingv1.VirtualMeshStatus{} // another's, which is replaced
	}
	return status
}

// gather reads what a VirtualMesh is translated with.
func (c *Controller) gather(ctx context.Context, object *unstructured.Unstructured) (Facts, error) {
	facts := Facts{
		Cluster: c.cluster, Now: metav1.Now(), Istiods: map[string][]Istiod{}, Claims: map[string][]Source{},
		Certificates: map[types.NamespacedName]Stored{}, Directives: map[types.NamespacedName]bool{},
	}
	if restart, _, _ := unstructured.NestedBool(object.Object, "spec", "mtlsConfig", "autoRestartPods"); restart {
		lacking, err := c.rights.Lacking(ctx)
		if err != nil {
			return facts, err
		}
		facts.MayNotRestart = lacking
	}
	wanted := map[string]bool{}
	for _, mesh := range named(object) {
		wanted[mesh] = true
	}
	deployments, err := c.list(ctx, deployment())
	if err != nil {
		return facts, fmt.Errorf("listing istiods: %w", err)
	}
	for i := range deployments {
		mesh := Istiod{Name: deployments[i].GetName(), Namespace: deployments[i].GetNamespace()}.Mesh(c.cluster)
		if !wanted[mesh] || deployments[i].GetDeletionTimestamp() != nil {
			continue
		}
		istiod, err := readIstiod(ctx, c.client, c.live, &deployments[i])
		if err != nil {
			return facts, err
		}
		facts.Istiods[mesh] = append(facts.Istiods[mesh], istiod)
		at := types.NamespacedName{Namespace: istiod.Namespace, Name: mesh}
		if err := c.stored(ctx, at, facts.Certificates); err != nil {
			return facts, err
		}
		directive := podBounceDirective()
		if err := c.client.Get(ctx, at, directive); err == nil {
			facts.Directives[at] = madeFor(directive) != nil
		} else if !apierrors.IsNotFound(err) {
			return facts, err
		}
	}
	for mesh := range facts.Istiods {
		claiming, err := c.list(ctx, virtualMesh(), client.MatchingFields{byMesh: mesh})
		if err != nil {
			return facts, fmt.Errorf("listing VirtualMeshes of mesh %s: %w", mesh, err)
		}
		for i := range claiming {
			if source := sourceOf(&claiming[i]); source.Spec.IntermediateCA() != nil && source.DeletionTimestamp == nil {
				facts.Claims[mesh] = append(facts.Claims[mesh], source)
			}
		}
	}
	return facts, nil
}

func (c *Controller) stored(ctx context.Context, at types.NamespacedName, into map[types.NamespacedName]Stored) error {
	object := issuedCertificate()
	if err := c.client.Get(ctx, at, object); err != nil {
		return client.IgnoreNotFound(err)
	}
	stored := Stored{}
	for _, key := range madeFor(object) {
		stored.For = key
		if key == "" {
			stored.For = Manager // labelled by hand, to be taken over
		}
	}
	state, _, _ := unstructured.NestedString(object.Object, "status", "state")
	stored.State = certificatesv1.State(state)
	stored.Error, _, _ = unstructured.NestedString(object.Object, "status", "error")
	stored.FromSecret = object.GetAnnotations()[certificatesv1.CAFromSecretAnnotation]
	stored.AgentCA = partOf[certificatesv1.IntermediateCertificateAuthority](object, "spec", "agentCa")
	entries, _, _ := unstructured.NestedSlice(object.Object, "status", "certificates")
	for _, entry := range entries {
		var report certificatesv1.CertificateStatus
		if fields, ok := entry.(map[string]any); ok && runtime.DefaultUnstructuredConverter.FromUnstructured(fields, &report) == nil && report.Pod != "" {
			stored.Replicas = append(stored.Replicas, report)
		}
	}
	into[at] = stored
	return nil
}

// partOf gives a part of an object as its Go type, nil where it is absent or something else.
func partOf[T any](object *unstructured.Unstructured, fields ...string) *T {
	content, found, err := unstructured.NestedMap(object.Object, fields...)
	if err != nil || !found {
		return nil
	}
	part := new(T)
	if runtime.DefaultUnstructuredConverter.FromUnstructured(content, part) != nil {
		return nil
	}
	return part
}

// report writes the status. What others have written beside it stays.
func (c *Controller) report(ctx context.Context, object *unstructured.Unstructured, before, status networkingv1.VirtualMeshStatus) error {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&status)
	if err != nil {
		return err
	}
	changed := object.DeepCopy()
	stored, _, _ := unstructured.NestedMap(object.Object, "status")
	if stored == nil {
		stored = map[string]any{}
	}
	for _, ours := range []string{"observedGeneration", "state", "errors", "meshes", "notActedOn", "rootRotation", "conditions"} {
		delete(stored, ours)
		if value, ok := content[ours]; ok {
			stored[ours] = value
		}
	}
	changed.Object["status"] = stored
	if err := c.client.Status().Patch(ctx, changed, client.MergeFrom(object), client.FieldOwner(Manager)); err != nil {
		if apierrors.IsNotFound(err) {
			return nil // it is gone, or its CRD has no status
		}
		return fmt.Errorf("writing the status of VirtualMesh %s: %w", client.ObjectKeyFromObject(object), err)
	}
	if before.State != status.State {
		c.tell(object, status)
	}
	if now := status.RootRotation; now != nil && (before.RootRotation == nil || before.RootRotation.Stage != now.Stage || before.RootRotation.Complete != now.Complete) {
		c.note(object, corev1.EventTypeNormal, "RootRotation"+string(now.Stage), now.Message)
	}
	return nil
}

// normal makes what means the same equal.
func normal(status networkingv1.VirtualMeshStatus) networkingv1.VirtualMeshStatus {
	raw, err := json.Marshal(status)
	if err != nil {
		return status
	}
	var same networkingv1.VirtualMeshStatus
	if json.Unmarshal(raw, &same) != nil {
		return status
	}
	if len(same.Meshes) == 0 {
		same.Meshes = nil
	}
	return same
}

// tell says by Event that the state has changed.
func (c *Controller) tell(object *unstructured.Unstructured, status networkingv1.VirtualMeshStatus) {
	_, reason, message := condition(status)
	kind := corev1.EventTypeNormal
	if status.State == networkingv1.Invalid || status.State == networkingv1.Failed {
		kind = corev1.EventTypeWarning
	}
	c.note(object, kind, reason, message)
}

func (c *Controller) note(object *unstructured.Unstructured, kind, reason, message string) {
	const most = 1024 // of an Event's note, pkg/apis/core/validation/events.go
	if len(message) > most {
		message = strings.ToValidUTF8(message[:most-3], "") + "..."
	}
	c.events.Eventf(object, nil, kind, reason, "Translate", "%s", message)
}
