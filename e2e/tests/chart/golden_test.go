// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the golden files again")

// A golden file holds an example's difference from the default installation, which is config/ (see TestKustomize).
func TestGolden(t *testing.T) {
	byDefault := render(t, standard, nil)
	golden := map[string]bool{}
	for name, values := range examples(t) {
		if name == "default" {
			continue
		}
		file := filepath.Join("testdata", name+".golden.yaml")
		golden[file] = true
		t.Run(name, func(t *testing.T) {
			got := difference(t, byDefault, render(t, standard, values))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatalf("%v; write it with: go test ./tests/chart -update", err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("what is rendered differs from %s (-golden +rendered); if that is right: go test ./tests/chart -update\n%s", file, diff)
			}
		})
	}
	files, err := filepath.Glob(filepath.Join("testdata", "*.golden.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if !golden[file] {
			t.Errorf("%s belongs to no example", file)
		}
	}
}

// difference returns the new and the changed objects, without the schemas of CRDs, and a line for each missing one.
func difference(t *testing.T, from, to rendered) string {
	t.Helper()
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(from.objects)) {
		if to.objects[name] == nil {
			text.WriteString("# no " + name + "\n")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(to.objects)) {
		if was := from.objects[name]; was != nil && equality.Semantic.DeepEqual(was.Object, to.objects[name].Object) {
			continue
		}
		object := to.objects[name].DeepCopy()
		if object.GetKind() == crdKind {
			unstructured.RemoveNestedField(object.Object, "spec") // TestCRDs looks at that
		}
		document, err := yaml.Marshal(object.Object)
		if err != nil {
			t.Fatal(err)
		}
		text.WriteString("---\n")
		text.Write(document)
	}
	return text.String()
}
