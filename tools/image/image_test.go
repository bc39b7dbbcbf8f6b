// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// The repository's own Dockerfile says these things, for either architecture.
func TestImagesOfThisProject(t *testing.T) {
	for target, want := range map[string]struct{ title, user string }{
		"agent":   {title: "istiod-agent", user: "1337:1337"},
		"webhook": {title: "istiod-agent-webhook", user: "65532:65532"},
		"traffic": {title: "istiod-agent-traffic", user: "65532:65532"},
	} {
		for _, arch := range []string{"amd64", "arm64"} {
			t.Run(target+"/"+arch, func(t *testing.T) {
				archive := archiveOf(t, target, arch)
				image := onlyImage(t, archive)
				if err := validate.Image(image); err != nil {
					t.Error(err)
				}
				config, err := image.ConfigFile()
				if err != nil {
					t.Fatal(err)
				}
				if config.OS != "linux" || config.Architecture != arch {
					t.Errorf("platform %s/%s", config.OS, config.Architecture)
				}
				if !config.Created.Equal(time.Unix(1700000000, 0)) {
					t.Errorf("created %s", config.Created)
				}
				if config.Config.User != want.user {
					t.Errorf("user %q, want %q", config.Config.User, want.user)
				}
				if !slices.Equal(config.Config.Entrypoint, []string{"/" + want.title}) {
					t.Errorf("entrypoint %q", config.Config.Entrypoint)
				}
				labels := maps.Clone(config.Config.Labels)
				if labels["org.opencontainers.image.description"] == "" {
					t.Error("no description")
				}
				delete(labels, "org.opencontainers.image.description")
				if wanted := map[string]string{
					"org.opencontainers.image.title":    want.title,
					"org.opencontainers.image.source":   "https://github.com/istiod-agent/istiod-agent",
					"org.opencontainers.image.licenses": "Apache-2.0",
					"org.opencontainers.image.version":  "1.2.3",
					"org.opencontainers.image.revision": "0123abc",
				}; !maps.Equal(labels, wanted) {
					t.Errorf("labels %v, want %v", labels, wanted)
				}
				checkFiles(t, image, map[string]content{
					want.title:                        {text: "program " + want.title + " for " + arch, mode: 0o555},
					"licenses/" + want.title + ".txt": {text: "licences of " + want.title + " for " + arch, mode: 0o444},
				})
			})
		}
	}
}

func TestTheSameInputsGiveTheSameBytes(t *testing.T) {
	var archives [2][]byte
	for i := range archives {
		content, err := os.ReadFile(archiveOf(t, "agent", "amd64"))
		if err != nil {
			t.Fatal(err)
		}
		archives[i] = content
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Error("two builds differ")
	}
}

func TestDockerFindsTheImageByItsName(t *testing.T) {
	image, err := tarball.ImageFromPath(archiveOf(t, "agent", "amd64"), nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := image.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	want, err := onlyImage(t, archiveOf(t, "agent", "amd64")).ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("docker load would see configuration %s, everything else %s", got, want)
	}
}

func TestAMissingProgramIsNamedAndNothingIsWritten(t *testing.T) {
	output := filepath.Join(t.TempDir(), "image.tar")
	err := run(arguments(repositoryWithout(t, "amd64"), "agent", "amd64", output), io.Discard)
	if err == nil || !strings.Contains(err.Error(), "bin/linux-amd64/istiod-agent") {
		t.Errorf("want the missing file's name, got %v", err)
	}
	left, _ := filepath.Glob(filepath.Join(filepath.Dir(output), "*"))
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestWhatIsNotUnderstoodIsRefused(t *testing.T) {
	for name, test := range map[string]struct{ dockerfile, want string }{
		"another instruction":        {"FROM scratch AS a\nWORKDIR /data", "WORKDIR"},
		"a base image":               {"FROM debian AS a\nUSER 1:1", "only FROM scratch"},
		"a stage that is not there":  {"FROM scratch AS b\nUSER 1:1", `no stage "a"`},
		"an argument nobody gave":    {"FROM scratch AS a\nARG GIVEN\nARG OTHER", "--build-arg OTHER"},
		"a variable without its ARG": {"FROM scratch AS a\nUSER ${GIVEN}", "GIVEN has no ARG"},
		"COPY without a mode":        {"FROM scratch AS a\nCOPY x /x", "--chmod"},
		"COPY with another owner":    {"FROM scratch AS a\nCOPY --chown=1 --chmod=0555 x /x", "COPY"},
		"an entrypoint for a shell":  {"FROM scratch AS a\nENTRYPOINT /x", "shell"},
		"a global argument":          {"ARG GIVEN=1\nFROM scratch AS a", "ARG GIVEN"},
		"what is no Dockerfile":      {"FORM scratch", "FORM"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := readRecipe(strings.NewReader(test.dockerfile), "a", map[string]string{"GIVEN": "1"})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("want an error with %q, got %v", test.want, err)
			}
		})
	}
}

