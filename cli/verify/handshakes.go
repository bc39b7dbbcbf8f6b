// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"context"

	"github.com/istiod-agent/istiod-agent/cli/terminal"
	"github.com/istiod-agent/istiod-agent/cli/verify/workload"
)

// handshakes does handshakes between workloads of every two contexts, and within each context. unknown reports that some
// context issued no certificate.
func handshakes(ctx context.Context, contexts []contextRoots, account serviceAccount, addresses map[string]string, progress *terminal.Progress) (lines []finding, unknown bool) {
	workloads := make([]*workload.Workload, len(contexts))
	for i, c := range contexts {
		if c.err != nil {
			continue
		}
		name := c.cluster.Context
		progress.Update(name, "requesting a workload's certificate from istiod")
		found, err := obtainWorkload(ctx, c.cluster, c.bundles, account, addresses[name])
		progress.Remove(name)
		if err != nil {
			unknown = true
			lines = append(lines, finding{Context: name, What: "handshake", Detail: terminal.OneLine(err.Error())})
			continue
		}
		workloads[i] = found
	}
	for i, client := range workloads {
		for j, server := range workloads {
			if client == nil || server == nil {
				continue
			}
			line := finding{OK: true, Context: contexts[i].cluster.Context, What: "handshake with " + contexts[j].cluster.Context, Detail: "succeeds"}
			if err := workload.Handshake(ctx, client, server); err != nil {
				line.OK, line.Detail = false, terminal.OneLine(err.Error())
			}
			lines = append(lines, line)
		}
	}
	return lines, unknown
}
