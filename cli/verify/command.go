// SPDX-License-Identifier: Apache-2.0

// Package verify proves that clusters trust one root: by what istiods have published, and by handshakes between workloads.
package verify

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/cli/exit"
	"github.com/istiod-agent/istiod-agent/cli/files"
	"github.com/istiod-agent/istiod-agent/cli/output"
	"github.com/istiod-agent/istiod-agent/cli/terminal"
	"github.com/istiod-agent/istiod-agent/cli/vaultside"
	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

type flags struct {
	clusters.Flags
	output.Flag
	vaultside.MeshFlags
	namespaces []string

	root      string
	vault     bool
	handshake bool
	account   string
	addresses []string
}

// wide has a line for each namespace, where else those of which the same is to be said share one.
const wide = "wide"

// Command is `verify`.
func Command() *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Prove that clusters trust one root",
		Long: `Compares the root that istiod has published in each namespace (ConfigMap
istio-ca-root-cert) with the one that is expected: the one in --root, or with
--vault the one of Vault's mount that a VirtualMesh names, read from this machine by
VAULT_ADDR or the VirtualMesh's server, without a token. Without either, all
namespaces of all contexts must have the same. One root more than is expected is a
difference too; while the root changes, give --root a file with all that are to be
trusted.

With --handshake it goes on as workloads would: it gets a workload's certificate
from an istiod of each context, for the service account in --service-account, and
has every two of them do a handshake of mutual TLS, in both directions, each side
trusting what its own istiod has told it to. istiod is reached through the API
server, as by kubectl port-forward, or at --istiod-address. That needs the rights to
create serviceaccounts/token and pods/portforward.

Exit codes: 0 all is as expected; 1 something differs; 2 something could not be
found out, or the flags are wrong.`,
		Example: `  # The last step of the guide, for all namespaces of two clusters
  kubectl istiod-agent verify --root root-cert.pem --context cluster-1 --context cluster-2

  # With Vault's own root, and real handshakes between the clusters
  kubectl istiod-agent verify --vault -f virtual-mesh.yaml --handshake --context cluster-1 --context cluster-2`,
		Args: cobra.NoArgs,
		RunE: f.run,
	}
	f.AddContexts(cmd, "look at")
	set := cmd.Flags()
	set.StringArrayVarP(&f.namespaces, "namespace", "n", nil, "`namespace` to look at; may be repeated (default: all that have the ConfigMap)")
	set.StringVar(&f.root, "root", "", "`file` with the expected root, PEM")
	set.BoolVar(&f.vault, "vault", false, "expect the root of the Vault that a VirtualMesh names")
	f.MeshFlags.Add(cmd, "--vault")
	set.BoolVar(&f.handshake, "handshake", false, "have workloads of every two contexts do a handshake of mutual TLS")
	set.StringVar(&f.account, "service-account", "default/default", "`namespace/name` of the workload's service account for --handshake")
	set.StringArrayVar(&f.addresses, "istiod-address", nil, "`CONTEXT=HOST:PORT` of istiod's port 15012 for --handshake; may be repeated (default: through the API server)")
	f.Flag.Add(cmd, wide)
	f.Flags.Add(cmd)
	cmd.MarkFlagsMutuallyExclusive("root", "vault")
	exit.Usage(cmd)
	return cmd
}

