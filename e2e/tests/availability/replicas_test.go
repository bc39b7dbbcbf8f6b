// SPDX-License-Identifier: Apache-2.0

package availability

import (
	"errors"
	"testing"
	"time"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

// The replica that answers the API server is replaced again and again with admissions in flight: it is removed from the
// Service first (which the chart's preStop sleep waits for) and then stopped.
func TestReplicaReplacement(t *testing.T) {
	load := shared.StartLoad(t, 8, time.Millisecond)
	for range 4 {
		if err := shared.Webhook.Replace(t.Context(), answering(t)); err != nil {
			t.Fatal(err)
		}
	}
	answering(t)
	wantNoneFailed(t, load)
}

// answering returns the replica that answers admissions.
func answering(t *testing.T) (found *webhookserver.Replica) {
	t.Helper()
	before := map[*webhookserver.Replica]float64{}
	for _, replica := range shared.Webhook.Replicas {
		before[replica] = answered(t, replica)
	}
	cluster.Eventually(t, "a replica answers", func() error {
		for _, replica := range shared.Webhook.Replicas {
			if answered(t, replica) > before[replica] {
				found = replica
				return nil
			}
		}
		return errors.New("none does")
	})
	return found
}

func answered(t *testing.T, replica *webhookserver.Replica) float64 {
	t.Helper()
	count, _, err := replica.Sum(t.Context(), "istiod_agent_webhook_admissions_total{")
	if err != nil {
		t.Fatal(err)
	}
	return count
}
