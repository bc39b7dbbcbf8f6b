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
		Long: `Prints the vault commands that let the istiods of a VirtualMesh get their CA
certificates: the auth method, the secrets engines with their longest lease, the
smallest sufficient policies, and the role. The commands are for a shell and may run
again. Without flags, nothing is sent to Vault.

--dry-run shows the differences in Vault; --apply shows them, changes Vault, and prints
each change. Neither creates or replaces a root CA. An existing configuration of the
auth method stays, unless flags set another, and so does a longer lease.

--apply overwrites nothing that this command did not write. Its policies begin with a
comment, and a role belongs to it if all policies of the role do. To replace another
role, policy or configuration of the auth method, compare the differences and add
--force.

Both flags use VAULT_ADDR, VAULT_TOKEN, VAULT_NAMESPACE, VAULT_CACERT and the other
variables of the vault command. Without VAULT_ADDR, they use the server of the
VirtualMesh given by -f. The token is never sent to a server that only a VirtualMesh in
a cluster names.

The role requires tokens for the audience in the VirtualMesh's kubernetesAuth. Without
an audience, a note shows the two lines that add one.

Exit codes: 0 done, or nothing differs; 1 with --dry-run when something differs; 2 an
error, or a step remains that only you can do, such as the root CA.`,
		Example: `  # Print the commands
  kubectl istiod-agent vault -f virtual-mesh.yaml

  # Show the differences in Vault, then remove them
  export VAULT_ADDR=http://127.0.0.1:8200 VAULT_TOKEN=...
  kubectl istiod-agent vault virtual-mesh -n gloo-mesh --context cluster-1 --dry-run
  kubectl istiod-agent vault virtual-mesh -n gloo-mesh --context cluster-1 --apply

  # A Vault outside the cluster needs the address of the API server
  kubectl istiod-agent vault -f virtual-mesh.yaml --kubernetes-host https://10.0.0.1:6443 \
    --kubernetes-ca-file ca.crt --token-reviewer-jwt-file reviewer.jwt`,
		Args: cobra.MaximumNArgs(1),
		RunE: f.run,
	}
	set := cmd.Flags()
	set.StringVarP(&f.filename, "filename", "f", "", "`file` with the VirtualMesh, - for standard input; instead of a NAME in the cluster")
	set.StringVar(&f.context, "context", "", "kubeconfig `context` of the cluster with the VirtualMesh (default: the current context)")
	set.StringVarP(&f.namespace, "namespace", "n", "", "`namespace` of the VirtualMesh (default: the context's)")
	set.StringSliceVar(&f.ServiceAccounts, "service-account", []string{DefaultServiceAccount}, "service account `name` of istiod; may be repeated")
	set.StringSliceVar(&f.Namespaces, "istiod-namespace", []string{DefaultNamespace}, "`namespace` of istiod; may be repeated")
	set.StringVar(&f.TrustDomain, "trust-domain", defaultTrustDomain, "trust `domain` of the meshes")
	set.StringVar(&f.Policy, "policy", "", "`name` of the policy (default: "+derivedPrefix+"ROLE)")
	set.StringVar(&f.Audience, "audience", "", "`audience` of the tokens for the login (default: the VirtualMesh's)")
	set.DurationVar(&f.TokenTTL, "token-ttl", DefaultTokenTTL, "longest `lifetime` of a login")
	set.BoolVar(&f.SkipAuthConfig, "skip-auth-config", false, "keep the configuration of token reviews")
	set.StringVar(&f.Reviewer.Host, "kubernetes-host", "", "`URL` of the API server for Vault (default: the present one, or "+inCluster+")")
	set.StringVar(&f.Reviewer.CAFile, "kubernetes-ca-file", "", "`file` with the API server's CA in PEM (default: from Vault's Pod)")
	set.StringVar(&f.Reviewer.TokenFile, "token-reviewer-jwt-file", "", "`file` with a service account token from a Secret that may create TokenReviews; the token of a Pod expires with the Pod (default: the token of Vault's Pod)")
	set.BoolVar(&f.dryRun, "dry-run", false, "show the differences in Vault without changing them")
	set.BoolVar(&f.apply, "apply", false, "remove the differences in Vault")
	set.BoolVar(&f.force, "force", false, "with --apply: overwrite a role, policy or configuration of the auth method that this command did not write")
	f.Flag.Add(cmd)
	f.Flags.Add(cmd)
	f.CompleteContext(cmd)
	cmd.MarkFlagsMutuallyExclusive("dry-run", "apply")
	exit.Codes(cmd)
	return cmd
}

func (f *flags) run(cmd *cobra.Command, args []string) error {
	if f.force && !f.apply {
		return errors.New("--force requires --apply")
	}
	if f.Structured() && !f.apply && !f.dryRun {
		return errors.New("--output requires --dry-run or --apply; without them, the output is a shell script")
	}
	mesh, err := f.mesh(cmd, args)
	if err != nil {
		return err
	}
	if f.SkipAuthConfig && !f.Reviewer.isDefault() {
		return errors.New("--skip-auth-config: expected without --kubernetes-host, --kubernetes-ca-file and --token-reviewer-jwt-file, which it ignores")
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
		return desired.print(cmd.OutOrStdout(), f.filename != "")
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
	return readCluster(cmd.Context(), cluster, cmp.Or(f.namespace, cluster.Namespace), args[0])
}

func (r *Reviewer) read() error {
	for _, input := range []struct {
		flag, file string
		content    *string
	}{{"kubernetes-ca-file", r.CAFile, &r.CA}, {"token-reviewer-jwt-file", r.TokenFile, &r.Token}} {
		if input.file == "" {
			continue
		}
		content, err := files.Read(input.file, files.MaxSmall)
		if err != nil {
			return fmt.Errorf("--%s: %w", input.flag, err)
		}
		if *input.content = strings.TrimSpace(string(content)); *input.content == "" {
			return fmt.Errorf("--%s: %s is empty", input.flag, input.file)
		}
	}
	return nil
}

// reconcile shows the differences, and with --apply removes them.
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
			fmt.Fprintf(out, "Nothing to do: the Vault at %s has everything that the VirtualMesh needs.\n", vault.Address())
		}
		for _, difference := range differences {
			difference.print(out)
		}
	}
	applying, blocked := f.apply, f.blocked(differences)
	if blocked != nil {
		applying = false
	}
	manual := 0
	for i := range differences {
		difference := &differences[i]
		done := difference.Done
		difference.Done = ""
		switch {
		case difference.Kind == Manual:
			manual++
		case applying && err == nil:
			if err = vault.apply(ctx, difference.change); err != nil {
				break // the changes before it are still printed
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
	case f.apply && manual > 0:
		return fmt.Errorf("everything is set up except the step above that only you can do (%s)", desired.Mounts[0].Path)
	}
	return nil
}

// blocked returns an error if --apply would overwrite something that this command did not write.
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
	return fmt.Errorf("nothing was changed: this command did not write %s; compare the differences, and overwrite by --force, or choose other names (the role in the VirtualMesh, --policy)", strings.Join(others, ", "))
}

func (d *Difference) print(out io.Writer) {
	heading := d.What + ": differs"
	switch d.Kind {
	case Manual:
		heading = d.What + ": manual step"
	case Missing:
		heading = d.What + ": does not exist"
	}
	if d.NeedsForce {
		heading += ", and was not written by this command"
	}
	fmt.Fprintln(out, heading+":")
	for _, line := range d.Lines {
		fmt.Fprintln(out, "  "+line)
	}
}
