// SPDX-License-Identifier: Apache-2.0

package built

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// hack/build.sh keeps a program that is as Go would link it, replaces any other one in one step, and keeps it when its source
// does not compile.
func TestBuildScript(t *testing.T) {
	t.Parallel()
	root, err := Root()
	must(t, err)
	module, output := t.TempDir(), filepath.Join(t.TempDir(), "program")
	write := func(file, content string) {
		t.Helper()
		must(t, os.WriteFile(filepath.Join(module, file), []byte(content), 0o600))
	}
	build := func(ldflags string) (os.FileInfo, error) {
		command := exec.CommandContext(t.Context(), filepath.Join(root, "hack", "build.sh"), output, module, ".", ldflags)
		command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-trimpath -buildvcs=false -gcflags=all=-dwarf=false")
		_, runErr := command.CombinedOutput()
		entries, err := os.ReadDir(filepath.Dir(output))
		must(t, err)
		if len(entries) != 1 {
			t.Errorf("%d files are beside the program", len(entries)-1)
		}
		file, err := os.Stat(output)
		must(t, err)
		return file, runErr
	}
	prints := func(want string) {
		t.Helper()
		if text, err := exec.CommandContext(t.Context(), output).CombinedOutput(); err != nil || string(text) != want {
			t.Errorf("the program prints %q (%v), not %q", text, err, want)
		}
	}
	source := func(text string) string {
		return "package main\n\nvar version = \"none\"\n\nfunc main() { print(\"" + text + " \", version) }\n"
	}

	write("go.mod", "module example.com/program\n\ngo 1.26.0\n")
	write("main.go", source("first"))
	first, err := build("-X main.version=1")
	must(t, err)
	prints("first 1")
	again, err := build("-X main.version=1")
	must(t, err)
	if !os.SameFile(first, again) {
		t.Error("nothing has changed, and the program is another file")
	}
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Link(output, link))
	other, err := build("-X main.version=2")
	must(t, err)
	prints("first 2")
	if os.SameFile(first, other) {
		t.Error("the program was written over")
	}
	if text, err := exec.CommandContext(t.Context(), link).CombinedOutput(); err != nil || string(text) != "first 1" {
		t.Errorf("the old program, which may run, prints %q (%v)", text, err)
	}
	write("main.go", source("second"))
	_, err = build("-X main.version=2")
	must(t, err)
	prints("second 2")
	write("main.go", "package main\n\nfunc main() { missing() }\n")
	if _, err := build("-X main.version=2"); err == nil {
		t.Error("it does not fail")
	}
	prints("second 2")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
