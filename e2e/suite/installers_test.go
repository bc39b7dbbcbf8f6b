// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"context"
	"os/exec"
	"strings"
	"testing"
)

// istiod gets the agent from whoever installs it: here Helm, with Istio's own charts.
func TestIstioByHelm(t *testing.T) {
	environment.Test(t, feature("Istio by Helm", full).
		Assess("istiod comes up with the agent", step(func(ctx context.Context, t *testing.T) {
			cluster := clusters[0]
			module, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "istio.io/istio").Output()
			must(t, err)
			charts := strings.TrimSpace(string(module)) + "/manifests/charts"
			for _, command := range []string{
				"istioctl uninstall -y --purge --context=" + cluster.name,
				"helm install istio-base " + charts + "/base -n istio-system --take-ownership --kube-context=" + cluster.name,
				"helm install istiod " + charts + "/istio-control/istio-discovery -n istio-system --set global.hub=istiod-agent.test,global.tag=1 --take-ownership --wait --timeout=3m --kube-context=" + cluster.name,
			} {
				_, err := shell(ctx, command)
				must(t, err)
			}
			cluster.serials(ctx, t)
			for _, pod := range cluster.istiods(ctx, t) {
				wantInjected(t, cluster, &pod)
			}
			wantLastStep(ctx, t)
			cluster.deployWorkload(ctx, t, "bookinfo")
			wantCall(ctx, t, cluster, clusters[len(clusters)-1], "bookinfo")
		})).
		Teardown(teardown(func(ctx context.Context, t *testing.T) {
			cluster := clusters[0]
			for _, command := range []string{
				"helm uninstall istiod -n istio-system --wait --kube-context=" + cluster.name,
				"helm uninstall istio-base -n istio-system --wait --kube-context=" + cluster.name,
				"istioctl install -y --context=" + cluster.name + " --set profile=minimal --set hub=istiod-agent.test --set tag=1",
			} {
				_, err := shell(ctx, command)
				must(t, err)
			}
			cluster.serials(ctx, t)
		})).
		Feature())
}
