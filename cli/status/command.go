// SPDX-License-Identifier: Apache-2.0

// Package status shows the CA of each replica of istiod, in any number of clusters.
package status

import (
	"context"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/cli/exit"
	"github.com/istiod-agent/istiod-agent/cli/output"
	"github.com/istiod-agent/istiod-agent/cli/terminal"
)

type contextStatus struct {
	Context  string          `json:"context"`
	Replicas []replicaStatus `json:"replicas"`
	// RemoteSecrets are istiod's accesses to other clusters.
	RemoteSecrets []remoteSecret `json:"remoteSecrets,omitempty"`
	// Error is why reading the context failed, and what to do; empty otherwise.
	Error string `json:"error,omitempty"`
}

type summary struct {
	Contexts []contextStatus `json:"contexts"`
	// Roots are the roots that istiods sign under: one, unless clusters do not trust each other or during a root change.
	Roots []rootUse `json:"roots"`
	// Problems are present problems, as text.
	Problems []string `json:"problems"`
	// Notes are future problems: a root that expires soon, or a certificate above istiod's that limits its lifetime.
	Notes []string `json:"notes"`
}

type flags struct {
	clusters.Flags
	output.Flag
	namespace string
}

const wide = "wide"

// Command is `status`.
func Command() *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the CA of each replica of istiod",
		Long: `Shows every replica of istiod in each context: whether the agent is injected, its CA
(serial number, key type, remaining lifetime, root), whether istiod uses this CA, the
times of the last and the next renewal, and the remote clusters that istiod reads.
Below the table are problems and, where they exist, different roots of trust. It
changes nothing.

STATE is Ready, NotInjected, NoCertificate, NoReport, NotConfirmed, Waiting (for an
approval or the issuer of cert-manager), Failing or Expired. ROOT is the beginning of
the root's SHA-256; (+1) means that istiod trusts one more root, as during a root
change. ROOT-LEFT is the time until the root expires. A root that expires within 90
days, and a certificate that limits the lifetime of istiod's CA, are noted below the
table. REMOTE is how many of its remote clusters istiod reads, such as 2/3. -o wide
also shows their names, and the CA that the certificate is requested from. If you may
read them, the remote secrets have a line, with the remaining lifetimes of their tokens.

Exit codes: 0 all replicas are Ready and have the same root; 1 some are not Ready,
roots differ, istiod cannot read a remote cluster, or a token has expired; 2 a request
failed, or the flags are wrong.`,
		Example: `  kubectl istiod-agent status --context cluster-1 --context cluster-2
  kubectl istiod-agent status -n istio-system -o wide`,
		Args: cobra.NoArgs,
		RunE: f.run,
	}
	f.AddContexts(cmd, "show")
	cmd.Flags().StringVarP(&f.namespace, "namespace", "n", "", "`namespace` of istiod (default: all)")
	f.Flag.Add(cmd, wide)
	f.Flags.Add(cmd)
	exit.Codes(cmd)
	return cmd
}

func (f *flags) run(cmd *cobra.Command, _ []string) error {
	now := time.Now()
	contexts := clusters.ForEach(&f.Flags, func(cluster *clusters.Cluster, err error) contextStatus {
		return readContext(cmd.Context(), cluster, err, f.namespace, now)
	})
	found := summarize(contexts, now)
	err := f.Write(cmd.OutOrStdout(), found, func(out io.Writer) { found.print(out, now, f.Is(wide)) })
	unknown := slices.ContainsFunc(contexts, func(c contextStatus) bool { return c.Error != "" })
	return exit.Result(err, unknown, len(found.Problems) > 0)
}

func readContext(ctx context.Context, cluster *clusters.Cluster, err error, namespace string, now time.Time) contextStatus {
	r := contextStatus{Context: cluster.Context, Replicas: []replicaStatus{}}
	if err == nil {
		var found []replicaStatus
		found, err = readReplicas(ctx, cluster, namespace, now)
		r.Replicas = append(r.Replicas, found...)
		r.RemoteSecrets = readRemoteSecrets(ctx, cluster, namespace, found, now)
	}
	if err != nil {
		r.Error = terminal.OneLine(err.Error())
	}
	return r
}
