// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"encoding/json"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

func TestHowARolloutStands(t *testing.T) {
	for name, test := range map[string]struct {
		object              string
		replaced, available bool
		also                func(rolloutStatus) bool
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
		"paused":          {`{kind: Deployment, spec: {replicas: 0, paused: true}}`, true, true, func(r rolloutStatus) bool { return r.paused }},
		"restarted":       {`{kind: Deployment, spec: {replicas: 0, template: {metadata: {annotations: {istiod-agent.io/restarted-for-root: R2}}}}}`, true, true, func(r rolloutStatus) bool { return r.restartedFor == "R2" }},
		"a StatefulSet":   {`{kind: StatefulSet, spec: {replicas: 2}, status: {updatedReplicas: 2, readyReplicas: 2}}`, true, true, nil},
		"on its way":      {`{kind: StatefulSet, spec: {replicas: 2}, status: {updatedReplicas: 1, readyReplicas: 2, updateRevision: b, currentRevision: a}}`, false, true, nil},
		"held back":       {`{kind: StatefulSet, spec: {replicas: 2, updateStrategy: {rollingUpdate: {partition: 1}}}, status: {updatedReplicas: 1, readyReplicas: 2, updateRevision: b, currentRevision: a}}`, true, true, func(r rolloutStatus) bool { return r.heldBack }},
		"on delete":       {`{kind: StatefulSet, spec: {replicas: 0, updateStrategy: {type: OnDelete}}, status: {updateRevision: b, currentRevision: a}}`, true, true, func(r rolloutStatus) bool { return r.onDelete }},
		"a DaemonSet":     {`{kind: DaemonSet, status: {desiredNumberScheduled: 2, updatedNumberScheduled: 2, numberAvailable: 2}}`, true, true, nil},
		"node after node": {`{kind: DaemonSet, status: {desiredNumberScheduled: 2, updatedNumberScheduled: 1, numberAvailable: 2}}`, false, true, nil},
	} {
		t.Run(name, func(t *testing.T) {
			object := &unstructured.Unstructured{}
			if err := yaml.Unmarshal([]byte(test.object), &object.Object); err != nil {
				t.Fatal(err)
			}
			got := rolloutStatusOf(numbers(t, object))
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
	const desired = `{"metadata":{"resourceVersion":"7","uid":"u"},"spec":{"template":{"metadata":{"annotations":{"istiod-agent.io/restarted-for-root":"R1,R2"}}}}}`
	if err != nil || string(got) != desired {
		t.Errorf("%s, %v", got, err)
	}
}
