// SPDX-License-Identifier: Apache-2.0

// Package admission tests the injection into istiod Deployments that people, Helm and istioctl write, with the webhook's
// default configuration.
package admission

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/injected"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

const agentImage = "registry.example/istiod-agent:1.2.3"

var (
	shared *cluster.Cluster
	want   = injected.Default(agentImage)
)

func TestMain(m *testing.M) {
	cluster.Main(m, &shared, &webhookserver.Options{
		Replicas:      2,
		Configuration: map[string]any{"agent": map[string]any{"image": agentImage}},
	})
}

// wantInjected checks the injection by the Deployment that would be stored without the webhook.
func wantInjected(t *testing.T, without *corev1.PodTemplateSpec, stored *appsv1.Deployment) {
	t.Helper()
	for _, point := range injected.Missing(injected.Check(without, &stored.Spec.Template, want)) {
		t.Errorf("not so: %s: %v", point.Name, point.Err)
	}
}

// wantGeneration checks the number of changes of the specification: each is a rollout of istiod.
func wantGeneration(t *testing.T, stored *appsv1.Deployment, generation int64) {
	t.Helper()
	if stored.Generation != generation {
		t.Errorf("%s is at generation %d, want %d", stored.Name, stored.Generation, generation)
	}
}
