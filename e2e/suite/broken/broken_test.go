// SPDX-License-Identifier: Apache-2.0

// Package broken proves that the checks of the suite can fail: it goes through the guide with a part that is broken, and
// wants the check red that is there for it.
package broken

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/istiod-agent/istiod-agent/e2e/built"
)

// The suite's checks, as the go test names them.
const (
	injected = "TestTheGuide/the_guide/istiod_comes_up_with_the_agent,_and_nobody_has_patched_it"
	lastStep = "TestTheGuide/the_guide/the_last_step:_the_diff_is_empty"
)

func TestChecksCanFail(t *testing.T) {
	root, err := built.Root()
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		arguments []string
		red       string
	}{
		"the agent's publication": {[]string{"-agent-image", withoutPublication(t, root)}, lastStep},
		"the root":                {[]string{"-broken", "root"}, lastStep},
		"the webhook":             {[]string{"-broken", "webhook"}, injected},
	} {
		t.Run(name, func(t *testing.T) {
			command := exec.Command("go", append([]string{"test", "-count=1", "-v", "-run", "^TestTheGuide$", "./suite", "-args", "-number", "1"}, test.arguments...)...)
			command.Dir = filepath.Join(root, "e2e")
			output, err := command.CombinedOutput()
			if err == nil {
				t.Fatalf("the suite is green:\n%s", output)
			}
			if !regexp.MustCompile(`--- FAIL: ` + regexp.QuoteMeta(test.red) + ` `).Match(output) {
				t.Errorf("%q is not red:\n%s", test.red, output)
			}
		})
	}
}

// withoutPublication builds an image of an agent that says it has published istiod's CA, and has not. The program's
// source stays as it is: the compiler is given another file in the place of one.
func withoutPublication(t *testing.T, root string) string {
	t.Helper()
	file := filepath.Join(root, "agent", "cacerts", "directory.go")
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	const publish = "func (d *Directory) Publish(set *Set) error {\n"
	if strings.Count(string(content), publish) != 1 {
		t.Fatalf("%s has no %q", file, publish)
	}
	dir := t.TempDir()
	broken := filepath.Join(dir, "directory.go")
	if err := os.WriteFile(broken, []byte(strings.Replace(string(content), publish, publish+"\tif set != nil {\n\t\treturn nil\n\t}\n", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{file: broken}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	context := filepath.Join(dir, "bin", "linux-"+arch(t))
	build := exec.Command("go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-o", filepath.Join(context, "istiod-agent"), "./cmd/istiod-agent")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	archive := filepath.Join(dir, "agent.tar")
	image := exec.Command(filepath.Join(root, ".build", "image"), "--file", filepath.Join(root, "Dockerfile"), "--context", dir, "--target", "agent",
		"--arch", arch(t), "--name", "ghcr.io/istiod-agent/istiod-agent:0.1.0", "--build-arg", "VERSION=0.1.0", "--build-arg", "REVISION=broken", "--output", archive)
	if output, err := image.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	return archive
}

func arch(t *testing.T) string {
	t.Helper()
	output, err := exec.Command("go", "env", "GOARCH").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(output))
}
