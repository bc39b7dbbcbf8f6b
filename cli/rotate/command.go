// SPDX-License-Identifier: Apache-2.0

// Package rotate changes the root of trust in stages, in all clusters of a mesh together: no cluster enters a stage before
// every cluster has completed the stage before.
package rotate

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/cli/exit"
	"github.com/istiod-agent/istiod-agent/cli/files"
	"github.com/istiod-agent/istiod-agent/cli/output"
	"github.com/istiod-agent/istiod-agent/cli/terminal"
	"github.com/istiod-agent/istiod-agent/cli/vaultside"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

type flags struct {
	clusters.Flags
	output.Flag
	vaultside.MeshFlags
	newRoot, fromSecret string
	vault               bool
	dryRun, wait, now   bool
	timeout             time.Duration

	waitEnd string // what ended the wait, as text
}

// stages are the arguments of the command, in order.
var stages = []string{
	string(networkingv1.RotateTrustBoth), string(networkingv1.RotateSignWithNew), string(networkingv1.RotateDropOld), string(networkingv1.RotateNone),
}

// Command is `rotate-root`.
func Command() *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:   "rotate-root [trust-both | sign-with-new | drop-old | none]",
		Short: "Change the root of trust in stages, without a failed handshake",
		Long: `Changes the root of trust of all given clusters, one stage after another:

  trust-both     istiods keep their current CA, and publish the old roots and the new
                 root as trusted
  sign-with-new  istiods sign under the new root, and all roots are trusted
  drop-old       only the new root is trusted

none abandons the root change before sign-with-new, and removes its annotations after
drop-old. Without a stage, the command prints the stage of each cluster.

The command annotates the VirtualMesh in each context, waits until every replica of
every istiod has confirmed the stage, and prints the next step. It changes no context
while one of them cannot be read or has not completed the stage before. Name all
clusters of the mesh, each by a --context.

The new root comes from --new-root, or with --vault from the Vault of a VirtualMesh
(-f names a file with its future content, while the VirtualMesh in the cluster still
names the old Vault). The old roots are those that istiods publish. Where istiod uses
its own CA, without the agent, --from-secret names the Secret with that CA.

Exit codes: 0 the requested stage is complete in every context, or there is none;
1 the stage is not complete, or the stage before is not; 2 a request failed, or the
flags are wrong.`,
		Example: `  kubectl istiod-agent rotate-root trust-both --new-root new-root.pem --context cluster-1 --context cluster-2
  kubectl istiod-agent rotate-root sign-with-new --context cluster-1 --context cluster-2
  kubectl istiod-agent rotate-root drop-old --context cluster-1 --context cluster-2

  # Print the stage of each cluster
  kubectl istiod-agent rotate-root --context cluster-1 --context cluster-2

  # From the root of istiod's own CA to Vault's, before the agent is injected
  kubectl istiod-agent rotate-root trust-both --vault --from-secret istio-ca-secret`,
		Args:      cobra.MatchAll(cobra.MaximumNArgs(1), cobra.OnlyValidArgs),
		ValidArgs: stages,
		RunE:      f.run,
	}
	f.AddContexts(cmd, "change")
	set := cmd.Flags()
	set.StringVar(&f.newRoot, "new-root", "", "`file` with the new root in PEM; for trust-both")
	set.BoolVar(&f.vault, "vault", false, "take the new root from the Vault of a VirtualMesh; for trust-both")
	set.StringVarP(&f.Filename, "filename", "f", "", "`file` with the VirtualMesh for --vault, - for standard input (default: the VirtualMesh in the first context)")
	set.StringVar(&f.Mesh, "virtual-mesh", "", "`namespace/name` of the VirtualMesh in each context (default: the only one)")
	set.StringVar(&f.fromSecret, "from-secret", "", "`name` of the Secret in istiod's namespace with the CA of an istiod without the agent, such as istio-ca-secret; for trust-both")
	set.BoolVar(&f.now, "now", false, "renew istiod's CA at once, not within ten minutes; for sign-with-new")
	set.BoolVar(&f.wait, "wait", true, "wait until every replica has confirmed the stage")
	set.DurationVar(&f.timeout, "timeout", 20*time.Minute, "`time` limit of --wait")
	set.BoolVar(&f.dryRun, "dry-run", false, "print the changes without making them")
	f.Flag.Add(cmd)
	f.Flags.Add(cmd)
	cmd.MarkFlagsMutuallyExclusive("new-root", "vault")
	exit.Codes(cmd)
	return cmd
}

