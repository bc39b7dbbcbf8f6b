// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const crd = `---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  annotations:
    controller-gen.kubebuilder.io/version: v0.0.0
  name: things.example.com
spec:
  names:
    kind: Thing
`

func TestCRDsBecomeTemplates(t *testing.T) {
	config, chart := t.TempDir(), t.TempDir()
	stale := filepath.Join(chart, "templates", crdFolder, "example.com_gone.yaml")
	for file, content := range map[string]string{filepath.Join(config, crdFolder, "example.com_things.yaml"): crd, stale: "stale"} {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := writeCRDs(config, chart); err != nil {
		t.Fatal(err)
	}
	want := crdHeader + `{{- if .Values.crds.install }}
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  annotations:
    {{- with .Values.commonAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- if .Values.crds.keep }}
    helm.sh/resource-policy: keep
    {{- end }}
    controller-gen.kubebuilder.io/version: v0.0.0
  {{- with .Values.commonLabels }}
  labels: {{- toYaml . | nindent 4 }}
  {{- end }}
  name: things.example.com
spec:
  names:
    kind: Thing
{{- end }}
`
	if diff := cmp.Diff(want, read(t, filepath.Join(chart, "templates", crdFolder, "example.com_things.yaml"))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if listed := read(t, filepath.Join(config, crdFolder, "kustomization.yaml")); !strings.HasSuffix(listed, "resources:\n- example.com_things.yaml\n") {
		t.Errorf("the kustomization is\n%s", listed)
	}
	if _, err := os.Stat(stale); !os.IsNotExist(err) {
		t.Errorf("what is no CRD any more stays: %v", err)
	}
}

func TestACRDWithoutAnnotationsGetsThem(t *testing.T) {
	got, err := crdTemplate(strings.Replace(crd, "  annotations:\n    controller-gen.kubebuilder.io/version: v0.0.0\n", "", 1), "true")
	want, wantErr := crdTemplate(crd, "true")
	if err != nil || wantErr != nil {
		t.Fatal(err, wantErr)
	}
	if diff := cmp.Diff(strings.Replace(want, "    controller-gen.kubebuilder.io/version: v0.0.0\n", "", 1), got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestCRDsThatWouldBreakTheChartAreRefused(t *testing.T) {
	for name, content := range map[string]string{
		"Helm's braces": strings.Replace(crd, "Thing\n", "'{{ Thing }}'\n", 1),
		"no name":       strings.Replace(crd, "  name: things.example.com\n", "", 1),
	} {
		if template, err := crdTemplate(content, ".Values.crds.install"); err == nil {
			t.Errorf("%s: this is taken:\n%s", name, template)
		}
	}
	if err := writeCRDs(t.TempDir(), t.TempDir()); err == nil {
		t.Error("a chart without CRDs is taken")
	}
}
