// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istio"
)

// The agent's port for metrics and readiness.
const agentPort = 15085

// Istio's NetworkPolicy blocks Prometheus from the agent. The policy in docs/platforms.md admits it, for every istiod.
func TestAgentNetworkPolicy(t *testing.T) {
	values := istio.Values("istio-system", "1.31.0", helm.Values{"revision": "canary"})
	values["global"].(helm.Values)["networkPolicy"] = helm.Values{"enabled": true}
	objects, err := istio.Manifests(t.Context(), "istio-system", values)
	if err != nil {
		t.Fatal(err)
	}
	var theirs *networkingv1.NetworkPolicy
	var pods map[string]string
	for _, object := range objects {
		switch object.GetKind() {
		case "NetworkPolicy":
			theirs = typed[networkingv1.NetworkPolicy](t, object)
		case "Deployment":
			pods, _, _ = unstructured.NestedStringMap(object.Object, "spec", "template", "metadata", "labels")
		}
	}
	if theirs == nil || !admits(t, theirs, pods, 15012) {
		t.Fatal("Istio's chart renders no NetworkPolicy for istiod")
	}
	if admits(t, theirs, pods, agentPort) {
		t.Error("Istio's NetworkPolicy admits the agent's port: the page's is not needed any more")
	}
	ours := typed[networkingv1.NetworkPolicy](t, parse(t, pageExample(t, "platforms.md", "kind: NetworkPolicy"))[0])
	if !admits(t, ours, pods, agentPort) {
		t.Error("the page's NetworkPolicy does not admit the agent's port")
	}
	if admits(t, ours, pods, 15014) || len(ours.Spec.Ingress[0].From) == 0 {
		t.Error("the page's NetworkPolicy admits more than Prometheus to the agent's port")
	}
	podMonitor := typed[monitoringv1.PodMonitor](t, render(t, standard, helm.Values{"podMonitor": helm.Values{"enabled": true}}).one(t, "PodMonitor"))
	for _, relabeling := range podMonitor.Spec.PodMetricsEndpoints[0].RelabelConfigs {
		if relabeling.TargetLabel == "__address__" && !strings.HasSuffix(*relabeling.Replacement, ":"+fmt.Sprint(agentPort)) {
			t.Errorf("the PodMonitor reads %s", *relabeling.Replacement)
		}
	}
}

// admits reports whether a NetworkPolicy selects Pods and lets some traffic in to a port.
func admits(t *testing.T, policy *networkingv1.NetworkPolicy, pods map[string]string, port int) bool {
	t.Helper()
	selector, err := metav1.LabelSelectorAsSelector(&policy.Spec.PodSelector)
	if err != nil {
		t.Fatal(err)
	}
	if !selector.Matches(labels.Set(pods)) {
		return false
	}
	for _, rule := range policy.Spec.Ingress {
		for _, each := range rule.Ports {
			if each.Port.IntValue() == port {
				return true
			}
		}
	}
	return false
}

// pageExample returns the YAML block of a page that holds a text.
func pageExample(t *testing.T, page, holds string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root(t), "docs", page))
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(content), -1) {
		if strings.Contains(block[1], holds) {
			return block[1]
		}
	}
	t.Fatalf("docs/%s has no example with %q", page, holds)
	return ""
}
