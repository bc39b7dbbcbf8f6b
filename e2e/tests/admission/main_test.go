// SPDX-License-Identifier: Apache-2.0

// Package admission tests the injection into istiod Deployments that people, Helm and istioctl write, with the default
// configuration: by the webhook, and by the policy with every replica of the program gone.
package admission

import (
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/injected"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

const agentImage = "registry.example/istiod-agent:1.2.3"

var (
	shared   *cluster.Cluster // by the webhook
	byPolicy *cluster.Cluster
	want     = injected.Default(agentImage)
)

func TestMain(m *testing.M) {
	configuration := map[string]any{"agent": map[string]any{"image": agentImage}}
	cluster.MainOfSeveral(m,
		cluster.Spec{Into: &shared, Options: &webhookserver.Options{Replicas: 2, Configuration: configuration}},
		cluster.Spec{Into: &byPolicy, Options: &webhookserver.Options{Values: helm.Values{"injection": helm.Values{"by": "policy"}}, Configuration: configuration}},
	)
}

// inBothForms runs a test by the webhook, and by the policy without a replica.
func inBothForms(t *testing.T, test func(*testing.T, *cluster.Cluster)) {
	t.Parallel()
	for form, c := range map[string]*cluster.Cluster{"webhook": shared, "policy": byPolicy} {
		t.Run(form, func(t *testing.T) {
			t.Parallel()
			if form == "policy" {
				withoutReplicas.Do(func() { stopReplicas(t) })
			}
			test(t, c)
		})
	}
}

var withoutReplicas sync.Once

// stopReplicas stops the program in the cluster with the policy, once that injects.
func stopReplicas(t *testing.T) {
	t.Helper()
	istiod := cluster.Istiod(t, byPolicy.Namespace(t, true))
	cluster.Eventually(t, "the policy injects", func() error {
		_, err := byPolicy.ServerSideApply(t.Context(), istiod, client.DryRunAll)
		return err // of the guard
	})
	if err := byPolicy.Webhook.StopReplicas(); err != nil {
		t.Fatal(err)
	}
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
