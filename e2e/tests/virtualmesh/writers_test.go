// SPDX-License-Identifier: Apache-2.0

package virtualmesh

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/controlplane"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

// While another program writes both statuses all the time, the controller's fields and others, no report of an agent and no
// field is lost, and the controller writes at most once for each of the other's writes.
func TestStatusWriters(t *testing.T) {
	t.Parallel()
	const rounds = 30
	m := newMesh(t, "cluster.local")
	shared.MustApply(t, m.istiod)
	must(t, shared.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "istiod", Namespace: m.namespace}}))
	object := m.guide(t, "virtual-mesh", nil)
	m.apply(t, object)
	m.wantStatus(t, "virtual-mesh", networkingv1.Accepted, "1 of 2")
	before := m.written(t)

	agents := []*agent{newAgent(t, m, "istiod-a", nil), newAgent(t, m, "istiod-b", nil)}
	serial := func(n int) string { return fmt.Sprintf("serial-%d", n) }
	var writers errgroup.Group
	for _, each := range agents {
		writers.Go(func() error {
			for n := range rounds {
				if err := each.report(t.Context(), serial(n)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	writers.Go(func() error { // by merge patches, as what is beside it does not matter to it
		for n := range rounds {
			patch, err := json.Marshal(map[string]any{"status": map[string]any{
				"state": "PENDING", "errors": []string{"theirs"}, "meshes": nil, "destinations": map[string]any{fmt.Sprintf("destination-%d", n): map[string]any{"state": "ACCEPTED"}},
			}})
			if err != nil {
				return err
			}
			if err := shared.Status().Patch(t.Context(), object.DeepCopy(), client.RawPatch(types.MergePatchType, patch), client.FieldOwner("gloo-mesh")); err != nil {
				return err
			}
		}
		return nil
	})
	writers.Go(func() error { // by writing all back that it has read
		for range rounds {
			if err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
				stored := m.certificateObject()
				if err := shared.Get(t.Context(), client.ObjectKeyFromObject(stored), stored); err != nil {
					return err
				}
				_ = unstructured.SetNestedField(stored.Object, "REQUESTED", "status", "state")
				_ = unstructured.SetNestedField(stored.Object, "theirs", "status", "error")
				return shared.Status().Update(t.Context(), stored, client.FieldOwner("gloo-mesh"))
			}); err != nil && !apierrors.IsConflict(err) { // it tries again later, as programs do
				return err
			}
		}
		return nil
	})
	must(t, writers.Wait())
	for _, each := range agents { // what comes last counts
		must(t, each.report(t.Context(), serial(rounds)))
	}

	m.wantStatus(t, "virtual-mesh", networkingv1.Accepted, "FINISHED")
	stored, _, err := m.stored(t, "virtual-mesh")
	must(t, err)
	if destinations, _, _ := unstructured.NestedMap(stored.Object, "status", "destinations"); len(destinations) != rounds {
		t.Errorf("of %d destinations that another has written, %d are there", rounds, len(destinations))
	}
	made, err := m.certificate(t, m.name())
	must(t, err)
	if len(made.Status.Certificates) != len(agents) || made.Status.State != "FINISHED" || made.Status.Error != "" {
		t.Errorf("the agents' reports are %+v", made.Status)
	}
	for _, report := range made.Status.Certificates {
		if report.SerialNumber != serial(rounds) {
			t.Errorf("the last report of %s is %+v", report.Pod, report)
		}
	}
	// Each of the other's patches and of the three's changes of the IssuedCertificate's state is put right or passed on.
	if ours, theirs := m.written(t)-before, rounds+(len(agents)+1)*rounds+len(agents); ours > theirs {
		t.Errorf("the controller has written the status %d times, the others %d times", ours, theirs)
	}
}

// Against a program that keeps changing its fields the controller backs off, and prevails in the end.
func TestInsistentStatusWriter(t *testing.T) {
	t.Parallel()
	const insists = 3
	m := newMesh(t, "cluster.local")
	object := m.guide(t, "virtual-mesh", func(spec map[string]any) { spec["meshes"] = spec["meshes"].([]any)[1:] })
	m.apply(t, object)
	m.wantStatus(t, "virtual-mesh", networkingv1.Accepted, "")
	before := m.written(t)
	for range insists {
		theirs := client.RawPatch(types.MergePatchType, []byte(`{"status":{"state":"PENDING"}}`))
		must(t, shared.Status().Patch(t.Context(), object.DeepCopy(), theirs, client.FieldOwner("another")))
		m.wantStatus(t, "virtual-mesh", networkingv1.Accepted, "") // after 1, 2 and 4 seconds
	}
	if ours := m.written(t) - before; ours != insists {
		t.Errorf("the controller has written the status %d times, another %d times", ours, insists)
	}
}

// written returns the number of the controller's writes of the status of this test's VirtualMeshes.
func (m *mesh) written(t *testing.T) int {
	t.Helper()
	return len(requests(t, func(event *controlplane.AuditEvent) bool {
		return event.Write() && strings.HasSuffix(event.ObjectRef.Name, m.suffix) && event.ObjectRef.Resource == networkingv1.VirtualMeshes.Resource
	}))
}

// requests returns the requests of the webhook's program so far.
func requests(t *testing.T, wanted func(*controlplane.AuditEvent) bool) (found []controlplane.AuditEvent) {
	t.Helper()
	user, _ := controlplane.ServiceAccount(webhookserver.Release.Namespace, webhookserver.Name)
	all, err := shared.Plane.Requests(user)
	must(t, err)
	for _, event := range all {
		if wanted(&event) {
			found = append(found, event)
		}
	}
	return found
}
