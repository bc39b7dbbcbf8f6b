// SPDX-License-Identifier: Apache-2.0

package monitoring

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/prometheus"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/serviceaccount"
)

// TestForms requires one target in each injected Pod of istiod: the agent, as a container and as a native sidecar. istiod's own
// container and the init container are none.
func TestForms(t *testing.T) {
	root, err := built.Root()
	must(t, err)
	clients, err := kubernetes.NewForConfig(shared.Plane.Config)
	must(t, err)
	metrics := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		_, _ = fmt.Fprintln(w, "istiod_agent_istiod_confirmed 1")
	}))
	t.Cleanup(metrics.Close)
	_, server := startPrometheus(t)

	var want []string
	for i, file := range []string{"chart-pod.yaml.injected", "chart-pod-native.yaml.injected"} {
		content, err := os.ReadFile(filepath.Join(root, "golden", "testdata", file))
		must(t, err)
		pod := &corev1.Pod{}
		must(t, yaml.Unmarshal(content, pod))
		must(t, serviceaccount.Ensure(t.Context(), clients, pod.Namespace, pod.Spec.ServiceAccountName))
		want = append(want, "istiod-agent "+serve(t, server, pod, fmt.Sprintf("10.244.2.%d", i+1), metrics))
	}
	slices.Sort(want)
	cluster.Eventually(t, "Prometheus scrapes the agents", func() error {
		var found []string
		for _, target := range server.Targets() {
			if target["job"] != "apiserver" {
				found = append(found, target["container"]+" "+target["instance"])
			}
		}
		if slices.Sort(found); !slices.Equal(found, want) {
			return fmt.Errorf("it scrapes %q, want %q", found, want)
		}
		return nil
	})
}

// serve creates a running Pod with an address, behind which a program stands for its agent. It returns the agent's address.
func serve(t *testing.T, server *prometheus.Server, pod *corev1.Pod, address string, program *httptest.Server) (agent string) {
	t.Helper()
	must(t, shared.Create(t.Context(), pod))
	t.Cleanup(func() { must(t, shared.Delete(context.Background(), pod, client.GracePeriodSeconds(0))) })
	pod.Status.Phase, pod.Status.PodIP, pod.Status.PodIPs = corev1.PodRunning, address, []corev1.PodIP{{IP: address}}
	must(t, shared.Status().Update(t.Context(), pod))
	agent = net.JoinHostPort(address, "15085")
	server.Behind(agent, program.Listener.Addr().String())
	return agent
}
