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

// rollout is one look at restarts that are under way.
type rollout struct {
	*reconciler
	directive *unstructured.Unstructured
	mesh      *mesh
	roots     roots
	sets      []podSet
	// status is what becomes of the directive's.
	status *certificatesv1.PodBounceDirectiveStatus
	// gates that were looked at, by namespace and name of the ConfigMap.
	gates map[string]gate
}

// goOn goes on with a round as far as that goes now. It restarts only what the stored status names already, and notes what
// comes next, which is restarted when the status is stored.
func (r *rollout) advance(ctx context.Context) error {
	waiting, err := r.advanceRestarting(ctx)
	if err != nil {
		return err
	}
	for {
		i, entry := currentSet(r.status, r.sets)
		switch {
		case entry == nil && !r.roots.settled: // there are no sets, or istiod has just changed its mind
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

// inProgress takes those that are being restarted one step further, and those that are done with out of the status.
func (r *rollout) advanceRestarting(ctx context.Context) ([]string, error) {
	var remaining []certificatesv1.RestartingWorkload
	var waiting []string
	for _, each := range r.status.Restarting {
		done, waits, err := r.restart(ctx, each)
		if err != nil {
			return nil, err
		}
		if !done {
			remaining = append(remaining, each)
			waiting = append(waiting, display(each)+": "+waits)
		}
	}
	r.status.Restarting = remaining
	return waiting, nil
}

// set looks at the set whose turn it is, notes what comes next, and says what is waited for.
func (r *rollout) advanceSet(ctx context.Context, s podSet, entry *certificatesv1.BouncedPodSet) ([]string, error) {
	if istiods := r.istiodsOf(s); len(istiods) > 0 {
		if waiting, err := r.advanceIstiods(ctx, istiods, entry); err != nil || len(waiting) > 0 || len(r.status.Restarting) > 0 {
			return waiting, err
		}
	} else if s.kind == istiodPods {
		return []string{"istiod's Deployment, labelled app=istiod, which is not there"}, nil
	}
	if !r.roots.settled {
		return []string{r.roots.waiting}, nil
	}
	if s.kind == istiodPods {
		return nil, nil
	}
	slots := maxConcurrent - len(r.status.Restarting)
	if slots <= 0 || len(r.status.Restarting) > 0 && r.status.Remaining == 0 {
		return nil, nil // nothing would come of looking at all Pods
	}
	there, err := r.findPods(ctx, s)
	if err != nil {
		return nil, err
	}
	r.skip(there.left...)
	if err := r.startNext(ctx, there.sorted(), slots, entry); err != nil {
		return nil, err
	}
	waiting := slices.Sorted(maps.Keys(there.closed))
	if len(waiting) == 0 && len(r.status.Restarting) == 0 {
		return r.missingReplicas(ctx, s)
	}
	return waiting, nil
}

// istiodsOf are the istiods that are in a set.
func (r *rollout) istiodsOf(s podSet) []istiod {
	return slices.DeleteFunc(slices.Clone(r.mesh.istiods), func(each istiod) bool {
		labels, _, _ := unstructured.NestedStringMap(each.Object, "spec", "template", "metadata", "labels")
		return s.kind != istiodPods && (s.kind != selectedPods || !s.selects(each.GetNamespace(), labels))
	})
}

// istiodSet notes the istiods that only a restart brings to the new root.
func (r *rollout) advanceIstiods(ctx context.Context, all []istiod, entry *certificatesv1.BouncedPodSet) (waiting []string, err error) {
	for _, each := range all {
		outdated := slices.DeleteFunc(slices.Clone(each.reporting), func(pod string) bool { return !slices.Contains(r.roots.outdated, pod) })
		owner := metav1.OwnerReference{APIVersion: apps, Kind: "Deployment", Name: each.GetName(), UID: each.GetUID()}
		w := workload(owner, each.GetNamespace(), certificatesv1.Rollout)
		w.WaitFor = true
		if slices.ContainsFunc(r.status.Restarting, func(other certificatesv1.RestartingWorkload) bool { return other.UID == w.UID }) {
			continue
		}
		object, err := r.getOwner(ctx, w) // the cache may not have seen yet what was done here
		if err != nil {
			return nil, err
		}
		if object == nil {
			continue
		}
		status := rolloutStatusOf(object)
		switch {
		case !status.replaced: // by whomever: the new Pods may be what is needed
			waiting = append(waiting, fmt.Sprintf("%s: its rollout to end (%s)", display(w), status.progress))
		case len(outdated) == 0:
		case status.restartedFor == rootsKey(r.status.Roots):
			waiting = append(waiting, fmt.Sprintf("%s: was restarted for root %s, and %s did not get it from Vault or has not reported it yet", display(w), shorten(r.status.Roots...), strings.Join(outdated, ", ")))
		default:
			record(r.status, entry, w, outdated)
		}
	}
	return waiting, nil
}

// find looks at all Pods of a set.
func (r *rollout) findPods(ctx context.Context, s podSet) (*candidates, error) {
	there, revisions := newCandidates(), r.mesh.revisions()
	err := r.forEachPod(ctx, s, func(pod *metav1.ObjectMeta) error {
		if !s.contains(pod, revisions) {
			return nil
		}
		of, err := r.gate(ctx, s, pod.Namespace)
		if err == nil {
			there.add(pod, of)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("looking for Pods to restart: %w", err)
	}
	return there, nil
}

// choose notes the next workloads, as many as there are slots.
func (r *rollout) startNext(ctx context.Context, owners []*ownerPods, slots int, entry *certificatesv1.BouncedPodSet) error {
	for i, each := range owners {
		if slots == 0 {
			r.status.Remaining = int32(len(owners) - i) //nolint:gosec // the number of workloads of a cluster
			return nil
		}
		next, err := r.resolve(ctx, each)
		if err != nil {
			return err
		}
		if next == nil || slices.ContainsFunc(r.status.Restarting, func(other certificatesv1.RestartingWorkload) bool { return other.UID == next.UID }) {
			continue
		}
		record(r.status, entry, *next, each.pods)
		slots--
	}
	r.status.Remaining = 0
	return nil
}

// maxSkipped is how many of those that are left a status lists.
const maxSkipped = 500

// leave writes down what is not restarted, and why.
func (r *rollout) skip(what ...string) {
	all := sorted(append(slices.Clone(r.status.Left), what...))
	r.status.Left = all[:min(len(all), maxSkipped)]
}

func (r *rollout) finish() {
	finish(r.status, r.roots.desired, metav1.NewTime(r.now()))
	var total int32
	for _, each := range r.status.PodsBounced {
		total += each.Workloads
	}
	r.status.Message = fmt.Sprintf("%d workloads were restarted for root %s", total, shorten(r.status.Roots...))
	if n := len(r.status.Left); n > 0 {
		r.status.Message += fmt.Sprintf("; %d are left as they are: see status.left", n)
	}
}
