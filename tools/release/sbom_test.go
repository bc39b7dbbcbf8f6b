// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"maps"
	"path"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/package-url/packageurl-go"
	"github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/common"
	spdx "github.com/spdx/tools-golang/spdx/v2/v2_3"
	"github.com/spdx/tools-golang/spdxlib"

	"github.com/istiod-agent/istiod-agent/tools/internal/oci"
)

// wantImageSBOM compares the SBOM of an image for an architecture with the image and its program.
func wantImageSBOM(t *testing.T, dist, image, architecture, program string) {
	t.Helper()
	file := filepath.Join(dist, image+"-"+tag+"-"+architecture)
	unpacked, err := oci.ReadImage(file+".tar", t.TempDir())
	must(t, err)
	digest, err := unpacked.Digest()
	must(t, err)
	wantSBOM(t, file+".spdx.json", "CONTAINER", digest.Hex, program)
}

// wantArchiveSBOM compares the SBOM of the plugin's archive for a platform with the archive and its program.
func wantArchiveSBOM(t *testing.T, dist, platform, program string) {
	t.Helper()
	file := filepath.Join(dist, plugin+"-"+platform)
	wantSBOM(t, file+".spdx.json", "ARCHIVE", sum(t, file+".tar.gz"), program)
}

// wantSBOM compares an SBOM with what `go version -m` prints of the only program in its subject.
func wantSBOM(t *testing.T, file, purpose, subjectSum, program string) {
	t.Helper()
	var document spdx.Document
	must(t, json.ReadInto(bytes.NewReader(read(t, file)), &document))
	must(t, spdxlib.ValidateDocument(&document))
	packages := map[common.ElementID]*spdx.Package{}
	for _, p := range document.Packages {
		if packages[p.PackageSPDXIdentifier] != nil {
			t.Errorf("%s is there twice", p.PackageSPDXIdentifier)
		}
		packages[p.PackageSPDXIdentifier] = p
	}
	related := map[string][]*spdx.Package{}
	for _, r := range document.Relationships {
		related[r.Relationship] = append(related[r.Relationship], packages[r.RefB.ElementRefID])
	}
	if described := related["DESCRIBES"]; len(described) != 1 || described[0].PrimaryPackagePurpose != purpose || described[0].PackageChecksums[0].Value != subjectSum {
		t.Errorf("%s describes %+v, want a %s with SHA-256 %s", file, described, purpose, subjectSum)
	}
	if contained := related["CONTAINS"]; len(contained) != 1 || contained[0].PackageName != path.Base(program) || contained[0].PackageChecksums[0].Value != sum(t, program) {
		t.Errorf("%s contains %+v, want %s", file, contained, program)
	}
	got := map[string]string{}
	for _, linked := range related["DEPENDS_ON"] {
		got[linked.PackageName] = linked.PackageVersion
		purl, err := packageurl.FromString(linked.PackageExternalReferences[0].Locator)
		must(t, err)
		if !strings.EqualFold(path.Join(purl.Namespace, purl.Name), linked.PackageName) || purl.Version != linked.PackageVersion {
			t.Errorf("%s %s has the package URL %s", linked.PackageName, linked.PackageVersion, purl)
		}
	}
	want := linkedModules(t, program)
	if len(want) < 20 || !maps.Equal(got, want) {
		t.Errorf("%s has the modules\n%v\nwant\n%v", file, got, want)
	}
	if len(document.Packages) != len(want)+2 {
		t.Errorf("%s has %d packages, want the subject, its program and %d modules", file, len(document.Packages), len(want))
	}
}

// linkedModules returns the versions of a program's modules and of Go, as `go version -m` prints them.
func linkedModules(t *testing.T, program string) map[string]string {
	t.Helper()
	modules := map[string]string{}
	last := ""
	for i, line := range strings.Split(command(t, root, "go", "version", "-m", program), "\n") {
		fields := strings.Fields(line)
		switch {
		case i == 0:
			modules["stdlib"] = strings.TrimPrefix(fields[len(fields)-1], "go")
		case len(fields) > 2 && fields[0] == "dep":
			last = fields[1]
			modules[last] = fields[2]
		case len(fields) > 1 && fields[0] == "=>" && strings.HasPrefix(fields[1], "."): // another module of this repository
			modules[last] = "v" + tag
		case len(fields) > 2 && fields[0] == "=>":
			delete(modules, last)
			if last != project { // a directory of this repository
				modules[fields[1]] = fields[2]
			}
		}
	}
	return modules
}

// An image with two programs that share modules has each module once.
func TestSharedModules(t *testing.T) {
	shared := []module{{"stdlib", "1.26.0", ""}, {"example.test/Upper/m", "v1.0.0+incompatible", "h1:x"}}
	r := &release{registry: "registry.test", tag: tag, created: time.Unix(0, 0).UTC()}
	document := r.document("name", subject{name: "image"}, []*program{
		{file: "a-b", path: project + "/cmd/a-b", modules: shared}, {file: "a_b", path: project + "/cmd/a_b", modules: shared},
	})
	var names []string
	for _, p := range document.Packages {
		names = append(names, p.PackageName)
	}
	if want := []string{"image", "a-b", "stdlib", "example.test/Upper/m", "a_b"}; !slices.Equal(names, want) {
		t.Errorf("packages %q, want %q", names, want)
	}
	must(t, spdxlib.ValidateDocument(document))
	if depend := len(document.Relationships); depend != 1+2+4 {
		t.Errorf("%d relationships", depend)
	}
}

// A module that is replaced by another one is the other one, unless that is in this repository.
func TestReplacedModules(t *testing.T) {
	got := modulesOf(&debug.BuildInfo{GoVersion: "go1.26.8", Deps: []*debug.Module{
		{Path: "example.test/a", Version: "v1.0.0", Sum: "h1:a"},
		{Path: "example.test/b", Version: "v1.0.0", Replace: &debug.Module{Path: "example.test/fork", Version: "v1.1.0", Sum: "h1:b"}},
		{Path: project, Version: "v0.0.0-00010101000000-000000000000", Replace: &debug.Module{Path: "../", Version: "(devel)"}},
	}}, "v1.2.3")
	want := []module{{"stdlib", "1.26.8", ""}, {"example.test/a", "v1.0.0", "h1:a"}, {"example.test/fork", "v1.1.0", "h1:b"}, {project, "v1.2.3", ""}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestProgramOfAnotherPlatform(t *testing.T) {
	output := t.TempDir() + "/program"
	build(t, "..", "./image", output, "GOOS=linux", "GOARCH=amd64")
	for name, test := range map[string]struct {
		content              []byte
		system, architecture string
		want                 string
	}{
		"another architecture": {read(t, output), "linux", "arm64", "is for linux/amd64; expected linux/arm64"},
		"another system":       {read(t, output), "darwin", "amd64", "is for linux/amd64; expected darwin/amd64"},
		"a script":             {[]byte("#!/bin/sh\n"), "linux", "amd64", "expected a Go program"},
		"nothing":              {nil, "linux", "amd64", "expected a Go program"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := readProgram("program", test.content, test.system, test.architecture, "v1.2.3"); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}
