// SPDX-License-Identifier: Apache-2.0

package configurations

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/injected"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istio"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

const agentImage = "registry.example/istiod-agent:1.2.3"

func TestNativeSidecar(t *testing.T) {
	form := func(sidecar string) map[string]any {
		return map[string]any{"sidecar": sidecar, "agent": map[string]any{"image": agentImage}}
	}
	native, container := injected.Default(agentImage), injected.Default(agentImage)
	native.Native = true
	installed(t, webhookserver.Options{Configuration: form("native")})

	t.Run("every input", func(t *testing.T) {
		inputs, err := istio.Inputs(t.Context(), shared.Namespace(t, true))
		if err != nil {
			t.Fatal(err)
		}
		for name, istiod := range inputs {
			t.Run(name, func(t *testing.T) {
				stored := shared.MustApply(t, istiod)
				wantInjected(t, shared.Without(t, istiod), stored, native)
				if again := shared.MustApply(t, istiod); again.Generation != 1 {
					t.Errorf("a re-apply went on to generation %d", again.Generation)
				}
				if err := shared.Delete(t.Context(), stored); err != nil {
					t.Fatal(err)
				}
			})
		}
	})
	t.Run("from native to container and back", func(t *testing.T) {
		istiod := cluster.Istiod(t, shared.Namespace(t, true))
		without := shared.Without(t, istiod)
		shared.MustApply(t, istiod)
		for _, step := range []struct {
			sidecar string
			want    injected.Form
		}{{"container", container}, {"native", native}} {
			if err := shared.Webhook.Reconfigure(t.Context(), form(step.sidecar)); err != nil {
				t.Fatal(err)
			}
			wantInjected(t, without, shared.MustApply(t, istiod), step.want)
		}
	})
}

func wantInjected(t *testing.T, without *corev1.PodTemplateSpec, stored *appsv1.Deployment, want injected.Form) {
	t.Helper()
	for _, point := range injected.Missing(injected.Check(without, &stored.Spec.Template, want)) {
		t.Errorf("not so: %s: %v", point.Name, point.Err)
	}
}
