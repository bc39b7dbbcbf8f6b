// SPDX-License-Identifier: Apache-2.0

// Package helm makes the commands that messages, statuses and Events suggest for the chart's release. No other package spells
// one, so that no suggestion takes back values that were set before or misses values that are new in the chart.
package helm

import "strings"

const release = "istiod-agent charts/istiod-agent -n istiod-agent-system"

// Upgrade returns the command that upgrades the release and keeps its values, except those that flags set. Values that are new
// in the chart have their defaults. It fails where there is no release. flags are written as a shell reads them.
func Upgrade(flags ...string) string {
	return command("helm upgrade "+release, flags)
}

// Install returns the command for a release that seems to be missing. If it exists, the command upgrades it, as
// Upgrade does.
func Install(flags ...string) string {
	return command("helm upgrade --install "+release+" --create-namespace", flags)
}

func command(upgrade string, flags []string) string {
	return strings.Join(append([]string{upgrade, "--reset-then-reuse-values"}, flags...), " ")
}
