// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"context"

	"github.com/istiod-agent/istiod-agent/cli/terminal"
	"github.com/istiod-agent/istiod-agent/cli/verify/workload"
)

// handshakes has workloads of every two contexts greet each other, and of each with another of its own. unknown says that
// some have no certificate to do so with.
func handshakes(ctx context.Context, contexts []contextRoots, of account, addresses map[string]string, progress *terminal.Progress) (lines []Line, unknown bool) {
	workloads := make([]*workload.Workload, len(contexts))
	for i, contextRoots := range contexts {
		if contextRoots.err != nil {
			continue
		}
		name := contextRoots.cluster.Context
		progress.Update(name, "getting a workload's certificate from istiod")
		found, err := obtainWorkload(ctx, contextRoots.cluster, contextRoots.bundles, of, addresses[name])
		progress.Remove(name)
		if err != nil {
			unknown = true
			lines = append(lines, Line{Context: name, What: "handshake", Detail: terminal.OneLine(err.Error())})
			continue
		}
		workloads[i] = found
	}
	for i, client := range workloads {
		for j, server := range workloads {
			if client == nil || server == nil {
				continue
			}
			line := Line{OK: true, Context: contexts[i].cluster.Context, What: "handshake with " + contexts[j].cluster.Context, Detail: "succeeds"}
			if err := workload.Handshake(ctx, client, server); err != nil {
				line.OK, line.Detail = false, terminal.OneLine(err.Error())
			}
			lines = append(lines, line)
		}
	}
	return lines, unknown
}
