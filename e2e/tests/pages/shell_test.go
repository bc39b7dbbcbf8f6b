// SPDX-License-Identifier: Apache-2.0

package pages

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"istio.io/istio/manifests"
	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istio"
)

// shell runs commands of the pages in a folder like a clone of the repository.
type shell struct {
	dir         string
	environment []string
}

// newShell prepares the programs that a page's reader has, an administrator's kubeconfig, and the files that pages assume.
func newShell(t *testing.T) *shell {
	t.Helper()
	root, err := built.Root()
	must(t, err)
	dir, tools := t.TempDir(), t.TempDir()
	for _, folder := range []string{"charts", "config", "golden"} {
		must(t, os.Symlink(filepath.Join(root, folder), filepath.Join(dir, folder)))
	}
	for name, sample := range map[string]string{"virtual-mesh.yaml": "virtualmesh-vault.yaml", "injection.yaml": "injection.yaml"} {
		content, err := os.ReadFile(filepath.Join(root, "config", "samples", sample))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
	istiod, err := istio.Deployment(t.Context(), "istio-system", istio.Values("istio-system", istioVersion))
	must(t, err)
	deployment, err := yaml.Marshal(istiod.Object)
	must(t, err)
	must(t, os.Mkdir(filepath.Join(dir, "manifests"), 0o700))
	for name, content := range map[string]string{
		"istiod.yaml": string(deployment), "values.yaml": "global: {hub: docker.io/istio, tag: " + istioVersion + "}\n",
		"manifests/other.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: other}\n",
	} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	for _, certificate := range []string{"ca.crt", "webhooks-ca.crt"} {
		must(t, os.WriteFile(filepath.Join(dir, certificate), shared.Plane.Config.CAData, 0o600))
	}

	self, err := os.Executable()
	must(t, err)
	for _, tool := range []string{"kubectl", "istioctl"} {
		script := fmt.Sprintf("#!/bin/sh\n%s=%s exec '%s' \"$@\"\n", toolVariable, tool, self)
		must(t, os.WriteFile(filepath.Join(tools, tool), []byte(script), 0o700))
	}
	must(t, os.WriteFile(filepath.Join(tools, "helm"), []byte(helmScript(t, root)), 0o700))
	plugin, err := built.Plugin(t.Context())
	must(t, err)
	must(t, os.Symlink(plugin, filepath.Join(tools, filepath.Base(plugin))))
	must(t, os.Mkdir(filepath.Join(dir, "bin"), 0o700))
	must(t, os.Symlink(plugin, filepath.Join(dir, "bin", filepath.Base(plugin))))

	kubeconfig, err := shared.Plane.Kubeconfig("admin", "system:masters")
	must(t, err)
	return &shell{dir: dir, environment: append(os.Environ(), "HOME="+dir, "KUBECONFIG="+kubeconfig,
		"PATH="+tools+string(os.PathListSeparator)+os.Getenv("PATH"))}
}

// helmScript runs the Helm that `make helm` builds, with Istio's charts in place of those of its repository. An upgrade is
// rendered and checked by the API server, and not stored: the webhook configuration in it leads to a Service, and no network
// of a cluster exists here.
func helmScript(t *testing.T, root string) string {
	t.Helper()
	program := filepath.Join(root, ".build", "helm", "helm")
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("%v: run `make helm`", err)
	}
	istiod, err := fs.Sub(manifests.FS, "charts/istio-control/istio-discovery")
	must(t, err)
	chart := filepath.Join(t.TempDir(), "istiod")
	must(t, os.CopyFS(chart, istiod))
	return `#!/bin/bash
arguments=()
for argument in "$@"; do
  [ "$argument" != istio/istiod ] || argument=` + chart + `
  arguments+=("$argument")
done
[ "$1" != upgrade ] || arguments+=(--dry-run=server)
exec ` + program + ` "${arguments[@]}"
`
}

// run runs a script until its first failure and returns what it prints.
func (s *shell) run(ctx context.Context, script string) (string, error) {
	command := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script)
	command.Dir, command.Env, command.WaitDelay = s.dir, s.environment, time.Second
	output, err := command.CombinedOutput()
	if err != nil {
		return string(output), fmt.Errorf("%w:\n%s\n%s", err, script, output)
	}
	return string(output), nil
}
