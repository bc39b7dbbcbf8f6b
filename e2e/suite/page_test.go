// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// scripts returns the fenced blocks of a section of a page in order.
func scripts(page, section string) ([]string, error) {
	content, err := os.ReadFile(page)
	if err != nil {
		return nil, err
	}
	_, after, found := strings.Cut(string(content), "\n## "+section+"\n")
	if !found {
		return nil, fmt.Errorf("%s has no section %q", page, section)
	}
	text, _, _ := strings.Cut(after, "\n## ")
	var all []string
	for i, part := range strings.Split("\n"+text, "\n```") {
		if i%2 == 1 {
			all = append(all, strings.TrimPrefix(part, "\n"))
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s: section %q has no commands", page, section)
	}
	return all, nil
}

// shell runs a script in the workspace and returns its standard output.
func shell(ctx context.Context, script string) (string, error) {
	command := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script)
	command.Dir = folder
	var output, all bytes.Buffer
	command.Stdout, command.Stderr = &both{&output, &all}, &all
	if err := command.Run(); err != nil {
		return output.String(), fmt.Errorf("%w\n%s\nwrote:\n%s", err, script, &all)
	}
	return output.String(), nil
}

type both struct{ a, b *bytes.Buffer }

func (w *both) Write(p []byte) (int, error) {
	w.a.Write(p)
	return w.b.Write(p)
}

// follow runs the commands of a section of docs/try-it.md and returns the output of its last block.
func follow(ctx context.Context, section string) (output string, err error) {
	blocks, err := scripts(filepath.Join(folder, "docs", "try-it.md"), section)
	if err != nil {
		return "", err
	}
	for _, block := range blocks {
		if strings.HasPrefix(block, "export CONTEXT_1=") {
			continue // the clusters to test in are others', perhaps
		}
		if output, err = shell(ctx, block); err != nil {
			return output, err
		}
	}
	return output, nil
}
