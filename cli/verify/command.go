// SPDX-License-Identifier: Apache-2.0

// Package verify proves that clusters trust the same root: by the roots that istiods have published, by handshakes between
// workloads, and by calls between Pods.
package verify

import (
	"cmp"
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
	"github.com/istiod-agent/istiod-agent/cli/pods"
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

	traffic bool
	pods    pods.Options
}

// wide prints a line for each namespace; by default namespaces with the same result share a line.
const wide = "wide"

// Command is `verify`.
func Command() *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Prove that clusters trust the same root",
		Long: `Compares the root that istiod has published in each namespace (ConfigMap
istio-ca-root-cert) with the expected root. This is the root in --root, or with --vault
the root of the Vault mount that a VirtualMesh names; this machine reads it from
VAULT_ADDR or the VirtualMesh's server, without a token. Without either flag, all
namespaces of all contexts must have the same root. An additional root is a difference
too; during a root change, give --root a file with all trusted roots.

With --handshake, the command also acts as a workload: it requests a certificate from
an istiod of each context, for the service account in --service-account, and does
mutual TLS handshakes between every two contexts, in both directions. Each side trusts
the roots of its own istiod. The command connects to istiod through the API server, as
kubectl port-forward does, or at --istiod-address. This needs permission to create
serviceaccounts/token and pods/portforward.

With --traffic, the command starts a server and a client in each context, as workloads
without a proxy, and every client calls every server by its name in the mesh. For each
pair, it prints whether the client calls the server, does not reach it, or is refused
because of another root. The clusters must be joined (kubectl istiod-agent join) and on
one network. The Pods are in a namespace of their own, which the command removes at the
end, also after a failure. If that fails, it prints the command that removes it. This
needs permission to create and delete namespaces, and to create Pods and other objects
in them.

Exit codes: 0 everything is as expected; 1 something differs; 2 a request failed, or
the flags are wrong.`,
		Example: `  # The last step of Gloo Mesh's guide, for all namespaces of two clusters
  kubectl istiod-agent verify --root root-cert.pem --context cluster-1 --context cluster-2

  # With Vault's own root, and real handshakes between the clusters
  kubectl istiod-agent verify --vault -f virtual-mesh.yaml --handshake --context cluster-1 --context cluster-2

  # Calls between Pods of the clusters
  kubectl istiod-agent verify --traffic --context cluster-1 --context cluster-2`,
		Args: cobra.NoArgs,
		RunE: f.run,
	}
	f.AddContexts(cmd, "verify")
	set := cmd.Flags()
	set.StringArrayVarP(&f.namespaces, "namespace", "n", nil, "`namespace` to verify; may be repeated (default: all namespaces with the ConfigMap)")
	set.StringVar(&f.root, "root", "", "`file` with the expected root in PEM")
	set.BoolVar(&f.vault, "vault", false, "expect the root of the Vault of a VirtualMesh")
	f.MeshFlags.Add(cmd, "--vault")
	set.BoolVar(&f.handshake, "handshake", false, "do mutual TLS handshakes between workloads of every two contexts")
	set.StringVar(&f.account, "service-account", "default/default", "`namespace/name` of the workload's service account for --handshake")
	set.StringArrayVar(&f.addresses, "istiod-address", nil, "`CONTEXT=HOST:PORT` of istiod's port 15012 for --handshake; may be repeated (default: through the API server)")
	set.BoolVar(&f.traffic, "traffic", false, "call between Pods of every two contexts: start the Pods, and remove them")
	f.pods.Add(cmd, "--traffic")
	f.Flag.Add(cmd, wide)
	f.Flags.Add(cmd)
	cmd.MarkFlagsMutuallyExclusive("root", "vault")
	exit.Codes(cmd)
	return cmd
}

