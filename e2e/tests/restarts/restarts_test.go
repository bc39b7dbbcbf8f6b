// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
)

// limit is the timeout of conditions that need several reconciliations, on a busy machine.
const limit = 90 * time.Second

// After a change of the root istiod restarts first, then gateways, then workloads: each once, when its namespace publishes the
// new root. A renewal restarts nothing. The same holds for a second change, with the controller killed at every step.
func TestRootChange(t *testing.T) {
	const undisturbed = "undisturbed"
	for name, between := range map[string]func(*testing.T){
		undisturbed:                          func(*testing.T) {},
		"the controller is killed each time": killed,
	} {
		t.Run(name, func(t *testing.T) {
			m, first := newMesh(t)
			m.runDeployment(t, m.system, "public", "istio", "ingressgateway")
			m.runDeployment(t, m.a, "web")
			m.runDeployment(t, m.b, "db")
			labels, annotations := proxy("agent")
			m.run(t, &appsv1.DaemonSet{
				ObjectMeta: metav1.ObjectMeta{Name: "agent", Namespace: m.a},
				Spec:       appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "agent"}}, Template: template(labels, annotations)},
			})
			labels, annotations = proxy("bare")
			bare := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "bare", Namespace: m.a, Labels: labels, Annotations: annotations}, Spec: template(nil, nil).Spec}
			bare.Spec.AutomountServiceAccountToken = new(false)
			must(t, shared.Create(t.Context(), bare))
			labels, annotations = proxy("outside")
			annotations["istio.io/rev"] = "canary"
			m.run(t, deployment(m.a, "outside", labels, annotations))

			m.sign(t, first, first) // a renewal: each has a new certificate under the same root
			was := first
			for round := 1; round <= 2; round++ {
				m.rotate(t, was, newRoot(), round, between)
				was = m.vault
				m.sign(t, was, was)
			}
			if name == undisturbed { // a controller that is killed loses the Events that it has not sent yet
				m.wantEvents(t)
			}
			m.sign(t, was, was)
			m.wantStatus(t, certificatesv1.Restarted, "restarted for root "+was.fingerprint[:12])
			m.wantAll(t, 2)
			if got := restarts(t, &appsv1.Deployment{}, m.a, "outside"); got != 0 {
				t.Errorf("another istiod's workload was restarted: %d", got)
			}
			stored := &corev1.Pod{}
			must(t, shared.Get(t.Context(), client.ObjectKeyFromObject(bare), stored))
			if stored.UID != bare.UID || stored.DeletionTimestamp != nil {
				t.Error("a Pod that nothing would start again was replaced")
			}
		})
	}
}

// wantAll expects the same number of restarts of each workload.
func (m *mesh) wantAll(t *testing.T, n int) {
	t.Helper()
	wantRestarts(t, "each was restarted just once for each root", map[string]int{
		m.system + "/istiod": n, m.system + "/public": n, m.a + "/web": n, m.b + "/db": n,
	})
	if got := restarts(t, &appsv1.DaemonSet{}, m.a, "agent"); got != n {
		t.Errorf("the DaemonSet was restarted %d times, want %d", got, n)
	}
}

