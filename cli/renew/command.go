// SPDX-License-Identifier: Apache-2.0

// Package renew requests a new CA from agents, and waits until istiod uses it.
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
		Short: "Renew istiod's CA now",
		Long: `Requests a new CA certificate for the given IssuedCertificates, or for all of them,
and waits until every replica of istiod uses its new CA. Nothing restarts. While it
waits, and when the timeout ends, it prints what keeps a replica from its new CA.

Exit codes: 0 every replica has a new CA (with --wait=false: the renewals are
requested); 1 some replica has no new CA within the timeout; 2 a request failed, or the
flags are wrong.`,
		Example: `  kubectl istiod-agent renew istiod-istio-system-cluster-1 -n istio-system
  kubectl istiod-agent renew --all --context cluster-1 --context cluster-2`,
		RunE: f.run,
	}
	f.AddContexts(cmd, "renew in")
	set := cmd.Flags()
	set.StringVarP(&f.namespace, "namespace", "n", "", "`namespace` of the IssuedCertificates (default: istio-system; with --all, all)")
	set.BoolVar(&f.all, "all", false, "renew all IssuedCertificates")
	set.BoolVar(&f.wait, "wait", true, "wait until every replica of istiod uses its new CA")
	set.DurationVar(&f.timeout, "timeout", 5*time.Minute, "`time` limit of --wait")
	f.Flag.Add(cmd)
	f.Flags.Add(cmd)
	exit.Codes(cmd)
	return cmd
}

func (f *flags) run(cmd *cobra.Command, names []string) error {
	switch {
	case len(names) == 0 && !f.all:
		return errors.New("expected the names of IssuedCertificates (kubectl get issuedcertificates -A), or --all")
	case len(names) > 0 && f.all:
		return errors.New("--all cannot be combined with names")
	case f.timeout <= 0:
		return fmt.Errorf("--timeout: expected a positive duration, got %s", f.timeout)
	}
	progress := terminal.NewProgress(cmd.ErrOrStderr())
	waitCtx, cancel := context.WithTimeout(cmd.Context(), f.timeout)
	defer cancel()
	outcomes := slices.Concat(clusters.ForEach(&f.Flags, func(cluster *clusters.Cluster, err error) []renewalOutcome {
		if err != nil {
			return []renewalOutcome{{Context: cluster.Context, State: stateNotAsked, Message: terminal.OneLine(err.Error())}}
		}
		return f.renew(cmd.Context(), waitCtx, cluster, names, progress)
	})...)
	progress.Done()
	err := f.Write(cmd.OutOrStdout(), map[string]any{"certificates": outcomes}, func(out io.Writer) {
		for _, outcome := range outcomes {
			outcome.print(out)
		}
	})
	contains := func(state renewalState) bool {
		return slices.ContainsFunc(outcomes, func(o renewalOutcome) bool { return o.State == state })
	}
	return exit.Result(err, contains(stateNotAsked), contains(stateNotRenewed))
}

// renew requests all renewals of a context before it waits for them, until waitCtx ends: they run at the same time.
func (f *flags) renew(ctx, waitCtx context.Context, cluster *clusters.Cluster, names []string, progress *terminal.Progress) (outcomes []renewalOutcome) {
	selected, outcomes := f.selectCertificates(ctx, cluster, names)
	var renewals []Requested
	for _, certificate := range selected {
		renewal, err := Request(ctx, cluster, certificate)
		if err != nil {
			outcomes = append(outcomes, renewal.outcome(stateNotAsked, err.Error()))
			continue
		}
		renewals = append(renewals, renewal)
	}
	for _, renewal := range renewals {
		if !f.wait {
			outcomes = append(outcomes, renewal.outcome(stateAsked, "a new CA was requested"))
			continue
		}
		subject := cluster.Context + ": " + renewal.name()
		err := renewal.await(ctx, waitCtx, func(pending string) { progress.Update(subject, "waiting for %s", pending) })
		progress.Remove(subject)
		outcomes = append(outcomes, renewal.result(err, terminal.WaitEnd(waitCtx, f.timeout)))
	}
	return outcomes
}
