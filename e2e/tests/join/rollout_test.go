// SPDX-License-Identifier: Apache-2.0

package join

import (
	"context"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/plugin"
)

// rollout does what the controllers and the kubelet of a cluster do when a command restarts istiod: it starts a replica,
// requires that ready says so, and stops the last one. It returns the result of the command.
func (s *side) rollout(t *testing.T, command func() plugin.Result, ready func() error) plugin.Result {
	t.Helper()
	before := s.restartedAt(t)
	done := make(chan plugin.Result, 1)
	go func() { done <- command() }()
	cluster.Eventually(t, "join restarts istiod of "+s.name, func() error {
		if after := s.restartedAt(t); after == before {
			return errNotYet
		}
		return nil
	})
	s.replica(t)
	if err := ready(); err != nil {
		t.Errorf("when the new istiod is ready: %v", err)
	}
	s.complete(t)
	return <-done
}

// complete reports the rollout of istiod's Deployment as complete.
func (s *side) complete(t *testing.T) {
	t.Helper()
	d := s.deployment(t)
	d.Status = appsv1.DeploymentStatus{ObservedGeneration: d.Generation, Replicas: 1, UpdatedReplicas: 1, ReadyReplicas: 1, AvailableReplicas: 1}
	must(t, s.Status().Update(context.WithoutCancel(t.Context()), d))
}

func (s *side) deployment(t *testing.T) *appsv1.Deployment {
	t.Helper()
	d := &appsv1.Deployment{}
	must(t, s.Get(context.WithoutCancel(t.Context()), client.ObjectKey{Namespace: namespace, Name: "istiod"}, d))
	return d
}

func (s *side) restartedAt(t *testing.T) string {
	t.Helper()
	return s.deployment(t).Spec.Template.Annotations["kubectl.kubernetes.io/restartedAt"]
}
