// SPDX-License-Identifier: Apache-2.0

// Package altered builds images of the agent from altered source, for tests of what the real one must never do or cannot
// be brought to. The source itself stays as it is: the compiler is given other files in the place of some (its flag
// -overlay).
package altered

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/istiod-agent/istiod-agent/e2e/built"
)

// Edit replaces the one place of a file in which Old stands. A file that does not exist is made of New.
type Edit struct{ File, Old, New string }

// AgentImage builds the agent's image under a tag into dir, and gives its archive. Files are relative to this repository,
// or absolute for those of Go's own library.
func AgentImage(ctx context.Context, dir, tag string, edits ...Edit) (archive string, err error) {
	root, err := built.Root()
	if err != nil {
		return "", err
	}
	replace := map[string]string{}
	for i, edit := range edits {
		file := edit.File
		if !filepath.IsAbs(file) {
			file = filepath.Join(root, file)
		}
		content := edit.New
		if edit.Old != "" {
			original, err := os.ReadFile(file)
			if err != nil {
				return "", err
			}
			if n := strings.Count(string(original), edit.Old); n != 1 {
				return "", fmt.Errorf("%s holds %q %d times, want once", file, edit.Old, n)
			}
			content = strings.Replace(string(original), edit.Old, edit.New, 1)
		}
		replace[file] = filepath.Join(dir, fmt.Sprintf("%d.go", i))
		if err := os.WriteFile(replace[file], []byte(content), 0o600); err != nil {
			return "", err
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600); err != nil {
		return "", err
	}
	build := exec.CommandContext(ctx, "go", "build", "-overlay", filepath.Join(dir, "overlay.json"),
		"-o", filepath.Join(dir, "bin", "linux-"+runtime.GOARCH, "istiod-agent"), "./cmd/istiod-agent")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-trimpath -buildvcs=false")
	if output, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the agent: %w\n%s", err, output)
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
