// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// The tag of a release, its chart and its changelog have one version, or nothing is built.
func TestReleaseCheck(t *testing.T) {
	for situation, test := range map[string]struct{ version, chart, appVersion, changelog, want string }{
		"a release":                    {version: "v0.2.0"},
		"a pre-release":                {version: "v0.3.0-rc.1", chart: "0.3.0-rc.1", appVersion: "0.3.0-rc.1"},
		"a pre-release of no changes":  {version: "v0.3.0-rc.1", chart: "0.3.0-rc.1", appVersion: "0.3.0-rc.1", changelog: "## [Unreleased]\n\n## [0.2.0]\n", want: "no section [Unreleased]"},
		"a chart of another version":   {version: "v0.2.0", chart: "0.1.0", want: "version is 0.1.0, and the tag is v0.2.0"},
		"images of another version":    {version: "v0.2.0", appVersion: "0.1.0", want: "appVersion is 0.1.0, and the tag is v0.2.0"},
		"a pre-release of the chart":   {version: "v0.2.0", chart: "0.2.0-rc.1", want: "version is 0.2.0-rc.1"},
		"no section in the changelog":  {version: "v0.2.0", changelog: "## [Unreleased]\n\n- a\n", want: "no section [0.2.0]"},
		"a section without text":       {version: "v0.2.0", changelog: "## [0.2.0] - 2026-01-02\n\n## [0.1.0]\n\n- b\n", want: "no section [0.2.0]"},
		"a version without v":          {version: "0.2.0", want: "expected a tag such as v0.2.0"},
		"a version without patch":      {version: "v0.2", want: "expected a tag such as v0.2.0"},
		"a command":                    {version: "v0.2.0-$(id)", want: "expected a tag such as v0.2.0"},
		"a second line":                {version: "v0.2.0\nv0.3.0", want: "expected a tag such as v0.2.0"},
		"a pre-release without a name": {version: "v0.2.0-", want: "expected a tag such as v0.2.0"},
		"nothing":                      {want: "expected a tag such as v0.2.0"},
	} {
		t.Run(situation, func(t *testing.T) {
			changelog := cmp.Or(test.changelog, "## [Unreleased]\n\n- c\n\n## [0.2.0] - 2026-01-02\n\n- a\n")
			top := sourcesOf(t, changelog, cmp.Or(test.chart, "0.2.0"), cmp.Or(test.appVersion, "0.2.0"))
			if test.want == "" {
				command(t, top, "bash", "hack/release-check.sh", test.version)
			} else if output := failure(t, top, "hack/release-check.sh", test.version); !strings.Contains(output, test.want) {
				t.Errorf("got %q, want %q", output, test.want)
			}
		})
	}
}

// The notes of a release are the section of its version, which must exist. Their links lead to the files of its tag.
func TestReleaseNotes(t *testing.T) {
	top := sourcesOf(t, "# Changelog\n\n## [Unreleased]\n\n- c\n\n## [0.2.0] - 2026-01-02\n\n### Added\n\n- [a](docs/a.md#b), [b](https://b.test/), [c](#c)\n\n## [0.1.0] - 2026-01-01\n\n- b\n", "", "")
	for version, want := range map[string]string{
		"0.2.0":      "\n### Added\n\n- [a](https://github.com/istiod-agent/istiod-agent/blob/v0.2.0/docs/a.md#b), [b](https://b.test/), [c](#c)\n",
		"0.1.0":      "\n- b\n",
		"0.3.0-rc.1": "\n- c\n",
	} {
		if notes := command(t, top, "bash", "hack/release-notes.sh", version); notes != want {
			t.Errorf("%s: got %q, want %q", version, notes, want)
		}
	}
	if output := failure(t, top, "hack/release-notes.sh", "0.1"); !strings.Contains(output, "no section [0.1]") {
		t.Errorf("got %s", output)
	}
}

// sourcesOf returns the top of a repository with the scripts, a changelog, and a chart of these versions.
func sourcesOf(t *testing.T, changelog, version, appVersion string) string {
	t.Helper()
	top := t.TempDir()
	chart := filepath.Join(top, "charts", "istiod-agent", "Chart.yaml")
	must(t, os.MkdirAll(filepath.Dir(chart), 0o700))
	must(t, os.WriteFile(chart, []byte("name: istiod-agent\nversion: "+version+"\nappVersion: "+appVersion+"\n"), 0o600))
	must(t, os.WriteFile(filepath.Join(top, "CHANGELOG.md"), []byte(changelog), 0o600))
	must(t, os.CopyFS(filepath.Join(top, "hack"), os.DirFS(filepath.Join(root, "hack"))))
	return top
}

// wantKept requires that hack/push.sh replaces nothing that the registry has under the tag: neither an image nor the chart.
func wantKept(t *testing.T, top, place, published string) {
	t.Helper()
	for line := range strings.Lines(published) {
		tagged, digest, _ := strings.Cut(strings.TrimSpace(line), "@")
		reference, err := name.ParseReference(tagged)
		must(t, err)
		released, err := remote.Get(reference.Context().Digest(digest))
		must(t, err)
		must(t, remote.Write(reference, empty.Image))
		if output := failure(t, top, "hack/push.sh", place, tag); !strings.Contains(output, "the registry has another "+tagged) {
			t.Errorf("got %s", output)
		}
		if found, err := remote.Head(reference); err != nil || found.Digest == released.Digest {
			t.Errorf("%s was replaced by %v: %v", tagged, found, err)
		}
		must(t, remote.Put(reference, released))
	}
}

