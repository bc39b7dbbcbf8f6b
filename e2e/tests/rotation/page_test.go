// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/kubectl"
	"github.com/istiod-agent/istiod-agent/e2e/tests/vaultdocs"
)

// exceptions are the blocks of docs/rotation.md that the test does not run, with the reason.
var exceptions = map[string]string{
	"Before you start 1":                        "no controller rolls Deployments out here; the tests of package patches have the value",
	"Check that workloads trust the new root 2": "there is no proxy here; the workloads of these tests know what they were told to trust",
}

var (
	ran  = map[string]bool{} // the page's blocks
	ways int                 // of the tests that walk the page, how many came to its end
)

// page runs the blocks of a page in a shell.
type page struct {
	mesh        *mesh
	file        string
	blocks      map[string]string
	dir         string
	environment []string
	// names puts the test's namespace in the place of the page's.
	names *strings.Replacer
}

func pageBlocks(t *testing.T, file string) map[string]string {
	t.Helper()
	root, err := built.Root()
	must(t, err)
	content, err := os.ReadFile(filepath.Join(root, "docs", file))
	must(t, err)
	blocks, err := vaultdocs.Blocks(string(content))
	must(t, err)
	return blocks
}

// newPage prepares kubectl, its plugin and Vault's command line on the PATH, a context for each of the page's two clusters
// (both are the same cluster here), and the files that the page assumes.
func newPage(t *testing.T, m *mesh, file string) *page {
	t.Helper()
	dir, tools := t.TempDir(), t.TempDir()
	p := &page{
		mesh: m, file: file, blocks: pageBlocks(t, file), dir: dir,
		names: strings.NewReplacer("bookinfo", m.namespace, "istio-system", m.namespace),
		environment: append(os.Environ(), "PATH="+tools+string(os.PathListSeparator)+os.Getenv("PATH"), "HOME="+dir,
			"KUBECONFIG="+kubeconfig(t, dir), "VAULT_ADDR="+m.vault.Address, "VAULT_TOKEN="+m.vault.Client.Token()),
	}
	self, err := os.Executable()
	must(t, err)
	for _, tool := range []string{"kubectl", "vault"} {
		script := fmt.Sprintf("#!/bin/sh\n%s=%s exec '%s' \"$@\"\n", toolVariable, tool, self)
		must(t, os.WriteFile(filepath.Join(tools, tool), []byte(script), 0o700))
	}
	plugin, err := built.Plugin(t.Context())
	must(t, err)
	must(t, os.Symlink(plugin, filepath.Join(tools, filepath.Base(plugin))))

	virtualMesh, err := yaml.Marshal(m.object.Object)
	must(t, err)
	for name, content := range map[string][]byte{"root-cert.pem": m.root.Certificate, "virtual-mesh.yaml": virtualMesh} {
		must(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
	return p
}

// kubeconfig returns an administrator's kubeconfig.
func kubeconfig(t *testing.T, dir string) string {
	t.Helper()
	file, err := shared.Plane.Kubeconfig("admin", "system:masters")
	must(t, err)
	config, err := clientcmd.LoadFromFile(file)
	must(t, err)
	for _, name := range []string{"cluster-1", "cluster-2"} {
		config.Contexts[name] = config.Contexts[config.CurrentContext].DeepCopy()
	}
	file = filepath.Join(dir, "kubeconfig")
	must(t, clientcmd.WriteToFile(*config, file))
	return file
}

// run runs a block of the page until the first command fails.
func (p *page) run(t *testing.T, name string) {
	t.Helper()
	must(t, p.try(t.Context(), name))
	ran[name] = true
}

// interrupted runs a block and kills the controller once the stage is requested. Another one continues.
func (p *page) interrupted(t *testing.T, word networkingv1.RootRotation, name string) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- p.try(t.Context(), name) }()
	cluster.Eventually(t, "the word is "+string(word), func() error {
		stored := p.mesh.object.DeepCopy()
		if err := shared.Get(t.Context(), client.ObjectKeyFromObject(stored), stored); err != nil {
			return err
		}
		if found := stored.GetAnnotations()[networkingv1.RootRotationAnnotation]; found != string(word) {
			return fmt.Errorf("it is %q", found)
		}
		return nil
	})
	must(t, shared.Webhook.Kill(shared.Webhook.Replicas[0]))
	_, err := shared.Webhook.Scale(t.Context())
	must(t, err)
	must(t, <-done)
	ran[name] = true
}

func (p *page) try(ctx context.Context, name string) error {
	_, err := p.output(ctx, name)
	return err
}

// output returns what the block prints, also with an error.
func (p *page) output(ctx context.Context, name string) (string, error) {
	script, ok := p.blocks[name]
	if !ok {
		return "", fmt.Errorf("docs/%s has no block %q", p.file, name)
	}
	command := exec.CommandContext(ctx, "sh", "-euc", p.names.Replace(script))
	command.Dir, command.Env = p.dir, p.environment
	output, err := command.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("docs/%s, %s: %w:\n%s\n%s", p.file, name, err, script, output)
	}
	return string(output), err
}

func (p *page) read(t *testing.T, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(p.dir, name))
	must(t, err)
	return content
}

// toolVariable makes this program act as one of the page's tools.
const toolVariable = "ROTATION_TEST_TOOL"

// beTool runs a tool and exits, if the variable names one.
func beTool() {
	var err error
	switch os.Getenv(toolVariable) {
	case "":
		return
	case "kubectl":
		kubectl.Main()
	case "vault":
		err = vault()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func vault() error {
	vaults, err := api.NewClient(api.DefaultConfig()) // by VAULT_ADDR and VAULT_TOKEN
	if err != nil {
		return err
	}
	call := vaultdocs.Call{Arguments: os.Args[1:]}
	if last := len(call.Arguments) - 1; last >= 0 && call.Arguments[last] == "-" {
		input, err := io.ReadAll(os.Stdin)
		if err != nil {
			return err
		}
		call.Input = string(input)
	}
	cli := &vaultdocs.CLI{
		Client:  vaults,
		Read:    func(name string) (string, error) { content, err := os.ReadFile(name); return string(content), err },
		Warning: func(warning string) { fmt.Fprintln(os.Stderr, "WARNING!", warning) },
	}
	output, err := cli.Run(context.Background(), call)
	if err != nil {
		return err
	}
	_, err = io.Copy(os.Stdout, bytes.NewReader([]byte(output)))
	return err
}
