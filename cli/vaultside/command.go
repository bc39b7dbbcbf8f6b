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
	"github.com/istiod-agent/istiod-agent/internal/istio"
)

type flags struct {
	clusters.Flags
	output.Flag
	Options
	filename, context, namespace string
	jwksFile                     string
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

The login is that of the VirtualMesh, or of --auth. With kubernetes and jwt, the role
requires tokens for the audience in the VirtualMesh; without one, a note shows the two
lines that add it. With jwt, Vault gets the API server's public keys and never calls it.
With approle, you create the secret id.

Exit codes: 0 done, or nothing differs; 1 with --dry-run when something differs; 2 an
error, or a step remains that only you can do, such as the root CA.`,
		Example: `  # Print the commands
  kubectl istiod-agent vault -f virtual-mesh.yaml

  # Show the differences in Vault, then remove them
  export VAULT_ADDR=http://127.0.0.1:8200 VAULT_TOKEN=...
  kubectl istiod-agent vault virtual-mesh -n gloo-mesh --context cluster-1 --dry-run
  kubectl istiod-agent vault virtual-mesh -n gloo-mesh --context cluster-1 --apply

  # A Vault that cannot reach the API server: it gets the public keys
  kubectl istiod-agent vault -f virtual-mesh.yaml --auth=jwt --apply

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
	set.StringVar(&f.TrustDomain, "trust-domain", istio.DefaultTrustDomain, "trust `domain` of the meshes")
	set.StringVar(&f.Auth, "auth", "", "`login` to set up: "+strings.Join(logins, ", ")+" (default: the VirtualMesh's)")
	set.StringVar(&f.Role, "role", "", "`name` of the role where the VirtualMesh names none (default: "+defaultRole+")")
	set.StringVar(&f.Policy, "policy", "", "`name` of the policy (default: "+derivedPrefix+"ROLE)")
	set.StringVar(&f.Audience, "audience", "", "`audience` of the tokens for the login (default: the VirtualMesh's)")
	set.DurationVar(&f.TokenTTL, "token-ttl", DefaultTokenTTL, "longest `lifetime` of a login")
	set.BoolVar(&f.SkipAuthConfig, "skip-auth-config", false, "keep the configuration of the auth method")
	set.StringVar(&f.jwksFile, "jwks-file", "", "with JWT: `file` with the API server's JSON Web Key Set (default: read it from the cluster of --context)")
	set.StringVar(&f.Keys.URL, "jwks-url", "", "with JWT: `URL` where Vault reads the API server's JSON Web Key Set")
	set.StringVar(&f.Keys.Discovery, "oidc-discovery-url", "", "with JWT: `URL` of the API server's issuer, for a Vault that can reach it")
	set.StringVar(&f.Keys.CAFile, "jwks-ca-file", "", "with JWT: `file` with the CA of that URL in PEM")
	set.DurationVar(&f.SecretIDTTL, "secret-id-ttl", DefaultSecretIDTTL, "with AppRole: longest `lifetime` of secret ids")
	set.StringSliceVar(&f.CIDRs, "bound-cidr", nil, "with AppRole: `addresses` from which agents may log in, such as 10.0.0.0/8; may be repeated (default: any)")
	set.StringVar(&f.ClientCAFile, "client-ca-file", "", "with client certificates: `file` with their CA in PEM")
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
	if err := f.readLogin(cmd.Context(), mesh); err != nil {
		return err
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

// readLogin reads what the login's configuration and role need: files, and for JWT the keys of the cluster's API server.
func (f *flags) readLogin(ctx context.Context, mesh *networkingv1.VirtualMesh) error {
	if err := readFiles([]input{{"jwks-ca-file", f.Keys.CAFile, &f.Keys.CA}, {"client-ca-file", f.ClientCAFile, &f.ClientCA}}); err != nil {
		return err
	}
	vault := mesh.Spec.IntermediateCA()
	if vault == nil || vault.Vault == nil || f.SkipAuthConfig || cmp.Or(f.Auth, loginOf(vault.Vault).method) != jwtAuth || f.Keys.URL != "" || f.Keys.Discovery != "" {
		return nil
	}
	var jwks []byte
	var err error
	from := "--jwks-file " + f.jwksFile
	if f.jwksFile != "" {
		if jwks, err = files.Read(f.jwksFile, files.MaxSmall); err != nil {
			return fmt.Errorf("--jwks-file: %w", err)
		}
	} else {
		cluster, err := f.Open(f.context)
		if err != nil {
			return fmt.Errorf("--auth=jwt needs the public keys of the API server: %w; or name a file with them by --jwks-file (kubectl get --raw /openid/v1/jwks)", err)
		}
		from = "context " + cluster.Context
		if jwks, err = cluster.Discovery.RESTClient().Get().AbsPath("/openid/v1/jwks").DoRaw(ctx); err != nil {
			return fmt.Errorf("reading the public keys of the API server of %s (/openid/v1/jwks): %w; bind the ClusterRole system:service-account-issuer-discovery to you, or name a file with them by --jwks-file", from, err)
		}
	}
	if f.Keys.PEM, err = PublicKeys(jwks); err != nil {
		return fmt.Errorf("reading the public keys of the API server from %s: %w", from, err)
	}
	return nil
}

// input is a flag's file, and the place of its content.
type input struct {
	flag, file string
	content    *string
}

func (r *Reviewer) read() error {
	return readFiles([]input{{"kubernetes-ca-file", r.CAFile, &r.CA}, {"token-reviewer-jwt-file", r.TokenFile, &r.Token}})
}

func readFiles(inputs []input) error {
	for _, input := range inputs {
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
