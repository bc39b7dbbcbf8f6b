// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"context"
	"errors"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
)

// With a CRD that drops the fields of the status nothing is restarted, since progress cannot be recorded. An Event gives the
// reason.
func TestCRDWithoutStatus(t *testing.T) {
	m, first := newMesh(t)
	m.virtualMesh(t, false)
	m.runDeployment(t, m.a, "web")
	narrowed(t)
	cluster.Eventually(t, "the API server drops the fields", func() error {
		probe := directiveOf(m.b, "probe")
		must(t, client.IgnoreAlreadyExists(shared.Create(t.Context(), probe.DeepCopy())))
		if err := shared.Status().Patch(t.Context(), probe, client.RawPatch(types.MergePatchType, []byte(`{"status":{"state":"IDLE"}}`))); err != nil {
			return err
		}
		if _, kept, _ := unstructured.NestedFieldNoCopy(probe.Object, "status", "state"); kept {
			return errors.New("it keeps them")
		}
		return nil
	})
	m.virtualMesh(t, true)
	wantEvent(t, m.system, m.name(), "StatusDropped")
	m.begin(t, first)
	cluster.Eventually(t, "the agents' offer is there", func() error {
		for _, report := range m.reported(t) {
			if report.OfferedRootFingerprint != "" {
				return nil
			}
		}
		return errors.New("it is not")
	})
	wantRestarts(t, "nothing is restarted", map[string]int{m.system + "/istiod": 0, m.a + "/web": 0})
}

// narrowed removes all fields but Gloo Mesh's from the status in the CRD until the end of the test.
func narrowed(t *testing.T) {
	t.Helper()
	crd := untyped("apiextensions.k8s.io/v1", "CustomResourceDefinition", "", certificatesv1.PodBounceDirectives.GroupResource().String())
	must(t, shared.Get(t.Context(), client.ObjectKeyFromObject(crd), crd))
	whole := crd.DeepCopy()
	versions, _, err := unstructured.NestedSlice(crd.Object, "spec", "versions")
	must(t, err)
	narrow := map[string]any{"type": "object", "properties": map[string]any{"podsBounced": map[string]any{"type": "array", "items": map[string]any{
		"type": "object", "properties": map[string]any{"bouncedPods": map[string]any{"type": "array", "items": map[string]any{"type": "string"}}},
	}}}}
	must(t, unstructured.SetNestedField(versions[0].(map[string]any), narrow, "schema", "openAPIV3Schema", "properties", "status"))
	must(t, unstructured.SetNestedSlice(crd.Object, versions, "spec", "versions"))
	must(t, shared.Update(t.Context(), crd))
	t.Cleanup(func() {
		ctx := context.Background()
		must(t, shared.Get(ctx, client.ObjectKeyFromObject(crd), crd))
		whole.SetResourceVersion(crd.GetResourceVersion())
		must(t, shared.Update(ctx, whole))
	})
}
