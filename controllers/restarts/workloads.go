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
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/controllers"
)

const apps = "apps/v1"

// rollsOut says whether there is a rollout of such an owner, by a change of its template.
func rollsOut(owner metav1.OwnerReference) bool {
	return owner.APIVersion == apps && slices.Contains([]string{"Deployment", "StatefulSet", "DaemonSet"}, owner.Kind)
}

// workload refers to an owner.
func workload(owner metav1.OwnerReference, namespace string, method certificatesv1.RestartMethod) certificatesv1.RestartingWorkload {
	return certificatesv1.RestartingWorkload{
		APIVersion: owner.APIVersion, Kind: owner.Kind, Namespace: namespace, Name: owner.Name, UID: string(owner.UID), Method: method,
	}
}

func called(w certificatesv1.RestartingWorkload) string {
	return w.Kind + " " + w.Namespace + "/" + w.Name
}

// rollout is how a Deployment, StatefulSet or DaemonSet stands.
type rollout struct {
	// restartedFor is its template's annotation.
	restartedFor string
	paused       bool
	onDelete     bool // its Pods are replaced only when somebody deletes them
	// want is how many Pods there are to be.
	want int64
	// replaced says that all Pods are of the newest template, available that as many as wanted are there and well.
	replaced, available bool
	// heldBack says that a part keeps its template on purpose (StatefulSet's partition).
	heldBack bool
	progress string
}

// rolloutOf reads a workload as `kubectl rollout status` does (k8s.io/kubectl/pkg/polymorphichelpers/rollout_status.go).
func rolloutOf(object *unstructured.Unstructured) rollout {
	number := func(otherwise int64, path ...string) int64 {
		value, given, _ := unstructured.NestedInt64(object.Object, path...)
		if !given {
			return otherwise
		}
		return value
	}
	word := func(path ...string) string {
		value, _, _ := unstructured.NestedString(object.Object, path...)
		return value
	}
	r := rollout{restartedFor: word("spec", "template", "metadata", "annotations", certificatesv1.RestartedForRootAnnotation)}
	r.paused, _, _ = unstructured.NestedBool(object.Object, "spec", "paused")
	r.onDelete = word("spec", "updateStrategy", "type") == "OnDelete"
	observed := number(0, "status", "observedGeneration") >= object.GetGeneration()
	want := number(1, "spec", "replicas")
	var updated, available int64
	switch object.GetKind() {
	case "DaemonSet":
		want = number(0, "status", "desiredNumberScheduled")
		updated, available = number(0, "status", "updatedNumberScheduled"), number(0, "status", "numberAvailable")
		r.replaced = observed && updated >= want
	case "StatefulSet":
		partition := number(0, "spec", "updateStrategy", "rollingUpdate", "partition")
		r.heldBack = partition > 0 && want > 0
		updated, available = number(0, "status", "updatedReplicas"), number(0, "status", "readyReplicas")
		r.replaced = observed && (updated >= want-partition || word("status", "updateRevision") == word("status", "currentRevision"))
	default:
		updated, available = number(0, "status", "updatedReplicas"), number(0, "status", "availableReplicas")
		r.replaced = observed && updated >= want && number(0, "status", "replicas") <= updated
	}
	r.want, r.available = want, available >= want
	r.progress = fmt.Sprintf("%d of %d Pods are new, %d available", updated, want, available)
	return r
}

// restartPatch writes the annotation by which a workload's controller replaces its Pods, as `kubectl rollout restart`
// does, on just the version that was read.
func restartPatch(object *unstructured.Unstructured, roots string) ([]byte, error) {
	return json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": object.GetResourceVersion(), "uid": string(object.GetUID())},
		"spec": map[string]any{"template": map[string]any{"metadata": map[string]any{
			"annotations": map[string]any{certificatesv1.RestartedForRootAnnotation: roots},
		}}},
	})
}

