// SPDX-License-Identifier: Apache-2.0

package checkup

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/spf13/cobra"

	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/cli/exit"
	"github.com/istiod-agent/istiod-agent/cli/output"
	"github.com/istiod-agent/istiod-agent/cli/vaultside"
)

type flags struct {
	clusters.Flags
	output.Flag
	vault    bool
	filename string
}

// Command is `check`.
func Command() *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check the prerequisites and the state of istiod-agent",
		Long: `Checks the cluster of each context: its version, the CRDs, the form of the injection
(injection.by), the webhook and whether the API server can call it, or the policies and
the Injection, the guard policy, the labels of namespaces, istiods and the permissions
of their service accounts, VirtualMeshes, the issuers of cert-manager that they name,
IssuedCertificates, and the roots for the bundle endpoint. It changes nothing: the only
object that it creates is an istiod in a server-side dry run, so that the API server
injects it.

Each line begins with ok, warn, fail or unknown (the check itself failed), and ends with
the next step. The agents' reports show Vault as istiod's Pods see it. --vault checks
Vault from this machine, at VAULT_ADDR or the VirtualMesh's server; with VAULT_TOKEN it
also checks the login, the policies and the mounts. The token is sent only to VAULT_ADDR
or to the server of a VirtualMesh given by -f.

Exit codes: 0 nothing fails; 1 something fails; 2 nothing fails, but some check is
unknown, or the flags are wrong.`,
		Example: `  # Before and after the installation, in two clusters
  kubectl istiod-agent check --context cluster-1 --context cluster-2

  # Vault too, before there is a VirtualMesh in the cluster
  export VAULT_ADDR=http://127.0.0.1:8200 VAULT_TOKEN=...
  kubectl istiod-agent check --vault -f virtual-mesh.yaml`,
		Args: cobra.NoArgs,
		RunE: f.run,
	}
	f.AddContexts(cmd, "check")
	set := cmd.Flags()
	set.BoolVar(&f.vault, "vault", false, "check Vault too, from this machine")
	set.StringVarP(&f.filename, "filename", "f", "", "`file` with the VirtualMesh for --vault, - for standard input (default: the VirtualMeshes in the cluster)")
	f.Flag.Add(cmd)
	f.Flags.Add(cmd)
	exit.Codes(cmd)
	return cmd
}

func (f *flags) run(cmd *cobra.Command, _ []string) error {
	if f.filename != "" && !f.vault {
		return errors.New("--filename requires --vault")
	}
	var given *networkingv1.VirtualMesh
	if f.filename != "" {
		var err error
		if given, err = vaultside.ReadFile(f.filename, cmd.InOrStdin()); err != nil {
			return err
		}
	}
	contexts := clusters.ForEach(&f.Flags, func(cluster *clusters.Cluster, err error) contextFindings {
		return f.checkContext(cmd.Context(), cluster, err, given)
	})
	err := f.Write(cmd.OutOrStdout(), map[string]any{"contexts": contexts}, func(out io.Writer) { printText(out, contexts) })
	fails := count(contexts, levelFail) > 0
	return exit.Result(err, !fails && count(contexts, levelUnknown) > 0, fails)
}

func (f *flags) checkContext(ctx context.Context, cluster *clusters.Cluster, err error, given *networkingv1.VirtualMesh) contextFindings {
	if err != nil {
		return contextFindings{cluster.Context, []finding{{levelUnknown, "kubeconfig", err.Error(), "kubectl config get-contexts"}}}
	}
	facts := gather(ctx, cluster)
	lines := decide(cluster.Kubectl(), facts, time.Now())
	if f.vault {
		lines = append(lines, f.checkVault(ctx, cluster.Context, facts, given)...)
	}
	return contextFindings{cluster.Context, lines}
}
