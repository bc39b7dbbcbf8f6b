// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The release as `make release` writes it, with the programs of all platforms, is the same from two directories. It has all that
// TestRelease checks with programs for one platform. `make release-test` runs it: it compiles for minutes.
func TestWholeRelease(t *testing.T) {
	if os.Getenv("WHOLE_RELEASE") == "" {
		t.Skip("make release-test runs it")
	}
	place := startRegistry(t)
	images := imagesOfTheMakefile(t)
	top, again := madeRelease(t, place), madeRelease(t, place)
	dist := filepath.Join(top, "dist")
	wantEqual(t, dist, filepath.Join(again, "dist"))

	program := func(image, architecture string) string {
		return filepath.Join(top, "bin", "linux-"+architecture, image)
	}
	for _, image := range images {
		for _, architecture := range architectures {
			wantImageSBOM(t, dist, image, architecture, program(image, architecture))
		}
	}
	for _, platform := range []string{"linux-amd64", "linux-arm64", "darwin-amd64", "darwin-arm64"} {
		built := filepath.Join(top, "bin", "plugin", platform, plugin)
		wantArchiveSBOM(t, dist, platform, built)
		files, err := unpack(read(t, filepath.Join(dist, plugin+"-"+platform+".tar.gz")))
		must(t, err)
		wantLicences(t, string(files["licenses.txt"]), built)
	}
	wantCount(t, dist, "*.spdx.json", 2*len(images)+4)
	wantChecksums(t, dist)
	wantManifest(t, dist)

	published := command(t, top, "make", "--no-print-directory", "push", "VERSION=v"+tag, "REGISTRY="+place)
	wantPushed(t, place, images, published, func(t *testing.T, image, architecture, text string) {
		t.Helper()
		wantLicences(t, text, program(image, architecture))
	})
	wantChart(t, top, place, images)
	wantSigned(t, top, place, images, published)
	wantVerifiable(t, top, place, images)
	wantOnGitHub(t, top)
}

// madeRelease runs `make release` on a copy of the sources, and returns its directory.
func madeRelease(t *testing.T, place string) string {
	t.Helper()
	top := t.TempDir()
	for file := range strings.SplitSeq(strings.TrimSuffix(command(t, root, "git", "ls-files", "-z"), "\x00"), "\x00") {
		copied := filepath.Join(top, file)
		info, err := os.Stat(filepath.Join(root, file))
		if os.IsNotExist(err) { // removed since the last commit
			continue
		}
		must(t, err)
		must(t, os.MkdirAll(filepath.Dir(copied), 0o755))
		must(t, os.WriteFile(copied, read(t, filepath.Join(root, file)), info.Mode().Perm()))
	}
	release := exec.CommandContext(t.Context(), "make", "--no-print-directory", "release",
		"VERSION=v"+tag, "REVISION=0123abc", "SOURCE_DATE_EPOCH="+created, "REGISTRY="+place)
	release.Dir, release.Stdout, release.Stderr = top, os.Stdout, os.Stderr // its progress
	must(t, release.Run())
	return top
}

// wantLicences requires that a text has the licences of all that the program links.
func wantLicences(t *testing.T, text, program string) {
	t.Helper()
	for module, version := range linkedModules(t, program) {
		heading := module + " " + version
		switch {
		case module == "stdlib":
			heading = "Go " + version
		case strings.HasPrefix(module, project): // a module of this repository
			heading = module
		}
		if !strings.Contains(text, "\n"+heading+": ") {
			t.Errorf("%s has no licence of %s", filepath.Base(program), heading)
		}
	}
	if !strings.Contains(text, "\n"+project+": LICENSE\n") || !strings.Contains(text, "Apache License") {
		t.Errorf("%s has no licence of its own", filepath.Base(program))
	}
}