func TestCopyReadsOnlyTheContext(t *testing.T) {
	parent := t.TempDir()
	if err := os.WriteFile(filepath.Join(parent, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	context := filepath.Join(parent, "context")
	if err := os.Mkdir(context, 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := build(recipe{files: []file{{source: "../secret", path: "/secret"}}}, os.DirFS(context), "amd64", time.Unix(0, 0))
	if !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("want it refused as a path, got %v", err)
	}
}

func archiveOf(t *testing.T, target, arch string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "image.tar")
	if err := run(arguments(repositoryWithout(t, ""), target, arch, path), io.Discard); err != nil {
		t.Fatal(err)
	}
	return path
}

func arguments(context, target, arch, output string) []string {
	return []string{
		"--context", context, "--target", target, "--arch", arch, "--name", "example.test/image:1.2.3",
		"--build-arg", "VERSION=1.2.3", "--build-arg", "REVISION=0123abc", "--created", "1700000000", "--output", output,
	}
}

// repositoryWithout is a build context with the repository's Dockerfile and stand-ins for the programs,
// except those of one architecture.
func repositoryWithout(t *testing.T, missing string) (directory string) {
	t.Helper()
	directory = t.TempDir()
	dockerfile, err := os.ReadFile("../../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"Dockerfile": string(dockerfile)}
	for _, arch := range []string{"amd64", "arm64"} {
		for _, program := range []string{"istiod-agent", "istiod-agent-webhook", "istiod-agent-traffic"} {
			if arch != missing {
				files["bin/linux-"+arch+"/"+program] = "program " + program + " for " + arch
				files["bin/linux-"+arch+"/"+program+".licenses"] = "licences of " + program + " for " + arch
			}
		}
	}
	for name, content := range files {
		path := filepath.Join(directory, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		// Another mode than the image's, which comes from the Dockerfile alone.
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return directory
}

// onlyImage unpacks an archive and reads it as any other reader of OCI image layouts would.
func onlyImage(t *testing.T, archive string) v1.Image {
	t.Helper()
	directory := t.TempDir()
	for name, entry := range entries(t, archive) {
		path := filepath.Join(directory, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, entry.content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	index, err := layout.ImageIndexFromPath(directory)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest.Manifests) != 1 {
		t.Fatalf("want one image, got %d", len(manifest.Manifests))
	}
	image, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// checkFiles compares an image's files, by their names, with want: the content and mode of each.
func checkFiles(t *testing.T, image v1.Image, want map[string]content) {
	t.Helper()
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	if len(layers) != 1 {
		t.Fatalf("want one layer, got %d", len(layers))
	}
	uncompressed, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = uncompressed.Close() }()
	got := map[string]content{}
	for name, file := range entriesOf(t, uncompressed) {
		got[name] = content{text: string(file.content), mode: file.header.Mode}
		if file.header.Uid != 0 || file.header.Gid != 0 {
			t.Errorf("%s: owner %d:%d; want 0:0", name, file.header.Uid, file.header.Gid)
		}
		if !file.header.ModTime.Equal(time.Unix(1700000000, 0)) {
			t.Errorf("%s: modified %s", name, file.header.ModTime)
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("files %v, want %v", got, want)
	}
}

// content is the text and the mode of a file in an image.
type content struct {
	text string
	mode int64
}

type entry struct {
	header  *tar.Header
	content []byte
}

func entries(t *testing.T, archive string) map[string]entry {
	t.Helper()
	content, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	return entriesOf(t, bytes.NewReader(content))
}

func entriesOf(t *testing.T, archive io.Reader) map[string]entry {
	t.Helper()
	found := map[string]entry{}
	reader := tar.NewReader(archive)
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(reader)
		if err != nil {
			t.Fatal(err)
		}
		found[header.Name] = entry{header: header, content: content}
	}
}
