// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"go.yaml.in/yaml/v3"

	"github.com/istiod-agent/istiod-agent/tools/internal/oci"
)

const (
	tag  = "1.2.3"
	root = "../.."
)

// The whole release, from the programs to what a registry has, without the network: hack/push.sh pushes it to a registry on
// this machine. The programs for this machine's architecture are the real ones.
func TestRelease(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	address, err := url.Parse(server.URL)
	must(t, err)
	place := "localhost:" + address.Port() + "/istiod-agent"
	images := imagesOfTheMakefile(t)
	command(t, root, "make", "--no-print-directory", "push-tools")

	top := t.TempDir() // of a repository
	programs, tools := programsFor(t, top, images), t.TempDir()
	build(t, "..", "./image", filepath.Join(tools, "image"))
	build(t, "..", "./krew", filepath.Join(tools, "krew"))
	dist := filepath.Join(top, "dist")
	makeRelease(t, top, tools, place, images)
	again := filepath.Join(t.TempDir(), "again")
	must(t, os.CopyFS(again, os.DirFS(top)))
	must(t, os.RemoveAll(filepath.Join(again, "dist")))
	makeRelease(t, again, tools, place, images)
	wantEqual(t, dist, filepath.Join(again, "dist"))

	t.Run("SBOMs", func(t *testing.T) {
		for _, image := range images {
			file := image + "-" + tag + "-" + runtime.GOARCH
			unpacked, err := oci.ReadImage(filepath.Join(dist, file+".tar"), t.TempDir())
			must(t, err)
			digest, err := unpacked.Digest()
			must(t, err)
			wantSBOM(t, filepath.Join(dist, file+".spdx.json"), "CONTAINER", digest.Hex, programs[image])
		}
		file := filepath.Join(dist, plugin+"-linux-"+runtime.GOARCH)
		wantSBOM(t, file+".spdx.json", "ARCHIVE", sum(t, file+".tar.gz"), programs[plugin])
		wantCount(t, dist, "*.spdx.json", 2*len(images)+4)
	})
	t.Run("checksums", func(t *testing.T) { wantChecksums(t, dist) })
	t.Run("manifest for krew", func(t *testing.T) { wantManifest(t, dist) })
	t.Run("registry", func(t *testing.T) {
		must(t, os.CopyFS(filepath.Join(top, "hack"), os.DirFS(filepath.Join(root, "hack"))))
		build, err := filepath.Abs(filepath.Join(root, ".build"))
		must(t, err)
		must(t, os.Symlink(build, filepath.Join(top, ".build")))
		output := command(t, top, "bash", "hack/push.sh", place, tag)
		wantPushed(t, place, images, output)
		wantChart(t, top, place, images)
		wantSigned(t, top, place, images, output)
		wantVerifiable(t, top)
	})
	t.Run("another registry", func(t *testing.T) {
		push := exec.CommandContext(t.Context(), "bash", "hack/push.sh", "localhost:1/other", tag)
		push.Dir = top
		if output, err := push.CombinedOutput(); err == nil || !strings.Contains(string(output), "make release VERSION=v1.2.3 REGISTRY=localhost:1/other") {
			t.Errorf("got %v: %s", err, output)
		}
	})
}

// imagesOfTheMakefile returns the images that a release has. The Dockerfile has a stage for each of them, and no other.
func imagesOfTheMakefile(t *testing.T) []string {
	t.Helper()
	match := regexp.MustCompile(`(?m)^IMAGES := (.*)$`).FindSubmatch(read(t, filepath.Join(root, "Makefile")))
	if match == nil {
		t.Fatal("the Makefile has no IMAGES")
	}
	images := strings.Fields(string(match[1]))
	var stages, found []string
	for _, image := range images {
		stages = append(stages, image[strings.LastIndex(image, "-")+1:])
	}
	for _, stage := range regexp.MustCompile(`(?m)^FROM scratch AS (\S+)$`).FindAllSubmatch(read(t, filepath.Join(root, "Dockerfile")), -1) {
		found = append(found, string(stage[1]))
	}
	if !slices.Equal(stages, found) {
		t.Fatalf("the Makefile has the images %q, the Dockerfile the stages %q", images, found)
	}
	return images
}

