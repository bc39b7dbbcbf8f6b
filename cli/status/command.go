// SPDX-License-Identifier: Apache-2.0

// Package status shows which CA each replica of istiod has, in any number of clusters.
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

// Report is what one of a kubeconfig's contexts answered.
type ContextStatus struct {
	Context  string    `json:"context"`
	Replicas []Replica `json:"replicas"`
	// Error says what could not be found out, and what to do; empty when nothing.
	Error string `json:"error,omitempty"`
}

// Found is what all contexts answered.
type Summary struct {
	Contexts []ContextStatus `json:"contexts"`
	// Roots are those that istiods sign under: one, unless clusters do not trust each other, or the root is being changed.
	Roots []Root `json:"roots"`
	// Problems say what is wrong, in words.
	Problems []string `json:"problems"`
	// Notes say what will be wrong: a root that ends soon, or a certificate above istiod's that cuts it short.
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
		Short: "Show which CA each replica of istiod has",
		Long: `Shows every replica of istiod in each context: whether the agent is in it, the CA
that it has (serial number, kind of key, time left, root), whether istiod was seen
to use it, and when it was and will be renewed. Below the table stands what is
wrong, and whether the roots of trust differ. It changes nothing.

STATE is Ready, NotInjected, NoCertificate, NoReport, NotConfirmed, Failing or
Expired. ROOT is the beginning of the root's SHA-256; (+1) means that one more is
trusted, as while the root changes. ROOT-LEFT is the time until the root ends: a
root that ends within 90 days, and a certificate above istiod's CA that cuts it
short, are named below the table.

Exit codes: 0 all are Ready and have one root; 1 some are not, or have another;
2 something could not be found out, or the flags are wrong.`,
		Example: `  kubectl istiod-agent status --context cluster-1 --context cluster-2
  kubectl istiod-agent status -n istio-system -o wide`,
		Args: cobra.NoArgs,
		RunE: f.run,
	}
	f.AddContexts(cmd, "look at")
	cmd.Flags().StringVarP(&f.namespace, "namespace", "n", "", "`namespace` of istiod (default: all)")
	f.Flag.Add(cmd, wide)
	f.Flags.Add(cmd)
	exit.Usage(cmd)
	return cmd
}

func (f *flags) run(cmd *cobra.Command, _ []string) error {
	if err := f.Check(); err != nil {
		return exit.With(exit.Unknown, err)
	}
	now := time.Now()
	contexts := clusters.ForEach(&f.Flags, func(cluster *clusters.Cluster, err error) ContextStatus {
		return readContext(cmd.Context(), cluster, err, f.namespace, now)
	})
	found := summarize(contexts, now)
	err := f.Write(cmd.OutOrStdout(), found, func(out io.Writer) { found.print(out, now, f.Is(wide)) })
	switch {
	case err != nil:
		return exit.With(exit.Unknown, err)
	case slices.ContainsFunc(contexts, func(r ContextStatus) bool { return r.Error != "" }):
		return exit.With(exit.Unknown, nil)
	case len(found.Problems) > 0:
		return exit.With(exit.Problem, nil)
	}
	return nil
}

func readContext(ctx context.Context, cluster *clusters.Cluster, err error, namespace string, now time.Time) ContextStatus {
	r := ContextStatus{Context: cluster.Context, Replicas: []Replica{}}
	if err == nil {
		var found []Replica
		found, err = readReplicas(ctx, cluster, namespace, now)
		r.Replicas = append(r.Replicas, found...)
	}
	if err != nil {
		r.Error = terminal.OneLine(err.Error())
	}
	return r
}
