// SPDX-License-Identifier: Apache-2.0

package meshes

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
)

// What a CRD without bounds let in: it is answered with a status that can be stored.
func TestAStoredMonsterIsAnsweredBriefly(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("long", 1<<16)
	meshes := func(n int, name func(int) string) []any {
		all := make([]any, n)
		for i := range all {
			all[i] = map[string]any{"name": name(i)}
		}
		return all
	}
	shared := map[string]any{"shared": map[string]any{"intermediateCertificateAuthority": map[string]any{"vault": map[string]any{
		"server": "https://vault:8200", "caPath": "pki/root/sign-intermediate", "kubernetesAuth": map[string]any{"role": "istiod"},
	}}}}
	for name, test := range map[string]struct {
		spec  map[string]any
		state networkingv1.ApprovalState
	}{
		"too many meshes":      {map[string]any{"mtlsConfig": shared, "meshes": meshes(40_000, func(i int) string { return fmt.Sprintf("mesh-%d", i) })}, networkingv1.Invalid},
		"one mesh, many times": {map[string]any{"mtlsConfig": shared, "meshes": meshes(1000, func(int) string { return "a" })}, networkingv1.Invalid},
		"bad names":            {map[string]any{"mtlsConfig": shared, "meshes": meshes(1000, func(i int) string { return fmt.Sprintf("A%d", i) })}, networkingv1.Invalid},
		"long names":           {map[string]any{"mtlsConfig": shared, "meshes": meshes(4, func(int) string { return long })}, networkingv1.Invalid},
		"parts of the wrong type": {map[string]any{"mtlsConfig": shared, "meshes": func() []any {
			all := make([]any, 100_000)
			for i := range all {
				all[i] = int64(i)
			}
			return all
		}()}, networkingv1.Invalid},
		"the most that is allowed": {map[string]any{"mtlsConfig": shared, "meshes": meshes(networkingv1.MaxMeshes, func(i int) string {
			return fmt.Sprintf("%s-%04d", strings.TrimSuffix(strings.Repeat("a.", 124), "."), i)
		})}, networkingv1.Accepted},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			object := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": "a", "namespace": "b"}, "spec": test.spec}}
			plan := translate(sourceOf(object), networkingv1.VirtualMeshStatus{}, clusterFacts{Cluster: "cluster-1", Allowed: v1alpha1.VirtualMesh{Namespaces: []string{"b"}}})
			raw, err := json.Marshal(plan.Status)
			if err != nil {
				t.Fatal(err)
			}
			if plan.Status.State != test.state || len(raw) > 1<<20 || len(plan.Status.Errors) > maxStatusLines {
				t.Errorf("%s, %d bytes, %d errors: %.500s", plan.Status.State, len(raw), len(plan.Status.Errors), raw)
			}
			for _, condition := range plan.Status.Conditions {
				if len(condition.Message) > 1024 {
					t.Errorf("condition %s has a message of %d bytes", condition.Type, len(condition.Message))
				}
			}
			if names := meshKeys(object); len(names) > networkingv1.MaxMeshes {
				t.Errorf("it is watched for %d meshes", len(names))
			}
		})
	}
}
