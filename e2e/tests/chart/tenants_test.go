// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/istiod-agent/istiod-agent/agent/metrics"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/prometheus"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

// TestPodMonitorKeepsTheAgents requires that the PodMonitor keeps each metric of an agent with the most remote clusters, within
// its limits, and none of the webhook, the API server or a process: any Pod can serve those.
func TestPodMonitorKeepsTheAgents(t *testing.T) {
	t.Parallel()
	objects, err := prometheus.FromChart(t.Context(), webhookserver.Release, nil)
	if err != nil {
		t.Fatal(err)
	}
	spec := objects.PodMonitor.Spec
	relabelings := spec.PodMetricsEndpoints[0].MetricRelabelConfigs
	if len(relabelings) != 1 || relabelings[0].Action != "keep" {
		t.Fatalf("metricRelabelings is %v", relabelings)
	}
	kept := regexp.MustCompile("^(?:" + relabelings[0].Regex + ")$")

	agent := metrics.New()
	remote := &certificatesv1.RemoteClusters{}
	for i := range certificatesv1.MaxRemoteClusters {
		remote.Clusters = append(remote.Clusters, certificatesv1.RemoteCluster{Name: fmt.Sprintf("cluster-%d", i)})
	}
	agent.RemoteClusters(remote)
	for _, step := range []string{"login", "generate", "sign", "roots", "verify", "publish"} {
		agent.Observe(step, 1)
	}
	for i := range 100 { // more than there are reasons
		agent.Renewal("failure", fmt.Sprintf("Reason%d", i))
	}
	var served strings.Builder
	agent.Write(&served)
	samples := 0
	for line := range strings.Lines(served.String()) {
		name := regexp.MustCompile(`^\w*`).FindString(line)
		if own := strings.HasPrefix(name, "istiod_agent_"); own {
			samples++
			if !kept.MatchString(name) {
				t.Errorf("it drops %s", name)
			}
		} else if name != "" && kept.MatchString(name) {
			t.Errorf("it keeps %s", name)
		}
	}
	t.Logf("%d samples, %d bytes", samples, served.Len())
	if limit := int(*spec.SampleLimit); samples > limit || samples < 300 || served.Len() > 100_000 {
		t.Errorf("an agent has %d samples in %d bytes; the limit is %d samples", samples, served.Len(), limit)
	}

	found := regexp.MustCompile(`"(istiod_agent_\w+)"`).FindAllStringSubmatch(sources(t, "webhook", "controllers", "bundle"), -1)
	if len(found) < 9 {
		t.Fatalf("the webhook has the metrics %q", found)
	}
	for _, other := range append(found, []string{"", "apiserver_admission_webhook_rejection_count"}, []string{"", "process_start_time_seconds"}) {
		if kept.MatchString(other[1]) {
			t.Errorf("it keeps %s", other[1])
		}
	}
}
