// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

// begin changes the root of a mesh's istiods and namespaces, so that istiod and its proxies are restarted.
func (m *mesh) begin(t *testing.T, was root) root {
	t.Helper()
	second := newRoot()
	m.offer(t, was, second)
	for _, each := range m.namespaces {
		m.publish(t, each, second)
	}
	return second
}

// rollout creates a ReplicaSet whose owner is of an unknown kind, such as an Argo Rollout.
func (m *mesh) rollout(t *testing.T, name string, replicas int32) {
	t.Helper()
	labels, annotations := proxy(name)
	m.run(t, &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: m.a,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "argoproj.io/v1alpha1", Kind: "Rollout", Name: name, UID: "0b1c", Controller: new(true)}},
		},
		Spec: appsv1.ReplicaSetSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}, Template: template(labels, annotations)},
	})
	cluster.Eventually(t, "all its Pods run", func() error {
		if n := len(names(t, m.a, "app", name)); n != int(replicas) {
			return fmt.Errorf("%d do", n)
		}
		return nil
	})
}

// Pods whose owner has no rollout are evicted one after the other, never against a PodDisruptionBudget. A blocked workload
// does not block others.
func TestPodDisruptionBudgets(t *testing.T) {
	m, first := newMesh(t)
	m.rollout(t, "argo", 2)
	m.runDeployment(t, m.b, "web")
	old := names(t, m.a, "app", "argo")
	budget := &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "argo", Namespace: m.a},
		Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: new(intstr.FromInt32(2)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "argo"}}},
	}
	must(t, shared.Create(t.Context(), budget))
	allow := func(n int32) { // as the disruption controller does
		must(t, shared.Get(t.Context(), client.ObjectKeyFromObject(budget), budget))
		budget.Status = policyv1.PodDisruptionBudgetStatus{
			ObservedGeneration: budget.Generation, DisruptionsAllowed: n, CurrentHealthy: 2, DesiredHealthy: 2 - n, ExpectedPods: 2,
		}
		must(t, shared.Status().Update(t.Context(), budget))
	}
	allow(0)
	m.begin(t, first)
	m.wantStatus(t, certificatesv1.Restarting, "ReplicaSet "+m.a+"/argo: a PodDisruptionBudget to allow the eviction of Pod ")
	wantRestarts(t, "others go on", map[string]int{m.b + "/web": 1})
	if got := names(t, m.a, "app", "argo"); !slices.Equal(got, old) {
		t.Fatalf("Pods %q were evicted: there are %q", old, got)
	}

	// One may go, and then none again.
	allow(1)
	left := func(n int) {
		t.Helper()
		cluster.Within(t, limit, fmt.Sprintf("%d of the old Pods are left", n), func() error {
			now := names(t, m.a, "app", "argo")
			still := slices.DeleteFunc(slices.Clone(old), func(pod string) bool { return !slices.Contains(now, pod) })
			if len(still) != n || len(now) != 2 {
				return fmt.Errorf("Pods %q", now)
			}
			return nil
		})
	}
	left(1)
	m.wantStatus(t, certificatesv1.Restarting, "ReplicaSet "+m.a+"/argo: a PodDisruptionBudget to allow the eviction of Pod ")
	left(1)
	killed(t)
	allow(1)
	left(0)
	status := m.wantStatus(t, certificatesv1.Restarted, "3 workloads restarted")
	if pods := status.PodsBounced[2].BouncedPods; len(pods) != 3 {
		t.Errorf("Pods %q were restarted", pods)
	}
	for _, pod := range old {
		wantEvent(t, m.a, pod, "PodEvicted")
	}
}

// A StatefulSet with update strategy OnDelete is not changed; its Pods are evicted.
func TestOnDelete(t *testing.T) {
	m, first := newMesh(t)
	labels, annotations := proxy("db")
	m.run(t, &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "db", Namespace: m.a},
		Spec: appsv1.StatefulSetSpec{
			Replicas: new(int32(2)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}, Template: template(labels, annotations),
			UpdateStrategy: appsv1.StatefulSetUpdateStrategy{Type: appsv1.OnDeleteStatefulSetStrategyType},
		},
	})
	old := names(t, m.a, "app", "db")
	m.begin(t, first)
	m.wantStatus(t, certificatesv1.Restarted, "2 workloads restarted")
	for _, pod := range names(t, m.a, "app", "db") {
		if slices.Contains(old, pod) {
			t.Errorf("Pod %s was not replaced", pod)
		}
	}
	if n := restarts(t, &appsv1.StatefulSet{}, m.a, "db"); n != 0 {
		t.Errorf("its template was changed %d times", n)
	}
}

