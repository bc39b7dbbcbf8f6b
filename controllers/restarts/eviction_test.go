// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

func TestPodsAreEvictedOneByOne(t *testing.T) {
	w := certificatesv1.RestartingWorkload{UID: "u", WaitFor: true, Since: &begun}
	pod := func(name string, created time.Duration, ready bool, change ...func(*corev1.Pod)) corev1.Pod {
		p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Name: name, CreationTimestamp: metav1.NewTime(begun.Add(created)),
			OwnerReferences: []metav1.OwnerReference{{Kind: "Rollout", UID: types.UID("u"), Controller: new(true)}},
		}}
		if ready {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		}
		for _, each := range change {
			each(&p)
		}
		return p
	}
	terminating := func(p *corev1.Pod) { p.DeletionTimestamp = &begun }
	others := func(p *corev1.Pod) { p.OwnerReferences[0].UID = "other" }
	over := func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }
	bare := func(p *corev1.Pod) { p.OwnerReferences = nil }
	for name, test := range map[string]struct {
		pods      []corev1.Pod
		desired   int64
		unwatched bool
		next      string
		done      bool
		waiting   string
	}{
		"the first in order":                {pods: []corev1.Pod{pod("b", -1, true), pod("a", -1, true)}, next: "a", waiting: "Pod a to be replaced"},
		"one is going":                      {pods: []corev1.Pod{pod("a", -1, true, terminating), pod("b", -1, true)}, waiting: "Pod a to terminate"},
		"the one after it is not ready":     {pods: []corev1.Pod{pod("c", time.Minute, false), pod("b", -1, true)}, waiting: "Pod c to be ready"},
		"the one after it is not there yet": {pods: []corev1.Pod{pod("b", -1, true)}, desired: 2, waiting: "2 Pods (now 1)"},
		"it was never well":                 {pods: []corev1.Pod{pod("c", time.Minute, false), pod("b", -1, true)}, unwatched: true, next: "b", waiting: "Pod b"},
		"the next":                          {pods: []corev1.Pod{pod("c", time.Minute, true), pod("b", -1, true)}, next: "b", waiting: "Pod b"},
		"all are new":                       {pods: []corev1.Pod{pod("c", time.Minute, true), pod("d", time.Minute, true)}, done: true},
		"the last is starting":              {pods: []corev1.Pod{pod("c", time.Minute, true), pod("d", time.Minute, false)}, waiting: "Pod d to be ready"},
		"others' do not count":              {pods: []corev1.Pod{pod("a", -1, true, others), pod("b", -1, true, over), pod("c", -1, true, bare)}, done: true},
	} {
		t.Run(name, func(t *testing.T) {
			of := w
			of.WaitFor = !test.unwatched
			got := evictionStatusOf(of, test.pods, test.desired)
			next := ""
			if got.next != nil {
				next = got.next.Name
			}
			if next != test.next || got.done != test.done || !strings.HasPrefix(got.waiting, test.waiting) {
				t.Errorf("evicts %q, done %t, waiting for %q", next, got.done, got.waiting)
			}
		})
	}
}
