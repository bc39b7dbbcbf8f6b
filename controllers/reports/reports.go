// SPDX-License-Identifier: Apache-2.0

// Package reports removes the entries of deleted and of terminated Pods from the status of IssuedCertificates, which would
// otherwise grow with each rollout of istiod, and summarizes the remaining ones.
package reports

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"gomodules.xyz/jsonpatch/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/controllers"
	"github.com/istiod-agent/istiod-agent/internal/istio"
)

type reconciler struct {
	client client.Client
	live   client.Reader
}

// CacheByObject limits the cached metadata of Pods to istiod's that have not terminated.
func CacheByObject() map[client.Object]cache.ByObject {
	return map[client.Object]cache.ByObject{pod(): controllers.IstiodPods()}
}

func pod() *metav1.PartialObjectMetadata { return controllers.Metadata(controllers.PodKind) }

// Setup registers the controller on the leader. The CRD of IssuedCertificate must exist.
func Setup(mgr ctrl.Manager) error {
	c := &reconciler{client: mgr.GetClient(), live: mgr.GetAPIReader()}
	deleted := predicate.Funcs{
		CreateFunc: func(event.CreateEvent) bool { return false },
		UpdateFunc: func(event.UpdateEvent) bool { return false },
		DeleteFunc: func(event.DeleteEvent) bool { return true },
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named("reports").
		For(issuedCertificate()).
		WatchesMetadata(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(c.requestsForPod), builder.WithPredicates(deleted)).
		Complete(c)
}

var kind = certificatesv1.GroupVersion.WithKind(certificatesv1.Kind)

func issuedCertificate() *unstructured.Unstructured { return controllers.Untyped(kind) }

// requestsForPod requests the IssuedCertificates with an entry of a Pod.
func (c *reconciler) requestsForPod(ctx context.Context, pod client.Object) []reconcile.Request {
	certificates, err := controllers.List(ctx, c.client, kind)
	if err != nil {
		logf.FromContext(ctx).Error(err, "Failed to list IssuedCertificates")
		return nil
	}
	var requests []reconcile.Request
	for i := range certificates {
		for _, name := range reportingPods(&certificates[i]) {
			if name == pod.GetName() && namespace(&certificates[i]) == pod.GetNamespace() {
				requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&certificates[i])})
			}
		}
	}
	return requests
}

// Reconcile implements reconcile.Reconciler.
func (c *reconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	certificate := issuedCertificate()
	if err := c.client.Get(ctx, request.NamespacedName, certificate); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	var deleted []int
	pods := reportingPods(certificate)
	for i, name := range pods {
		if name == "" { // another program's entry
			continue
		}
		isDeleted, err := c.isDeleted(ctx, types.NamespacedName{Namespace: namespace(certificate), Name: name})
		if err != nil {
			return reconcile.Result{}, err
		}
		if isDeleted {
			deleted = append(deleted, i)
		}
	}
	if len(deleted) == 0 {
		return reconcile.Result{}, nil
	}
	patch, err := json.Marshal(removalPatch(certificate, deleted, time.Now()))
	if err != nil {
		return reconcile.Result{}, err
	}
	updated := certificate.DeepCopy()
	if err := c.client.Status().Patch(ctx, updated, client.RawPatch(types.JSONPatchType, patch)); err != nil {
		if changedMeanwhile(err) {
			return reconcile.Result{}, nil // which triggers another reconcile
		}
		return reconcile.Result{}, fmt.Errorf("removing the entries of deleted Pods from IssuedCertificate %s: %w", request, err)
	}
	logf.FromContext(ctx).V(1).Info("Removed status entries of deleted Pods", "issuedCertificate", request, "pods", len(deleted))
	return reconcile.Result{}, c.removeManagers(ctx, updated)
}

func changedMeanwhile(err error) bool {
	return apierrors.IsConflict(err) || apierrors.IsNotFound(err) || apierrors.IsInvalid(err)
}

// removeManagers removes the field managers of Pods without an entry: each would keep its share of the common fields for ever.
// The API server reads managedFields from a write of the object alone, not of its status. The given object is the answer to
// the last write, since the cache holds no managedFields. If it changed meanwhile, the next removal of entries makes up for
// this one.
func (c *reconciler) removeManagers(ctx context.Context, certificate *unstructured.Unstructured) error {
	all := certificate.GetManagedFields()
	remaining := remainingManagers(certificate)
	if len(remaining) == len(all) {
		return nil
	}
	changed := certificate.DeepCopy()
	changed.SetManagedFields(remaining)
	err := c.client.Patch(ctx, changed, client.MergeFromWithOptions(certificate, client.MergeFromWithOptimisticLock{}))
	if err != nil && !changedMeanwhile(err) {
		return fmt.Errorf("removing the field managers of deleted Pods from IssuedCertificate %s: %w", client.ObjectKeyFromObject(certificate), err)
	}
	return nil
}

