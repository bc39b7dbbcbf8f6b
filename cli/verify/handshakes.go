// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"context"
	"fmt"

	"github.com/istiod-agent/istiod-agent/cli/terminal"
)

// handshakes has workloads of every two contexts greet each other, and of each with another of its own. unknown says that
// some have no certificate to do so with.
func handshakes(ctx context.Context, places []place, of account, addresses map[string]string, progress *terminal.Progress) (lines []Line, unknown bool) {
	workloads := make([]*workload, len(places))
	for i, place := range places {
		if place.err != nil {
			continue
		}
		name := place.cluster.Context
		progress.Say(name, "getting a workload's certificate from istiod")
		found, err := workloadOf(ctx, place.cluster, place.bundles, of, addresses[name])
		progress.Leave(name)
		if err != nil {
			unknown = true
			lines = append(lines, Line{false, name + ": handshake", terminal.OneLine(err.Error())})
			continue
		}
		workloads[i] = found
	}
	for i, client := range workloads {
		for j, server := range workloads {
			if client == nil || server == nil {
				continue
			}
			line := Line{true, fmt.Sprintf("handshake from %s to %s", places[i].cluster.Context, places[j].cluster.Context), "succeeds"}
			if err := handshake(client, server); err != nil {
				line.OK, line.Detail = false, terminal.OneLine(err.Error())
			}
			lines = append(lines, line)
		}
	}
	return lines, unknown
}
