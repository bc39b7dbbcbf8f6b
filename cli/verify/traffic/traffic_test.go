// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	contract "github.com/istiod-agent/istiod-agent/internal/traffic"
)

func TestReadIstiod(t *testing.T) {
	t.Parallel()
	pod := func(change func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system"}, Spec: corev1.PodSpec{Containers: []corev1.Container{
			{Name: "istiod-agent", Env: []corev1.EnvVar{{Name: "CLUSTER_ID", Value: "wrong"}}}, {Name: "discovery"},
		}}}
		change(p)
		return p
	}
	for name, test := range map[string]struct {
		pod    *corev1.Pod
		labels map[string]string
		want   Istiod
	}{
		"the charts' defaults": {pod(func(*corev1.Pod) {}), nil, Istiod{"istiod.istio-system.svc", "Kubernetes", "cluster.local", ""}},
		"a cluster of many": {pod(func(p *corev1.Pod) {
			p.Labels = map[string]string{"istio.io/rev": "canary"}
			p.Spec.Containers[1].Env = []corev1.EnvVar{{Name: "CLUSTER_ID", Value: "cluster-1"}}
			p.Spec.Containers[1].Args = []string{"discovery", "--domain", "example.internal"}
		}), map[string]string{"topology.istio.io/network": "net-1"}, Istiod{"istiod-canary.istio-system.svc", "cluster-1", "example.internal", "net-1"}},
		"a flag without a value": {pod(func(p *corev1.Pod) { p.Spec.Containers[1].Args = []string{"--domain"} }), nil, Istiod{"istiod.istio-system.svc", "Kubernetes", "cluster.local", ""}},
		"no container":           {pod(func(p *corev1.Pod) { p.Spec.Containers = nil }), nil, Istiod{"istiod.istio-system.svc", "Kubernetes", "cluster.local", ""}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := ReadIstiod(test.pod, test.labels); got != test.want {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// The client is told the servers by the mesh's names, and the bootstrap its identity.
func TestClient(t *testing.T) {
	t.Parallel()
	s := site{istiod: Istiod{"istiod.istio-system.svc", "cluster-1", "cluster.local", ""}, namespace: "ns", index: 0, image: "x", lifetime: time.Minute}
	pod := s.client(40*time.Second, []int{0, 2})
	arguments := strings.Join(pod.Spec.Containers[0].Args, " ")
	for _, want := range []string{"--target=0=server-0.ns.svc.cluster.local:8080 --target=2=server-2.ns.svc.cluster.local:8080", "--istiod=istiod.istio-system.svc:15012", "--limit=40s"} {
		if !strings.Contains(arguments, want) {
			t.Errorf("no %q in %s", want, arguments)
		}
	}
	var bootstrap struct{ Node struct{ ID string } }
	for _, variable := range pod.Spec.Containers[0].Env {
		if variable.Name == contract.BootstrapVariable {
			if err := json.Unmarshal([]byte(variable.Value), &bootstrap); err != nil {
				t.Error(err)
			}
		}
	}
	if bootstrap.Node.ID != "sidecar~$(POD_IP)~client.ns~ns.svc.cluster.local" {
		t.Errorf("the node is %q", bootstrap.Node.ID)
	}
	if *pod.Spec.ActiveDeadlineSeconds != 60 {
		t.Errorf("the Pod lives %d seconds", *pod.Spec.ActiveDeadlineSeconds)
	}
}

// The Pods have an account that no role names, and one token, for istiod alone. The server has the name that clients expect.
func TestObjects(t *testing.T) {
	t.Parallel()
	s := site{istiod: Istiod{"istiod.istio-system.svc", "cluster-1", "cluster.local", ""}, namespace: "ns", index: 3, image: "x", lifetime: time.Minute}
	found := 0
	for _, object := range append(s.objects(), s.client(time.Second, []int{3})) {
		if kind := object.GetObjectKind().GroupVersionKind().Kind; strings.HasPrefix(kind, "Role") || strings.HasPrefix(kind, "ClusterRole") {
			t.Errorf("there is a %s", kind)
		}
		pod, ok := object.(*corev1.Pod)
		if !ok {
			continue
		}
		found++
		if *pod.Spec.AutomountServiceAccountToken || pod.Spec.ServiceAccountName != account {
			t.Errorf("%s has the account's own token", pod.Name)
		}
		for _, volume := range pod.Spec.Volumes {
			if volume.Projected == nil {
				continue
			}
			for _, source := range volume.Projected.Sources {
				if token := source.ServiceAccountToken; token == nil || token.Audience != "istio-ca" {
					t.Errorf("%s has %+v", pod.Name, source)
				}
			}
		}
		arguments := strings.Join(pod.Spec.Containers[0].Args, " ")
		if strings.Contains(arguments, "--certificate-lifetime") {
			t.Errorf("its certificate has another lifetime: %s", arguments)
		}
		if want := map[string]string{serverPod: " --name=3 ", clientPod: " --target=3="}[pod.Name]; !strings.Contains(arguments, want) {
			t.Errorf("%s has no %q: %s", pod.Name, want, arguments)
		}
	}
	if found != 2 {
		t.Errorf("there are %d Pods", found)
	}
}
