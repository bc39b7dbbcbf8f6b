// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// plugin is what krew reads (krew pkg/index/types.go, v1alpha2); it refuses nothing else, but nothing else is here.
type plugin struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	Metadata   struct {
		Name string `yaml:"name"`
	} `yaml:"metadata"`
	Spec struct {
		Version          string     `yaml:"version"`
		Homepage         string     `yaml:"homepage"`
		ShortDescription string     `yaml:"shortDescription"`
		Description      string     `yaml:"description"`
		Caveats          string     `yaml:"caveats"`
		Platforms        []platform `yaml:"platforms"`
	} `yaml:"spec"`
}

type platform struct {
	URI      string `yaml:"uri"`
	Sha256   string `yaml:"sha256"`
	Bin      string `yaml:"bin"`
	Selector struct {
		MatchLabels map[string]string `yaml:"matchLabels"`
	} `yaml:"selector"`
}

var platforms = []string{"linux-amd64", "linux-arm64", "darwin-amd64", "darwin-arm64"}

// sources returns the top of a repository without programs.
func sources(t *testing.T) (root string) {
	t.Helper()
	root = t.TempDir()
	for _, file := range []string{".krew.yaml", "LICENSE", "cli/kubectl_complete-istiod_agent"} {
		content, err := os.ReadFile(filepath.Join("..", "..", file))
		must(t, err)
		put(t, filepath.Join(root, file), content)
	}
	return root
}

// released is what a release of this repository's description writes, with programs that say what they are for.
func released(t *testing.T) (directory string) {
	t.Helper()
	root := sources(t)
	for _, each := range platforms {
		put(t, filepath.Join(root, "bin", "plugin", each, program), []byte("for "+each))
		put(t, filepath.Join(root, "bin", "plugin", each, program+".licenses"), []byte("licences for "+each))
	}
	directory = t.TempDir()
	must(t, run([]string{"--root", root, "--version", "v1.2.3", "--created", "1700000000", "--output", directory}, io.Discard))
	return directory
}

// krew takes the manifest (its rules: krew internal/index/validation/validate.go, and the naming guide of its index).
func TestKrewTakesTheManifest(t *testing.T) {
	t.Parallel()
	directory := released(t)
	decoder := yaml.NewDecoder(bytes.NewReader(read(t, directory, manifest)))
	decoder.KnownFields(true)
	var p plugin
	must(t, decoder.Decode(&p))
	if p.APIVersion != "krew.googlecontainertools.github.com/v1alpha2" || p.Kind != "Plugin" || p.Metadata.Name+".yaml" != manifest {
		t.Errorf("it is %s %s %s", p.APIVersion, p.Kind, p.Metadata.Name)
	}
	if want := "kubectl-" + strings.ReplaceAll(p.Metadata.Name, "-", "_"); want != program { // what krew links the program as
		t.Errorf("kubectl would look for %s", want)
	}
	if p.Spec.Version != "v1.2.3" || !strings.HasPrefix(p.Spec.Homepage, "https://") || p.Spec.Description == "" {
		t.Errorf("the specification is %+v", p.Spec)
	}
	if short := p.Spec.ShortDescription; short == "" || len(short) > 50 || strings.ContainsAny(short, "\r\n") || strings.HasSuffix(short, ".") {
		t.Errorf("the short description is %q", short)
	}
	var found []string
	for _, each := range p.Spec.Platforms {
		labels := each.Selector.MatchLabels
		if !slices.Equal(slices.Sorted(maps.Keys(labels)), []string{"arch", "os"}) {
			t.Errorf("the selector is %v", labels)
		}
		name := labels["os"] + "-" + labels["arch"]
		found = append(found, name)
		file := program + "-" + name + ".tar.gz"
		if each.URI != "https://github.com/istiod-agent/istiod-agent/releases/download/v1.2.3/"+file {
			t.Errorf("%s is at %s", name, each.URI)
		}
		sum := sha256.Sum256(read(t, directory, file))
		if each.Sha256 != hex.EncodeToString(sum[:]) || !regexp.MustCompile(`^[a-f0-9]{64}$`).MatchString(each.Sha256) {
			t.Errorf("%s: the digest is %s", name, each.Sha256)
		}
		if got := string(read(t, directory, file+".sha256")); got != each.Sha256+"  "+file+"\n" {
			t.Errorf("%s.sha256 holds %q", file, got)
		}
		contents := unpack(t, read(t, directory, file))
		if contents[each.Bin] != "755 for "+name || !strings.Contains(contents["LICENSE"], "644 ") || !strings.HasPrefix(contents["kubectl_complete-istiod_agent"], "755 #!/bin/sh\n") ||
			contents["licenses.txt"] != "644 licences for "+name || len(contents) != 4 {
			t.Errorf("%s holds %q", file, slices.Sorted(maps.Keys(contents)))
		}
	}
	if !slices.Equal(found, platforms) {
		t.Errorf("the platforms are %q", found)
	}
}

func TestTheSameInputsGiveTheSameBytes(t *testing.T) {
	t.Parallel()
	a, b := released(t), released(t)
	entries, err := os.ReadDir(a)
	must(t, err)
	if len(entries) != 2*len(platforms)+1 {
		t.Errorf("%d files", len(entries))
	}
	for _, entry := range entries {
		if !bytes.Equal(read(t, a, entry.Name()), read(t, b, entry.Name())) {
			t.Errorf("%s differs", entry.Name())
		}
	}
}

func TestAMissingProgramIsNamed(t *testing.T) {
	t.Parallel()
	root := sources(t)
	err := run([]string{"--root", root, "--version", "v0", "--output", filepath.Join(t.TempDir(), "new")}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "bin/plugin/linux-amd64/"+program) {
		t.Errorf("got %v", err)
	}
	if err := run(nil, io.Discard); err == nil || !strings.Contains(err.Error(), "--version") {
		t.Errorf("got %v", err)
	}
}

// unpack gives the files of an archive, each with its mode before it.
func unpack(t *testing.T, archive []byte) map[string]string {
	t.Helper()
	compressed, err := gzip.NewReader(bytes.NewReader(archive))
	must(t, err)
	if compressed.Name != "" || !compressed.ModTime.IsZero() {
		t.Errorf("gzip's header names %q, %s", compressed.Name, compressed.ModTime)
	}
	reader, files := tar.NewReader(compressed), map[string]string{}
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		must(t, err)
		content, err := io.ReadAll(reader)
		must(t, err)
		if header.ModTime.Unix() != 1700000000 || header.Uid != 0 || header.Uname != "" {
			t.Errorf("%s is of %s, and of user %d %q", header.Name, header.ModTime, header.Uid, header.Uname)
		}
		files[header.Name] = fmt.Sprintf("%o %s", header.Mode, content)
	}
}

func put(t *testing.T, file string, content []byte) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(file), 0o755))
	must(t, os.WriteFile(file, content, 0o644))
}

func read(t *testing.T, directory, file string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(directory, file))
	must(t, err)
	return content
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
