// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/controllers"
)

const apps = "apps/v1"

// rollsOut reports whether a change of the template of an owner replaces its Pods.
func rollsOut(owner metav1.OwnerReference) bool {
	return owner.APIVersion == apps && slices.Contains([]string{"Deployment", "StatefulSet", "DaemonSet"}, owner.Kind)
}

func workload(owner metav1.OwnerReference, namespace string, method certificatesv1.RestartMethod) certificatesv1.RestartingWorkload {
	return certificatesv1.RestartingWorkload{
		APIVersion: owner.APIVersion, Kind: owner.Kind, Namespace: namespace, Name: owner.Name, UID: string(owner.UID), Method: method,
	}
}

func display(w certificatesv1.RestartingWorkload) string {
	return w.Kind + " " + w.Namespace + "/" + w.Name
}

// rolloutStatus is the state of a Deployment, StatefulSet or DaemonSet.
type rolloutStatus struct {
	// restartedFor is RestartedForRootAnnotation of its template.
	restartedFor string
	paused       bool
	onDelete     bool // its Pods are replaced only when a person deletes them
	// desired is the number of Pods.
	desired int64
	// replaced reports that all Pods have the newest template, available that the desired number is ready.
	replaced, available bool
	// heldBack reports that the partition of a StatefulSet keeps some Pods at the old template.
	heldBack bool
	progress string
}

// rolloutStatusOf reads a workload as `kubectl rollout status` does (k8s.io/kubectl/pkg/polymorphichelpers/rollout_status.go).
func rolloutStatusOf(object *unstructured.Unstructured) rolloutStatus {
	integer := func(fallback int64, path ...string) int64 {
		value, found, _ := unstructured.NestedInt64(object.Object, path...)
		if !found {
			return fallback
		}
		return value
	}
	text := func(path ...string) string {
		value, _, _ := unstructured.NestedString(object.Object, path...)
		return value
	}
	r := rolloutStatus{restartedFor: text("spec", "template", "metadata", "annotations", certificatesv1.RestartedForRootAnnotation)}
	r.paused, _, _ = unstructured.NestedBool(object.Object, "spec", "paused")
	r.onDelete = text("spec", "updateStrategy", "type") == "OnDelete"
	observed := integer(0, "status", "observedGeneration") >= object.GetGeneration()
	desired := integer(1, "spec", "replicas")
	var updated, available int64
	switch object.GetKind() {
	case "DaemonSet":
		desired = integer(0, "status", "desiredNumberScheduled")
		updated, available = integer(0, "status", "updatedNumberScheduled"), integer(0, "status", "numberAvailable")
		r.replaced = observed && updated >= desired
	case "StatefulSet":
		partition := integer(0, "spec", "updateStrategy", "rollingUpdate", "partition")
		r.heldBack = partition > 0 && desired > 0
		updated, available = integer(0, "status", "updatedReplicas"), integer(0, "status", "readyReplicas")
		r.replaced = observed && (updated >= desired-partition || text("status", "updateRevision") == text("status", "currentRevision"))
	default:
		updated, available = integer(0, "status", "updatedReplicas"), integer(0, "status", "availableReplicas")
		r.replaced = observed && updated >= desired && integer(0, "status", "replicas") <= updated
	}
	r.desired, r.available = desired, available >= desired
	r.progress = fmt.Sprintf("%d of %d Pods are new, %d available", updated, desired, available)
	return r
}

// restartPatch sets the annotation that makes the workload's controller replace its Pods, as `kubectl rollout restart`
// does, on exactly the version that was read.
func restartPatch(object *unstructured.Unstructured, roots string) ([]byte, error) {
	return json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": object.GetResourceVersion(), "uid": string(object.GetUID())},
		"spec": map[string]any{"template": map[string]any{"metadata": map[string]any{
			"annotations": map[string]any{certificatesv1.RestartedForRootAnnotation: roots},
		}}},
	})
}