func (f *flags) run(cmd *cobra.Command, _ []string) error {
	of, addresses, err := f.check()
	if err != nil {
		return exit.With(exit.Unknown, err)
	}
	progress := terminal.NewProgress(cmd.ErrOrStderr())
	defer progress.Done()
	ctx := cmd.Context()
	contexts := clusters.ForEach(&f.Flags, func(cluster *clusters.Cluster, err error) contextRoots {
		p := contextRoots{cluster: cluster, err: err}
		if err == nil {
			p.bundles, p.err = ReadPublished(ctx, cluster, f.namespaces)
		}
		return p
	})
	expected, err := f.expected(ctx, cmd.InOrStdin(), contexts)
	if err != nil {
		return exit.With(exit.Unknown, err)
	}
	result, unknown := &Result{Roots: pemcerts.Fingerprints(expected), roots: expected}, false
	for _, contextRoots := range contexts {
		if contextRoots.err != nil {
			unknown = true
			result.Lines = append(result.Lines, Line{Context: contextRoots.cluster.Context, Detail: terminal.OneLine(contextRoots.err.Error())})
			continue
		}
		result.Lines = append(result.Lines, contextRoots.bundles.check(contextRoots.cluster.Context, expected)...)
	}
	if f.handshake {
		found, failed := handshakes(ctx, contexts, of, addresses, progress)
		result.Lines, unknown = append(result.Lines, found...), unknown || failed
	}
	progress.Done()
	err = f.Write(cmd.OutOrStdout(), result, func(out io.Writer) { result.print(out, f.Is(wide)) })
	switch {
	case err != nil:
		return exit.With(exit.Unknown, err)
	case unknown:
		return exit.With(exit.Unknown, nil)
	case slices.ContainsFunc(result.Lines, func(l Line) bool { return !l.OK }):
		return exit.With(exit.Problem, nil)
	}
	return nil
}

func (f *flags) check() (of account, addresses map[string]string, err error) {
	var found bool
	if of.namespace, of.name, found = strings.Cut(f.account, "/"); !found || of.namespace == "" || of.name == "" {
		return of, nil, fmt.Errorf("--service-account %q: expected NAMESPACE/NAME", f.account)
	}
	if addresses, err = parseAddresses(f.addresses); err != nil {
		return of, nil, err
	}
	switch {
	case f.Check() != nil:
		err = f.Check()
	case f.Given() && !f.vault:
		err = errors.New("--filename and --virtual-mesh: expected together with --vault, which they are for")
	case len(addresses) > 0 && !f.handshake:
		err = errors.New("--istiod-address: expected together with --handshake, which it is for")
	}
	return of, addresses, err
}

// place is one of the contexts, and what its istiods have published, or why that is not known.
type contextRoots struct {
	cluster *clusters.Cluster
	bundles Published
	err     error
}

// expected are the roots that all are to have.
func (f *flags) expected(ctx context.Context, in io.Reader, contexts []contextRoots) ([]*x509.Certificate, error) {
	switch {
	case f.root != "":
		text, err := files.Read(f.root, files.MaxSmall)
		if err != nil {
			return nil, fmt.Errorf("--root: %w", err)
		}
		roots, err := pemcerts.ParseRoots(text)
		if err != nil {
			return nil, fmt.Errorf("--root %s: expected a root certificate, PEM: %w", f.root, err)
		}
		return roots, nil
	case f.vault:
		root, err := f.VaultRoot(ctx, in, f.Timeout, reachable(contexts))
		if err != nil {
			return nil, fmt.Errorf("--vault: %w", err)
		}
		return []*x509.Certificate{root}, nil
	}
	// The first that is published; all others are held against it.
	for _, contextRoots := range contexts {
		if roots := contextRoots.bundles.firstRoots(); roots != nil {
			return roots, nil
		}
	}
	var failed []error
	for _, contextRoots := range contexts {
		if contextRoots.err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", contextRoots.cluster.Context, contextRoots.err))
		}
	}
	if len(failed) > 0 {
		return nil, errors.Join(failed...)
	}
	return nil, errors.New("no istiod has published a root (ConfigMap " + istio.RootConfigMap + "): has it started?")
}

// reachable is the first context that answers, to read the VirtualMesh from; nil where none does.
func reachable(contexts []contextRoots) *clusters.Cluster {
	for _, contextRoots := range contexts {
		if contextRoots.err == nil {
			return contextRoots.cluster
		}
	}
	return nil
}
