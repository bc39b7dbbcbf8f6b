// SPDX-License-Identifier: Apache-2.0

package certmanager_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/certmanager"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/process"
)

// bind gives the agent the token of its Pod, as the kubelet does.
func (i *istiod) bind(t *testing.T) *corev1.Pod {
	t.Helper()
	pod := &corev1.Pod{}
	must(t, shared.Get(t.Context(), client.ObjectKey{Namespace: i.Namespace, Name: i.Name}, pod))
	clients, err := kubernetes.NewForConfig(shared.Plane.Config)
	must(t, err)
	issued, err := clients.CoreV1().ServiceAccounts(i.Namespace).CreateToken(t.Context(), agents.ServiceAccount, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID}},
	}, metav1.CreateOptions{})
	must(t, err)
	config, err := clientcmd.LoadFromFile(i.Kubeconfig)
	must(t, err)
	file := filepath.Join(t.TempDir(), "token")
	must(t, os.WriteFile(file, []byte(issued.Status.Token), 0o600))
	for name := range config.AuthInfos {
		config.AuthInfos[name] = &clientcmdapi.AuthInfo{TokenFile: file}
	}
	i.Kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	must(t, clientcmd.WriteToFile(*config, i.Kubeconfig))
	return pod
}

// A request belongs to the Pod of its agent: the garbage collector deletes it with the Pod, even if the agent could not.
func TestRequestsOfDeletedPods(t *testing.T) {
	must(t, certmanager.InstallCRDs(t.Context(), shared.Plane))
	i := newIstiod(t, true)
	pod := i.bind(t)
	others := request(i.Namespace, "of-another-pod", map[string]string{podLabel: "istiod-1"})
	must(t, shared.Create(t.Context(), others))
	i.specify(t, map[string]any{"issuerRef": map[string]any{"name": "external", "kind": "ExternalIssuer", "group": "issuers.example.com"}})
	sidecar, err := i.Sidecar(t.Context())
	must(t, err)
	mine := i.waitForRequest(t)
	must(t, sidecar.Kill())
	want := []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}}
	if !reflect.DeepEqual(mine.OwnerReferences, want) {
		t.Errorf("the owners are %+v", mine.OwnerReferences)
	}

	startGarbageCollector(t)
	must(t, shared.Delete(t.Context(), pod, client.GracePeriodSeconds(0)))
	cluster.Eventually(t, "the garbage collector deletes the request", func() error {
		err := shared.Get(t.Context(), client.ObjectKeyFromObject(mine), mine)
		if err == nil {
			return errors.New("it is still there")
		}
		return client.IgnoreNotFound(err)
	})
	must(t, shared.Get(t.Context(), client.ObjectKeyFromObject(others), others))
}

// startGarbageCollector starts the one controller of Kubernetes for a test.
func startGarbageCollector(t *testing.T) {
	t.Helper()
	program, err := built.ControllerManager()
	must(t, err)
	kubeconfig, err := shared.Plane.Kubeconfig("garbage-collector", "system:masters")
	must(t, err)
	ports, err := process.FreePorts(1)
	must(t, err)
	started, err := process.Start("kube-controller-manager", exec.Command(program, "--kubeconfig", kubeconfig, "--leader-elect=false",
		"--controllers=garbage-collector-controller", "--bind-address=127.0.0.1", "--secure-port", strconv.Itoa(ports[0]), "--cert-dir", t.TempDir()))
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(process.LastLines(started.Output()))
		}
		must(t, started.Kill())
	})
}