// No Pod is evicted until the replacement of the one before exists.
func TestEvictionsWait(t *testing.T) {
	m, first := newMesh(t)
	m.rollout(t, "argo", 2)
	old := names(t, m.a, "app", "argo")
	m.pause(m.a, "argo", true) // nobody makes new Pods
	m.begin(t, first)
	m.wantStatus(t, certificatesv1.Restarting, "ReplicaSet "+m.a+"/argo: 2 Pods (now 1)")
	if now := names(t, m.a, "app", "argo"); len(now) != 1 || !slices.Contains(old, now[0]) {
		t.Errorf("Pods %q are left of %q", now, old)
	}
	m.pause(m.a, "argo", false)
	m.wantStatus(t, certificatesv1.Restarted, "2 workloads restarted")
	for _, pod := range names(t, m.a, "app", "argo") {
		if slices.Contains(old, pod) {
			t.Errorf("Pod %s was not replaced", pod)
		}
	}
}

// While another program writes the status all the time, its fields stay, and each workload is restarted once.
func TestStatusWriters(t *testing.T) {
	m, first := newMesh(t)
	for i := range 7 { // more than are restarted at a time
		m.runDeployment(t, m.a, fmt.Sprintf("web-%d", i))
	}
	second := m.begin(t, first)
	cluster.Within(t, limit, "the restarts end although somebody writes between", func() error {
		object := directiveOf(m.system, m.name())
		must(t, shared.Get(t.Context(), client.ObjectKeyFromObject(object), object))
		before := object.DeepCopy()
		status, _ := object.Object["status"].(map[string]any)
		status["whose"] = fmt.Sprintf("another's, of version %s", object.GetResourceVersion())
		if err := shared.Status().Patch(t.Context(), object, client.MergeFrom(before)); err != nil {
			return err
		}
		if state := m.status(t).State; state != certificatesv1.Restarted {
			return errors.New(string(state))
		}
		return nil
	})
	m.wantStatus(t, certificatesv1.Restarted, "8 workloads restarted for root "+second.fingerprint[:12])
	want := map[string]int{m.system + "/istiod": 1}
	for i := range 7 {
		want[fmt.Sprintf("%s/web-%d", m.a, i)] = 1
	}
	wantRestarts(t, "each was restarted once", want)
	object := directiveOf(m.system, m.name())
	must(t, shared.Get(t.Context(), client.ObjectKeyFromObject(object), object))
	if status, _ := object.Object["status"].(map[string]any); status["whose"] == nil {
		t.Error("what somebody else wrote is gone")
	}
}

// Only a few workloads are restarted at a time. If they do not become ready, no other follows.
func TestConcurrency(t *testing.T) {
	m, first := newMesh(t)
	for i := range 7 {
		m.runDeployment(t, m.a, fmt.Sprintf("web-%d", i))
	}
	m.runDeployment(t, m.b, "web")
	for i := range 7 {
		m.pause(m.a, fmt.Sprintf("web-%d", i), true)
	}
	m.begin(t, first)
	count := func() (n int) {
		for i := range 7 {
			n += restarts(t, &appsv1.Deployment{}, m.a, fmt.Sprintf("web-%d", i))
		}
		return n + restarts(t, &appsv1.Deployment{}, m.b, "web")
	}
	m.wantStatus(t, certificatesv1.Restarting, "Pods are new")
	cluster.Within(t, limit, "as many are restarted as may be at a time", func() error {
		if n := count(); n != 5 {
			return fmt.Errorf("%d are", n)
		}
		return nil
	})
	if status := m.wantStatus(t, certificatesv1.Restarting, "more after that"); len(status.Restarting) != 5 {
		t.Errorf("being restarted: %+v", status.Restarting)
	}
	if n := count(); n != 5 {
		t.Errorf("%d are restarted at a time", n)
	}
	for i := range 7 {
		m.pause(m.a, fmt.Sprintf("web-%d", i), false)
	}
	m.wantStatus(t, certificatesv1.Restarted, "9 workloads restarted")
	if n := count(); n != 8 {
		t.Errorf("%d restarts of 8 workloads", n)
	}
}

