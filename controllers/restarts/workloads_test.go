// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

func TestHowARolloutStands(t *testing.T) {
	for name, test := range map[string]struct {
		object              string
		replaced, available bool
		also                func(rollout) bool
	}{
		"a Deployment that is well": {`{kind: Deployment, metadata: {generation: 2}, spec: {replicas: 3}, status: {observedGeneration: 2, replicas: 3, updatedReplicas: 3, availableReplicas: 3}}`, true, true, nil},
		"not seen by its controller": {
			`{kind: Deployment, metadata: {generation: 3}, spec: {replicas: 3}, status: {observedGeneration: 2, replicas: 3, updatedReplicas: 3, availableReplicas: 3}}`, false, true, nil,
		},
		"under way":       {`{kind: Deployment, spec: {replicas: 3}, status: {replicas: 4, updatedReplicas: 2, availableReplicas: 3}}`, false, true, nil},
		"old Pods go":     {`{kind: Deployment, spec: {replicas: 3}, status: {replicas: 4, updatedReplicas: 3, availableReplicas: 3}}`, false, true, nil},
		"not up yet":      {`{kind: Deployment, spec: {replicas: 3}, status: {replicas: 3, updatedReplicas: 3, availableReplicas: 2}}`, true, false, nil},
		"one by default":  {`{kind: Deployment, spec: {}, status: {}}`, false, false, nil},
		"scaled to none":  {`{kind: Deployment, spec: {replicas: 0}, status: {}}`, true, true, nil},
		"paused":          {`{kind: Deployment, spec: {replicas: 0, paused: true}}`, true, true, func(r rollout) bool { return r.paused }},
		"restarted":       {`{kind: Deployment, spec: {replicas: 0, template: {metadata: {annotations: {istiod-agent.io/restarted-for-root: R2}}}}}`, true, true, func(r rollout) bool { return r.restartedFor == "R2" }},
		"a StatefulSet":   {`{kind: StatefulSet, spec: {replicas: 2}, status: {updatedReplicas: 2, readyReplicas: 2}}`, true, true, nil},
		"on its way":      {`{kind: StatefulSet, spec: {replicas: 2}, status: {updatedReplicas: 1, readyReplicas: 2, updateRevision: b, currentRevision: a}}`, false, true, nil},
		"held back":       {`{kind: StatefulSet, spec: {replicas: 2, updateStrategy: {rollingUpdate: {partition: 1}}}, status: {updatedReplicas: 1, readyReplicas: 2, updateRevision: b, currentRevision: a}}`, true, true, func(r rollout) bool { return r.heldBack }},
		"on delete":       {`{kind: StatefulSet, spec: {replicas: 0, updateStrategy: {type: OnDelete}}, status: {updateRevision: b, currentRevision: a}}`, true, true, func(r rollout) bool { return r.onDelete }},
		"a DaemonSet":     {`{kind: DaemonSet, status: {desiredNumberScheduled: 2, updatedNumberScheduled: 2, numberAvailable: 2}}`, true, true, nil},
		"node after node": {`{kind: DaemonSet, status: {desiredNumberScheduled: 2, updatedNumberScheduled: 1, numberAvailable: 2}}`, false, true, nil},
	} {
		t.Run(name, func(t *testing.T) {
			object := &unstructured.Unstructured{}
			if err := yaml.Unmarshal([]byte(test.object), &object.Object); err != nil {
				t.Fatal(err)
			}
			got := rolloutOf(numbers(t, object))
			if got.replaced != test.replaced || got.available != test.available || test.also != nil && !test.also(got) {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// numbers makes whole numbers of what YAML decodes as floats, as a client does.
func numbers(t *testing.T, object *unstructured.Unstructured) *unstructured.Unstructured {
	t.Helper()
	object.SetAPIVersion("apps/v1")
	raw, err := json.Marshal(object.Object)
	if err != nil {
		t.Fatal(err)
	}
	whole := &unstructured.Unstructured{}
	if err := whole.UnmarshalJSON(raw); err != nil {
		t.Fatal(err)
	}
	return whole
}

func TestARestartIsOneAnnotationOfJustThatVersion(t *testing.T) {
	object := &unstructured.Unstructured{}
	object.SetResourceVersion("7")
	object.SetUID("u")
	got, err := restartPatch(object, "R1,R2")
	const want = `{"metadata":{"resourceVersion":"7","uid":"u"},"spec":{"template":{"metadata":{"annotations":{"istiod-agent.io/restarted-for-root":"R1,R2"}}}}}`
	if err != nil || string(got) != want {
		t.Errorf("%s, %v", got, err)
	}
}

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
	going := func(p *corev1.Pod) { p.DeletionTimestamp = &begun }
	others := func(p *corev1.Pod) { p.OwnerReferences[0].UID = "other" }
	over := func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }
	bare := func(p *corev1.Pod) { p.OwnerReferences = nil }
	for name, test := range map[string]struct {
		pods      []corev1.Pod
		want      int64
		unwatched bool
		next      string
		done      bool
		waiting   string
	}{
		"the first in order":                {pods: []corev1.Pod{pod("b", -1, true), pod("a", -1, true)}, next: "a", waiting: "Pod a to be replaced"},
		"one is going":                      {pods: []corev1.Pod{pod("a", -1, true, going), pod("b", -1, true)}, waiting: "Pod a to end"},
		"the one after it is not ready":     {pods: []corev1.Pod{pod("c", time.Minute, false), pod("b", -1, true)}, waiting: "Pod c to be ready"},
		"the one after it is not there yet": {pods: []corev1.Pod{pod("b", -1, true)}, want: 2, waiting: "2 Pods to be there, 1 are"},
		"it was never well":                 {pods: []corev1.Pod{pod("c", time.Minute, false), pod("b", -1, true)}, unwatched: true, next: "b", waiting: "Pod b"},
		"the next":                          {pods: []corev1.Pod{pod("c", time.Minute, true), pod("b", -1, true)}, next: "b", waiting: "Pod b"},
		"all are new":                       {pods: []corev1.Pod{pod("c", time.Minute, true), pod("d", time.Minute, true)}, done: true},
		"the last is starting":              {pods: []corev1.Pod{pod("c", time.Minute, true), pod("d", time.Minute, false)}, waiting: "Pod d to be ready"},
		"others' do not count":              {pods: []corev1.Pod{pod("a", -1, true, others), pod("b", -1, true, over), pod("c", -1, true, bare)}, done: true},
	} {
		t.Run(name, func(t *testing.T) {
			of := w
			of.WaitFor = !test.unwatched
			got := evictionOf(of, test.pods, test.want)
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
