// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// rollout is one reconcile of restarts in progress.
type rollout struct {
	*reconciler
	directive *unstructured.Unstructured
	mesh      *mesh
	roots     roots
	sets      []podSet
	// status is the new status of the directive.
	status *certificatesv1.PodBounceDirectiveStatus
	// gates are the evaluated ones, by namespace, name and key of the ConfigMap.
	gates map[string]gate
}

// advance moves the rollout as far as it can go now. It restarts only workloads of the stored status, and records the next
// ones, which restart once the status is stored.
func (r *rollout) advance(ctx context.Context) error {
	waiting, err := r.advanceRestarting(ctx)
	if err != nil {
		return err
	}
	for {
		i, entry := currentSet(r.status, r.sets)
		switch {
		case entry == nil && !r.roots.settled: // there are no sets, or the roots changed again
			r.status.Message = message([]string{r.roots.waiting}, r.status)
			return nil
		case entry == nil:
			r.finish()
			return nil
		}
		more, err := r.advanceSet(ctx, r.sets[i], entry)
		if err != nil {
			return err
		}
		waiting = append(waiting, more...)
		if len(waiting) == 0 && len(r.status.Restarting) == 0 {
			entry.Complete = true
			continue
		}
		r.status.Message = r.sets[i].name + ": " + message(waiting, r.status)
		return nil
	}
}

// advanceRestarting advances the restarting workloads and removes the finished ones from the status.
func (r *rollout) advanceRestarting(ctx context.Context) ([]string, error) {
	var remaining []certificatesv1.RestartingWorkload
	var waiting []string
	for _, workload := range r.status.Restarting {
		if !r.covers(workload.Namespace) { // a user or an earlier configuration wrote it
			r.skip(display(workload) + ": " + notCovered)
			continue
		}
		done, progress, err := r.restart(ctx, workload)
		if err != nil {
			return nil, err
		}
		if !done {
			remaining = append(remaining, workload)
			waiting = append(waiting, display(workload)+": "+progress)
		}
	}
	r.status.Restarting = remaining
	return waiting, nil
}

// advanceSet records the next workloads of the current set, and returns what it waits for.
func (r *rollout) advanceSet(ctx context.Context, s podSet, entry *certificatesv1.BouncedPodSet) ([]string, error) {
	if s.kind == selectedPods && !r.covers(s.selector.Namespace) {
		r.skip("set " + s.name + ": " + notCovered)
		return nil, nil
	}
	if istiods := r.istiodsOf(s); len(istiods) > 0 {
		if waiting, err := r.advanceIstiods(ctx, istiods, entry); err != nil || len(waiting) > 0 || len(r.status.Restarting) > 0 {
			return waiting, err
		}
	} else if s.kind == istiodPods {
		return []string{"an istiod Deployment, labelled app=istiod"}, nil
	}
	if !r.roots.settled {
		return []string{r.roots.waiting}, nil
	}
	if s.kind == istiodPods {
		return nil, nil
	}
	slots := maxConcurrent - len(r.status.Restarting)
	if slots <= 0 || len(r.status.Restarting) > 0 && r.status.Remaining == 0 {
		return nil, nil // no slot, or no workload remains: do not list all Pods
	}
	found, err := r.findPods(ctx, s)
	if err != nil {
		return nil, err
	}
	r.skip(found.skipped...)
	if err := r.startNext(ctx, found.sorted(), slots, entry); err != nil {
		return nil, err
	}
	waiting := slices.Sorted(maps.Keys(found.closed))
	if len(waiting) == 0 && len(r.status.Restarting) == 0 {
		return r.missingReplicas(ctx, s)
	}
	return waiting, nil
}

// istiodsOf are the istiods in a set.
func (r *rollout) istiodsOf(s podSet) []istiod {
	return slices.DeleteFunc(slices.Clone(r.mesh.istiods), func(istiod istiod) bool {
		labels, _, _ := unstructured.NestedStringMap(istiod.Object, "spec", "template", "metadata", "labels")
		return s.kind != istiodPods && (s.kind != selectedPods || !s.selects(istiod.GetNamespace(), labels))
	})
}

