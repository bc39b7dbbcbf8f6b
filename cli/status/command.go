// SPDX-License-Identifier: Apache-2.0

// Package status shows which CA each replica of istiod has, in any number of clusters.
package status

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/cli/exit"
	"github.com/istiod-agent/istiod-agent/cli/terminal"
)

// The exit codes besides 0.
const (
	codeWrong   = 1
	codeUnknown = 2
)

// Report is what one of a kubeconfig's contexts answered.
type Report struct {
	Context  string    `json:"context"`
	Replicas []Replica `json:"replicas"`
	// Error says what could not be found out, and what to do; empty when nothing.
	Error string `json:"error,omitempty"`
}

type flags struct {
	clusters.Flags
	contexts  []string
	namespace string
	output    string
}

// Command is `status`.
func Command() *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show which CA each replica of istiod has, and until when",
		Long: `Shows each Pod of istiod's in each context: whether the agent is in it, the CA
that it has (serial number, kind of key, time left, root), whether istiod was seen
to use it, and when it was and will be renewed. Below the table stands what is
wrong, and whether the roots of trust differ. It changes nothing.

STATE is Ready, NotInjected, NoCertificate, NoReport, NotConfirmed, Failing or
Expired. ROOT is the beginning of the root's SHA-256; (+1) means that one more is
trusted, as while the root changes.

Exit codes: 0 all are Ready and have one root; 1 some are not, or have another;
2 something could not be found out, or the flags are wrong.`,
		Example: `  kubectl istiod-agent status --context cluster-1 --context cluster-2
  kubectl istiod-agent status -n istio-system -o wide`,
		Args: cobra.NoArgs,
		RunE: f.run,
	}
	set := cmd.Flags()
	set.StringArrayVar(&f.contexts, "context", nil, "kubeconfig `context` to look at; may be repeated (default: the current one)")
	set.StringVarP(&f.namespace, "namespace", "n", "", "`namespace` of istiod (default: all)")
	set.StringVarP(&f.output, "output", "o", "", "wide, json or yaml")
	f.Add(set)
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"wide", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("context", clusters.CompleteContexts(&f.Flags))
	exit.Usage(cmd, codeUnknown)
	return cmd
}

func (f *flags) run(cmd *cobra.Command, _ []string) (err error) {
	if !slices.Contains([]string{"", "wide", "json", "yaml"}, f.output) {
		return exit.With(codeUnknown, fmt.Errorf("--output %q: expected wide, json or yaml", f.output))
	}
	now := time.Now()
	reports := f.ask(cmd.Context(), now)
	switch out := cmd.OutOrStdout(); f.output {
	case "json":
		err = printJSON(out, reports)
	case "yaml":
		err = printYAML(out, reports)
	default:
		err = printText(out, reports, now, f.output == "wide", terminal.Coloured(out))
	}
	switch {
	case err != nil:
		return exit.With(codeUnknown, err)
	case slices.ContainsFunc(reports, func(r Report) bool { return r.Error != "" }):
		return exit.With(codeUnknown, nil)
	case len(problems(reports)) > 0:
		return exit.With(codeWrong, nil)
	}
	return nil
}

// ask all contexts at once.
func (f *flags) ask(ctx context.Context, now time.Time) []Report {
	contexts := f.contexts
	if len(contexts) == 0 {
		contexts = []string{""}
	}
	reports := make([]Report, len(contexts))
	var pending sync.WaitGroup
	for i, name := range contexts {
		pending.Go(func() {
			cluster, err := f.Open(name)
			reports[i] = Report{Context: cluster.Context, Replicas: []Replica{}}
			if err == nil {
				var found []Replica
				if found, err = gather(ctx, cluster, f.namespace, now); found != nil {
					reports[i].Replicas = found
				}
			}
			if err != nil {
				reports[i].Error = err.Error()
			}
		})
	}
	pending.Wait()
	return reports
}
