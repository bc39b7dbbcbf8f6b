// SPDX-License-Identifier: Apache-2.0

package bypolicy

import (
	"testing"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

// The revisions of a release that changes from the webhook to the policy.
const webhookAlone, both, policyAlone = 1, 2, 3

// startChanged starts a cluster with these revisions, and traffic.
func startChanged(t *testing.T) (*cluster.Cluster, *traffic) {
	t.Helper()
	c := start(t, by("webhook", "deployments"))
	traffic := startTraffic(t, c, "deployments")
	upgrade(t, c, by("policy", "deployments"))
	upgrade(t, c, by("policy", "deployments"))
	return c, traffic
}

func rollback(t *testing.T, c *cluster.Cluster, revision int) {
	t.Helper()
	rolling(t, c, func() error { return c.Helm.Rollback(webhookserver.Release, revision) })
}

// Rollbacks revision by revision are as uninterrupted as the upgrades.
func TestRollback(t *testing.T) {
	c, traffic := startChanged(t)
	for _, revision := range []int{both, webhookAlone, both, policyAlone} {
		rollback(t, c, revision)
		switch revision {
		case webhookAlone:
			wantForms(t, c, "webhook")
		case both:
			wantForms(t, c, "webhook", "policy")
			trusted(t, c)
		case policyAlone:
			wantForms(t, c, "policy")
		}
		traffic.continues(t)
	}
	traffic.wantUninterrupted(t)
}

// A rollback from one form to the other at once, as without a cluster to look up, may refuse istiods for seconds. It stores
// none without the agent.
func TestRollbackAtOnce(t *testing.T) {
	c, traffic := startChanged(t)
	rollback(t, c, webhookAlone)
	wantForms(t, c, "webhook")
	traffic.continues(t)
	rollback(t, c, policyAlone)
	wantForms(t, c, "policy")
	traffic.continues(t)
	traffic.wantRefusedAtMost(t)
}
