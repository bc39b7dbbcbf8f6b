// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
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
	tag     = "1.2.3"
	root    = "../.."
	created = "1700000000"
)

// The whole release, from the programs to what a registry has, without the network: hack/push.sh pushes it to a registry on
// this machine. The programs for this machine's architecture are the real ones.
func TestRelease(t *testing.T) {
	place := startRegistry(t)
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
			wantImageSBOM(t, dist, image, runtime.GOARCH, programs[image])
		}
		wantArchiveSBOM(t, dist, "linux-"+runtime.GOARCH, programs[plugin])
		wantCount(t, dist, "*.spdx.json", 2*len(images)+4)
	})
	t.Run("checksums", func(t *testing.T) { wantChecksums(t, dist) })
	t.Run("manifest for krew", func(t *testing.T) { wantManifest(t, dist) })
	must(t, os.CopyFS(filepath.Join(top, "hack"), os.DirFS(filepath.Join(root, "hack"))))
	t.Run("registry", func(t *testing.T) {
		tools, err := filepath.Abs(filepath.Join(root, ".build"))
		must(t, err)
		must(t, os.Symlink(tools, filepath.Join(top, ".build")))
		published := command(t, top, "bash", "hack/push.sh", place, tag)
		wantPushed(t, place, images, published, func(t *testing.T, image, _, text string) {
			t.Helper()
			if text != "licences of "+image {
				t.Errorf("%s has the licences %q", image, text)
			}
		})
		wantChart(t, top, place, images)
		wantSigned(t, top, place, images, published)
		wantVerifiable(t, top, place, images)
		if again := command(t, top, "bash", "hack/push.sh", place, tag); again != published {
			t.Errorf("pushed again, the release is\n%s\nand was\n%s", again, published)
		}
		wantKept(t, top, place, published)
	})
	t.Run("release on GitHub", func(t *testing.T) { wantOnGitHub(t, top) })
	t.Run("another registry", func(t *testing.T) {
		if output := failure(t, top, "hack/push.sh", "localhost:1/other", tag); !strings.Contains(output, "make release VERSION=v1.2.3 REGISTRY=localhost:1/other") {
			t.Errorf("got %s", output)
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

// startRegistry returns where images are, in a registry on this machine.
func startRegistry(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	address, err := url.Parse(server.URL)
	must(t, err)
	return "localhost:" + address.Port() + "/istiod-agent"
}

// makeRelease does what `make release` does once the programs are built.
func makeRelease(t *testing.T, top, tools, place string, images []string) {
	t.Helper()
	dist := filepath.Join(top, "dist")
	must(t, os.MkdirAll(dist, 0o755))
	for _, image := range images {
		for _, architecture := range architectures {
			command(t, top, filepath.Join(tools, "image"), "--target", image[strings.LastIndex(image, "-")+1:], "--arch", architecture,
				"--name", place+"/"+image+":"+tag, "--created", created, "--build-arg", "VERSION="+tag, "--build-arg", "REVISION=0123abc",
				"--output", filepath.Join(dist, image+"-"+tag+"-"+architecture+".tar"))
		}
	}
	flags := []string{"--registry", place, "--tag", tag, "--created", created, "--dist", dist}
	must(t, run(slices.Concat([]string{"images"}, flags, images), io.Discard))
	command(t, top, filepath.Join(tools, "krew"), "--version", "v"+tag, "--created", created, "--output", dist)
	staged := filepath.Join(top, "staged", "istiod-agent")
	must(t, run(slices.Concat([]string{"files"}, flags, []string{"--chart", filepath.Join(top, "charts", "istiod-agent"), "--staged-chart", staged}), io.Discard))
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
	command(t, dist, "sha256sum", "--check", "--strict", "--quiet", "checksums.txt")
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
	platforms := krewPlatforms(t, dist)
	for _, platform := range platforms {
		file, released := strings.CutPrefix(platform.URI, "https://"+project+"/releases/download/v"+tag+"/")
		if !released || sum(t, filepath.Join(dist, file)) != platform.Sha256 {
			t.Errorf("%s with checksum %s is not in the release", platform.URI, platform.Sha256)
		}
	}
	wantCount(t, dist, "*.tar.gz", len(platforms))
}

// krewPlatform is what krew downloads for a platform.
type krewPlatform struct{ URI, Sha256 string }

func krewPlatforms(t *testing.T, dist string) []krewPlatform {
	t.Helper()
	var manifest struct {
		Spec struct{ Platforms []krewPlatform }
	}
	must(t, yaml.Unmarshal(read(t, filepath.Join(dist, "istiod-agent.yaml")), &manifest))
	if len(manifest.Spec.Platforms) == 0 {
		t.Fatal("the manifest for krew has no platform")
	}
	return manifest.Spec.Platforms
}

// wantPushed requires that the registry has each image for both architectures, under the release's tag and no other, and that
// the script prints its digest. licences gets the text that is in the image for an architecture.
func wantPushed(t *testing.T, place string, images []string, output string, licences func(t *testing.T, image, architecture, text string)) {
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
		if tags, err := remote.List(reference.Context()); err != nil || !slices.Equal(tags, []string{tag}) {
			t.Errorf("%s has the tags %q: %v", image, tags, err)
		}
		index, err = remote.Index(reference.Context().Digest(digest.String()))
		must(t, err)
		manifest, err := index.IndexManifest()
		must(t, err)
		var found []string
		for _, descriptor := range manifest.Manifests {
			found = append(found, descriptor.Platform.String())
			of, err := index.Image(descriptor.Digest)
			must(t, err)
			licences(t, image, descriptor.Platform.Architecture, fileOf(t, of, "licenses/"+image+".txt"))
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

// The plugin's packages of this repository use nothing of Linux alone. The release builds them for macOS too, which would take
// minutes here.
func TestPluginIsPortable(t *testing.T) {
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{if .Module}}{{if .Module.Main}}{{.ImportPath}} {{.Imports}}{{end}}{{end}}", "./cmd/"+plugin)
	list.Dir, list.Env = root, append(os.Environ(), "GOOS=darwin", "CGO_ENABLED=0")
	output, err := list.Output()
	must(t, err)
	if !strings.Contains(string(output), project+"/cli ") {
		t.Fatalf("the plugin's packages were not found:\n%s", output)
	}
	for line := range strings.Lines(string(output)) {
		if strings.Contains(line, "golang.org/x/sys/unix") {
			t.Errorf("on macOS, the plugin links a package that uses golang.org/x/sys/unix: %s", line)
		}
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
	c.Env = append(os.Environ(), append(environment, "CGO_ENABLED=0", "GOFLAGS=-trimpath -buildvcs=false -gcflags=all=-dwarf=false")...)
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

// failure runs a script, which must fail, and returns its output.
func failure(t *testing.T, directory, script string, arguments ...string) string {
	t.Helper()
	c := exec.CommandContext(t.Context(), "bash", append([]string{script}, arguments...)...)
	c.Dir = directory
	output, err := c.CombinedOutput()
	if err == nil {
		t.Fatalf("%s %s succeeds: %s", script, strings.Join(arguments, " "), output)
	}
	return string(output)
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
