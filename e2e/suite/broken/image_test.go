// SPDX-License-Identifier: Apache-2.0

package broken

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
)

// alteredAgent builds the agent's image with one text of a source file replaced, and returns the archive. It does not change
// the source: the compiler reads another file instead (flag -overlay).
func alteredAgent(ctx context.Context, dir, tag, file, before, after string) (archive string, err error) {
	root, err := built.Root()
	if err != nil {
		return "", err
	}
	file = filepath.Join(root, file)
	original, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(original), before); n != 1 {
		return "", fmt.Errorf("%s holds %q %d times, want once", file, before, n)
	}
	another := filepath.Join(dir, "another.go")
	if err := os.WriteFile(another, []byte(strings.Replace(string(original), before, after, 1)), 0o600); err != nil {
		return "", err
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{file: another}})
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600); err != nil {
		return "", err
	}
	build := exec.CommandContext(ctx, "go", "build", "-overlay", filepath.Join(dir, "overlay.json"),
		"-o", filepath.Join(dir, "bin", "linux-"+runtime.GOARCH, "istiod-agent"), "./cmd/istiod-agent")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-trimpath -buildvcs=false -gcflags=all=-dwarf=false")
	if output, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the agent: %w\n%s", err, output)
	}
	// The image has the licences of its program, which are no part of this test.
	if err := os.WriteFile(filepath.Join(dir, "bin", "linux-"+runtime.GOARCH, "istiod-agent.licenses"), nil, 0o600); err != nil {
		return "", err
	}
	archive = filepath.Join(dir, "agent.tar")
	image := exec.CommandContext(ctx, filepath.Join(root, ".build", "image"), "--file", filepath.Join(root, "Dockerfile"), "--context", dir,
		"--target", "agent", "--arch", runtime.GOARCH, "--name", "ghcr.io/istiod-agent/istiod-agent:"+tag,
		"--build-arg", "VERSION="+tag, "--build-arg", "REVISION=altered", "--output", archive)
	if output, err := image.CombinedOutput(); err != nil {
		return "", fmt.Errorf("writing its image: %w\n%s", err, output)
	}
	return archive, nil
}
