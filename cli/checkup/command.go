// SPDX-License-Identifier: Apache-2.0

package checkup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/cli/exit"
	"github.com/istiod-agent/istiod-agent/cli/output"
	"github.com/istiod-agent/istiod-agent/cli/shell"
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
		Short: "Find out whether clusters are as istiod-agent needs them",
		Long: `Looks at each context's cluster: its version, the CRDs, the webhook and whether
the API server reaches and trusts it, the guard policy, the labels of namespaces,
istiods and the rights of their service accounts, VirtualMeshes and
IssuedCertificates. It changes nothing; the one istiod that it creates is a
server-side dry run, by which the API server calls the webhook.

Each line says ok, warn, fail or unknown (could not be found out), and what to do
next. What the agents report of Vault is seen from istiod's Pods; --vault looks at
Vault from this machine, by VAULT_ADDR or the VirtualMesh's server, and with
VAULT_TOKEN also at the login, the policies and the mounts. The token is sent to
VAULT_ADDR, or to the server of a VirtualMesh given by -f, and to no other.

Exit codes: 0 nothing fails; 1 something fails; 2 nothing fails, but something
could not be found out, or the flags are wrong.`,
		Example: `  # Before and after the installation, in two clusters
  kubectl istiod-agent check --context cluster-1 --context cluster-2

  # Vault too, before there is a VirtualMesh in the cluster
  export VAULT_ADDR=http://127.0.0.1:8200 VAULT_TOKEN=...
  kubectl istiod-agent check --vault -f virtual-mesh.yaml`,
		Args: cobra.NoArgs,
		RunE: f.run,
	}
	f.AddContexts(cmd, "look at")
	set := cmd.Flags()
	set.BoolVar(&f.vault, "vault", false, "look at Vault too, from this machine")
	set.StringVarP(&f.filename, "filename", "f", "", "`file` with the VirtualMesh for --vault, - for standard input (default: those in the cluster)")
	f.Flag.Add(cmd)
	f.Flags.Add(cmd)
	exit.Usage(cmd)
	return cmd
}

func (f *flags) run(cmd *cobra.Command, _ []string) error {
	if err := f.Check(); err != nil {
		return exit.With(exit.Unknown, err)
	}
	if f.filename != "" && !f.vault {
		return exit.With(exit.Unknown, errors.New("--filename: expected together with --vault, which it is for"))
	}
	var given *networkingv1.VirtualMesh
	if f.filename != "" {
		var err error
		if given, err = vaultside.ReadFile(f.filename, cmd.InOrStdin()); err != nil {
			return exit.With(exit.Unknown, err)
		}
	}
	contexts := clusters.ForEach(&f.Flags, func(cluster *clusters.Cluster, err error) ContextChecks {
		return f.checkContext(cmd.Context(), cluster, err, given)
	})
	err := f.Write(cmd.OutOrStdout(), map[string]any{"contexts": contexts}, func(out io.Writer) { printText(out, contexts) })
	switch {
	case err != nil:
		return exit.With(exit.Unknown, err)
	case count(contexts, Fail) > 0:
		return exit.With(exit.Problem, nil)
	case count(contexts, Unknown) > 0:
		return exit.With(exit.Unknown, nil)
	}
	return nil
}

// look at one context.
func (f *flags) checkContext(ctx context.Context, cluster *clusters.Cluster, err error, given *networkingv1.VirtualMesh) ContextChecks {
	if err != nil {
		return ContextChecks{cluster.Context, []Line{{Unknown, "kubeconfig", err.Error(), "kubectl config get-contexts"}}}
	}
	facts := gather(ctx, cluster)
	report := ContextChecks{cluster.Context, decide(cluster.Context, facts, time.Now())}
	if f.vault {
		report.Lines = append(report.Lines, f.checkVault(ctx, cluster.Context, facts, given)...)
	}
	return report
}

// lookAtVault looks at the Vault of each VirtualMesh, from here.
func (f *flags) checkVault(ctx context.Context, name string, facts *Facts, given *networkingv1.VirtualMesh) []Line {
	const what = "Vault, from this machine"
	if given != nil {
		return vaultLines(ctx, f.Timeout, given, true, facts, "kubectl istiod-agent vault -f "+shell.Quote(f.filename))
	}
	var lines []Line
	for i := range facts.Meshes.Value {
		mesh := valid(&facts.Meshes.Value[i])
		if mesh != nil && !facts.ignores(&facts.Meshes.Value[i]) {
			lines = append(lines, vaultLines(ctx, f.Timeout, mesh, false, facts,
				"kubectl istiod-agent vault "+shell.Quote(mesh.Name)+" -n "+shell.Quote(mesh.Namespace)+" --context="+shell.Quote(name))...)
		}
	}
	if len(lines) == 0 {
		return []Line{{Unknown, what, "no valid VirtualMesh in the cluster names one", "name a VirtualMesh by -f virtual-mesh.yaml"}}
	}
	return lines
}

