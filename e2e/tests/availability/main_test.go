// SPDX-License-Identifier: Apache-2.0

// Package availability tests that no admission fails while certificates rotate and replicas are replaced.
package availability

import (
	"testing"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

var shared *cluster.Cluster

// A CA is replaced after two thirds of its life. A replica looks
// every 10 seconds, so this one is replaced when it is 30 seconds old; what it
// signed is served for 5 seconds more, which leaves 7 until it expires.
func TestMain(m *testing.M) {
	cluster.Main(m, &shared, &webhookserver.Options{
		Replicas: 2,
		Configuration: map[string]any{"server": map[string]any{"servingCertificate": map[string]any{
			"caDuration": "42s", "leafDuration": "30s",
		}}},
	})
}

// wantNoneFailed stops the load and expects no failure.
func wantNoneFailed(t *testing.T, load *cluster.Load) {
	t.Helper()
	admitted, failed := load.Stop()
	t.Logf("%d admissions, %d failed", admitted, len(failed))
	for _, err := range failed[:min(len(failed), 3)] {
		t.Error("an admission failed:", err)
	}
}
