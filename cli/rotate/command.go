// SPDX-License-Identifier: Apache-2.0

// Package rotate changes the root of trust in stages, in all clusters of a mesh together: none goes on before every one
// is as far.
package rotate

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"slices"
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

	ended string // how the waiting has
}

// stages are the words that the command takes.
var stages = []string{
	string(networkingv1.RotateTrustBoth), string(networkingv1.RotateSignWithNew), string(networkingv1.RotateDropOld), string(networkingv1.RotateNone),
}

// Command is `rotate-root`.
func Command() *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:   "rotate-root [trust-both | sign-with-new | drop-old | none]",
		Short: "Change the root of trust in stages, without a failed handshake",
		Long: `Changes the root of trust of all clusters given, one stage after another:

  trust-both     istiods go on with the CA that they have, and publish the old roots
                 and the new one as trusted
  sign-with-new  istiods sign under the new root, and all roots are trusted
  drop-old       the new root alone is trusted

none gives the change up, before sign-with-new; after drop-old it takes away what is
left of it. Without a stage it says how far each cluster is.

It sets the annotations of the VirtualMesh in each context, waits until every
replica of every istiod has confirmed the stage, and says what comes next. It does
nothing in any context while one of them has not completed the stage before, or
cannot be asked. Give it all clusters of the mesh, by several --context.

The new root is the one in --new-root, or with --vault the one of the Vault that a
VirtualMesh names: -f a file with what it will say, as long as it says the old one.
The old roots are those that istiods publish. Where istiod runs with a CA of its own
and without the agent, --from-secret names the Secret that holds it.

Exit codes: 0 the requested stage is complete in every context, or there is none;
1 it is incomplete, or an earlier stage must complete first; 2 a context could not be
queried or changed, or the flags are wrong.`,
		Example: `  kubectl istiod-agent rotate-root trust-both --new-root new-root.pem --context cluster-1 --context cluster-2
  kubectl istiod-agent rotate-root sign-with-new --context cluster-1 --context cluster-2
  kubectl istiod-agent rotate-root drop-old --context cluster-1 --context cluster-2

  # How far is it?
  kubectl istiod-agent rotate-root --context cluster-1 --context cluster-2

  # From the root that istiod has made itself to Vault's, before the agent is injected
  kubectl istiod-agent rotate-root trust-both --vault --from-secret istio-ca-secret`,
		Args:      cobra.MatchAll(cobra.MaximumNArgs(1), cobra.OnlyValidArgs),
		ValidArgs: stages,
		RunE: func(cmd *cobra.Command, args []string) error {
			err := f.run(cmd, networkingv1.RootRotation(strings.Join(args, "")))
			if _, coded := errors.AsType[*exit.Error](err); err == nil || coded {
				return err
			}
			if _, refused := errors.AsType[*RefusedError](err); refused {
				return exit.With(exit.Wrong, err)
			}
			return exit.With(exit.Unknown, err)
		},
	}
	f.AddContexts(cmd, "change")
	set := cmd.Flags()
	set.StringVar(&f.newRoot, "new-root", "", "`file` with the new root, PEM; for trust-both")
	set.BoolVar(&f.vault, "vault", false, "take the new root from the Vault that a VirtualMesh names; for trust-both")
	set.StringVarP(&f.Filename, "filename", "f", "", "`file` with the VirtualMesh for --vault, - for standard input (default: the one in the first context)")
	set.StringVar(&f.Mesh, "virtual-mesh", "", "`namespace/name` of the VirtualMesh to annotate, the same in each context (default: the only one there)")
	set.StringVar(&f.fromSecret, "from-secret", "", "`name` of the Secret, in istiod's namespace, with the CA of an istiod without the agent, such as istio-ca-secret; for trust-both")
	set.BoolVar(&f.now, "now", false, "have agents get their CA under the new root at once, not spread over ten minutes; for sign-with-new")
	set.BoolVar(&f.wait, "wait", true, "wait until every replica has confirmed the stage")
	set.DurationVar(&f.timeout, "timeout", 20*time.Minute, "how long to wait")
	set.BoolVar(&f.dryRun, "dry-run", false, "say what would be done; change nothing")
	f.Flag.Add(cmd)
	f.Flags.Add(set)
	cmd.MarkFlagsMutuallyExclusive("new-root", "vault")
	exit.Usage(cmd)
	return cmd
}

func (f *flags) check(stage networkingv1.RootRotation) error {
	first := stage == networkingv1.RotateTrustBoth
	switch {
	case f.Check() != nil:
		return f.Check()
	case (f.newRoot != "" || f.vault || f.fromSecret != "") && !first:
		return errors.New("--new-root, --vault and --from-secret: expected together with trust-both, which they are for")
	case f.Filename != "" && !f.vault:
		return errors.New("--filename: expected together with --vault, which it is for")
	case f.now && stage != networkingv1.RotateSignWithNew:
		return errors.New("--now: expected together with sign-with-new, which it is for")
	case f.timeout <= 0:
		return fmt.Errorf("--timeout: expected a positive duration, got %s", f.timeout)
	}
	return nil
}

func (f *flags) run(cmd *cobra.Command, stage networkingv1.RootRotation) error {
	if err := f.check(stage); err != nil {
		return err
	}
	ctx := cmd.Context()
	all := clusters.Ask(&f.Flags, func(cluster *clusters.Cluster, err error) *one {
		o := &one{cluster: cluster, err: err}
		o.Context = cluster.Context
		if o.err == nil {
			o.Mesh, o.err = vaultside.Find(ctx, cluster, f.Mesh)
		}
		if o.err == nil {
			o.Place, o.err = readPlace(ctx, cluster, o.Mesh, stage == networkingv1.RotateTrustBoth)
		}
		return o
	})
	if stage == "" {
		return f.show(cmd.OutOrStdout(), all)
	}
	if failed := slices.ContainsFunc(all, func(o *one) bool { return o.err != nil }); failed {
		return errors.New("nothing was changed, in any context, since not all can be asked:\n  " + strings.Join(failures(all), "\n  "))
	}
	newest, err := f.newest(ctx, cmd.InOrStdin(), all[0])
	if err != nil {
		return err
	}
	places := make([]Place, len(all))
	for i, each := range all {
		places[i] = each.Place
	}
	plan, err := decide(Wish{stage, newest, f.fromSecret}, places)
	if err != nil {
		return err
	}
	// What one of them refuses is found before another is changed.
	if err := annotate(ctx, all, plan, true); err != nil {
		return err
	}
	if f.dryRun {
		return f.tell(cmd.OutOrStdout(), stage, plan, all, "")
	}
	if err := annotate(ctx, all, plan, false); err != nil {
		return err
	}
	if f.wait {
		progress := terminal.NewProgress(cmd.ErrOrStderr())
		f.await(ctx, stage, plan, all, progress)
		progress.Done()
	}
	return f.tell(cmd.OutOrStdout(), stage, plan, all, f.next(stage))
}

// newest is the root to change to, nil where the change that is going on says it.
func (f *flags) newest(ctx context.Context, in io.Reader, first *one) (*x509.Certificate, error) {
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
	return nil, nil //nolint:nilnil // there is none, and no mistake
}
