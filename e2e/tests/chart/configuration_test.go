// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
)

func TestExamples(t *testing.T) {
	renderExamples(t, func(t *testing.T, r rendered) {
		configuration(t, r)
		if file := configurationFile(t, r); strings.Contains(file, "null") {
			t.Errorf("the configuration file holds a null:\n%s", file)
		}
	})
}

func TestDefaultConfiguration(t *testing.T) {
	want := sample(t, "injection.yaml")
	if diff := cmp.Diff(want, configuration(t, render(t, standard, nil)), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("the chart's configuration differs from config/samples/injection.yaml (-sample +chart):\n%s", diff)
	}
}

func TestGlooMeshValues(t *testing.T) {
	got := configuration(t, render(t, standard, examples(t)["gloo-mesh"]))
	want := sample(t, "injection-gloo-mesh.yaml")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("values-gloo-mesh.yaml differs from config/samples/injection-gloo-mesh.yaml (-sample +chart):\n%s", diff)
	}
}

// The program has its own defaults for absent values. An empty mapping is passed on and means none.
func TestAbsentAndEmptyValues(t *testing.T) {
	for name, test := range map[string]struct {
		agent helm.Values
		want  map[string]any
	}{
		"absent":   {nil, map[string]any{}},
		"null":     {helm.Values{"resources": nil, "securityContext": nil}, map[string]any{}},
		"empty":    {helm.Values{"resources": helm.Values{}, "securityContext": helm.Values{}}, map[string]any{"resources": map[string]any{}, "securityContext": map[string]any{}}},
		"explicit": {helm.Values{"resources": helm.Values{"limits": helm.Values{"cpu": "1"}}}, map[string]any{"resources": map[string]any{"limits": map[string]any{"cpu": "1"}}}},
	} {
		t.Run(name, func(t *testing.T) {
			values := helm.Values{}
			if test.agent != nil {
				values = helm.Values{"injection": helm.Values{"agent": test.agent}}
			}
			var file struct{ Agent map[string]any }
			if err := yaml.Unmarshal([]byte(configurationFile(t, render(t, standard, values))), &file); err != nil {
				t.Fatal(err)
			}
			delete(file.Agent, "image")
			delete(file.Agent, "imagePullPolicy")
			if diff := cmp.Diff(test.want, file.Agent); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// By default the VirtualMeshes of the guide's namespace and of the release's count.
func TestVirtualMeshNamespaces(t *testing.T) {
	for name, test := range map[string]struct {
		value any
		want  []string
	}{
		"absent": {nil, []string{"gloo-mesh", "istiod-agent-system"}},
		"empty":  {[]any{}, []string{"gloo-mesh", "istiod-agent-system"}},
		"given":  {[]any{"trust"}, []string{"trust"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := configuration(t, render(t, standard, helm.Values{"virtualMesh": helm.Values{"namespaces": test.value}}))
			if diff := cmp.Diff(test.want, got.VirtualMesh.Namespaces); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	for name, virtualMesh := range map[string]helm.Values{
		"not in the default": {"namespace": "trust", "spec": helm.Values{"meshes": []any{}}},
		"not in the list":    {"namespaces": []any{"trust"}, "spec": helm.Values{"meshes": []any{}}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tryRender(t, standard, helm.Values{"virtualMesh": virtualMesh}, "v1.30.0")
			if err == nil || !strings.Contains(err.Error(), "virtualMesh.namespaces: must contain ") {
				t.Errorf("a VirtualMesh that is not acted on is rendered: %v", err)
			}
		})
	}
}

func TestConfigurationRollout(t *testing.T) {
	checksum := func(values helm.Values) string {
		template := webhookPods(t, render(t, standard, values))
		return template.Annotations["istiod-agent.io/configuration-checksum"]
	}
	before := checksum(nil)
	if before == "" || before == checksum(helm.Values{"injection": helm.Values{"rollout": "automatic"}}) {
		t.Error("another configuration has the same checksum")
	}
	clientCA := func(content string) helm.Values {
		return helm.Values{"server": helm.Values{"clientCA": "-----BEGIN CERTIFICATE-----\n" + content}}
	}
	if one := checksum(clientCA("one")); one == before || one == checksum(clientCA("another")) {
		t.Error("another client CA has the same checksum")
	}
	caBundle := func(content string) helm.Values {
		return helm.Values{"servingCertificate": helm.Values{"source": "secret", "secret": helm.Values{
			"name": "x", "caBundle": "-----BEGIN CERTIFICATE-----\n" + content,
		}}}
	}
	if checksum(caBundle("one")) == checksum(caBundle("another")) {
		t.Error("another caBundle has the same checksum")
	}
	if before != checksum(helm.Values{"replicas": 3}) {
		t.Error("the same configuration has another checksum")
	}
}

func configuration(t *testing.T, r rendered) *v1alpha1.InjectionConfiguration {
	t.Helper()
	return decode(t, []byte(configurationFile(t, r)))
}

func configurationFile(t *testing.T, r rendered) string {
	t.Helper()
	for _, object := range r.objects {
		if object.GetKind() != "ConfigMap" {
			continue
		}
		if file, ok := typed[corev1.ConfigMap](t, object).Data["config.yaml"]; ok {
			return file
		}
	}
	t.Fatal("no ConfigMap holds the configuration file")
	return ""
}

func sample(t *testing.T, name string) *v1alpha1.InjectionConfiguration {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root(t), "config", "samples", name))
	if err != nil {
		t.Fatal(err)
	}
	return decode(t, content)
}

func decode(t *testing.T, content []byte) *v1alpha1.InjectionConfiguration {
	t.Helper()
	decoded, err := v1alpha1.Decode(content)
	if err != nil {
		t.Fatalf("%v\n%s", err, content)
	}
	return decoded
}