// rotate changes the mesh's root and checks at each step that nothing is restarted too early.
func (m *mesh) rotate(t *testing.T, was, is root, n int, between func(*testing.T)) {
	t.Helper()
	// istiod's rollout is slow.
	m.pause(m.system, "istiod", true)
	m.offer(t, was, is)
	wantRestarts(t, "istiod is restarted first", map[string]int{m.system + "/istiod": n})
	between(t)
	m.wantStatus(t, certificatesv1.Restarting, "istiod: waiting for Deployment "+m.system+"/istiod")
	wantRestarts(t, "nothing else is", map[string]int{m.system + "/public": n - 1, m.a + "/web": n - 1, m.b + "/db": n - 1})

	// It is done; its ConfigMaps are not.
	m.pause(m.system, "istiod", false)
	m.wantStatus(t, certificatesv1.Restarting, "gateways: waiting for ConfigMap "+m.system+"/istio-ca-root-cert to hold root "+is.fingerprint[:12])
	between(t)
	wantRestarts(t, "no gateway is restarted before its ConfigMap holds the root", map[string]int{m.system + "/public": n - 1})
	m.publish(t, m.a, is) // a workload's namespace is earlier than the gateway's
	between(t)

	m.pause(m.system, "public", true)
	m.publish(t, m.system, is)
	wantRestarts(t, "the gateway is restarted", map[string]int{m.system + "/public": n})
	between(t)
	m.wantStatus(t, certificatesv1.Restarting, "gateways: waiting for Deployment "+m.system+"/public")
	wantRestarts(t, "no workload is, before the gateway is there again", map[string]int{m.a + "/web": n - 1, m.b + "/db": n - 1})

	m.pause(m.a, "web", true)
	m.pause(m.system, "public", false)
	wantRestarts(t, "the workload is restarted whose namespace has the root", map[string]int{m.a + "/web": n})
	between(t)
	m.pause(m.a, "web", false)
	m.wantStatus(t, certificatesv1.Restarting, "workloads: waiting for ConfigMap "+m.b+"/istio-ca-root-cert to hold root")
	between(t)
	wantRestarts(t, "the other is not", map[string]int{m.b + "/db": n - 1})
	m.publish(t, m.b, is)
	between(t)

	status := m.wantStatus(t, certificatesv1.Restarted, "5 workloads restarted for root "+is.fingerprint[:12])
	m.wantAll(t, n)
	if !slices.Equal(status.Roots, []string{is.fingerprint}) || status.StartedAt == nil || status.FinishedAt == nil || len(status.Restarting) > 0 {
		t.Errorf("status %+v", status)
	}
	for i, want := range []struct {
		set       string
		pods      []string
		workloads int32
	}{{"istiod", []string{"istiod-", "istiod-"}, 1}, {"gateways", []string{"public-"}, 1}, {"workloads", []string{"agent-", "web-", "db-"}, 3}} {
		set := status.PodsBounced[i]
		if set.Set != want.set || !set.Complete || set.Workloads != want.workloads || len(set.BouncedPods) != len(want.pods) {
			t.Fatalf("set %d is %+v, want %+v", i, set, want)
		}
		for _, prefix := range want.pods {
			if !slices.ContainsFunc(set.BouncedPods, func(pod string) bool { return strings.HasPrefix(pod, prefix) }) {
				t.Errorf("%s: no Pod %s… in %q", set.Set, prefix, set.BouncedPods)
			}
		}
	}
	if len(status.Left) != 1 || !strings.HasPrefix(status.Left[0], "Pod "+m.a+"/bare: it has no owner that would recreate it") {
		t.Errorf("left %q", status.Left)
	}
}

// wantEvents expects the Events of a change of the root.
func (m *mesh) wantEvents(t *testing.T) {
	t.Helper()
	for _, want := range []struct{ namespace, about, reason string }{
		{m.system, m.name(), "RestartsBegun"},
		{m.system, m.name(), "RestartsFinished"},
		{m.system, m.name(), "PodsLeft"},
		{m.system, "istiod", "WorkloadRestarted"},
		{m.a, "web", "WorkloadRestarted"},
	} {
		wantEvent(t, want.namespace, want.about, want.reason)
	}
}

// killed kills the controllers and starts others.
func killed(t *testing.T) {
	t.Helper()
	for _, replica := range slices.Clone(shared.Webhook.Replicas) {
		must(t, shared.Webhook.Kill(replica))
	}
	for range 2 {
		_, err := shared.Webhook.Scale(t.Context())
		must(t, err)
	}
}

func wantEvent(t *testing.T, namespace, about, reason string) {
	t.Helper()
	cluster.Eventually(t, fmt.Sprintf("an Event %s on %s", reason, about), func() error {
		var events eventsv1.EventList
		if err := shared.List(t.Context(), &events, client.InNamespace(namespace)); err != nil {
			return err
		}
		if !slices.ContainsFunc(events.Items, func(e eventsv1.Event) bool { return e.Regarding.Name == about && e.Reason == reason }) {
			return errors.New("there is none")
		}
		return nil
	})
}

// Without autoRestartPods nothing is restarted, and the directive is deleted.
func TestAutoRestartOff(t *testing.T) {
	m, first := newMesh(t)
	m.runDeployment(t, m.a, "web")
	m.virtualMesh(t, false)
	cluster.Eventually(t, "the directive is gone, and nothing names it", func() error {
		directive := directiveOf(m.system, m.name())
		if err := shared.Get(t.Context(), client.ObjectKeyFromObject(directive), directive); !apierrors.IsNotFound(err) {
			return errors.Join(errors.New("it is there"), err)
		}
		if named := m.certificate(t).Spec.PodBounceDirective; named != nil {
			return fmt.Errorf("%+v is named", named)
		}
		return nil
	})
	second := newRoot()
	m.offer(t, first, second)
	m.virtualMesh(t, true)
	// The first thing that is restarted is restarted now, not before.
	wantRestarts(t, "switched on again, istiod is restarted", map[string]int{m.system + "/istiod": 1, m.a + "/web": 0})
}

