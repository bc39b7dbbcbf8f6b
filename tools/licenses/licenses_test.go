// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"debug/buildinfo"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// The agent's file holds the licences of its own module, of Go, of all that it links and of Mozilla's root certificates.
func TestProgram(t *testing.T) {
	const root = "../.."
	directory := t.TempDir()
	program := filepath.Join(directory, "istiod-agent")
	build := exec.CommandContext(t.Context(), "go", "build", "-C", root, "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", program, "./cmd/istiod-agent")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	var files [2][]byte
	for i := range files {
		output := filepath.Join(directory, "licenses")
		if err := run(t.Context(), []string{"--root", root, "--output", output, program}); err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(output)
		if err != nil {
			t.Fatal(err)
		}
		files[i] = content
	}
	if !bytes.Equal(files[0], files[1]) {
		t.Error("two files of the same program differ")
	}
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	if len(info.Deps) == 0 {
		t.Fatal("the program links no module")
	}
	for _, m := range append(info.Deps, &debug.Module{Path: "Go", Version: strings.TrimPrefix(info.GoVersion, "go")}) {
		if !strings.Contains(string(files[0]), "\n"+m.Path+" "+m.Version+": ") {
			t.Errorf("%s %s is not in the file", m.Path, m.Version)
		}
	}
	for _, text := range []string{"\ngithub.com/istiod-agent/istiod-agent: LICENSE\n", "Copyright 2009 The Go Authors", "certdata.txt", "\nMozilla Public License"} {
		if !strings.Contains(string(files[0]), text) {
			t.Errorf("no %q in the file", text)
		}
	}
	if at := filepath.ToSlash(directory); strings.Contains(string(files[0]), at) {
		t.Errorf("the file names the directory %s", at)
	}
}

func TestLicenceTexts(t *testing.T) {
	const licence, another = "A licence\n", "Another licence\n"
	file := func(content string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(content)} }
	for name, test := range map[string]struct {
		packages []string
		files    fstest.MapFS
		want     []text
		err      string
	}{
		"a licence at the root": {
			packages: []string{"pkg/a", "."},
			files:    fstest.MapFS{"LICENSE": file(licence), "pkg/a/a.go": file("package a")},
			want:     []text{{licence, []string{"example.test/m v1.0.0: LICENSE"}}},
		},
		"a licence of copied code": {
			packages: []string{"third_party/a/b"},
			files:    fstest.MapFS{"LICENSE": file(licence), "third_party/a/LICENSE.txt": file(another), "third_party/a/b/b.go": file("package b")},
			want:     []text{{licence, []string{"example.test/m v1.0.0: LICENSE"}}, {another, []string{"example.test/m v1.0.0: third_party/a/LICENSE.txt"}}},
		},
		"a licence of code that is not linked": {
			packages: []string{"."},
			files:    fstest.MapFS{"COPYING": file(licence), "unused/LICENSE": file(another)},
			want:     []text{{licence, []string{"example.test/m v1.0.0: COPYING"}}},
		},
		"the same text twice, with other line ends": {
			packages: []string{"a"},
			files:    fstest.MapFS{"LICENSE": file(licence), "a/LICENSE": file("\r\n" + strings.ReplaceAll(licence, "\n", "\r\n\r\n"))},
			want:     []text{{licence, []string{"example.test/m v1.0.0: LICENSE", "example.test/m v1.0.0: a/LICENSE"}}},
		},
		"a notice and a grant of patents": {
			packages: []string{"."},
			files:    fstest.MapFS{"LICENSE-MIT": file(licence), "NOTICE": file(another), "PATENTS": file("A grant\n"), "license.go": file("package m"), "LICENSES": file("a list")},
			want: []text{
				{licence, []string{"example.test/m v1.0.0: LICENSE-MIT"}},
				{another, []string{"example.test/m v1.0.0: NOTICE"}},
				{"A grant\n", []string{"example.test/m v1.0.0: PATENTS"}},
			},
		},
		"no licence":                      {packages: []string{"."}, files: fstest.MapFS{"README.md": file(licence)}, err: "example.test/m v1.0.0: no licence file"},
		"a notice without a licence":      {packages: []string{"."}, files: fstest.MapFS{"NOTICE": file(licence)}, err: "no licence file"},
		"a licence for another package":   {packages: []string{"a", "b"}, files: fstest.MapFS{"a/LICENSE": file(licence), "b/b.go": file("package b")}, err: "for its package b"},
		"an empty licence":                {packages: []string{"."}, files: fstest.MapFS{"LICENSE": file(" \n")}, err: "LICENSE is empty"},
		"a licence of unbounded length":   {packages: []string{"."}, files: fstest.MapFS{"LICENSE": file(strings.Repeat("a", maxText+1))}, err: "longer than"},
		"a directory with a licence name": {packages: []string{"."}, files: fstest.MapFS{"LICENSE/a": file(licence)}, err: "no licence file"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := licenceTexts([]*module{{path: "example.test/m", version: "v1.0.0", packages: test.packages, files: test.files}})
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("got error %v, want %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(text{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// All modules without a licence are named at once.
func TestMissingLicences(t *testing.T) {
	var modules []*module
	for _, path := range []string{"example.test/a", "example.test/b"} {
		modules = append(modules, &module{path: path, version: "v1.0.0", packages: []string{"."}, files: fstest.MapFS{}})
	}
	_, err := licenceTexts(modules)
	if !errors.Is(err, errNoLicence) || !strings.Contains(err.Error(), "example.test/a") || !strings.Contains(err.Error(), "example.test/b") {
		t.Errorf("got %v", err)
	}
}

func TestModulesOf(t *testing.T) {
	standard := &listedModule{Path: "Go", Version: "1.26.0", Dir: "/go"}
	for name, test := range map[string]struct{ packages, want, err string }{
		"a package of the standard library": {packages: `{"ImportPath":"fmt","Dir":"/go/src/fmt","Standard":true}`, want: "Go 1.26.0 [src/fmt]"},
		"a module's own licence after a replacement": {
			packages: `{"ImportPath":"a/b","Dir":"/m/b","Module":{"Path":"a","Version":"v1.0.0","Dir":"/m","Replace":{"Path":"fork/a","Version":"v1.0.1"}}}`,
			want:     "fork/a v1.0.1 [b]",
		},
		"two packages of a module": {
			packages: `{"ImportPath":"a","Dir":"/m","Module":{"Path":"a","Dir":"/m"}} {"ImportPath":"a/b","Dir":"/m/b","Module":{"Path":"a","Dir":"/m"}}`,
			want:     "a [. b]",
		},
		"a package without a module":      {packages: `{"ImportPath":"x","Dir":"/x"}`, err: "package x belongs to no module"},
		"a package outside of its module": {packages: `{"ImportPath":"x","Dir":"/x","Module":{"Path":"a","Dir":"/m"}}`, err: "outside its module"},
		"no JSON":                         {packages: `go: warning`, err: "reading what go list printed"},
	} {
		t.Run(name, func(t *testing.T) {
			modules, err := modulesOf(strings.NewReader(test.packages), standard)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("got error %v, want %q", err, test.err)
				}
				return
			}
			if err != nil || len(modules) != 1 {
				t.Fatalf("got %v, %v", modules, err)
			}
			if got := modules[0].String() + " [" + strings.Join(modules[0].packages, " ") + "]"; got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

// A program that was built from another source than root's gets no file.
func TestCompare(t *testing.T) {
	listed := []*module{{path: "example.test/a", version: "v1.0.0"}, {path: "example.test/fork", version: "v2.0.0"}}
	replaced := &debug.Module{Path: "example.test/b", Version: "v1.0.0", Replace: &debug.Module{Path: "example.test/fork", Version: "v2.0.0"}}
	if err := compare(listed, []*debug.Module{{Path: "example.test/a", Version: "v1.0.0"}, replaced}); err != nil {
		t.Error(err)
	}
	if err := compare(listed, []*debug.Module{{Path: "example.test/a", Version: "v1.1.0"}}); err == nil || !strings.Contains(err.Error(), "example.test/a v1.1.0") {
		t.Errorf("got %v", err)
	}
}

// Mozilla's root certificates have another licence than the module that holds them.
func TestNotices(t *testing.T) {
	roots := []*module{{path: "golang.org/x/crypto/x509roots/fallback", version: "v0.1.0"}}
	if _, err := render("program", roots, []text{{content: "BSD\n"}}); !errors.Is(err, errNoLicence) {
		t.Errorf("without the text of the Mozilla Public License: %v", err)
	}
	content, err := render("program", roots, []text{{content: "Mozilla Public License, version 2.0\n", sources: []string{"a v1: LICENSE"}}})
	if err != nil || !strings.Contains(string(content), "certdata.txt") {
		t.Errorf("got %v\n%s", err, content)
	}
}
