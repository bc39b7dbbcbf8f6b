// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
)

// wantRounds checks in the audit log how often the API server called the webhook for a Pod's creation, and whether each call
// changed the Pod.
func wantRounds(t *testing.T, pod *corev1.Pod, mutated ...bool) {
	t.Helper()
	cluster.Eventually(t, "the audit log tells of each round", func() error {
		events, err := shared.Plane.AuditEvents(pod.Namespace)
		if err != nil {
			return err
		}
		var rounds []bool
		for _, event := range events {
			if event.Verb != "create" || event.ObjectRef.Resource != "pods" {
				continue
			}
			for round := 0; ; round++ {
				annotation, found := event.Annotations[fmt.Sprintf("mutation.webhook.admission.k8s.io/round_%d_index_0", round)]
				if !found {
					break
				}
				var said struct{ Mutated bool }
				if err := json.Unmarshal([]byte(annotation), &said); err != nil {
					return err
				}
				rounds = append(rounds, said.Mutated)
			}
		}
		if !slices.Equal(rounds, mutated) {
			return fmt.Errorf("the rounds changed something: %v, want %v", rounds, mutated)
		}
		return nil
	})
}

func webhookConfiguration() *admissionregistrationv1.MutatingWebhookConfiguration {
	return &admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "istiod-agent"}}
}
