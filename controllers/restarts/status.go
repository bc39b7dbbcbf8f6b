// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// observeRoots takes in what the roots are now, and says what changes by that alone in a status: a round of restarts begins where
// a root is to be trusted that was not when the pods were started, or at the last round. One that is only dropped needs
// none: nobody presents a certificate under it any more. A renewal under the same root is no change at all.
// published are the roots that the namespace of istiod publishes: with the first look, those that pods have.
func observeRoots(status certificatesv1.PodBounceDirectiveStatus, now roots, published []string, clock metav1.Time) certificatesv1.PodBounceDirectiveStatus {
	if len(status.Roots) == 0 {
		switch {
		case len(published) > 0:
			status.Roots = sorted(published)
		case now.settled: // nobody has started with another
			status.Roots = now.desired
		default:
			return status
		}
		status.State = certificatesv1.RestartsIdle
		status.Message = "pods are restarted when a root other than " + shorten(status.Roots...) + " is to be trusted"
	}
	inProgress := status.State == certificatesv1.Restarting
	switch {
	case len(now.desired) == 0:
	case !containsAll(status.Roots, now.desired), len(now.outdated) > 0 && !slices.Equal(status.Roots, now.desired):
		return certificatesv1.PodBounceDirectiveStatus{State: certificatesv1.Restarting, Roots: now.desired, StartedAt: &clock}
	case !inProgress && now.settled && !slices.Equal(status.Roots, now.desired):
		status.Roots = now.desired
		status.Message = "a root was dropped, for which nothing is restarted; pods are restarted when a root other than " + shorten(now.desired...) + " is to be trusted"
	}
	return status
}

// currentSet is the entry of the set that is going on; it makes those that are lacking.
func currentSet(status *certificatesv1.PodBounceDirectiveStatus, sets []podSet) (int, *certificatesv1.BouncedPodSet) {
	for i := range sets {
		if i < len(status.PodsBounced) && status.PodsBounced[i].Set != sets[i].name { // the directive has changed meanwhile
			status.PodsBounced = status.PodsBounced[:i]
		}
		if i >= len(status.PodsBounced) {
			status.PodsBounced = append(status.PodsBounced, certificatesv1.BouncedPodSet{Set: sets[i].name})
		}
		if !status.PodsBounced[i].Complete {
			status.Set = sets[i].name
			return i, &status.PodsBounced[i]
		}
	}
	return len(sets), nil
}

// maxBouncedPods is how many names of Pods a set's entry holds: an object has at most 1.5 MiB in etcd.
const maxBouncedPods = 500

// note writes down that pods of a workload are to be replaced, before that is done.
func record(status *certificatesv1.PodBounceDirectiveStatus, entry *certificatesv1.BouncedPodSet, workload certificatesv1.RestartingWorkload, pods []string) {
	status.Restarting = append(status.Restarting, workload)
	entry.Workloads++
	entry.BouncedPods = append(entry.BouncedPods, pods[:min(len(pods), max(0, maxBouncedPods-len(entry.BouncedPods)))]...)
}

// finish ends a round.
func finish(status *certificatesv1.PodBounceDirectiveStatus, desired []string, clock metav1.Time) {
	status.State, status.Set, status.Remaining, status.FinishedAt = certificatesv1.Restarted, "", 0, &clock
	status.Roots = desired
}

func message(waiting []string, status *certificatesv1.PodBounceDirectiveStatus) string {
	const most = 10
	if extra := len(waiting) - most; extra > 0 {
		waiting = append(waiting[:most:most], fmt.Sprintf("%d more", extra))
	}
	var words []string
	if len(waiting) > 0 {
		words = append(words, "waiting for "+strings.Join(waiting, "; "))
	}
	if len(waiting) == 0 {
		for _, each := range status.Restarting {
			words = append(words, display(each)+" is restarted next")
		}
	}
	if status.Remaining > 0 {
		words = append(words, fmt.Sprintf("about %d more after that", status.Remaining))
	}
	return strings.Join(words, "; ")
}

// equal compares what would be stored.
func equal(a, b certificatesv1.PodBounceDirectiveStatus) bool {
	x, errA := json.Marshal(a)
	y, errB := json.Marshal(b)
	return errA == nil && errB == nil && string(x) == string(y)
}
