// SPDX-License-Identifier: Apache-2.0

// Package chart tests the objects that the Helm chart renders, without a cluster.
package chart

import (
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	release "helm.sh/helm/v4/pkg/release/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/manifest"
)

// standard is the README's release.
var standard = helm.Release{Name: "istiod-agent", Namespace: "istiod-agent-system"}

// rendered holds the objects of an installation.
type rendered struct {
	// text is all of it, the hooks for `helm test` included.
	text  string
	notes string
	// objects by kind and name.
	objects map[string]*unstructured.Unstructured
}

// render is `helm install --dry-run`.
func render(t *testing.T, r helm.Release, values helm.Values) rendered {
	t.Helper()
	result, err := tryRender(t, r, values, "v1.30.0")
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func tryRender(t *testing.T, r helm.Release, values helm.Values, kubernetes string) (rendered, error) {
	t.Helper()
	chart, err := loader.Load(filepath.Join(root(t), "charts", "istiod-agent"))
	if err != nil {
		t.Fatal(err)
	}
	version, err := common.ParseKubeVersion(kubernetes)
	if err != nil {
		t.Fatal(err)
	}
	install := action.NewInstall(action.NewConfiguration(action.ConfigurationSetLogger(slog.DiscardHandler)))
	install.ReleaseName, install.Namespace = r.Name, r.Namespace
	install.DryRunStrategy, install.KubeVersion = action.DryRunClient, version
	installed, err := install.RunWithContext(t.Context(), chart, values)
	if err != nil {
		return rendered{}, err
	}

	result := rendered{objects: map[string]*unstructured.Unstructured{}}
	result.text, result.notes = installed.(*release.Release).Manifest, installed.(*release.Release).Info.Notes
	for _, hook := range installed.(*release.Release).Hooks {
		result.text += "---\n" + hook.Manifest
	}
	for _, object := range parse(t, result.text) {
		result.objects[key(object)] = object
	}
	return result, nil
}

func parse(t *testing.T, stream string) []*unstructured.Unstructured {
	t.Helper()
	objects, err := manifest.Parse([]byte(stream))
	if err != nil {
		t.Fatalf("%v in\n%s", err, stream)
	}
	return objects
}

func key(object *unstructured.Unstructured) string { return object.GetKind() + " " + object.GetName() }

// one returns the only object of a kind.
func (r rendered) one(t *testing.T, kind string) *unstructured.Unstructured {
	t.Helper()
	var found []*unstructured.Unstructured
	for _, object := range r.objects {
		if object.GetKind() == kind {
			found = append(found, object)
		}
	}
	if len(found) != 1 {
		t.Fatalf("there are %d objects of kind %s among %q", len(found), kind, slices.Sorted(maps.Keys(r.objects)))
	}
	return found[0]
}

// typed converts an object to its Go type.
func typed[T any](t *testing.T, object *unstructured.Unstructured) *T {
	t.Helper()
	raw, err := object.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	into := new(T)
	if err := yaml.UnmarshalStrict(raw, into); err != nil {
		t.Fatalf("%s: %v", key(object), err)
	}
	return into
}

// examples returns the values files of the chart and of testdata by name.
func examples(t *testing.T) map[string]helm.Values {
	t.Helper()
	found := map[string]helm.Values{"default": {}}
	for _, pattern := range []string{
		filepath.Join(root(t), "charts", "istiod-agent", "values-*.yaml"),
		filepath.Join("testdata", "*.values.yaml"),
	} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("no examples at %s: %v", pattern, err)
		}
		for _, file := range files {
			name := strings.TrimPrefix(strings.TrimSuffix(strings.TrimSuffix(filepath.Base(file), ".yaml"), ".values"), "values-")
			found[name] = readValues(t, file)
		}
	}
	return found
}

// renderExamples runs a test on each example.
func renderExamples(t *testing.T, test func(*testing.T, rendered)) {
	for name, values := range examples(t) {
		t.Run(name, func(t *testing.T) { test(t, render(t, standard, values)) })
	}
}

func readValues(t *testing.T, file string) helm.Values {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	values := helm.Values{}
	if err := yaml.UnmarshalStrict(content, &values); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return values
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := built.Root()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// sources returns the Go files below a folder of this repository as one text.
func sources(t *testing.T, folders ...string) string {
	t.Helper()
	var text strings.Builder
	for _, folder := range folders {
		err := filepath.WalkDir(filepath.Join(root(t), folder), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") {
				return err
			}
			content, err := os.ReadFile(path)
			text.Write(content)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return text.String()
}
