// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// resolveEviction plans the eviction of Pods whose owner has no rollout.
func (r *rollout) resolveEviction(ctx context.Context, owner metav1.OwnerReference, of *ownerPods) (*certificatesv1.RestartingWorkload, error) {
	w := workload(owner, of.namespace, certificatesv1.Eviction)
	w.Since = &metav1.Time{Time: of.since}
	pods, err := r.podsOf(ctx, w)
	if err != nil {
		return nil, err
	}
	w.WaitFor = !slices.ContainsFunc(pods, func(pod corev1.Pod) bool { return !ready(&pod) })
	return &w, nil
}

// evict evicts the owner's next Pod when it is due.
func (r *rollout) evict(ctx context.Context, w certificatesv1.RestartingWorkload) (done bool, waiting string, err error) {
	pods, err := r.podsOf(ctx, w)
	if err != nil {
		return false, "", err
	}
	var desired int64
	if w.APIVersion == apps {
		object, err := r.getOwner(ctx, w)
		if object == nil {
			return err == nil, "", err // deleted together with its Pods
		}
		desired = rolloutStatusOf(object).desired
	}
	status := evictionStatusOf(w, pods, desired)
	if status.next == nil {
		return status.done, status.waiting, nil
	}
	pod := status.next
	precondition := &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pod.UID}}
	switch err := r.client.SubResource("eviction").Create(ctx, pod, &policyv1.Eviction{DeleteOptions: precondition}); {
	case apierrors.IsTooManyRequests(err):
		return false, "a PodDisruptionBudget to allow the eviction of Pod " + pod.Name, nil
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		return false, status.waiting, nil // deleted or replaced
	case err != nil && ctx.Err() == nil:
		return false, "the eviction of Pod " + pod.Name + ", which failed: " + err.Error(), nil
	case err != nil:
		return false, "", err
	}
	restarted.WithLabelValues(w.Kind, string(w.Method)).Inc()
	r.event(ctx, pod, r.directive, corev1.EventTypeNormal, reasonPodEvicted, fmt.Sprintf("evicted so that its replacement trusts root %s; its %s has no rollout", shorten(r.status.Roots...), w.Kind))
	return false, status.waiting, nil
}

// podsOf lists the Pods of an owner.
func (r *rollout) podsOf(ctx context.Context, w certificatesv1.RestartingWorkload) ([]corev1.Pod, error) {
	var list corev1.PodList
	if err := r.live.List(ctx, &list, client.InNamespace(w.Namespace), running); err != nil {
		return nil, fmt.Errorf("listing the Pods of %s: %w", display(w), err)
	}
	return slices.DeleteFunc(list.Items, func(pod corev1.Pod) bool {
		owner := metav1.GetControllerOf(&pod)
		return owner == nil || string(owner.UID) != w.UID
	}), nil
}

// missingReplicas reports the Pods of a selected set that are not ready again yet.
func (r *rollout) missingReplicas(ctx context.Context, s podSet) ([]string, error) {
	desired := int(s.selector.WaitForReplicas)
	if s.kind != selectedPods || desired == 0 {
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
	if n < desired {
		return []string{fmt.Sprintf("%d ready Pods (now %d)", desired, n)}, nil
	}
	return nil, nil
}

// evictionStatus is the progress of an eviction one Pod at a time.
type evictionStatus struct {
	// next is the Pod to evict now; nil while waiting, and at the end.
	next *corev1.Pod
	done bool
	// waiting describes the cause of the wait.
	waiting string
}

// evictionStatusOf returns the progress from the Pods of an owner: the next Pod is due when the evicted ones are gone and
// their replacements ready. desired is the number of Pods, 0 when unknown.
func evictionStatusOf(of certificatesv1.RestartingWorkload, pods []corev1.Pod, desired int64) evictionStatus {
	var old []*corev1.Pod
	var terminating, starting []string
	current := int64(0)
	for i := range pods {
		pod := &pods[i]
		owner := metav1.GetControllerOf(pod)
		if owner == nil || owner.UID != types.UID(of.UID) || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		switch {
		case pod.DeletionTimestamp != nil:
			terminating = append(terminating, pod.Name)
			continue
		case !pod.CreationTimestamp.After(sinceOf(of)):
			old = append(old, pod)
		case !ready(pod):
			starting = append(starting, pod.Name)
		}
		current++
	}
	switch {
	case len(terminating) > 0:
		return evictionStatus{waiting: "Pod " + strings.Join(terminating, ", ") + " to terminate"}
	case len(starting) > 0 && of.WaitFor:
		return evictionStatus{waiting: "Pod " + strings.Join(starting, ", ") + " to be ready"}
	case current < desired && of.WaitFor:
		return evictionStatus{waiting: fmt.Sprintf("%d Pods (now %d)", desired, current)}
	case len(old) == 0:
		return evictionStatus{done: true}
	}
	next := slices.MinFunc(old, func(a, b *corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	return evictionStatus{next: next, waiting: "Pod " + next.Name + " to be replaced"}
}

func sinceOf(w certificatesv1.RestartingWorkload) time.Time {
	if w.Since == nil {
		return time.Time{}
	}
	return w.Since.Time
}

func ready(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}
