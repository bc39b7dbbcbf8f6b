// SPDX-License-Identifier: Apache-2.0

package v1alpha1_test

import (
	"os"
	"path/filepath"
	"testing"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/diff"
	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
)

func TestSamplesDecode(t *testing.T) {
	t.Parallel()
	samples, err := filepath.Glob(filepath.Join("..", "..", "..", "config", "samples", "injection*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if len(samples) < 2 {
		t.Fatalf("want config/samples/injection.yaml and injection-gloo-mesh.yaml, found %v", samples)
	}
	for _, sample := range samples {
		decode(t, sampleFile(t, filepath.Base(sample)))
	}
}

func TestSampleHoldsDefaults(t *testing.T) {
	t.Parallel()
	content := sampleFile(t, "injection.yaml")
	sample, defaults := decode(t, content), v1alpha1.Default()
	defaults.Agent.Image = sample.Agent.Image // is the release's own
	if !equality.Semantic.DeepEqual(sample, defaults) {
		t.Errorf("the sample is not the defaults (-defaults +sample):\n%s", diff.Diff(defaults, sample))
	}

	written, err := yaml.Marshal(defaults)
	if err != nil {
		t.Fatal(err)
	}
	var every, shown map[string]any
	if err := yaml.Unmarshal(written, &every); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal([]byte(content), &shown); err != nil {
		t.Fatal(err)
	}
	wantFields(t, "", every, shown)
}

func wantFields(t *testing.T, at string, every, shown map[string]any) {
	t.Helper()
	for name, value := range every {
		have, ok := shown[name]
		if !ok {
			t.Errorf("the sample does not show %s%s", at, name)
		}
		if fields, ok := value.(map[string]any); ok {
			below, _ := have.(map[string]any)
			wantFields(t, at+name+".", fields, below)
		}
	}
}

func sampleFile(t testing.TB, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("..", "..", "..", "config", "samples", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
