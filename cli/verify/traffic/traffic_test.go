// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

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

// hostile is a message of a Pod's status.
var hostile = "\x1b[2J\nbad " + strings.Repeat("x", 5000)

func TestStates(t *testing.T) {
	t.Parallel()
	container := func(state corev1.ContainerState) corev1.PodStatus {
		return corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{State: state}}}
	}
	waiting := func(reason string) corev1.PodStatus {
		return container(corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: hostile}})
	}
	terminated := func(code int32) corev1.PodStatus {
		return container(corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: "Error", Message: hostile}})
	}
	unscheduled := corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: hostile}}}
	for name, test := range map[string]struct {
		status         corev1.PodStatus
		server, client string // what it waits for, or the start of the error; "done"
		hostile        bool   // the API server sends no containers
	}{
		"new":             {corev1.PodStatus{}, "its container", "its container", false},
		"no node":         {unscheduled, "a node: ", "a node: ", false},
		"no volume":       {waiting("ContainerCreating"), "its container (ContainerCreating", "its container (ContainerCreating", false},
		"no image":        {waiting("ImagePullBackOff"), "pod ns/x: image example.com/x:1 cannot be pulled (ImagePullBackOff", "pod ns/x: image example.com/x:1 cannot be pulled", false},
		"running":         {container(corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}), "its certificate and its configuration", "the answers of the servers", false},
		"ended with 1":    {terminated(1), "pod ns/x ended with code 1 (Error): ", "pod ns/x ended with code 1 (Error): ", false},
		"ended with 0":    {terminated(0), "pod ns/x ended with code 0", "done", false},
		"evicted":         {corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted", Message: hostile}, "pod ns/x failed (Evicted)", "pod ns/x failed (Evicted)", false},
		"a ready server":  {corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}, "done", "its container", false},
		"several reasons": {corev1.PodStatus{Conditions: unscheduled.Conditions, ContainerStatuses: waiting("ErrImagePull").ContainerStatuses}, "a node: ", "a node: ", false},
		"no containers":   {waiting("ErrImagePull"), "pod ns/x: image  cannot be pulled (ErrImagePull", "pod ns/x: image  cannot be pulled", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pod := &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "x"}, Status: test.status,
				Spec: corev1.PodSpec{Containers: []corev1.Container{{Image: "example.com/x:1"}}},
			}
			if test.hostile {
				pod.Spec.Containers = nil
			}
			expect := func(kind, want string, done bool, waiting string, err error) {
				t.Helper()
				got := waiting
				if err != nil {
					got = err.Error()
				}
				if done {
					got = "done"
				}
				if !strings.HasPrefix(got, want) || strings.ContainsAny(got, "\x1b\n") || len(got) > 500 {
					t.Errorf("%s: got %q, want %q", kind, got, want)
				}
			}
			ready, waits, err := serverState(pod)
			expect("server", test.server, ready, waits, err)
			_, ended, waits, err := clientState(pod)
			expect("client", test.client, ended, waits, err)
		})
	}
}

// Only an answer that refuses shows that nothing was created.
func TestRefused(t *testing.T) {
	t.Parallel()
	resource := schema.GroupResource{Resource: "namespaces"}
	for name, test := range map[string]struct {
		err  error
		want bool
	}{
		"forbidden":           {apierrors.NewForbidden(resource, "x", errors.New("no")), true},
		"exists":              {apierrors.NewAlreadyExists(resource, "x"), true},
		"the server's fault":  {apierrors.NewInternalError(errors.New("etcd")), false},
		"no answer":           {errors.New("connection reset by peer"), false},
		"the server is tired": {apierrors.NewServerTimeout(resource, "create", 1), false},
	} {
		if got := refused(test.err); got != test.want {
			t.Errorf("%s: got %v", name, got)
		}
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
