// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// observeRoots updates a status for the current roots. A rollout begins when a root must be trusted that was not trusted when
// the Pods started, or at the last rollout. A dropped root needs no rollout, since no certificate leads to it any more; a
// renewal under the same root is no change. published are the roots that istiod's namespace published at the first reconcile:
// the Pods started with them.
func observeRoots(status certificatesv1.PodBounceDirectiveStatus, now roots, published []string, clock metav1.Time) certificatesv1.PodBounceDirectiveStatus {
	if len(status.Roots) == 0 {
		switch {
		case len(published) > 0:
			status.Roots = sorted(published)
		case now.settled: // no Pod started with another
			status.Roots = now.desired
		default:
			return status
		}
		status.State = certificatesv1.RestartsIdle
		status.Message = "Pods restart when a root other than " + shorten(status.Roots...) + " must be trusted"
	}
	inProgress := status.State == certificatesv1.Restarting
	switch {
	case len(now.desired) == 0:
	case !containsAll(status.Roots, now.desired), len(now.outdated) > 0 && !slices.Equal(status.Roots, now.desired):
		return certificatesv1.PodBounceDirectiveStatus{State: certificatesv1.Restarting, Roots: now.desired, StartedAt: &clock}
	case !inProgress && now.settled && !slices.Equal(status.Roots, now.desired):
		status.Roots = now.desired
		status.Message = "a root was dropped, which needs no restart; Pods restart when a root other than " + shorten(now.desired...) + " must be trusted"
	}
	return status
}

// currentSet returns the first incomplete set and its entry; it adds missing entries.
func currentSet(status *certificatesv1.PodBounceDirectiveStatus, sets []podSet) (int, *certificatesv1.BouncedPodSet) {
	for i := range sets {
		if i < len(status.PodsBounced) && status.PodsBounced[i].Set != sets[i].name { // the directive changed meanwhile
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

// maxBouncedPods is the number of Pod names in the entries of all sets, of 253 bytes at most: etcd stores objects of at most
// 1.5 MiB, and maxSkipped reasons may take half a MiB.
const maxBouncedPods = 1000

// record adds a workload and its Pods to the status before they restart.
func record(status *certificatesv1.PodBounceDirectiveStatus, entry *certificatesv1.BouncedPodSet, workload certificatesv1.RestartingWorkload, pods []string) {
	status.Restarting = append(status.Restarting, workload)
	entry.Workloads++
	room := maxBouncedPods
	for _, set := range status.PodsBounced {
		room -= len(set.BouncedPods)
	}
	entry.BouncedPods = append(entry.BouncedPods, pods[:min(len(pods), max(0, room))]...)
}

func message(waiting []string, status *certificatesv1.PodBounceDirectiveStatus) string {
	const limit = 10
	if extra := len(waiting) - limit; extra > 0 {
		waiting = append(waiting[:limit:limit], fmt.Sprintf("%d more", extra))
	}
	var parts []string
	if len(waiting) > 0 {
		parts = append(parts, "waiting for "+strings.Join(waiting, "; "))
	} else {
		for _, workload := range status.Restarting {
			parts = append(parts, display(workload)+" restarts next")
		}
	}
	if status.Remaining > 0 {
		parts = append(parts, fmt.Sprintf("about %d more after that", status.Remaining))
	}
	return strings.Join(parts, "; ")
}
