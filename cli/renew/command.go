// SPDX-License-Identifier: Apache-2.0

// Package renew asks agents for a new CA at once, and waits until istiod uses it.
package renew

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/cli/exit"
	"github.com/istiod-agent/istiod-agent/cli/output"
	"github.com/istiod-agent/istiod-agent/cli/terminal"
)

// look is how often the status is read while it is waited for.
const pollInterval = 500 * time.Millisecond

type flags struct {
	clusters.Flags
	output.Flag
	namespace string
	all       bool
	wait      bool
	timeout   time.Duration
}

// Command is `renew`.
func Command() *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:   "renew [NAME...]",
		Short: "Have istiods get a new CA now",
		Long: `Asks for a new CA certificate for the IssuedCertificates named, or for all of
them, and waits until every replica of istiod was seen to use its own. Nothing
restarts. What keeps a replica from it is told while it is waited for, and when the
time is out.

Exit codes: 0 all have a new CA (with --wait=false: were asked to get one); 1 some
have not, in time; 2 something could not be asked or found out, or the flags are
wrong.`,
		Example: `  kubectl istiod-agent renew istiod-istio-system-cluster-1 -n istio-system
  kubectl istiod-agent renew --all --context cluster-1 --context cluster-2`,
		RunE: f.run,
	}
	f.AddContexts(cmd, "ask")
	set := cmd.Flags()
	set.StringVarP(&f.namespace, "namespace", "n", "", "`namespace` of the IssuedCertificates (default: istio-system; with --all, all)")
	set.BoolVar(&f.all, "all", false, "renew all IssuedCertificates")
	set.BoolVar(&f.wait, "wait", true, "wait until istiod uses the new CA")
	set.DurationVar(&f.timeout, "timeout", 5*time.Minute, "how long to wait")
	f.Flag.Add(cmd)
	f.Flags.Add(cmd)
	exit.Usage(cmd)
	return cmd
}

func (f *flags) run(cmd *cobra.Command, names []string) error {
	switch {
	case f.Check() != nil:
		return exit.With(exit.Unknown, f.Check())
	case len(names) == 0 && !f.all:
		return exit.With(exit.Unknown, errors.New("expected the names of IssuedCertificates (kubectl get issuedcertificates -A), or --all"))
	case len(names) > 0 && f.all:
		return exit.With(exit.Unknown, errors.New("--all: expected no names beside it"))
	case f.timeout <= 0:
		return exit.With(exit.Unknown, fmt.Errorf("--timeout: expected a positive duration, got %s", f.timeout))
	}
	progress := terminal.NewProgress(cmd.ErrOrStderr())
	waitCtx, cancel := context.WithTimeout(cmd.Context(), f.timeout)
	defer cancel()
	outcomes := slices.Concat(clusters.ForEach(&f.Flags, func(cluster *clusters.Cluster, err error) []Outcome {
		if err != nil {
			return []Outcome{{Context: cluster.Context, State: NotAsked, Message: terminal.OneLine(err.Error())}}
		}
		return f.renew(cmd.Context(), waitCtx, cluster, names, progress)
	})...)
	progress.Done()
	err := f.Write(cmd.OutOrStdout(), map[string]any{"certificates": outcomes}, func(out io.Writer) {
		for _, outcome := range outcomes {
			outcome.print(out)
		}
	})
	is := func(state State) bool {
		return slices.ContainsFunc(outcomes, func(o Outcome) bool { return o.State == state })
	}
	switch {
	case err != nil:
		return exit.With(exit.Unknown, err)
	case is(NotAsked):
		return exit.With(exit.Unknown, nil)
	case is(NotRenewed):
		return exit.With(exit.Problem, nil)
	}
	return nil
}

// renew asks in one context for all that are meant, and only then waits, until limited ends: they renew side by side.
func (f *flags) renew(ctx, waitCtx context.Context, cluster *clusters.Cluster, names []string, progress *terminal.Progress) (outcomes []Outcome) {
	selected, outcomes := f.selectCertificates(ctx, cluster, names)
	var asked []Renewal
	for _, certificate := range selected {
		renewal, err := Request(ctx, cluster, certificate)
		if err != nil {
			outcomes = append(outcomes, renewal.outcome(NotAsked, err.Error()))
			continue
		}
		asked = append(asked, renewal)
	}
	for _, renewal := range asked {
		if !f.wait {
			outcomes = append(outcomes, renewal.outcome(Asked, "a new CA was asked for"))
			continue
		}
		about := cluster.Context + ": " + renewal.name()
		err := renewal.await(ctx, waitCtx, func(pending string) { progress.Update(about, "waiting for %s", pending) })
		progress.Remove(about)
		outcomes = append(outcomes, renewal.result(err, terminal.WaitEnd(waitCtx, f.timeout)))
	}
	return outcomes
}
