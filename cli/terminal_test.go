// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"bytes"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/istiod-agent/istiod-agent/cli"
	"github.com/istiod-agent/istiod-agent/cli/clitest"
)

// hidden is what a terminal would act on, reorder or not show.
const hidden = "\x1b[2J\u009b31m\u202e\u2066\u200b\r\u0007"

// Whatever others have written, in a file or at a server, reaches no terminal as it is.
func TestNothingHiddenIsWritten(t *testing.T) {
	dir := t.TempDir()
	mesh := `{"apiVersion":"networking.mesh.gloo.solo.io/v1","kind":"VirtualMesh","metadata":{"name":"a"},"spec":{"` + hidden + `":1}}`
	manifest := strings.Replace(clitest.Istiod, "name: istiod\n", "name: \"istiod"+strings.NewReplacer("\r", `\r`, "\x1b", `\e`, "\u009b", `\x9b`, "\u0007", `\a`).Replace(hidden)+"\"\n", 1)
	kubeconfig := apiServer(t, "https://vault.vault:8200", clitest.Write(t, filepath.Join(dir, "root"), hidden))
	for _, arguments := range [][]string{
		{"inject", "-f", "-", "--check"},
		{"inject", "-f", "-", "-o", "patch"},
		{"uninject", "-f", "-", "--check"},
		{"inject", "-f", hidden},
		{"inject", "--" + hidden},
		{hidden},
		{"vault", "-f", "-"},
		{"vault", "-f", hidden},
		{"vault", "-f", "-", "--policy", hidden},
		{"check", "--context", hidden},
		{"check", "-o", hidden},
		{"status", "--kubeconfig", hidden},
		{"verify", "--root", hidden},
		{"verify", "--kubeconfig", kubeconfig},
		{"renew", hidden, "--kubeconfig", kubeconfig},
		{"renew", hidden, "--kubeconfig", kubeconfig, "-o", "json"},
		{"renew", hidden, "--kubeconfig", kubeconfig, "-o", "yaml"},
		{"rotate-root", hidden},
		{"rotate-root", "trust-both", "--new-root", hidden, "--kubeconfig", kubeconfig},
		{"status", "--kubeconfig", kubeconfig, "--context", hidden},
		{"completion", hidden},
		{"version", "-o", hidden},
		{"help", hidden},
	} {
		for _, stdin := range []string{mesh, manifest} {
			var out bytes.Buffer
			_ = cli.Run(t.Context(), arguments, strings.NewReader(stdin), &out, &out)
			for _, r := range hidden {
				if (r < ' ' || r > '~') && strings.ContainsRune(out.String(), r) {
					t.Errorf("%q writes %U:\n%q", arguments, r, &out)
				}
			}
		}
	}
}

// What programs read is not touched: manifests, and the scripts of shells.
func TestDataIsWrittenAsItIs(t *testing.T) {
	t.Parallel()
	manifest := "# \u202e\u200b\u00a0\r\na: 1\r\n---\n" + clitest.Service
	var out, errs bytes.Buffer
	if code := cli.Run(t.Context(), []string{"inject", "-f", "-"}, strings.NewReader(manifest), &out, &errs); code != 0 || out.String() != manifest {
		t.Errorf("exit code %d, got %q, want %q\n%s", code, &out, manifest, &errs)
	}
	for _, arguments := range [][]string{{"bash"}, {"zsh"}, {"fish"}, {"powershell"}, {"kubectl"}} {
		arguments = append([]string{"completion"}, arguments...)
		out.Reset()
		if code := cli.Run(t.Context(), arguments, strings.NewReader(""), &out, &errs); code != 0 || out.String() != clitest.Run(t, "", arguments...).Succeeds(t) {
			t.Errorf("%q is changed, exit code %d", arguments, code)
		}
	}
}

func TestRunReportsWhatCouldNotBeWritten(t *testing.T) {
	t.Parallel()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("there is no /dev/full here")
	}
	defer full.Close()
	for _, arguments := range [][]string{{"inject", "-f", "-"}, {"version"}, {"help"}} {
		var errs bytes.Buffer
		if code := cli.Run(t.Context(), arguments, strings.NewReader(clitest.Istiod), full, &errs); code == 0 || !strings.Contains(errs.String(), "no space left") {
			t.Errorf("%q: exit code %d, %s", arguments, code, &errs)
		}
	}
}

// All output goes through the writers that Run makes plain: no source of the command line has another way. Package files
// writes what no terminal shows: it replaces whatever has the file's name.
func TestNoWayAroundTheWriter(t *testing.T) {
	t.Parallel()
	main := filepath.Join("..", "cmd", "kubectl-istiod_agent", "main.go")
	banned := map[string][]string{
		"os": {"Stdout", "Stderr", "NewFile", "OpenFile", "Create", "CreateTemp", "WriteFile"}, "fmt": {"Print", "Printf", "Println"},
		"syscall": {"Write", "Stdout", "Stderr"},
	}
	seen := 0
	look := func(path string) {
		seen++
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, nil, 0)
		if err != nil {
			t.Error(err)
			return
		}
		for _, spec := range file.Imports {
			if name, _ := strconv.Unquote(spec.Path.Value); path != main && slices.Contains([]string{"log", "log/slog", "k8s.io/klog/v2"}, name) {
				t.Errorf("%s imports %s, which writes to standard error", path, name)
			}
		}
		ast.Inspect(file, func(node ast.Node) bool {
			switch node := node.(type) {
			case *ast.SelectorExpr:
				if from, ok := node.X.(*ast.Ident); ok && slices.Contains(banned[from.Name], node.Sel.Name) && path != main && filepath.Dir(path) != "files" {
					t.Errorf("%s: %s.%s goes around the writer", set.Position(node.Pos()), from.Name, node.Sel.Name)
				}
			case *ast.CallExpr:
				if name, ok := node.Fun.(*ast.Ident); ok && (name.Name == "println" || name.Name == "print") {
					t.Errorf("%s: %s goes around the writer", set.Position(node.Pos()), name.Name)
				}
			case *ast.BasicLit:
				if text, err := strconv.Unquote(node.Value); err == nil && node.Kind == token.STRING && strings.Contains(text, "\x1b") && filepath.Dir(path) != "terminal" {
					t.Errorf("%s: an escape sequence, which the writer would show; use package terminal", set.Position(node.Pos()))
				}
			}
			return true
		})
	}
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Name() == "clitest" { // only tests import it
			return fs.SkipDir
		}
		if err == nil && !entry.IsDir() && strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
			look(path)
		}
		return err
	})
	look(main)
	text, readErr := os.ReadFile(main)
	if err := errors.Join(err, readErr); err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(text), "cli.") != 1 || !strings.Contains(string(text), "cli.Run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)") {
		t.Errorf("%s does more than to call cli.Run", main)
	}
	if seen < 20 {
		t.Errorf("only %d files were looked at", seen)
	}
}
