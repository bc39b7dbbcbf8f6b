// SPDX-License-Identifier: Apache-2.0

package docs_test

import (
	"os"
	"regexp"
	"slices"
	"testing"
)

// The page lists the chart's alerts with their severities, in their order.
func TestEveryAlertIsExplained(t *testing.T) {
	t.Parallel()
	rules, err := os.ReadFile("../charts/istiod-agent/templates/monitoring/prometheusrule.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var want, got []string
	for _, match := range regexp.MustCompile(`(?s)- alert: (\w+)\n.*?severity: (\w+)\n`).FindAllStringSubmatch(string(rules), -1) {
		want = append(want, match[1]+" "+match[2])
	}
	for _, match := range regexp.MustCompile("(?m)^\\| `(Istiod\\w+)` \\| (\\w+) \\|").FindAllStringSubmatch(read(t, "monitoring.md").text, -1) {
		got = append(got, match[1]+" "+match[2])
	}
	if len(want) < 20 || !slices.Equal(got, want) {
		t.Errorf("monitoring.md explains\n%q, the chart has\n%q", got, want)
	}
}
