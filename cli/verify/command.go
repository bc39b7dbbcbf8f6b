// SPDX-License-Identifier: Apache-2.0

// Package verify proves that clusters trust one root: by what istiods have published, and by handshakes between workloads.
package verify

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"

	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/cli/exit"
	"github.com/istiod-agent/istiod-agent/cli/terminal"
	"github.com/istiod-agent/istiod-agent/cli/vaultside"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

// The exit codes besides 0.
const (
	codeDiffers = 1
	codeUnknown = 2
)

var codecs = clientgoscheme.Codecs.WithoutConversion()

type flags struct {
	clusters.Flags
	contexts   []string
	namespaces []string
	output     string

	root      string
	vault     bool
	filename  string
	mesh      string
	handshake bool
	account   string
	addresses []string
}

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
namespaces of all contexts must have the same.

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
	set := cmd.Flags()
	set.StringArrayVar(&f.contexts, "context", nil, "kubeconfig `context` to look at; may be repeated (default: the current one)")
	set.StringArrayVarP(&f.namespaces, "namespace", "n", nil, "`namespace` to look at; may be repeated (default: all that have the ConfigMap)")
	set.StringVar(&f.root, "root", "", "`file` with the expected root, PEM")
	set.BoolVar(&f.vault, "vault", false, "expect the root of the Vault that a VirtualMesh names")
	set.StringVarP(&f.filename, "filename", "f", "", "`file` with the VirtualMesh for --vault, - for standard input (default: the only one in the first context)")
	set.StringVar(&f.mesh, "virtual-mesh", "", "`namespace/name` of the VirtualMesh for --vault, in the first context")
	set.BoolVar(&f.handshake, "handshake", false, "have workloads of every two contexts do a handshake of mutual TLS")
	set.StringVar(&f.account, "service-account", "default/default", "`namespace/name` of the workload's service account for --handshake")
	set.StringArrayVar(&f.addresses, "istiod-address", nil, "`CONTEXT=HOST:PORT` of istiod's port 15012 for --handshake; may be repeated (default: through the API server)")
	set.StringVarP(&f.output, "output", "o", "", "print json instead of lines for people")
	f.Add(set)
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"json"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("context", clusters.CompleteContexts(&f.Flags))
	cmd.MarkFlagsMutuallyExclusive("root", "vault")
	cmd.MarkFlagsMutuallyExclusive("filename", "virtual-mesh")
	exit.Usage(cmd, codeUnknown)
	return cmd
}

func (f *flags) run(cmd *cobra.Command, _ []string) error {
	of, addresses, err := f.check()
	if err != nil {
		return exit.With(codeUnknown, err)
	}
	progress := terminal.NewProgress(cmd.ErrOrStderr())
	defer progress.Done()
	ctx := cmd.Context()
	places := f.open(ctx)
	root, err := f.expected(ctx, cmd.InOrStdin(), places)
	if err != nil {
		return exit.With(codeUnknown, err)
	}
	var lines []Line
	unknown := false
	for _, place := range places {
		if place.err != nil {
			unknown = true
			lines = append(lines, Line{false, place.cluster.Context, place.err.Error()})
			continue
		}
		lines = append(lines, place.bundles.check(place.cluster.Context, root)...)
	}
	if f.handshake {
		found, failed := f.handshakes(ctx, places, of, addresses, progress)
		lines, unknown = append(lines, found...), unknown || failed
	}
	progress.Done()
	if err := f.print(cmd.OutOrStdout(), root, lines); err != nil {
		return exit.With(codeUnknown, err)
	}
	switch {
	case unknown:
		return exit.With(codeUnknown, nil)
	case slices.ContainsFunc(lines, func(l Line) bool { return !l.OK }):
		return exit.With(codeDiffers, nil)
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
	case f.output != "" && f.output != "json":
		err = fmt.Errorf("--output %q: the only other format is json", f.output)
	case (f.filename != "" || f.mesh != "") && !f.vault:
		err = errors.New("--filename and --virtual-mesh: expected together with --vault, which they are for")
	case len(addresses) > 0 && !f.handshake:
		err = errors.New("--istiod-address: expected together with --handshake, which it is for")
	}
	return of, addresses, err
}

// place is one of the contexts, and what its istiods have published, or why that is not known.
type place struct {
	cluster *clusters.Cluster
	bundles published
	err     error
}

func (f *flags) open(ctx context.Context) []place {
	contexts := f.contexts
	if len(contexts) == 0 {
		contexts = []string{""}
	}
	places := make([]place, len(contexts))
	var pending sync.WaitGroup
	for i, name := range contexts {
		pending.Go(func() {
			p := &places[i]
			if p.cluster, p.err = f.Open(name); p.err == nil {
				p.bundles, p.err = readPublished(ctx, p.cluster, f.namespaces)
			}
		})
	}
	pending.Wait()
	return places
}

