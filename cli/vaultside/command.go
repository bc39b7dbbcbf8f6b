// SPDX-License-Identifier: Apache-2.0

package vaultside

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/cli/exit"
	"github.com/istiod-agent/istiod-agent/cli/files"
	"github.com/istiod-agent/istiod-agent/cli/output"
)

type flags struct {
	clusters.Flags
	output.Flag
	Options
	filename, context, namespace string
	apply, dryRun, force         bool
}

// Command is `vault`.
func Command() *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:   "vault -f FILE | NAME",
		Short: "Print or set up the Vault side of a VirtualMesh",
		Long: `Prints the vault commands that give the istiods of a VirtualMesh their CA
certificates: the login, the secrets engines with their longest lease, the
smallest policies that do, and the role. They are for a shell and may be run
again. Nothing is asked of Vault.

With --dry-run it shows what differs in Vault; --apply shows the same, changes
it, and prints each change. Neither makes or replaces a root CA, and a
configuration of the login that is there already stays, unless flags set another.
A larger lease stays.

--apply overwrites nothing that this command did not make: its policies begin
with a comment that says so, and a role is its own if all policies of the role
are. To replace another role, policy or configuration of the login, compare the
difference and use --force.

Both find Vault by VAULT_ADDR, VAULT_TOKEN, VAULT_NAMESPACE, VAULT_CACERT and the
others of Vault's own programs; without VAULT_ADDR at the server of the
VirtualMesh in the file of -f. The token is never sent to a server that only a
VirtualMesh in a cluster names.

The role asks for tokens of the audience in the VirtualMesh's kubernetesAuth.
Without one, a note names the two lines that add it.

Exit codes: 0 done, or nothing differs; 1 with --dry-run when something differs;
2 an error, or something is left that only you can do, such as the root CA.`,
		Example: `  # Read what is to be done
  kubectl istiod-agent vault -f virtual-mesh.yaml

  # See what differs in a Vault, then put it right
  export VAULT_ADDR=http://127.0.0.1:8200 VAULT_TOKEN=...
  kubectl istiod-agent vault virtual-mesh -n gloo-mesh --context cluster-1 --dry-run
  kubectl istiod-agent vault virtual-mesh -n gloo-mesh --context cluster-1 --apply

  # A Vault outside the cluster, which must be told the API server
  kubectl istiod-agent vault -f virtual-mesh.yaml --kubernetes-host https://10.0.0.1:6443 \
    --kubernetes-ca-file ca.crt --token-reviewer-jwt-file reviewer.jwt`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			err := f.run(cmd, args)
			if _, coded := errors.AsType[*exit.Error](err); err == nil || coded {
				return err
			}
			return exit.With(exit.Unknown, err)
		},
	}
	set := cmd.Flags()
	set.StringVarP(&f.filename, "filename", "f", "", "`file` with the VirtualMesh, - for standard input; in place of a name in the cluster")
	set.StringVar(&f.context, "context", "", "kubeconfig `context` of the cluster with the VirtualMesh (default: the current one)")
	set.StringVarP(&f.namespace, "namespace", "n", "", "`namespace` of the VirtualMesh (default: the context's)")
	set.StringSliceVar(&f.ServiceAccounts, "service-account", []string{DefaultServiceAccount}, "service account `name` that istiods run as; may be repeated")
	set.StringSliceVar(&f.Namespaces, "istiod-namespace", []string{DefaultNamespace}, "`namespace` that istiods run in; may be repeated")
	set.StringVar(&f.TrustDomain, "trust-domain", DefaultTrustDomain, "the meshes' trust `domain`")
	set.StringVar(&f.Policy, "policy", "", "`name` of the policy (default: "+derivedPrefix+"ROLE)")
	set.StringVar(&f.Audience, "audience", "", "`audience` that a login's token must be for (default: the VirtualMesh's)")
	set.DurationVar(&f.TokenTTL, "token-ttl", DefaultTokenTTL, "how long a login lives at most")
	set.BoolVar(&f.SkipAuthConfig, "skip-auth-config", false, "leave alone how Vault has tokens reviewed")
	set.StringVar(&f.Reviewer.Host, "kubernetes-host", "", "`URL` of the API server as Vault reaches it (default: what there is, or "+inCluster+")")
	set.StringVar(&f.Reviewer.CAFile, "kubernetes-ca-file", "", "`file` with the API server's CA in PEM (default: Vault's own Pod has it)")
	set.StringVar(&f.Reviewer.TokenFile, "token-reviewer-jwt-file", "", "`file` with a service account token that may create TokenReviews, of a Secret, since the token of a Pod ends with the Pod (default: Vault uses its own Pod's)")
	set.BoolVar(&f.dryRun, "dry-run", false, "say what differs in Vault; change nothing")
	set.BoolVar(&f.apply, "apply", false, "change in Vault what differs")
	set.BoolVar(&f.force, "force", false, "with --apply: overwrite a role, policies or a configuration of the login that this command did not make")
	f.Flag.Add(cmd)
	f.Flags.Add(cmd)
	f.CompleteContext(cmd)
	cmd.MarkFlagsMutuallyExclusive("dry-run", "apply")
	exit.Usage(cmd)
	return cmd
}