// advanceIstiods records the istiods that take the new root only by a restart.
func (r *rollout) advanceIstiods(ctx context.Context, all []istiod, entry *certificatesv1.BouncedPodSet) (waiting []string, err error) {
	for _, istiod := range all {
		outdated := slices.DeleteFunc(slices.Clone(istiod.reporting), func(pod string) bool { return !slices.Contains(r.roots.outdated, pod) })
		owner := metav1.OwnerReference{APIVersion: apps, Kind: "Deployment", Name: istiod.GetName(), UID: istiod.GetUID()}
		w := workload(owner, istiod.GetNamespace(), certificatesv1.Rollout)
		w.WaitFor = true
		if slices.ContainsFunc(r.status.Restarting, func(other certificatesv1.RestartingWorkload) bool { return other.UID == w.UID }) {
			continue
		}
		object, err := r.getOwner(ctx, w) // the cache may be older than the last restart
		if err != nil {
			return nil, err
		}
		if object == nil {
			continue
		}
		status := rolloutStatusOf(object)
		switch {
		case !status.replaced: // the new Pods may already have the root
			waiting = append(waiting, fmt.Sprintf("%s: its rollout to finish (%s)", display(w), status.progress))
		case len(outdated) == 0:
		case status.restartedFor == rootsKey(r.status.Roots):
			waiting = append(waiting, fmt.Sprintf("%s: it restarted for root %s, but %s did not get that root from its CA or has not reported it yet", display(w), shorten(r.status.Roots...), strings.Join(outdated, ", ")))
		default:
			record(r.status, entry, w, outdated)
		}
	}
	return waiting, nil
}

// findPods classifies all Pods of a set.
func (r *rollout) findPods(ctx context.Context, s podSet) (*candidates, error) {
	found, revisions := newCandidates(), r.mesh.revisions()
	err := r.forEachPod(ctx, s, func(pod *metav1.ObjectMeta) error {
		if !s.contains(pod, revisions) {
			return nil
		}
		of, err := r.gate(ctx, s, pod.Namespace)
		if err == nil {
			found.add(pod, of)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listing the Pods to restart: %w", err)
	}
	return found, nil
}

// startNext records the next workloads, as many as there are slots.
func (r *rollout) startNext(ctx context.Context, owners []*ownerPods, slots int, entry *certificatesv1.BouncedPodSet) error {
	for i, owner := range owners {
		if slots == 0 {
			r.status.Remaining = int32(len(owners) - i) //nolint:gosec // the number of workloads of a cluster
			return nil
		}
		next, err := r.resolve(ctx, owner)
		if err != nil {
			return err
		}
		if next == nil || slices.ContainsFunc(r.status.Restarting, func(other certificatesv1.RestartingWorkload) bool { return other.UID == next.UID }) {
			continue
		}
		record(r.status, entry, *next, owner.pods)
		slots--
	}
	r.status.Remaining = 0
	return nil
}

// maxSkipped is the number of skipped Pods that a status lists.
const maxSkipped = 500

// skip records Pods that are not restarted, and why.
func (r *rollout) skip(reasons ...string) {
	all := sorted(append(slices.Clone(r.status.Left), reasons...))
	r.status.Left = all[:min(len(all), maxSkipped)]
}

func (r *rollout) finish() {
	r.status.State, r.status.Roots, r.status.Set, r.status.Remaining = certificatesv1.Restarted, r.roots.desired, "", 0
	r.status.FinishedAt = new(metav1.NewTime(r.now()))
	var total int32
	for _, set := range r.status.PodsBounced {
		total += set.Workloads
	}
	r.status.Message = fmt.Sprintf("%d workloads restarted for root %s", total, shorten(r.status.Roots...))
	if len(r.namespaces) > 0 {
		r.status.Message += "; Pods outside of rbac.namespaces are not restarted"
	}
	if n := len(r.status.Left); n > 0 {
		r.status.Message += fmt.Sprintf("; %d were skipped: see status.left", n)
	}
}