// The controller follows a person's directive as the public API defines it: its sets in order, each once its ConfigMap
// holds the root and enough Pods of the set before are ready.
func TestDirectiveByHand(t *testing.T) {
	m, _ := newMesh(t)
	m.virtualMesh(t, false)
	m.runDeployment(t, m.a, "first")
	m.runDeployment(t, m.a, "second")
	m.runDeployment(t, m.a, "third")
	directive := directiveOf(m.system, "by-hand")
	directive.Object["spec"] = map[string]any{"podsToBounce": []any{
		map[string]any{"namespace": m.a, "labels": map[string]any{"app": "second"}, "waitForReplicas": int64(2), "rootCertSync": map[string]any{
			"secretRef": map[string]any{"name": "cacerts"}, "secretKey": "root-cert.pem",
			"configMapRef": map[string]any{"name": "istio-ca-root-cert", "namespace": m.b}, "configMapKey": "root-cert.pem",
		}},
		map[string]any{"namespace": m.a, "labels": map[string]any{"app": "first"}},
	}}
	must(t, shared.Create(t.Context(), directive))
	cluster.Eventually(t, "the controller lets go of the IssuedCertificate's own directive", func() error {
		if m.certificate(t).Spec.PodBounceDirective != nil {
			return errors.New("it has one")
		}
		return nil
	})
	// A person's IssuedCertificate, for the same istiod.
	own := untyped(certificatesv1.GroupVersion.String(), certificatesv1.Kind, m.system, "by-hand")
	own.Object["spec"] = map[string]any{
		"hosts":              []any{"spiffe://cluster.local/ns/" + m.system + "/sa/istiod"},
		"podBounceDirective": map[string]any{"name": "by-hand"},
	}
	must(t, shared.Create(t.Context(), own))
	wantStatus(t, m.system, "by-hand", certificatesv1.RestartsIdle, "")

	second := newRoot()
	report := untyped(certificatesv1.GroupVersion.String(), certificatesv1.Kind, m.system, "by-hand")
	report.Object["status"] = map[string]any{"certificates": []any{map[string]any{
		"pod": m.istiods(t)[0], "confirmed": true, "rootFingerprint": second.fingerprint, "trustedRoots": []any{second.fingerprint},
	}}}
	must(t, shared.Status().Apply(t.Context(), client.ApplyConfigurationFromUnstructured(report), client.FieldOwner("istiod-agent/by-hand"), client.ForceOwnership))
	wantStatus(t, m.system, "by-hand", certificatesv1.Restarting, m.a+": app=second: waiting for ConfigMap "+m.b+"/istio-ca-root-cert to hold root")
	m.publish(t, m.b, second)
	wantRestarts(t, "the set that comes first is restarted", map[string]int{m.a + "/second": 1})
	wantStatus(t, m.system, "by-hand", certificatesv1.Restarting, "waiting for 2 ready Pods (now 1)")
	wantRestarts(t, "the next one is not", map[string]int{m.a + "/first": 0})
	must(t, shared.Patch(t.Context(), shared.Stored(t, m.a, "second"), client.RawPatch(types.MergePatchType, []byte(`{"spec":{"replicas":2}}`))))
	status := wantStatus(t, m.system, "by-hand", certificatesv1.Restarted, "2 workloads restarted")
	if len(status.PodsBounced) != 2 || len(status.PodsBounced[0].BouncedPods) != 1 || status.PodsBounced[1].Set != m.a+": app=first" {
		t.Errorf("sets %+v", status.PodsBounced)
	}
	wantRestarts(t, "nobody else was", map[string]int{m.a + "/first": 1, m.a + "/third": 0, m.system + "/istiod": 0})
}

// Without the chart's rights nothing is restarted, and VirtualMesh and directive report it. With them the restarts continue.
func TestWithoutRights(t *testing.T) {
	m, first := newMesh(t)
	m.runDeployment(t, m.a, "web")
	upgrade := func(enabled bool) {
		t.Helper()
		must(t, shared.Webhook.Upgrade(context.Background(), webhookserver.Release, values(enabled)))
	}
	upgrade(false)
	t.Cleanup(func() { upgrade(true) })
	killed(t) // they remember for half a minute what they may do
	m.begin(t, first)
	const says = "set restarts.enabled=true"
	m.wantStatus(t, certificatesv1.Restarting, says)
	cluster.Within(t, limit, "the VirtualMesh says so", func() error {
		mesh := untyped("networking.mesh.gloo.solo.io/v1", "VirtualMesh", "gloo-mesh", "virtual-mesh-of-"+m.system)
		must(t, shared.Get(t.Context(), client.ObjectKeyFromObject(mesh), mesh))
		status, _ := mesh.Object["status"].(map[string]any)
		if !strings.Contains(fmt.Sprint(status["notActedOn"]), says) {
			return fmt.Errorf("status %v", status)
		}
		return nil
	})
	wantEvent(t, m.system, m.name(), "RestartsForbidden")
	wantRestarts(t, "nothing is restarted", map[string]int{m.system + "/istiod": 0, m.a + "/web": 0})
	upgrade(true)
	m.wantStatus(t, certificatesv1.Restarted, "2 workloads restarted")
}