// programsFor puts programs where make builds them, and returns those for this machine's architecture by their names. Those
// for others do nothing.
func programsFor(t *testing.T, top string, images []string) map[string]string {
	t.Helper()
	nothing := t.TempDir()
	must(t, os.WriteFile(filepath.Join(nothing, "go.mod"), []byte("module "+project+"\n\ngo 1.26\n"), 0o600))
	must(t, os.WriteFile(filepath.Join(nothing, "main.go"), []byte("package main\n\nfunc main() {}\n"), 0o600))
	native := map[string]string{}
	put := func(program, directory, system, architecture string) {
		t.Helper()
		file := filepath.Join(top, directory, program)
		must(t, os.MkdirAll(filepath.Dir(file), 0o755))
		if system == "linux" && architecture == runtime.GOARCH {
			native[program] = file
			build(t, moduleOf(t, program), "./cmd/"+program, file, "GOOS=linux")
		} else {
			other := filepath.Join(nothing, system+"-"+architecture)
			if _, err := os.Stat(other); err != nil {
				build(t, nothing, ".", other, "GOOS="+system, "GOARCH="+architecture)
			}
			must(t, os.Link(other, file))
		}
		must(t, os.WriteFile(file+".licenses", []byte("licences of "+program), 0o600))
	}
	for _, architecture := range architectures {
		for _, image := range images {
			put(image, "bin/linux-"+architecture, "linux", architecture)
		}
		for _, system := range []string{"linux", "darwin"} {
			put(plugin, "bin/plugin/"+system+"-"+architecture, system, architecture)
		}
	}
	for _, file := range []string{"Dockerfile", "LICENSE", ".krew.yaml", "cli/kubectl_complete-istiod_agent"} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(top, file)), 0o755))
		must(t, os.WriteFile(filepath.Join(top, file), read(t, filepath.Join(root, file)), 0o600))
	}
	must(t, os.CopyFS(filepath.Join(top, "charts"), os.DirFS(filepath.Join(root, "charts"))))
	return native
}

// moduleOf returns the directory of the program's module, which has it in cmd/.
func moduleOf(t *testing.T, program string) string {
	t.Helper()
	for _, pattern := range []string{"cmd/", "*/cmd/"} {
		found, err := filepath.Glob(filepath.Join(root, pattern+program))
		must(t, err)
		if len(found) == 1 {
			return filepath.Dir(filepath.Dir(found[0]))
		}
	}
	t.Fatalf("no module has cmd/%s", program)
	return ""
}

// makeRelease does what `make release` does once the programs are built.
func makeRelease(t *testing.T, top, tools, place string, images []string) {
	t.Helper()
	const created = "1700000000"
	dist := filepath.Join(top, "dist")
	must(t, os.MkdirAll(dist, 0o755))
	for _, image := range images {
		for _, architecture := range architectures {
			command(t, top, filepath.Join(tools, "image"), "--target", image[strings.LastIndex(image, "-")+1:], "--arch", architecture,
				"--name", place+"/"+image+":"+tag, "--created", created, "--build-arg", "VERSION="+tag, "--build-arg", "REVISION=0123abc",
				"--output", filepath.Join(dist, image+"-"+tag+"-"+architecture+".tar"))
		}
	}
	command(t, top, filepath.Join(tools, "krew"), "--version", "v"+tag, "--created", created, "--output", dist)
	staged := filepath.Join(top, "staged", "istiod-agent")
	must(t, run(append([]string{
		"--registry", place, "--tag", tag, "--created", created, "--dist", dist,
		"--chart", filepath.Join(top, "charts", "istiod-agent"), "--staged-chart", staged,
	}, images...), io.Discard))
	helm(t, "package", staged, "--version", tag, "--app-version", tag, "--destination", dist)
	checksums := regexp.MustCompile(`(?m)^\t@(cd dist && sha256sum .*)$`).FindSubmatch(read(t, filepath.Join(root, "Makefile")))
	if checksums == nil {
		t.Fatal("the Makefile writes no checksums")
	}
	command(t, top, "bash", "-c", strings.ReplaceAll(string(checksums[1]), "$$", "$"))
}

