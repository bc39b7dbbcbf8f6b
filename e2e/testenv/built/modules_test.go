// SPDX-License-Identifier: Apache-2.0

package built

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Go compiles a package once for each version of its module: the product and its tests share what they compile only while
// they select the same versions.
func TestModulesAreSelectedInOneVersion(t *testing.T) {
	t.Parallel()
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	list := func(dir string, arguments ...string) []string {
		command := exec.CommandContext(t.Context(), "go", append([]string{"list"}, arguments...)...)
		command.Dir = dir
		output, err := command.Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Split(strings.TrimSpace(string(output)), "\n")
	}
	ours := map[string]bool{}
	for _, line := range list(filepath.Join(root, "e2e"), "-m", "-f", "{{.Path}} {{.Version}}", "all") {
		ours[line] = true
	}
	for _, line := range list(root, "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}}{{end}}{{end}}", "./cmd/...") {
		if line != "" && !ours[line] {
			ours[line] = true // one message for each
			t.Errorf("e2e/go.mod selects another version than %s: run `go get` for that of e2e/go.mod, then `go mod tidy`", line)
		}
	}
}
