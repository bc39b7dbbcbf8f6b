// SPDX-License-Identifier: Apache-2.0

package helm_test

import (
	"testing"

	"github.com/istiod-agent/istiod-agent/internal/helm"
)

func TestCommands(t *testing.T) {
	for name, test := range map[string]struct{ got, want string }{
		"upgrade": {
			helm.Upgrade("--set clusterName=NAME"),
			"helm upgrade istiod-agent charts/istiod-agent -n istiod-agent-system --reset-then-reuse-values --set clusterName=NAME",
		},
		"install": {
			helm.Install(),
			"helm upgrade --install istiod-agent charts/istiod-agent -n istiod-agent-system --create-namespace --reset-then-reuse-values",
		},
	} {
		if test.got != test.want {
			t.Errorf("%s: %s, want %s", name, test.got, test.want)
		}
	}
}