func (f *flags) run(cmd *cobra.Command, _ []string) error {
	account, addresses, err := f.check()
	if err != nil {
		return err
	}
	progress := terminal.NewProgress(cmd.ErrOrStderr())
	defer progress.Done()
	ctx := cmd.Context()
	contexts := clusters.ForEach(&f.Flags, func(cluster *clusters.Cluster, err error) contextRoots {
		c := contextRoots{cluster: cluster, err: err}
		if err == nil {
			c.bundles, c.err = ReadPublished(ctx, cluster, f.namespaces)
		}
		return c
	})
	expected, err := f.expected(ctx, cmd.InOrStdin(), contexts)
	if err != nil {
		return err
	}
	result, unknown := &verification{Roots: pemcerts.Fingerprints(expected), roots: expected}, false
	for _, c := range contexts {
		if c.err != nil {
			unknown = true
			result.Lines = append(result.Lines, finding{Context: c.cluster.Context, Detail: terminal.OneLine(c.err.Error())})
			continue
		}
		result.Lines = append(result.Lines, c.bundles.check(c.cluster.Context, expected)...)
	}
	if f.handshake {
		lines, failed := handshakes(ctx, contexts, account, addresses, progress)
		result.Lines, unknown = append(result.Lines, lines...), unknown || failed
	}
	if f.traffic {
		lines, failed := callAll(ctx, contexts, f.pods, progress)
		result.Lines, unknown = append(result.Lines, lines...), unknown || failed
	}
	progress.Done()
	err = f.Write(cmd.OutOrStdout(), result, func(out io.Writer) { result.print(out, f.Is(wide)) })
	return exit.Result(err, unknown, slices.ContainsFunc(result.Lines, func(l finding) bool { return !l.OK }))
}

func (f *flags) check() (account serviceAccount, addresses map[string]string, err error) {
	var found bool
	if account.namespace, account.name, found = strings.Cut(f.account, "/"); !found || account.namespace == "" || account.name == "" {
		return account, nil, fmt.Errorf("--service-account %q: expected NAMESPACE/NAME", f.account)
	}
	if addresses, err = parseAddresses(f.addresses); err != nil {
		return account, nil, err
	}
	switch {
	case f.MeshFlags != (vaultside.MeshFlags{}) && !f.vault:
		err = errors.New("--filename and --virtual-mesh require --vault")
	case len(addresses) > 0 && !f.handshake:
		err = errors.New("--istiod-address requires --handshake")
	case f.pods != pods.Defaults() && !f.traffic:
		err = errors.New("--traffic-image and --traffic-timeout require --traffic")
	case f.pods.Timeout <= 0:
		err = fmt.Errorf("--traffic-timeout: expected a positive duration, got %s", f.pods.Timeout)
	}
	return account, addresses, err
}

// contextRoots is what the istiods of a context have published, or why reading it failed.
type contextRoots struct {
	cluster *clusters.Cluster
	bundles Published
	err     error
}

func (f *flags) expected(ctx context.Context, in io.Reader, contexts []contextRoots) ([]*x509.Certificate, error) {
	switch {
	case f.root != "":
		text, err := files.Read(f.root, files.MaxSmall)
		if err != nil {
			return nil, fmt.Errorf("--root: %w", err)
		}
		roots, err := pemcerts.ParseRoots(text)
		if err != nil {
			return nil, fmt.Errorf("--root %s: expected a root certificate in PEM: %w", f.root, err)
		}
		return roots, nil
	case f.vault:
		root, err := f.VaultRoot(ctx, in, f.Timeout, reachable(contexts))
		if err != nil {
			return nil, fmt.Errorf("--vault: %w", err)
		}
		return []*x509.Certificate{root}, nil
	}
	// The published roots of the first context; all others must be the same.
	for _, c := range contexts {
		if roots := c.bundles.commonRoots(); roots != nil {
			return roots, nil
		}
	}
	var failed []error
	for _, c := range contexts {
		if c.err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", c.cluster.Context, c.err))
		}
	}
	return nil, cmp.Or(errors.Join(failed...), errors.New("no istiod has published a root (ConfigMap "+istio.RootConfigMap+"): has it started?"))
}

// reachable returns the first context that could be read, for the VirtualMesh; nil without one.
func reachable(contexts []contextRoots) *clusters.Cluster {
	if i := slices.IndexFunc(contexts, func(c contextRoots) bool { return c.err == nil }); i >= 0 {
		return contexts[i].cluster
	}
	return nil
}