// resolve finds out how the Pods of an owner are replaced; nil when they are not.
func (r *round) resolve(ctx context.Context, of *owned) (*certificatesv1.RestartingWorkload, error) {
	owner := of.owner
	if owner.APIVersion == apps && owner.Kind == "ReplicaSet" {
		replicaSet := &metav1.PartialObjectMetadata{}
		replicaSet.SetGroupVersionKind(schema.FromAPIVersionAndKind(owner.APIVersion, owner.Kind))
		if err := r.live.Get(ctx, types.NamespacedName{Namespace: of.namespace, Name: owner.Name}, replicaSet); err != nil {
			return nil, client.IgnoreNotFound(err)
		}
		if above := metav1.GetControllerOf(replicaSet); above != nil && rollsOut(*above) && plausible(*above) {
			owner = *above
		}
	}
	if !rollsOut(owner) {
		return r.eviction(ctx, owner, of)
	}
	object, err := r.owner(ctx, workload(owner, of.namespace, certificatesv1.Rollout))
	if object == nil {
		return nil, err
	}
	w, stands := workload(owner, of.namespace, certificatesv1.Rollout), rolloutOf(object)
	restarted, notWell := stands.restartedFor == key(r.status.Roots), called(w)+": was not well before it was restarted, and is not waited for"
	switch {
	case restarted && stands.replaced && stands.heldBack:
		r.leave(called(w) + ": its partition keeps some of its Pods as they are")
		return nil, nil //nolint:nilnil // nothing to do
	case restarted && (stands.replaced || slices.Contains(r.status.Left, notWell)):
		return nil, nil //nolint:nilnil // done
	case restarted: // by somebody who could not write it down
		w.WaitFor = true
	case stands.paused:
		r.leave(called(w) + ": is paused; resume it and restart it yourself")
		return nil, nil //nolint:nilnil // nothing to do
	case stands.onDelete:
		return r.eviction(ctx, owner, of)
	default:
		if w.WaitFor = stands.replaced && stands.available; !w.WaitFor {
			r.leave(notWell)
		}
	}
	return &w, nil
}

// proceed takes a workload that is being restarted one step further. What the API server refuses is waited for.
func (r *round) proceed(ctx context.Context, w certificatesv1.RestartingWorkload) (done bool, waiting string, err error) {
	if w.Method == certificatesv1.Eviction {
		return r.evict(ctx, w)
	}
	object, err := r.owner(ctx, w)
	if object == nil {
		return err == nil, "", err // it is gone, and its Pods with it
	}
	stands, roots := rolloutOf(object), key(r.status.Roots)
	if stands.restartedFor == roots {
		return stands.replaced && stands.available || !w.WaitFor, stands.progress, nil
	}
	patch, err := restartPatch(object, roots)
	if err != nil {
		return false, "", err
	}
	switch err := r.client.Patch(ctx, object, client.RawPatch(types.MergePatchType, patch), client.FieldOwner(controllers.Manager)); {
	case apierrors.IsConflict(err):
		return false, "to be restarted", nil // it has changed meanwhile
	case apierrors.IsNotFound(err):
		return true, "", nil
	case err != nil && ctx.Err() == nil:
		return false, "could not be restarted: " + err.Error(), nil
	case err != nil:
		return false, "", err
	}
	restarted.WithLabelValues(w.Kind, string(w.Method)).Inc()
	logf.FromContext(ctx).Info("Restarted a workload", "workload", called(w), "roots", short(r.status.Roots...), "reason", WorkloadRestarted)
	r.say(object, r.directive, corev1.EventTypeNormal, WorkloadRestarted, "its Pods are replaced, so that their proxies trust root "+short(r.status.Roots...))
	return false, "its rollout to begin", nil
}

// owner reads a workload from the API server itself, nil where it is gone or is another by now.
func (r *round) owner(ctx context.Context, w certificatesv1.RestartingWorkload) (*unstructured.Unstructured, error) {
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(schema.FromAPIVersionAndKind(w.APIVersion, w.Kind))
	if err := r.live.Get(ctx, types.NamespacedName{Namespace: w.Namespace, Name: w.Name}, object); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	if string(object.GetUID()) != w.UID {
		return nil, nil //nolint:nilnil // another of that name
	}
	return object, nil
}
