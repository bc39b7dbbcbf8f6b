// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// A registry that does not say what it has under a tag gets nothing: the push could replace what is there.
func TestPushNeedsAnAnswer(t *testing.T) {
	chart := packChart(t)
	for situation, test := range map[string]struct {
		status  int
		body    string
		refused string
	}{
		"an error":                 {http.StatusInternalServerError, "", "500 Internal Server Error"},
		"an error that names it":   {http.StatusInternalServerError, "MANIFEST_UNKNOWN: 404", "500 Internal Server Error"},
		"too many requests":        {http.StatusTooManyRequests, `{"errors":[{"code":"TOOMANYREQUESTS","message":"later"}]}`, "TOOMANYREQUESTS: later"},
		"no right":                 {http.StatusForbidden, `{"errors":[{"code":"DENIED","message":"log in"}]}`, "DENIED: log in"},
		"a login":                  {http.StatusUnauthorized, "", "401 Unauthorized"},
		"no manifest":              {http.StatusNotFound, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"none"}]}`, ""},
		"no repository":            {http.StatusNotFound, `{"errors":[{"code":"NAME_UNKNOWN","message":"none"}]}`, ""},
		"no repository, by Harbor": {http.StatusNotFound, `{"errors":[{"code":"NOT_FOUND","message":"none"}]}`, ""},
		"nothing, without a code":  {http.StatusNotFound, "", ""},
	} {
		for _, part := range []string{"charts/istiod-agent", "istiod-agent-webhook"} {
			t.Run(situation+" for "+part, func(t *testing.T) {
				t.Parallel()
				p := newPush(t, chart)
				p.answer = func(w http.ResponseWriter, r *http.Request) bool {
					if p.wrote || r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/"+part+"/manifests/") {
						return false
					}
					w.WriteHeader(test.status)
					_, _ = io.WriteString(w, test.body)
					return true
				}
				if part != "charts/istiod-agent" {
					// Its archive is missing: what follows the answer fails.
					p.image(t, part)
					want := test.refused
					if want == "" {
						want = part + "-" + tag + ".tar"
					}
					if output := failure(t, p.top, "hack/push.sh", p.place, tag); !strings.Contains(output, want) {
						t.Errorf("got %q, want %q", output, want)
					}
				} else if test.refused == "" {
					command(t, p.top, "bash", "hack/push.sh", p.place, tag)
				} else if output := failure(t, p.top, "hack/push.sh", p.place, tag); !strings.Contains(output, test.refused) || strings.Contains(output, "@") {
					t.Errorf("got %q, want %q", output, test.refused)
				}
				if wrote := test.refused == "" && part == "charts/istiod-agent"; p.wrote != wrote {
					t.Errorf("it wrote: %v", p.wrote)
				}
			})
		}
	}
}

// The digest that hack/push.sh prints is signed. It is that of a manifest whose only content is the chart of this release, whoever
// has pushed it.
func TestPushSignsOnlyTheChart(t *testing.T) {
	p := newPush(t, packChart(t))
	published := command(t, p.top, "bash", "hack/push.sh", p.place, tag)
	reference, err := name.ParseReference(p.place + "/charts/istiod-agent:" + tag)
	must(t, err)
	pushed, err := remote.Get(reference)
	must(t, err)
	other := strings.Repeat("0", 64)
	chart := sum(t, p.chart)
	changed := func(change func(map[string]any)) []byte {
		var manifest map[string]any
		must(t, json.Unmarshal(pushed.Manifest, &manifest))
		change(manifest)
		content, err := json.Marshal(manifest)
		must(t, err)
		return content
	}
	layer := func(manifest map[string]any) map[string]any { return manifest["layers"].([]any)[0].(map[string]any) }
	for situation, test := range map[string]struct {
		manifest []byte
		accepted bool
	}{
		"the same":         {pushed.Manifest, true},
		"at another time":  {changed(func(m map[string]any) { m["annotations"] = map[string]string{"created": "2026-01-02"} }), true},
		"with white space": {append(pushed.Manifest, '\n'), true},
		"in an annotation": {changed(func(m map[string]any) {
			layer(m)["digest"] = "sha256:" + other
			m["annotations"] = map[string]string{"chart": "sha256:" + chart}
		}), false},
		"beside another layer": {changed(func(m map[string]any) {
			m["layers"] = append(m["layers"].([]any), map[string]any{"mediaType": "a", "digest": "sha256:" + other, "size": 1})
		}), false},
		"after another layer": {changed(func(m map[string]any) {
			m["layers"] = append([]any{map[string]any{"mediaType": "a", "digest": "sha256:" + other, "size": 1}}, m["layers"].([]any)...)
		}), false},
		"with layers in capitals":   {changed(func(m map[string]any) { m["Layers"] = []any{map[string]any{"digest": "sha256:" + other}} }), false},
		"with a digest in capitals": {changed(func(m map[string]any) { layer(m)["Digest"] = "sha256:" + other }), false},
		"in an index":               {changed(func(m map[string]any) { m["manifests"] = []any{} }), false},
		"as an image":               {changed(func(m map[string]any) { m["config"].(map[string]any)["mediaType"] = string(types.OCIConfigJSON) }), false},
		"without layers":            {changed(func(m map[string]any) { m["layers"] = []any{} }), false},
	} {
		t.Run(situation, func(t *testing.T) {
			digest := p.put(t, reference, test.manifest)
			if test.accepted {
				if got, want := command(t, p.top, "bash", "hack/push.sh", p.place, tag), fmt.Sprintf("%s@%s\n", reference, digest); got != want {
					t.Errorf("got %q, want %q", got, want)
				}
			} else if output := failure(t, p.top, "hack/push.sh", p.place, tag); !strings.Contains(output, "the registry has another "+reference.String()) {
				t.Errorf("got %q", output)
			}
			if found, err := remote.Get(reference); err != nil || found.Digest != digest {
				t.Errorf("the tag has %v, not %s: %v", found, digest, err)
			}
		})
	}
	t.Run("a tag that changes", func(t *testing.T) {
		p.put(t, reference, changed(func(m map[string]any) { layer(m)["digest"] = "sha256:" + other }))
		first := true
		p.answer = func(w http.ResponseWriter, r *http.Request) bool {
			if !first || r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, "/manifests/"+tag) {
				return false
			}
			first = false
			w.Header().Set("Content-Type", string(types.OCIManifestSchema1))
			_, _ = w.Write(pushed.Manifest)
			return true
		}
		if got := command(t, p.top, "bash", "hack/push.sh", p.place, tag); got != published {
			t.Errorf("got %q, want %q", got, published)
		}
	})
}

// push is a release of nothing but a chart, and a registry for it.
type push struct {
	top, place, chart string
	// answer answers in the registry's place if it returns true.
	answer func(http.ResponseWriter, *http.Request) bool
	// wrote is whether the registry got a request that writes.
	wrote bool
}

// packChart returns the archive of a chart.
func packChart(t *testing.T) string {
	t.Helper()
	command(t, root, "make", "--no-print-directory", "push-tools")
	source, packed := filepath.Join(t.TempDir(), "istiod-agent"), t.TempDir()
	must(t, os.Mkdir(source, 0o700))
	must(t, os.WriteFile(filepath.Join(source, "Chart.yaml"), []byte("apiVersion: v2\nname: istiod-agent\nversion: "+tag+"\n"), 0o600))
	helm(t, "package", source, "--destination", packed)
	return filepath.Join(packed, "istiod-agent-"+tag+".tgz")
}

func newPush(t *testing.T, chart string) *push {
	t.Helper()
	p := &push{top: sourcesOf(t, "", tag, tag)}
	dist := filepath.Join(p.top, "dist")
	p.chart = filepath.Join(dist, "istiod-agent-"+tag+".tgz")
	must(t, os.Mkdir(dist, 0o700))
	must(t, os.WriteFile(filepath.Join(dist, "images.txt"), nil, 0o600))
	must(t, os.WriteFile(p.chart, read(t, chart), 0o600))
	tools, err := filepath.Abs(filepath.Join(root, ".build"))
	must(t, err)
	must(t, os.Symlink(tools, filepath.Join(p.top, ".build")))

	storage := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p.answer != nil && p.answer(w, r) {
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			p.wrote = true
		}
		storage.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	address, err := url.Parse(server.URL)
	must(t, err)
	p.place = "localhost:" + address.Port() + "/istiod-agent"
	return p
}

// image adds an image to the release's list.
func (p *push) image(t *testing.T, image string) {
	t.Helper()
	line := fmt.Sprintf("%s/%s:%s@sha256:%064d\n", p.place, image, tag, 0)
	must(t, os.WriteFile(filepath.Join(p.top, "dist", "images.txt"), []byte(line), 0o600))
}

// put writes a manifest under the tag, and returns its digest.
func (p *push) put(t *testing.T, reference name.Reference, manifest []byte) v1.Hash {
	t.Helper()
	must(t, remote.Put(reference, raw(manifest)))
	digest, _, err := v1.SHA256(bytes.NewReader(manifest))
	must(t, err)
	return digest
}

// raw is a manifest as it is written.
type raw []byte

func (r raw) RawManifest() ([]byte, error)        { return r, nil }
func (r raw) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }
