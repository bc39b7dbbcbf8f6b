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

// evictionStatus is for Pods whose owner has no rollout.
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

// evict evicts the next Pod of an owner, when its turn has come.
func (r *rollout) evict(ctx context.Context, w certificatesv1.RestartingWorkload) (done bool, waiting string, err error) {
	pods, err := r.podsOf(ctx, w)
	if err != nil {
		return false, "", err
	}
	var desired int64
	if w.APIVersion == apps {
		object, err := r.getOwner(ctx, w)
		if object == nil {
			return err == nil, "", err // it is gone, and its Pods with it
		}
		desired = rolloutStatusOf(object).desired
	}
	status := evictionStatusOf(w, pods, desired)
	if status.next == nil {
		return status.done, status.waiting, nil
	}
	pod := status.next
	exactly := &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pod.UID}}
	switch err := r.client.SubResource("eviction").Create(ctx, pod, &policyv1.Eviction{DeleteOptions: exactly}); {
	case apierrors.IsTooManyRequests(err):
		return false, "a PodDisruptionBudget keeps Pod " + pod.Name + " from being evicted", nil
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		return false, status.waiting, nil // it is gone, or another
	case err != nil && ctx.Err() == nil:
		return false, "Pod " + pod.Name + " could not be evicted: " + err.Error(), nil
	case err != nil:
		return false, "", err
	}
	restarted.WithLabelValues(w.Kind, string(w.Method)).Inc()
	r.event(ctx, pod, r.directive, corev1.EventTypeNormal, reasonPodEvicted, fmt.Sprintf("it is evicted, so that the one after it trusts root %s; its %s has no rollout", shorten(r.status.Roots...), w.Kind))
	return false, status.waiting, nil
}

// podsOf are the Pods of an owner.
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

// replicas says how many Pods of a selected set are not ready again yet that are waited for.
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
		return []string{fmt.Sprintf("%d Pods to be ready, %d are", desired, n)}, nil
	}
	return nil, nil
}

// evictionStatus is how the Pods of an owner stand that are replaced one by one.
type evictionStatus struct {
	// next is the Pod to evict now, nil where something is waited for or nothing is left to do.
	next *corev1.Pod
	done bool
	// waiting says what is waited for.
	waiting string
}

// evictionStatusOf judges the Pods of an owner: the next one's turn comes when those evicted before are gone, and the new ones
// there and ready. want is how many Pods the owner has, 0 where that is not known.
func evictionStatusOf(of certificatesv1.RestartingWorkload, pods []corev1.Pod, desired int64) evictionStatus {
	var old []*corev1.Pod
	var terminating, starting []string
	there := int64(0)
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
		there++
	}
	switch {
	case len(terminating) > 0:
		return evictionStatus{waiting: "Pod " + strings.Join(terminating, ", ") + " to end"}
	case len(starting) > 0 && of.WaitFor:
		return evictionStatus{waiting: "Pod " + strings.Join(starting, ", ") + " to be ready"}
	case there < desired && of.WaitFor:
		return evictionStatus{waiting: fmt.Sprintf("%d Pods to be there, %d are", desired, there)}
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