// remainingManagers are the managedFields without those of agents whose Pod has no entry.
func remainingManagers(certificate *unstructured.Unstructured) []metav1.ManagedFieldsEntry {
	reporting := sets.New[string]()
	for _, pod := range reportingPods(certificate) {
		reporting.Insert(certificatesv1.FieldManager(pod))
	}
	return slices.DeleteFunc(certificate.GetManagedFields(), func(entry metav1.ManagedFieldsEntry) bool {
		return strings.HasPrefix(entry.Manager, certificatesv1.FieldManagerPrefix) && !reporting.Has(entry.Manager)
	})
}

// isDeleted confirms a deletion with the API server: a Pod can be newer than the cache, and reports only once. A terminated
// Pod counts as deleted: an evicted one stays as an object, and would never complete a change of the root. A name that no Pod
// can have is never looked up: the client for metadata joins paths, so that "../../../pods" would read all Pods.
func (c *reconciler) isDeleted(ctx context.Context, key types.NamespacedName) (bool, error) {
	if len(validation.IsDNS1123Subdomain(key.Name)) > 0 {
		return true, nil
	}
	if err := c.client.Get(ctx, key, pod()); !apierrors.IsNotFound(err) {
		return false, err
	}
	live := controllers.Untyped(controllers.PodKind)
	err := c.live.Get(ctx, key, live)
	if apierrors.IsForbidden(err) {
		return false, nil // the host names a namespace without rights
	}
	return apierrors.IsNotFound(err) || err == nil && controllers.Terminated(live), client.IgnoreNotFound(err)
}

// reportingPods are the Pods with an entry in status.certificates, in order.
func reportingPods(certificate *unstructured.Unstructured) []string {
	entries, _, _ := unstructured.NestedSlice(certificate.Object, "status", "certificates")
	var pods []string
	for _, entry := range entries {
		fields, _ := entry.(map[string]any)
		name, _ := fields["pod"].(string)
		pods = append(pods, name)
	}
	return pods
}

// namespace is that of the certificate's istiod, which can differ from that of the IssuedCertificate.
func namespace(certificate *unstructured.Unstructured) string {
	hosts, _, _ := unstructured.NestedStringSlice(certificate.Object, "spec", "hosts")
	for _, identity := range istio.Identities(hosts) {
		return identity.Namespace
	}
	return certificate.GetNamespace()
}

// removalPatch removes entries, the last first, from exactly the version of the status that was read, and summarizes the
// remaining ones.
func removalPatch(certificate *unstructured.Unstructured, entries []int, now time.Time) []jsonpatch.Operation {
	operations := []jsonpatch.Operation{jsonpatch.NewOperation("replace", "/metadata/resourceVersion", certificate.GetResourceVersion())}
	for _, entry := range slices.Backward(entries) {
		operations = append(operations, jsonpatch.NewOperation("remove", fmt.Sprintf("/status/certificates/%d", entry), nil))
	}
	stored, _, _ := unstructured.NestedMap(certificate.Object, "status")
	var status certificatesv1.IssuedCertificateStatus
	if runtime.DefaultUnstructuredConverter.FromUnstructured(stored, &status) != nil {
		return operations // not our types
	}
	ready := meta.FindStatusCondition(status.Conditions, certificatesv1.ReadyCondition)
	if ready == nil {
		return operations // no agent with conditions has reported
	}
	for _, entry := range slices.Backward(entries) {
		status.Certificates = slices.Delete(status.Certificates, entry, entry+1)
	}
	status.Summarize(ready.ObservedGeneration, now)
	summary, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&status)
	if err != nil {
		return operations
	}
	for _, field := range []string{"conditions", "notAfter", "root", "rootNotAfter", "error", "state"} {
		value, found := summary[field]
		_, existed := stored[field]
		switch {
		case found:
			operations = append(operations, jsonpatch.NewOperation("add", "/status/"+field, value)) // also replaces
		case existed:
			operations = append(operations, jsonpatch.NewOperation("remove", "/status/"+field, nil))
		}
	}
	return operations
}