// resolve decides how the Pods of an owner are replaced; nil when they are not.
func (r *rollout) resolve(ctx context.Context, of *ownerPods) (*certificatesv1.RestartingWorkload, error) {
	owner := of.owner
	if owner.APIVersion == apps && owner.Kind == "ReplicaSet" {
		replicaSet := controllers.Metadata(schema.FromAPIVersionAndKind(owner.APIVersion, owner.Kind))
		if err := r.live.Get(ctx, types.NamespacedName{Namespace: of.namespace, Name: owner.Name}, replicaSet); err != nil {
			return nil, client.IgnoreNotFound(err)
		}
		if above := metav1.GetControllerOf(replicaSet); above != nil && rollsOut(*above) && validOwner(*above) {
			owner = *above
		}
	}
	if !rollsOut(owner) {
		return r.resolveEviction(ctx, owner, of)
	}
	object, err := r.getOwner(ctx, workload(owner, of.namespace, certificatesv1.Rollout))
	if object == nil {
		return nil, err
	}
	w, status := workload(owner, of.namespace, certificatesv1.Rollout), rolloutStatusOf(object)
	restarted, unavailable := status.restartedFor == rootsKey(r.status.Roots), display(w)+": it was not available before its restart, so the rollout does not wait for it"
	switch {
	case restarted && status.replaced && status.heldBack:
		r.skip(display(w) + ": its partition keeps some Pods at the old template")
		return nil, nil //nolint:nilnil // nothing to do
	case restarted && (status.replaced || slices.Contains(r.status.Left, unavailable)):
		return nil, nil //nolint:nilnil // done
	case restarted: // by a reconcile whose status was not stored
		w.WaitFor = true
	case status.paused:
		r.skip(display(w) + ": it is paused; resume and restart it yourself")
		return nil, nil //nolint:nilnil // nothing to do
	case status.onDelete:
		return r.resolveEviction(ctx, owner, of)
	default:
		if w.WaitFor = status.replaced && status.available; !w.WaitFor {
			r.skip(unavailable)
		}
	}
	return &w, nil
}

// restart advances a restarting workload by one step. It waits while the API server rejects the change.
func (r *rollout) restart(ctx context.Context, w certificatesv1.RestartingWorkload) (done bool, waiting string, err error) {
	if w.Method == certificatesv1.Eviction {
		return r.evict(ctx, w)
	}
	object, err := r.getOwner(ctx, w)
	if object == nil {
		return err == nil, "", err // deleted together with its Pods
	}
	status, roots := rolloutStatusOf(object), rootsKey(r.status.Roots)
	if status.restartedFor == roots {
		return status.replaced && status.available || !w.WaitFor, status.progress, nil
	}
	patch, err := restartPatch(object, roots)
	if err != nil {
		return false, "", err
	}
	switch err := r.client.Patch(ctx, object, client.RawPatch(types.MergePatchType, patch), client.FieldOwner(controllers.Manager)); {
	case apierrors.IsConflict(err):
		return false, "its restart", nil // it changed meanwhile
	case apierrors.IsNotFound(err):
		return true, "", nil
	case err != nil && ctx.Err() == nil:
		return false, "its restart, which failed: " + err.Error(), nil
	case err != nil:
		return false, "", err
	}
	restarted.WithLabelValues(w.Kind, string(w.Method)).Inc()
	r.event(ctx, object, r.directive, corev1.EventTypeNormal, reasonWorkloadRestarted, "its Pods are replaced so that their proxies trust root "+shorten(r.status.Roots...))
	return false, "its rollout to begin", nil
}

// getOwner reads a workload from the API server itself; nil when it was deleted or recreated.
func (r *rollout) getOwner(ctx context.Context, w certificatesv1.RestartingWorkload) (*unstructured.Unstructured, error) {
	object := controllers.Untyped(schema.FromAPIVersionAndKind(w.APIVersion, w.Kind))
	if err := r.live.Get(ctx, types.NamespacedName{Namespace: w.Namespace, Name: w.Name}, object); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	if string(object.GetUID()) != w.UID {
		return nil, nil //nolint:nilnil // recreated
	}
	return object, nil
}