func wantEqual(t *testing.T, a, b string) {
	t.Helper()
	entries, err := os.ReadDir(a)
	must(t, err)
	for _, entry := range entries {
		if sum(t, filepath.Join(a, entry.Name())) != sum(t, filepath.Join(b, entry.Name())) {
			t.Errorf("two releases from the same programs differ in %s", entry.Name())
		}
	}
	wantCount(t, b, "*", len(entries))
}

// wantChecksums requires that checksums.txt has all files but the images' archives, and nothing else.
func wantChecksums(t *testing.T, dist string) {
	t.Helper()
	var want []string
	entries, err := os.ReadDir(dist)
	must(t, err)
	for _, entry := range entries {
		if file := entry.Name(); path.Ext(file) != ".tar" && file != "checksums.txt" {
			want = append(want, sum(t, filepath.Join(dist, file))+"  "+file)
		}
	}
	got := strings.Split(strings.TrimSuffix(string(read(t, filepath.Join(dist, "checksums.txt"))), "\n"), "\n")
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// wantManifest requires that the files which krew downloads are files of the release.
func wantManifest(t *testing.T, dist string) {
	t.Helper()
	var manifest struct {
		Spec struct {
			Platforms []struct{ URI, Sha256 string }
		}
	}
	must(t, yaml.Unmarshal(read(t, filepath.Join(dist, "istiod-agent.yaml")), &manifest))
	for _, platform := range manifest.Spec.Platforms {
		file, released := strings.CutPrefix(platform.URI, "https://"+project+"/releases/download/v"+tag+"/")
		if !released || sum(t, filepath.Join(dist, file)) != platform.Sha256 {
			t.Errorf("%s with checksum %s is not in the release", platform.URI, platform.Sha256)
		}
	}
	wantCount(t, dist, "*.tar.gz", len(manifest.Spec.Platforms))
}

// wantPushed requires that the registry has each image for both architectures, with licences, and that the script prints its
// digest.
func wantPushed(t *testing.T, place string, images []string, output string) {
	t.Helper()
	if lines := strings.Count(output, "\n"); lines != len(images)+1 {
		t.Errorf("hack/push.sh prints %d lines:\n%s", lines, output)
	}
	for _, image := range images {
		reference, err := name.ParseReference(place + "/" + image + ":" + tag)
		must(t, err)
		index, err := remote.Index(reference)
		must(t, err)
		must(t, validate.Index(index))
		digest, err := index.Digest()
		must(t, err)
		if !strings.Contains(output, reference.String()+"@"+digest.String()+"\n") {
			t.Errorf("hack/push.sh prints another digest than %s of %s:\n%s", digest, image, output)
		}
		manifest, err := index.IndexManifest()
		must(t, err)
		var found []string
		for _, descriptor := range manifest.Manifests {
			found = append(found, descriptor.Platform.String())
			of, err := index.Image(descriptor.Digest)
			must(t, err)
			if text := fileOf(t, of, "licenses/"+image+".txt"); text != "licences of "+image {
				t.Errorf("%s for %s has the licences %q", image, descriptor.Platform, text)
			}
		}
		if !slices.Equal(found, []string{"linux/amd64", "linux/arm64"}) {
			t.Errorf("%s has the platforms %q", image, found)
		}
	}
}

// wantChart requires that the chart in the registry is that of dist/, and that it installs the release's images by digest.
func wantChart(t *testing.T, top, place string, images []string) {
	t.Helper()
	directory := t.TempDir()
	helm(t, "pull", "oci://"+place+"/charts/istiod-agent", "--version", tag, "--plain-http", "--destination", directory)
	chart := filepath.Join(directory, "istiod-agent-"+tag+".tgz")
	if sum(t, chart) != sum(t, filepath.Join(top, "dist", filepath.Base(chart))) {
		t.Error("the registry has another chart")
	}
	rendered := helm(t, "template", "istiod-agent", chart, "--namespace", "istiod-agent-system")
	used := map[string]bool{}
	for _, reference := range regexp.MustCompile(regexp.QuoteMeta(place)+`/[^\s"]+`).FindAllString(rendered, -1) {
		parsed, err := name.NewDigest(reference)
		must(t, err)
		_, err = remote.Index(parsed)
		must(t, err)
		used[path.Base(parsed.RepositoryStr())] = true
	}
	for _, image := range []string{"istiod-agent", "istiod-agent-webhook"} {
		if !used[image] || !slices.Contains(images, image) {
			t.Errorf("the chart uses the images %v", used)
		}
	}
	if strings.Contains(rendered, "ghcr.io/istiod-agent") {
		t.Error("the chart has images of another registry")
	}
}

// wantSigned runs hack/sign.sh with a cosign that writes down its arguments: it signs all that was pushed by digest, attaches
// to each platform's image its own SBOM, and lists all of it for the provenance.
func wantSigned(t *testing.T, top, place string, images []string, published string) {
	t.Helper()
	stub := t.TempDir()
	must(t, os.WriteFile(filepath.Join(stub, "cosign"), []byte("#!/bin/sh\necho \"$@\" >>calls.txt\n"), 0o700))
	must(t, os.WriteFile(filepath.Join(top, "published.txt"), []byte(published), 0o600))
	sign := exec.CommandContext(t.Context(), "bash", "hack/sign.sh", tag, "published.txt")
	sign.Dir, sign.Env = top, append(os.Environ(), "PATH="+stub+string(os.PathListSeparator)+os.Getenv("PATH"))
	if output, err := sign.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	var want []string
	subjects := string(read(t, filepath.Join(top, "dist", "checksums.txt")))
	for line := range strings.Lines(published) {
		reference, digest, _ := strings.Cut(strings.TrimSpace(line), "@")
		repository := strings.TrimSuffix(reference, ":"+tag)
		want = append(want, "sign --yes --recursive "+repository+"@"+digest)
		subjects += strings.TrimPrefix(digest, "sha256:") + "  " + repository + "\n"
		if image := path.Base(repository); repository == place+"/"+image {
			parsed, err := name.NewDigest(repository + "@" + digest)
			must(t, err)
			index, err := remote.Index(parsed)
			must(t, err)
			manifest, err := index.IndexManifest()
			must(t, err)
			for _, platform := range manifest.Manifests {
				want = append(want, fmt.Sprintf("attest --yes --type spdxjson --predicate dist/%s-%s-%s.spdx.json %s@%s",
					image, tag, platform.Platform.Architecture, repository, platform.Digest))
			}
		}
	}
	want = append(want, "sign-blob --yes --bundle checksums.txt.sigstore.json dist/checksums.txt")
	if len(want) != 3*len(images)+2 {
		t.Errorf("%d calls are expected", len(want))
	}
	if got := strings.TrimSpace(string(read(t, filepath.Join(top, "calls.txt")))); got != strings.Join(want, "\n") {
		t.Errorf("cosign is called with\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
	if got := string(read(t, filepath.Join(top, "subjects.txt"))); got != subjects {
		t.Errorf("the subjects are\n%s\nwant\n%s", got, subjects)
	}
}

// The notes of a release are the section of its version, which must exist.
func TestReleaseNotes(t *testing.T) {
	top := t.TempDir()
	must(t, os.Mkdir(filepath.Join(top, "hack"), 0o700))
	must(t, os.WriteFile(filepath.Join(top, "hack", "release-notes.sh"), read(t, filepath.Join(root, "hack", "release-notes.sh")), 0o600))
	changelog := "# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2026-01-02\n\n### Added\n\n- a\n\n## [0.1.0] - 2026-01-01\n\n- b\n"
	must(t, os.WriteFile(filepath.Join(top, "CHANGELOG.md"), []byte(changelog), 0o600))
	for version, want := range map[string]string{"0.2.0": "\n### Added\n\n- a\n", "0.1.0": "\n- b\n", "0.1": "", "Unreleased": ""} {
		notes := exec.CommandContext(t.Context(), "bash", "hack/release-notes.sh", version)
		notes.Dir = top
		output, err := notes.Output()
		if string(output) != want || (err == nil) != (want != "") {
			t.Errorf("%s: got %q, %v, want %q", version, output, err, want)
		}
	}
}

// The same source in another directory gives the same program, with the flags that make uses. The workflow of a release
// builds it a second time on another machine.
func TestProgramsAreReproducible(t *testing.T) {
	copied := t.TempDir()
	list := command(t, root, "go", "list", "-deps", "-f", "{{if .Module}}{{if .Module.Main}}{{.Dir}}{{end}}{{end}}", "./cmd/istiod-agent")
	absolute, err := filepath.Abs(root)
	must(t, err)
	folders := map[string]bool{}
	for directory := range strings.FieldsSeq(list) {
		relative, err := filepath.Rel(absolute, directory)
		must(t, err)
		folder, _, _ := strings.Cut(filepath.ToSlash(relative), "/")
		folders[folder] = true
	}
	for folder := range folders {
		must(t, os.CopyFS(filepath.Join(copied, folder), os.DirFS(filepath.Join(root, folder))))
	}
	for _, file := range []string{"go.mod", "go.sum"} {
		must(t, os.WriteFile(filepath.Join(copied, file), read(t, filepath.Join(root, file)), 0o600))
	}
	output := t.TempDir()
	build(t, root, "./cmd/istiod-agent", filepath.Join(output, "a"))
	build(t, copied, "./cmd/istiod-agent", filepath.Join(output, "b"))
	if sum(t, filepath.Join(output, "a")) != sum(t, filepath.Join(output, "b")) {
		t.Error("the programs differ")
	}
}

// build builds a program as make does.
func build(t *testing.T, source, pkg, output string, environment ...string) {
	t.Helper()
	script, err := filepath.Abs(filepath.Join(root, "hack", "build.sh"))
	must(t, err)
	source, err = filepath.Abs(source)
	must(t, err)
	c := exec.CommandContext(t.Context(), script, output, source, pkg, "-X "+project+"/internal/version.Version=v"+tag)
	c.Env = append(os.Environ(), append(environment, "CGO_ENABLED=0", "GOFLAGS=-trimpath -buildvcs=false")...)
	if text, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
}

// command runs a program in a directory and returns its standard output.
func command(t *testing.T, directory, program string, arguments ...string) string {
	t.Helper()
	c := exec.CommandContext(context.WithoutCancel(t.Context()), program, arguments...)
	var stdout, stderr bytes.Buffer
	c.Dir, c.Stdout, c.Stderr = directory, &stdout, &stderr
	if err := c.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s%s", program, strings.Join(arguments, " "), err, &stdout, &stderr)
	}
	return stdout.String()
}

func helm(t *testing.T, arguments ...string) string {
	t.Helper()
	return command(t, ".", filepath.Join(root, ".build", "helm", "helm"), arguments...)
}

func fileOf(t *testing.T, image v1.Image, file string) (text string) {
	t.Helper()
	must(t, oci.Files(image, func(found string, content []byte) error {
		if found == file {
			text = string(content)
		}
		return nil
	}))
	return text
}

func wantCount(t *testing.T, directory, pattern string, want int) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(directory, pattern))
	must(t, err)
	if len(found) != want {
		t.Errorf("%d files match %s, want %d: %q", len(found), pattern, want, found)
	}
}