func (f *flags) run(cmd *cobra.Command, args []string) error {
	if err := f.Check(); err != nil {
		return err
	}
	if f.force && !f.apply {
		return errors.New("--force: expected together with --apply, which it is for")
	}
	if f.Structured() && !f.apply && !f.dryRun {
		return errors.New("--output: expected together with --dry-run or --apply; what is printed without them is for a shell")
	}
	mesh, err := f.mesh(cmd, args)
	if err != nil {
		return err
	}
	if f.SkipAuthConfig && !f.Reviewer.isDefault() {
		return errors.New("--skip-auth-config: expected none together with --kubernetes-host, --kubernetes-ca-file and --token-reviewer-jwt-file, which it would leave unused")
	}
	if f.apply || f.dryRun {
		if err := f.Reviewer.read(); err != nil {
			return err
		}
	}
	desired, err := NewDesired(mesh, f.Options)
	if err != nil {
		return err
	}
	if !f.apply && !f.dryRun {
		return desired.Print(cmd.OutOrStdout(), f.filename != "")
	}
	for _, note := range desired.Notes {
		fmt.Fprintln(cmd.ErrOrStderr(), "Note:", note)
	}
	vault, err := Connect(mesh, f.filename != "", f.Timeout)
	if err != nil {
		return err
	}
	return f.reconcile(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), vault, desired)
}

func (f *flags) mesh(cmd *cobra.Command, args []string) (*networkingv1.VirtualMesh, error) {
	switch {
	case f.filename != "" && len(args) > 0:
		return nil, errors.New("expected -f FILE or the NAME of a VirtualMesh in the cluster, not both")
	case f.filename != "":
		return ReadFile(f.filename, cmd.InOrStdin())
	case len(args) == 0:
		return nil, errors.New("expected -f FILE or the NAME of a VirtualMesh in the cluster")
	}
	cluster, err := f.Open(f.context)
	if err != nil {
		return nil, err
	}
	return ReadCluster(cmd.Context(), cluster, cmp.Or(f.namespace, cluster.Namespace), args[0])
}

// read fills in what the files hold.
func (r *Reviewer) read() error {
	for _, each := range []struct {
		flag, file string
		into       *string
	}{{"kubernetes-ca-file", r.CAFile, &r.CA}, {"token-reviewer-jwt-file", r.TokenFile, &r.Token}} {
		if each.file == "" {
			continue
		}
		content, err := files.Read(each.file, files.MaxSmall)
		if err != nil {
			return fmt.Errorf("--%s: %w", each.flag, err)
		}
		if *each.into = strings.TrimSpace(string(content)); *each.into == "" {
			return fmt.Errorf("--%s: %s is empty", each.flag, each.file)
		}
	}
	return nil
}

// work shows the differences, and with --apply removes them.
func (f *flags) reconcile(ctx context.Context, out, notes io.Writer, vault *Vault, desired *Desired) error {
	if err := vault.CheckToken(); err != nil {
		return err
	}
	if _, err := vault.Health(ctx); err != nil {
		return err
	}
	observed, err := vault.Read(ctx, desired)
	if err != nil {
		return err
	}
	if warning, _ := observed.PodReviewer(desired.Auth); warning != "" {
		fmt.Fprintf(notes, "Note: %s; %s.\n", warning, reviewerAdvice)
	}
	differences, err := desired.Differences(observed)
	if err != nil {
		return err
	}
	if !f.Structured() { // before anything changes
		if len(differences) == 0 {
			fmt.Fprintf(out, "Nothing to do: the Vault at %s has all that the VirtualMesh needs.\n", vault.Address())
		}
		for _, difference := range differences {
			difference.print(out)
		}
	}
	applying, blocked := f.apply, f.blocked(differences)
	if blocked != nil {
		applying = false
	}
	yours := 0
	for i := range differences {
		difference := &differences[i]
		done := difference.Done
		difference.Done = ""
		switch {
		case difference.Kind == Manual:
			yours++
		case applying && err == nil:
			if err = vault.Apply(ctx, *difference); err != nil {
				break // what was done before is told
			}
			if difference.Done = done; !f.Structured() {
				fmt.Fprintf(out, "%s: %s\n", difference.What, done)
			}
		}
	}
	response := map[string]any{"vault": vault.Address(), "applied": applying, "differences": append([]Difference{}, differences...)}
	written := f.Write(out, response, func(io.Writer) {})
	switch {
	case err != nil:
		return err
	case written != nil:
		return written
	case blocked != nil:
		return blocked
	case !f.apply && len(differences) > 0:
		return exit.With(exit.Problem, nil)
	case f.apply && yours > 0:
		return fmt.Errorf("all is set up but what is yours to do, above (%s)", desired.Mounts[0].Path)
	}
	return nil
}

// blocked returns an error if --apply would overwrite something that this command did not make.
func (f *flags) blocked(differences []Difference) error {
	var others []string
	for _, difference := range differences {
		if difference.NeedsForce {
			others = append(others, difference.What)
		}
	}
	if !f.apply || f.force || len(others) == 0 {
		return nil
	}
	return fmt.Errorf("nothing was changed: this command did not make %s; compare the differences, and overwrite what is there by --force, or choose other names (the role in the VirtualMesh, --policy)", strings.Join(others, ", "))
}

func (d *Difference) print(out io.Writer) {
	what := d.What + ": differs"
	switch d.Kind {
	case Manual:
		what = d.What + ": yours to do"
	case Missing:
		what = d.What + ": is not there"
	}
	if d.NeedsForce {
		what += ", and was not made by this command"
	}
	fmt.Fprintln(out, what+":")
	for _, line := range d.Lines {
		fmt.Fprintln(out, "  "+line)
	}
}