// wantOnGitHub runs hack/github-release.sh with a gh that has a release in each state: it creates one release, with all files that
// checksums.txt and the manifest for krew name, and changes none that is published.
func wantOnGitHub(t *testing.T, top string) {
	t.Helper()
	dist := filepath.Join(top, "dist")
	must(t, os.WriteFile(filepath.Join(top, "notes.md"), []byte("notes"), 0o600))
	must(t, os.WriteFile(filepath.Join(dist, "checksums.txt.sigstore.json"), nil, 0o600))
	defer func() { _ = os.Remove(filepath.Join(dist, "checksums.txt.sigstore.json")) }()
	files := "checksums.txt checksums.txt.sigstore.json"
	for line := range strings.Lines(string(read(t, filepath.Join(dist, "checksums.txt")))) {
		files = strings.Fields(line)[1] + " " + files
	}
	for situation, test := range map[string]struct {
		version, view string
		download      string   // run in the folder for the files
		calls         []string // after that of the view
		fails         string
	}{
		"no release":      {view: "echo release not found >&2; exit 1", calls: []string{"create --prerelease=false"}},
		"a pre-release":   {version: "v1.2.3-rc.1", view: "echo release not found >&2; exit 1", calls: []string{"create --prerelease=true"}},
		"a draft":         {view: "echo true", calls: []string{"delete --yes", "create --prerelease=false"}},
		"the same files":  {view: "echo a warning >&2; echo false", download: "cp " + dist + "/* .", calls: []string{"download"}},
		"other files":     {view: "echo false", download: "cp " + dist + "/* .; echo >>checksums.txt", calls: []string{"download"}, fails: "with other files"},
		"another archive": {view: "echo false", download: "cp " + dist + "/* .; echo >>images.txt", calls: []string{"download"}, fails: "with other files"},
		"a file less":     {view: "echo false", download: "cp " + dist + "/* .; rm images.txt", calls: []string{"download"}, fails: "with other files"},
		"a lost download": {view: "echo false", download: "echo connection reset >&2; exit 1", calls: []string{"download"}, fails: "connection reset"},
		"another answer":  {view: "echo false; echo true", fails: "nothing was changed"},
		"no answer":       {view: "echo connection refused >&2; exit 1", fails: "connection refused"},
		"no such release": {view: "echo HTTP 404: Not Found >&2; exit 1", fails: "HTTP 404"},
	} {
		t.Run(situation, func(t *testing.T) {
			version := cmp.Or(test.version, "v"+tag)
			stub := t.TempDir()
			must(t, os.WriteFile(filepath.Join(stub, "gh"), []byte("#!/bin/sh\necho \"$*\" >>"+stub+"/calls.txt\ncase $2 in\n"+
				"view) "+test.view+" ;;\ndownload) mkdir -p \"$5\" && cd \"$5\"; "+test.download+" ;;\nesac\n"), 0o700))
			release := exec.CommandContext(t.Context(), "bash", "hack/github-release.sh", version, "notes.md")
			release.Dir, release.Env = top, append(os.Environ(), "PATH="+stub+string(os.PathListSeparator)+os.Getenv("PATH"))
			output, err := release.CombinedOutput()
			if (err == nil) != (test.fails == "") || !strings.Contains(string(output), test.fails) {
				t.Errorf("%v: %s", err, output)
			}
			want := []string{"release view " + version + " --json isDraft --jq .isDraft"}
			for _, call := range test.calls {
				verb, arguments, _ := strings.Cut(call, " ")
				if verb == "create" {
					arguments = "--verify-tag --title " + version + " --notes-file " + filepath.Join(top, "notes.md") + " " + arguments + " FILES"
				}
				if verb == "download" {
					arguments = "--dir FOLDER"
				}
				want = append(want, "release "+verb+" "+version+" "+arguments)
			}
			var got []string
			for call := range strings.Lines(string(read(t, filepath.Join(stub, "calls.txt")))) {
				call = regexp.MustCompile(`--dir \S+`).ReplaceAllString(strings.TrimSpace(call), "--dir FOLDER")
				if before, uploaded, created := strings.Cut(call, " images.txt "); created {
					wantUploaded(t, dist, strings.Fields("images.txt "+uploaded), strings.Fields(files))
					call = before + " FILES"
				}
				got = append(got, call)
			}
			if !slices.Equal(got, want) {
				t.Errorf("gh is called with\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

// wantUploaded requires that a release has these files, which exist, and among them those that krew downloads.
func wantUploaded(t *testing.T, dist string, got, want []string) {
	t.Helper()
	for _, file := range got {
		if _, err := os.Stat(filepath.Join(dist, file)); err != nil {
			t.Error(err)
		}
	}
	for _, platform := range krewPlatforms(t, dist) {
		if !slices.Contains(got, path.Base(platform.URI)) {
			t.Errorf("%s is not uploaded", platform.URI)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the release has the files %q, want %q", got, want)
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
