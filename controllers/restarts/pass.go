// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// page is how many Pods are read at a time.
const page = 500

// running leaves out Pods that have ended.
var running = client.MatchingFieldsSelector{Selector: fields.AndSelectors(
	fields.OneTermNotEqualSelector("status.phase", string(corev1.PodSucceeded)),
	fields.OneTermNotEqualSelector("status.phase", string(corev1.PodFailed)),
)}

// eachPod goes through the metadata of the Pods that may be in a set.
func (c *Controller) eachPod(ctx context.Context, s set, call func(*metav1.ObjectMeta) error) error {
	var selections [][]client.ListOption
	switch s.kind {
	case selectedPods:
		selections = [][]client.ListOption{{client.InNamespace(s.selector.Namespace), client.MatchingLabels(s.selector.Labels)}}
	case gatewayPods:
		selections = [][]client.ListOption{{client.MatchingLabelsSelector{Selector: withProxy}}, {client.MatchingLabels(nodeProxyLabels)}}
	default:
		selections = [][]client.ListOption{{client.MatchingLabelsSelector{Selector: withProxy}}}
	}
	for _, options := range selections {
		list := &metav1.PartialObjectMetadataList{}
		list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("PodList"))
		for {
			if err := c.live.List(ctx, list, append(slices.Clone(options), running, client.Limit(page), client.Continue(list.Continue))...); err != nil {
				return err
			}
			for i := range list.Items {
				if err := call(&list.Items[i].ObjectMeta); err != nil {
					return err
				}
			}
			if list.Continue == "" {
				break
			}
		}
	}
	return nil
}

var withProxy = exists(proxyLabel)

func exists(label string) labels.Selector {
	requirement, err := labels.NewRequirement(label, selection.Exists, nil)
	if err != nil {
		panic(err) // it is a constant
	}
	return labels.NewSelector().Add(*requirement)
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

// eviction is for Pods whose owner has no rollout.
func (r *round) eviction(ctx context.Context, owner metav1.OwnerReference, of *owned) (*certificatesv1.RestartingWorkload, error) {
	w := workload(owner, of.namespace, certificatesv1.Eviction)
	w.Since = &metav1.Time{Time: of.since}
	pods, err := r.podsOf(ctx, w)
	if err != nil {
		return nil, err
	}
	w.WaitFor = !slices.ContainsFunc(pods, func(pod corev1.Pod) bool { return !ready(&pod) })
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
	switch err := r.client.Patch(ctx, object, client.RawPatch(types.MergePatchType, patch), client.FieldOwner(manager)); {
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

// evict evicts the next Pod of an owner, when its turn has come.
func (r *round) evict(ctx context.Context, w certificatesv1.RestartingWorkload) (done bool, waiting string, err error) {
	pods, err := r.podsOf(ctx, w)
	if err != nil {
		return false, "", err
	}
	var want int64
	if w.APIVersion == apps {
		object, err := r.owner(ctx, w)
		if object == nil {
			return err == nil, "", err // it is gone, and its Pods with it
		}
		want = rolloutOf(object).want
	}
	stands := evictionOf(w, pods, want)
	if stands.next == nil {
		return stands.done, stands.waiting, nil
	}
	pod := stands.next
	exactly := &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pod.UID}}
	switch err := r.client.SubResource("eviction").Create(ctx, pod, &policyv1.Eviction{DeleteOptions: exactly}); {
	case apierrors.IsTooManyRequests(err):
		return false, "a PodDisruptionBudget keeps Pod " + pod.Name + " from being evicted", nil
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		return false, stands.waiting, nil // it is gone, or another
	case err != nil && ctx.Err() == nil:
		return false, "Pod " + pod.Name + " could not be evicted: " + err.Error(), nil
	case err != nil:
		return false, "", err
	}
	restarted.WithLabelValues(w.Kind, string(w.Method)).Inc()
	logf.FromContext(ctx).Info("Evicted a Pod", "pod", pod.Namespace+"/"+pod.Name, "roots", short(r.status.Roots...), "reason", PodEvicted)
	r.say(pod, r.directive, corev1.EventTypeNormal, PodEvicted, fmt.Sprintf("it is evicted, so that the one after it trusts root %s; its %s has no rollout", short(r.status.Roots...), w.Kind))
	return false, stands.waiting, nil
}

// podsOf are the Pods of an owner.
func (r *round) podsOf(ctx context.Context, w certificatesv1.RestartingWorkload) ([]corev1.Pod, error) {
	var list corev1.PodList
	if err := r.live.List(ctx, &list, client.InNamespace(w.Namespace), running); err != nil {
		return nil, fmt.Errorf("listing the Pods of %s: %w", called(w), err)
	}
	return slices.DeleteFunc(list.Items, func(pod corev1.Pod) bool {
		owner := metav1.GetControllerOf(&pod)
		return owner == nil || string(owner.UID) != w.UID
	}), nil
}

// replicas says how many Pods of a selected set are not ready again yet that are waited for.
func (r *round) replicas(ctx context.Context, s set) ([]string, error) {
	want := int(s.selector.WaitForReplicas)
	if s.kind != selectedPods || want == 0 {
		return nil, nil
	}
	var list corev1.PodList
	if err := r.live.List(ctx, &list, client.InNamespace(s.selector.Namespace), client.MatchingLabels(s.selector.Labels), running); err != nil {
		return nil, fmt.Errorf("listing the Pods of set %s: %w", s.name, err)
	}
	n := 0
	for i := range list.Items {
		if ready(&list.Items[i]) && list.Items[i].DeletionTimestamp == nil {
			n++
		}
	}
	if n < want {
		return []string{fmt.Sprintf("%d Pods to be ready, %d are", want, n)}, nil
	}
	return nil, nil
}
