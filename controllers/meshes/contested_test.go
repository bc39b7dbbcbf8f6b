// SPDX-License-Identifier: Apache-2.0

package meshes

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"

	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
)

// What another overwrites is written again ever more seldom; what is new is written at once.
func TestNoWarIsFoughtAboutTheStatus(t *testing.T) {
	contest, key, now := newContested(), types.NamespacedName{Name: "a"}, start
	steps := clocktesting.NewFakeClock(now)
	contest.backoff.Clock = steps
	status := func(state networkingv1.ApprovalState) networkingv1.VirtualMeshStatus {
		now = now.Add(time.Nanosecond) // the condition's time counts for nothing
		return networkingv1.VirtualMeshStatus{State: state, Conditions: []metav1.Condition{{Type: "Ready", LastTransitionTime: metav1.NewTime(now)}}}
	}
	want := func(state networkingv1.ApprovalState, pause time.Duration) {
		t.Helper()
		if got := contest.pause(key, status(state), now); got.Round(time.Second) != pause {
			t.Errorf("%s is to be left for %s, want %s", state, got, pause)
		}
	}
	wrote := func(state networkingv1.ApprovalState) { contest.wrote(key, status(state), now) }

	want(networkingv1.Accepted, 0)
	for _, seconds := range []int{1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300} {
		pause := time.Duration(seconds) * time.Second
		wrote(networkingv1.Accepted)
		want(networkingv1.Accepted, pause)
		want(networkingv1.Pending, 0)
		now = now.Add(pause)
		steps.SetTime(now)
		want(networkingv1.Accepted, 0)
	}
	wrote(networkingv1.Pending)
	want(networkingv1.Pending, time.Second)
	want(networkingv1.Accepted, 0)
	contest.forget(key)
	want(networkingv1.Pending, 0)
	wrote(networkingv1.Pending)
	if other := contest.pause(types.NamespacedName{Name: "b"}, status(networkingv1.Pending), now); other != 0 {
		t.Errorf("another VirtualMesh is to be left for %s", other)
	}
}