// expected is the root that all are to have.
func (f *flags) expected(ctx context.Context, in io.Reader, places []place) (*x509.Certificate, error) {
	switch {
	case f.root != "":
		text, err := os.ReadFile(f.root)
		if err != nil {
			return nil, fmt.Errorf("--root: %w", err)
		}
		return onlyRoot("--root "+f.root, text)
	case f.vault:
		text, err := f.ofVault(ctx, in, places[0].cluster)
		if err != nil {
			return nil, err
		}
		return onlyRoot("Vault", text)
	}
	// The first that is published; all others are held against it.
	for _, place := range places {
		for _, namespace := range slices.Sorted(maps.Keys(place.bundles)) {
			if certificates, err := pemcerts.Parse([]byte(place.bundles[namespace])); err == nil {
				return certificates[len(certificates)-1], nil
			}
		}
	}
	for _, place := range places {
		if place.err != nil {
			return nil, fmt.Errorf("%s: %w", place.cluster.Context, place.err)
		}
	}
	return nil, errors.New("no istiod has published a root (ConfigMap " + configMap + "): has it started?")
}

func onlyRoot(what string, text []byte) (*x509.Certificate, error) {
	roots, err := pemcerts.ParseRoots(text)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: expected a root certificate, PEM: %w", what, err)
	case len(roots) != 1:
		return nil, fmt.Errorf("%s: expected one root certificate, found %d", what, len(roots))
	}
	return roots[0], nil
}

func (f *flags) ofVault(ctx context.Context, in io.Reader, cluster *clusters.Cluster) ([]byte, error) {
	mesh, err := f.virtualMesh(ctx, in, cluster)
	if err != nil {
		return nil, err
	}
	ca := mesh.Spec.IntermediateCA()
	if ca == nil || ca.Vault == nil {
		return nil, errors.New("--vault: the VirtualMesh names no Vault")
	}
	vault, err := vaultside.Connect(mesh, f.Timeout)
	if err != nil {
		return nil, err
	}
	return vault.Root(ctx, mesh)
}

func (f *flags) virtualMesh(ctx context.Context, in io.Reader, cluster *clusters.Cluster) (*networkingv1.VirtualMesh, error) {
	if f.filename != "" {
		return vaultside.ReadFile(f.filename, in)
	}
	if f.mesh != "" {
		namespace, name, found := strings.Cut(f.mesh, "/")
		if !found {
			return nil, fmt.Errorf("--virtual-mesh %q: expected NAMESPACE/NAME", f.mesh)
		}
		return vaultside.ReadCluster(ctx, cluster, namespace, name)
	}
	return vaultside.ReadOnly(ctx, cluster)
}

// handshakes has workloads of every two contexts greet each other, and of each with itself.
func (f *flags) handshakes(ctx context.Context, places []place, of account, addresses map[string]string, progress *terminal.Progress) (lines []Line, unknown bool) {
	workloads := make([]*workload, len(places))
	for i, place := range places {
		if place.err != nil {
			continue
		}
		progress.Say("%s: getting a workload's certificate from istiod", place.cluster.Context)
		found, err := workloadOf(ctx, place.cluster, place.bundles, of, addresses[place.cluster.Context])
		if err != nil {
			unknown = true
			lines = append(lines, Line{false, place.cluster.Context + ": handshake", err.Error()})
			continue
		}
		workloads[i] = found
	}
	for i, client := range workloads {
		for j, server := range workloads {
			if client == nil || server == nil {
				continue
			}
			line := Line{true, fmt.Sprintf("handshake from %s to %s", places[i].cluster.Context, places[j].cluster.Context), "succeeds"}
			if err := handshake(client, server); err != nil {
				line.OK, line.Detail = false, err.Error()
			}
			lines = append(lines, line)
		}
	}
	return lines, unknown
}

func (f *flags) print(out io.Writer, root *x509.Certificate, lines []Line) error {
	if f.output == "json" {
		encoder := json.NewEncoder(out)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		return encoder.Encode(map[string]any{"root": pemcerts.Fingerprint(root), "lines": lines})
	}
	var text strings.Builder
	fmt.Fprintf(&text, "Root %s, SHA-256 %s\n", cmp.Or(root.Subject.String(), "without a name"), pemcerts.Fingerprint(root))
	coloured := terminal.Coloured(out)
	for _, line := range lines {
		status, colour := "ok  ", terminal.Green
		if !line.OK {
			status, colour = "fail", terminal.Red
		}
		if coloured {
			status = terminal.In(colour, status)
		}
		fmt.Fprintf(&text, "%s  %s: %s\n", status, line.What, terminal.OneLine(line.Detail))
	}
	_, err := io.WriteString(out, text.String())
	return err
}