// A staged change of the root restarts proxies once, when a second root becomes trusted, and istiod never.
func TestStagedRootChange(t *testing.T) {
	m, first := newMesh(t)
	m.runDeployment(t, m.system, "public", "istio", "eastwestgateway")
	m.runDeployment(t, m.a, "web")
	second := newRoot()
	mesh := untyped("networking.mesh.gloo.solo.io/v1", "VirtualMesh", "gloo-mesh", "virtual-mesh-of-"+m.system)
	must(t, shared.Get(t.Context(), client.ObjectKeyFromObject(mesh), mesh))
	stage := func(word string) {
		before := mesh.DeepCopy()
		mesh.SetAnnotations(map[string]string{"istiod-agent.io/root-rotation": word, certificatesv1.TrustedRootsAnnotation: first.pem + second.pem})
		must(t, shared.Patch(t.Context(), mesh, client.MergeFrom(before)))
	}

	stage("trust-both")
	cluster.Eventually(t, "istiods are asked to trust both", func() error {
		if m.certificate(t).Annotations[certificatesv1.TrustedRootsAnnotation] == "" {
			return errors.New("they are not")
		}
		return nil
	})
	m.sign(t, first, first, second)
	for _, each := range m.namespaces {
		m.publish(t, each, first, second)
	}
	m.wantStatus(t, certificatesv1.Restarted, "2 workloads restarted")

	stage("sign-with-new")
	m.sign(t, second, first, second)
	cluster.Eventually(t, "istiods sign under the new root", func() error {
		for _, report := range m.reported(t) {
			if report.RootFingerprint != second.fingerprint {
				return errors.New("not all")
			}
		}
		return nil
	})
	stage("drop-old")
	cluster.Eventually(t, "istiods are asked to trust the new root alone", func() error {
		if m.certificate(t).Annotations[certificatesv1.TrustedRootsAnnotation] != "" {
			return errors.New("they are not")
		}
		return nil
	})
	m.sign(t, second, second)
	for _, each := range m.namespaces {
		m.publish(t, each, second)
	}
	status := m.wantStatus(t, certificatesv1.Restarted, "a root was dropped, which needs no restart")
	if !slices.Equal(status.Roots, []string{second.fingerprint}) {
		t.Errorf("status %+v", status)
	}
	wantRestarts(t, "each proxy was restarted once, and istiod never", map[string]int{m.system + "/istiod": 0, m.system + "/public": 1, m.a + "/web": 1})
}

// Pods that have started with the new root are not restarted.
func TestYoungPods(t *testing.T) {
	m, first := newMesh(t)
	m.runDeployment(t, m.a, "old")
	second := newRoot()
	m.pause(m.system, "istiod", true)
	m.offer(t, first, second)
	wantRestarts(t, "istiod is restarted", map[string]int{m.system + "/istiod": 1})
	for _, each := range m.namespaces {
		m.publish(t, each, second)
	}
	aSecond(t)
	m.runDeployment(t, m.a, "young")
	m.pause(m.system, "istiod", false)
	m.wantStatus(t, certificatesv1.Restarted, "2 workloads restarted")
	wantRestarts(t, "just the old one was restarted", map[string]int{m.a + "/old": 1, m.a + "/young": 0})
}

// aSecond waits for the next second, since creation times have whole seconds.
func aSecond(t *testing.T) {
	t.Helper()
	now := time.Now()
	cluster.Eventually(t, "a second has passed", func() error {
		if time.Since(now) < 1100*time.Millisecond {
			return errors.New("not yet")
		}
		return nil
	})
}

// A second change of the root during the restarts starts them again.
func TestSecondRootChange(t *testing.T) {
	m, first := newMesh(t)
	m.runDeployment(t, m.a, "web")
	m.runDeployment(t, m.b, "db")
	m.pause(m.a, "web", true)
	second := m.begin(t, first)
	wantRestarts(t, "workloads are restarted", map[string]int{m.a + "/web": 1, m.b + "/db": 1})
	cluster.Within(t, limit, "just the one is waited for, that does not come up", func() error {
		if going := m.status(t).Restarting; len(going) != 1 || going[0].Name != "web" {
			return fmt.Errorf("%+v are", going)
		}
		return nil
	})
	aSecond(t) // or the other's new Pod would be taken for one that has the third root
	third := m.begin(t, second)
	wantRestarts(t, "istiod is restarted once more, and after it they", map[string]int{m.system + "/istiod": 2, m.a + "/web": 2, m.b + "/db": 2})
	m.pause(m.a, "web", false)
	status := m.wantStatus(t, certificatesv1.Restarted, "3 workloads restarted for root "+third.fingerprint[:12])
	if !slices.Equal(status.Roots, []string{third.fingerprint}) {
		t.Errorf("status %+v", status)
	}
	wantRestarts(t, "each was restarted once for each root", map[string]int{m.system + "/istiod": 2, m.a + "/web": 2, m.b + "/db": 2})
}
