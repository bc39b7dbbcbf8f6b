// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// istiod is injected with any installer: here Helm with Istio's charts.
func TestIstioByHelm(t *testing.T) {
	module, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "istio.io/istio").Output()
	must(t, err)
	charts := strings.TrimSpace(string(module)) + "/manifests/charts"
	wantInstalled(t, "Istio by Helm", []string{
		"helm install istio-base " + charts + "/base -n istio-system --take-ownership --kube-context=$CONTEXT",
		"helm install istiod " + charts + "/istio-control/istio-discovery -n istio-system --set global.hub=istiod-agent.test,global.tag=1 --take-ownership --wait --timeout=3m --kube-context=$CONTEXT",
	}, []string{
		"helm uninstall istiod -n istio-system --wait --kube-context=$CONTEXT",
		"helm uninstall istio-base -n istio-system --wait --kube-context=$CONTEXT",
	})
}

// The guide's own file adds the closed image's containers to istiod; the webhook replaces them. Its gateway is left out, since
// the clusters have no Envoy image.
func TestIstioByGuideFile(t *testing.T) {
	file, err := os.ReadFile(filepath.Join("manifests", "istiooperator.yaml"))
	must(t, err)
	wantInstalled(t, "Istio by the guide's IstioOperator file", []string{
		"export MGMT_PLANE_VERSION=2.0.0\ncat << EOF | istioctl manifest install -y -f - --context=$CONTEXT" +
			" --set hub=istiod-agent.test --set tag=1 --set components.ingressGateways[0].enabled=false\n" + string(file) + "EOF",
	}, []string{"istioctl uninstall -y --purge --context=$CONTEXT"})
}

// wantInstalled expects an istiod with the agent from other commands than the guide's, and undoes them.
func wantInstalled(t *testing.T, name string, install, undo []string) {
	run := func(ctx context.Context, t *testing.T, commands ...string) {
		for _, command := range commands {
			_, err := shell(ctx, "export CONTEXT="+clusters[0].name+"\n"+command)
			must(t, err)
		}
		clusters[0].serials(ctx, t)
	}
	environment.Test(t, feature(name, full).
		Assess("istiod comes up with the agent", step(func(ctx context.Context, t *testing.T) {
			cluster := clusters[0]
			run(ctx, t, append([]string{
				"istioctl uninstall -y --purge --context=$CONTEXT",
				// What is still being deleted would take the next one's objects along.
				"kubectl wait --for=delete deployment/istiod -n istio-system --timeout=120s --context=$CONTEXT",
			}, install...)...)
			for _, pod := range cluster.istiods(ctx, t) {
				wantInjected(t, cluster, &pod)
			}
			for _, each := range clusters {
				each.deployWorkload(ctx, t, "bookinfo")
			}
			wantLastStep(ctx, t)
			wantCall(ctx, t, cluster, clusters[len(clusters)-1], "bookinfo")
		})).
		Teardown(teardown(func(ctx context.Context, t *testing.T) {
			run(ctx, t, append(undo, installIstio+"$CONTEXT")...)
		})).
		Feature())
}