func sum(t *testing.T, file string) string {
	t.Helper()
	digest := sha256.Sum256(read(t, file))
	return hex.EncodeToString(digest[:])
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	content, err := os.ReadFile(file)
	must(t, err)
	return content
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// The commands of docs/verify-release.md fit the files of a release, whose checksums and digests they check for real. What
// needs the network only gets its arguments checked: they are names of files that exist, and images of the release.
func wantVerifiable(t *testing.T, top string) {
	t.Helper()
	page := string(read(t, filepath.Join(root, "docs", "verify-release.md")))
	var script strings.Builder
	script.WriteString("set -euo pipefail\n")
	for i, part := range strings.Split(page, "\n```") {
		if i%2 == 1 {
			script.WriteString(strings.ReplaceAll(part, "VERSION=0.2.0\n", "VERSION="+tag+"\n"))
		}
	}
	workflow := regexp.MustCompile(`https://github.com/\$REPOSITORY/(\S+)@refs/tags/v\$VERSION`).FindStringSubmatch(page)
	if workflow == nil {
		t.Fatal("the page names no workflow as the identity")
	}
	read(t, filepath.Join(root, workflow[1]))

	stub, workspace := t.TempDir(), t.TempDir()
	release := filepath.Join(workspace, "release")
	for program, text := range map[string]string{
		"gh":   `[ "$1" != release ] || { mkdir release; cp ` + top + `/dist/* release; rm release/*.tar; touch release/checksums.txt.sigstore.json; }`,
		"git":  `mkdir -p source/dist; cp ` + top + `/dist/checksums.txt source/dist`,
		"make": "", "kubectl": "", "helm": "", "cosign": "",
	} {
		must(t, os.WriteFile(filepath.Join(stub, program), []byte("#!/bin/sh\necho \"${0##*/} $*\" >>"+workspace+"/calls.txt\n"+text+"\n"), 0o700))
	}
	run := exec.CommandContext(t.Context(), "bash", "-c", script.String())
	run.Dir, run.Env = workspace, append(os.Environ(), "PATH="+stub+string(os.PathListSeparator)+os.Getenv("PATH"))
	if output, err := run.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	calls := string(read(t, filepath.Join(workspace, "calls.txt")))
	for _, file := range regexp.MustCompile(`[\w./-]+\.(?:txt|json|tgz|yaml)(?:\s|$)`).FindAllString(calls, -1) {
		if file = strings.TrimSpace(file); !strings.HasPrefix(file, "istiod-agent/istiod-agent/.github/") {
			read(t, filepath.Join(release, file))
		}
	}
	for line := range strings.Lines(string(read(t, filepath.Join(top, "dist", "images.txt")))) {
		for _, verification := range []string{"cosign verify ", "gh attestation verify oci://"} {
			if !strings.Contains(calls, verification+strings.TrimSpace(line)+" ") {
				t.Errorf("no %s%s in\n%s", verification, line, calls)
			}
		}
	}
	platform := regexp.MustCompile(`cosign verify-attestation \S+@(sha256:[0-9a-f]{64}) `).FindStringSubmatch(calls)
	if platform == nil || !strings.Contains(string(read(t, filepath.Join(top, "calls.txt"))), "istiod-agent-"+tag+"-amd64.spdx.json ") ||
		!strings.Contains(string(read(t, filepath.Join(top, "calls.txt"))), "@"+platform[1]+"\n") {
		t.Errorf("the page verifies another SBOM than the release attaches:\n%s", calls)
	}
}
