// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"strings"
	"testing"
	"time"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// observed are RemoteClusters that a test sets.
type observed struct {
	latest *certificatesv1.RemoteClusters
}

func (o *observed) Latest() *certificatesv1.RemoteClusters { return o.latest }
func (o *observed) Changed() <-chan struct{}               { return nil }

// The status is written only where the remote clusters have changed; the metrics have a series for each listed cluster.
func TestRemoteClustersAreReported(t *testing.T) {
	a, specifications, reporter := newAgent(t)
	specifications.certificate = named("mine", 1)
	remote := &observed{}
	a.RemoteClusters = remote
	reports := 0
	report := func() *certificatesv1.RemoteClusters {
		reporter.about = ""
		a.observe(time.Now())
		a.report()
		if reporter.about != "" {
			reports++
		}
		return reporter.status.Certificates[0].RemoteClusters
	}
	series := func(want ...string) {
		t.Helper()
		var text strings.Builder
		a.Metrics.Write(&text)
		if got := strings.Count(text.String(), "istiod_agent_remote_cluster_synced{"); got != len(want) {
			t.Errorf("%d series, want %q:\n%s", got, want, text.String())
		}
		for _, line := range want {
			if !strings.Contains(text.String(), "istiod_agent_remote_cluster_synced{"+line+"\n") {
				t.Errorf("no series %s:\n%s", line, text.String())
			}
		}
	}
	if got := report(); got != nil || reports != 1 {
		t.Errorf("before the first reading: %+v, %d reports", got, reports)
	}
	series()
	two := func() *certificatesv1.RemoteClusters {
		return &certificatesv1.RemoteClusters{Count: 2, Clusters: []certificatesv1.RemoteCluster{{Name: "cluster-2", State: certificatesv1.RemoteSynced}, {Name: "cluster-3", State: certificatesv1.RemoteFailing}}}
	}
	remote.latest = two()
	if got := report(); len(got.Clusters) != 2 || reports != 2 {
		t.Errorf("after it: %+v, %d reports", got, reports)
	}
	series(`cluster="cluster-2"} 1`, `cluster="cluster-3"} 0`)
	remote.latest = two()
	if report(); reports != 2 {
		t.Errorf("%d reports after the same reading", reports)
	}
	remote.latest = &certificatesv1.RemoteClusters{}
	if got := report(); got == nil || len(got.Clusters) != 0 || reports != 3 {
		t.Errorf("without a remote secret: %+v, %d reports", got, reports)
	}
	series()
}