func (f *flags) check(stage networkingv1.RootRotation) error {
	first := stage == networkingv1.RotateTrustBoth
	switch {
	case (f.newRoot != "" || f.vault || f.fromSecret != "") && !first:
		return errors.New("--new-root, --vault and --from-secret require the stage trust-both")
	case f.Filename != "" && !f.vault:
		return errors.New("--filename requires --vault")
	case f.now && stage != networkingv1.RotateSignWithNew:
		return errors.New("--now requires the stage sign-with-new")
	case f.timeout <= 0:
		return fmt.Errorf("--timeout: expected a positive duration, got %s", f.timeout)
	}
	return nil
}

func (f *flags) run(cmd *cobra.Command, args []string) error {
	stage := networkingv1.RootRotation(strings.Join(args, ""))
	if err := f.check(stage); err != nil {
		return err
	}
	ctx := cmd.Context()
	targets := clusters.ForEach(&f.Flags, func(cluster *clusters.Cluster, err error) *target {
		t := &target{cluster: cluster, err: err}
		t.Context = cluster.Context
		if t.err == nil {
			t.Mesh, t.err = vaultside.Find(ctx, cluster, f.Mesh)
		}
		if t.err == nil {
			t.clusterState, t.err = readState(ctx, cluster, t.Mesh, stage == networkingv1.RotateTrustBoth)
		}
		return t
	})
	if stage == "" {
		return f.printState(cmd.OutOrStdout(), targets)
	}
	if failed := failures(targets); len(failed) > 0 {
		return errors.New("no context was changed, since not all of them can be read:\n  " + strings.Join(failed, "\n  "))
	}
	newRoot, err := f.readNewRoot(ctx, cmd.InOrStdin(), targets[0])
	if err != nil {
		return err
	}
	states := make([]clusterState, len(targets))
	for i, target := range targets {
		states[i] = target.clusterState
	}
	plan, err := decide(rotationRequest{stage, newRoot, f.fromSecret}, states)
	if _, refused := errors.AsType[*refusedError](err); refused {
		return exit.With(exit.Problem, err)
	}
	if err != nil {
		return err
	}
	// A dry run finds what one API server refuses before any VirtualMesh changes.
	if err := annotate(ctx, targets, plan, true); err != nil {
		return err
	}
	if f.dryRun {
		return f.printResult(cmd.OutOrStdout(), stage, plan, targets, "")
	}
	if err := annotate(ctx, targets, plan, false); err != nil {
		return err
	}
	if f.wait {
		progress := terminal.NewProgress(cmd.ErrOrStderr())
		f.await(ctx, stage, plan, targets, progress)
		progress.Done()
	}
	return f.printResult(cmd.OutOrStdout(), stage, plan, targets, f.next(stage))
}

// readNewRoot returns the root of --new-root or --vault; nil without either, where the root change in progress names it.
func (f *flags) readNewRoot(ctx context.Context, in io.Reader, first *target) (*x509.Certificate, error) {
	switch {
	case f.newRoot != "":
		text, err := files.Read(f.newRoot, files.MaxSmall)
		if err != nil {
			return nil, fmt.Errorf("--new-root: %w", err)
		}
		roots, err := pemcerts.ParseRoots(text)
		if err == nil && len(roots) != 1 {
			err = fmt.Errorf("it holds %d", len(roots))
		}
		if err != nil {
			return nil, fmt.Errorf("--new-root %s: expected one root certificate, PEM: %w", f.newRoot, err)
		}
		return roots[0], nil
	case f.vault:
		from := vaultside.MeshFlags{Filename: f.Filename}
		if from.Filename == "" {
			from.Mesh = first.Mesh.String()
		}
		root, err := from.VaultRoot(ctx, in, f.Timeout, first.cluster)
		if err != nil {
			return nil, fmt.Errorf("--vault: %w", err)
		}
		return root, nil
	}
	return nil, nil //nolint:nilnil // neither flag is set
}
