// SPDX-License-Identifier: Apache-2.0

// Package configurations tests other configurations than the default: Gloo Mesh's, the native sidecar, other webhooks,
// revisions, and the sources of the serving certificate.
package configurations

import (
	"os"
	"testing"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/kubectl"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

var shared *cluster.Cluster

func TestMain(m *testing.M) {
	if os.Getenv(kubectlVariable) != "" {
		kubectl.Main()
	}
	cluster.Main(m, &shared, nil)
}

// installed installs the chart and runs its webhook for a test.
func installed(t *testing.T, options webhookserver.Options) {
	t.Helper()
	if err := shared.Install(t.Context(), options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := shared.Webhook.Stop(); err != nil {
			t.Error(err)
		}
		shared.Webhook = nil
	})
}