// valid is nil for a VirtualMesh that names no Vault, or has mistakes, which another line tells.
func valid(object *unstructured.Unstructured) *networkingv1.VirtualMesh {
	mesh, _, errs := networkingv1.FromObject(object.Object)
	mesh.Spec.SetDefaults()
	if _, more := mesh.Validate(); len(errs)+len(more) > 0 || mesh.Spec.IntermediateCA() == nil {
		return nil
	}
	return mesh
}

// vaultLines looks at the Vault of a VirtualMesh; given says that it comes from the person's file.
func vaultLines(ctx context.Context, timeout time.Duration, mesh *networkingv1.VirtualMesh, given bool, facts *Facts, command string) []Line {
	what := "Vault of VirtualMesh " + mesh.Namespace + "/" + mesh.Name + ", from this machine"
	vault, err := vaultside.Connect(mesh, given, timeout)
	if err != nil {
		return []Line{{Unknown, what, err.Error(), "correct the environment variables VAULT_*"}}
	}
	version, err := vault.Health(ctx)
	if err != nil {
		return []Line{{Fail, what, err.Error(), "set VAULT_ADDR to an address that this machine reaches, as by kubectl port-forward; istiod's Pods may reach the server all the same"}}
	}
	lines := []Line{{OK, what, fmt.Sprintf("%s answers, %s, unsealed", vault.Address(), version), ""}}
	if err := vault.CheckToken(); err != nil {
		return append(lines, Line{Warn, what, "the login, the policies and the mounts were not looked at: " + err.Error(), "export what is missing and check again"})
	}
	options := vaultside.Options{SkipAuthConfig: true}
	for _, istiod := range facts.Istiods.Value {
		if !exempt(istiod) {
			options.ServiceAccounts = append(options.ServiceAccounts, istiod.ServiceAccount)
			options.Namespaces = append(options.Namespaces, istiod.Namespace)
		}
	}
	var flags strings.Builder
	for _, account := range compacted(options.ServiceAccounts, vaultside.DefaultServiceAccount) {
		flags.WriteString(" --service-account=" + shell.Quote(account))
	}
	for _, namespace := range compacted(options.Namespaces, vaultside.DefaultNamespace) {
		flags.WriteString(" --istiod-namespace=" + shell.Quote(namespace))
	}
	desired, err := vaultside.NewDesired(mesh, options)
	if err != nil {
		return append(lines, Line{Unknown, what, err.Error(), "correct the VirtualMesh"})
	}
	found, err := vault.Read(ctx, desired)
	if err != nil {
		return append(lines, Line{Unknown, what, err.Error(), "export a VAULT_TOKEN that may read it"})
	}
	differences, err := desired.Differences(found)
	if err != nil {
		return append(lines, Line{Fail, what, err.Error(), "correct the VirtualMesh"})
	}
	if warning, likely := found.PodReviewer(desired.Auth); likely {
		lines = append(lines, Line{Warn, what, warning, "in Vault's Pod: vault write auth/" + desired.Auth.Mount + "/config kubernetes_host=" + shell.Quote(fmt.Sprint(found.Config["kubernetes_host"])) + ", without token_reviewer_jwt and kubernetes_ca_cert"})
	}
	for _, difference := range differences {
		lines = append(lines, vaultLine(what, difference, command+flags.String()))
	}
	if len(differences) == 0 {
		lines = append(lines, Line{OK, what, "the role, the policies, the mounts and their longest lease are as they shall be", ""})
	}
	return lines
}

// vaultLine fails what keeps istiod from its certificate, and warns of what is more than it needs or less than it asks.
func vaultLine(what string, difference vaultside.Difference, command string) Line {
	switch difference.Kind {
	case vaultside.Missing:
		if difference.Unused {
			return Line{Warn, what, difference.What + " is not there, and the role names others", command + " --dry-run"}
		}
		return Line{Fail, what, difference.What + " is not there", command + " --apply"}
	case vaultside.Manual:
		return Line{Fail, what, difference.What + " has no CA to sign with", difference.Lines[1]}
	default:
		changed := slices.DeleteFunc(slices.Clone(difference.Lines), func(line string) bool { return strings.HasPrefix(line, " ") })
		detail := difference.What + " differs"
		if len(changed) <= 4 {
			detail += ": " + strings.Join(changed, ", ")
		}
		return Line{Warn, what, detail, command + " --dry-run"}
	}
}

// compacted are the values that a flag is needed for.
func compacted(values []string, byDefault string) []string {
	values = slices.Compact(slices.Sorted(slices.Values(values)))
	if len(values) == 0 || len(values) == 1 && values[0] == byDefault {
		return nil
	}
	return values
}
