// SPDX-License-Identifier: Apache-2.0

// Package clitrust tests the plugin's commands status, verify, renew and rotate-root on two clusters with nothing but real
// parts: in each an API server with the chart's controllers, a Vault, an istiod with its agent.
package clitrust

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/agents"
	"github.com/istiod-agent/istiod-agent/e2e/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/helm"
	"github.com/istiod-agent/istiod-agent/e2e/istiodserver"
	"github.com/istiod-agent/istiod-agent/e2e/kubelet"
	"github.com/istiod-agent/istiod-agent/e2e/plugin"
	"github.com/istiod-agent/istiod-agent/e2e/serviceaccount"
	"github.com/istiod-agent/istiod-agent/e2e/vaultserver"
	"github.com/istiod-agent/istiod-agent/e2e/webhookserver"
)

const (
	namespace = "istio-system"
	pod       = "istiod-0"
	// second is the mount that another root of a Vault's is in.
	second = "pki2"
)

var one, two *cluster.Cluster

func TestMain(m *testing.M) {
	cluster.MainOfSeveral(m, cluster.Wanted{Into: &one, Options: &webhookserver.Options{Values: helm.Values{"clusterName": "cluster-1"}}},
		cluster.Wanted{Into: &two}) // its chart comes later: the first test is about a cluster without it
}

// side is one of the two clusters: its context, and what runs there.
type side struct {
	*cluster.Cluster
	context string
	vault   *vaultserver.Server
	root    *vaultserver.Root // of mount pki
	mesh    *unstructured.Unstructured
	istiod  *istiodserver.Server
	sidecar *agents.Sidecar
}

// newSide starts all that there is in one cluster.
func newSide(t *testing.T, c *cluster.Cluster, name string) *side {
	t.Helper()
	ctx := t.Context()
	s := &side{Cluster: c, context: name}
	clients, err := kubernetes.NewForConfig(c.Plane.Config)
	must(t, err)
	for _, each := range []string{namespace, "gloo-mesh"} {
		must(t, serviceaccount.EnsureNamespace(ctx, clients, each))
	}
	must(t, serviceaccount.Ensure(ctx, clients, "default", "default"))
	s.MustApply(t, cluster.Istiod(t, namespace))
	must(t, s.Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "istio", Namespace: namespace, Labels: map[string]string{"istio.io/rev": "default"}},
		Data:       map[string]string{"mesh": "trustDomain: cluster.local"},
	}))
	s.vault, err = vaultserver.Start(ctx, vaultserver.Options{Storage: true})
	must(t, err)
	t.Cleanup(func() { must(t, s.vault.Stop()) })
	s.root, err = s.vault.Guide(ctx, vaultserver.GuideOptions{
		Cluster: c.Plane.Config, ServiceAccount: agents.ServiceAccount, Namespace: namespace, Root: vaultserver.FastRoot,
	})
	must(t, err)
	must(t, agents.Install(ctx, c))
	s.mesh = &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "networking.mesh.gloo.solo.io/v1", "kind": "VirtualMesh",
		"metadata": map[string]any{"name": "virtual-mesh", "namespace": "gloo-mesh"},
		"spec": map[string]any{
			"mtlsConfig": map[string]any{"shared": map[string]any{
				"intermediateCertOptions": map[string]any{"ecKeyCurve": "P-256"},
				"intermediateCertificateAuthority": map[string]any{"vault": map[string]any{
					"server": s.vault.Address, "caPath": "pki/root/sign-intermediate", "kubernetesAuth": map[string]any{"role": vaultserver.Role},
				}},
			}},
			"meshes": []any{map[string]any{"name": "istiod-istio-system-cluster-1"}, map[string]any{"name": "istiod-istio-system-cluster-2"}},
		},
	}}
	s.apply(t)
	s.replica(t)
	return s
}

func (s *side) apply(t *testing.T) {
	t.Helper()
	cluster.Eventually(t, "the VirtualMesh is taken", func() error { // while the chart's webhook starts
		_, err := s.ServerSideApply(t.Context(), s.mesh, client.ForceOwnership)
		return err
	})
}

// caPath changes where the VirtualMesh has certificates signed.
func (s *side) caPath(t *testing.T, mount string) {
	t.Helper()
	must(t, unstructured.SetNestedField(s.mesh.Object, mount+"/root/sign-intermediate", "spec", "mtlsConfig", "shared", "intermediateCertificateAuthority", "vault", "caPath"))
	s.apply(t)
}

// replica starts an injected istiod, with a kubelet that the API server reaches it by.
func (s *side) replica(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	node, err := kubelet.Start(ctx, s, "node-1")
	must(t, err)
	t.Cleanup(func() { must(t, node.Stop()) })
	s.pod(t, namespace, pod, func(p *corev1.Pod) { p.Spec.NodeName = node.Node })
	agent, err := agents.NewPod(ctx, s.Cluster, namespace, pod, istiodserver.TmpfsDir(t), t.TempDir())
	must(t, err)
	agent.Env = []string{"ISTIO_MULTIROOT_MESH=true"}
	_, err = agent.Init(ctx)
	must(t, err)
	s.istiod, err = istiodserver.Start(ctx, istiodserver.Options{
		Plane: s.Plane, Namespace: namespace, CACerts: agent.CACerts, Pod: pod, Env: map[string]string{"ISTIO_MULTIROOT_MESH": "true"},
	})
	must(t, err)
	t.Cleanup(func() { must(t, s.istiod.Stop()) })
	agent.IstiodAddress = s.istiod.SecureAddress
	node.Forward(namespace, pod, 15012, s.istiod.SecureAddress)
	s.sidecar, err = agent.Sidecar(ctx)
	must(t, err)
	t.Cleanup(func() {
		_ = s.sidecar.Stop(10 * time.Second)
		if t.Failed() {
			t.Log(s.context, s.sidecar.Output())
		}
	})
}

// pod makes a Pod of istiod's with the agent, which no kubelet runs, and has it be ready.
func (s *side) pod(t *testing.T, namespace, name string, change func(*corev1.Pod)) *corev1.Pod {
	t.Helper()
	object := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: map[string]string{"app": "istiod", "istio.io/rev": "default"}},
		Spec: corev1.PodSpec{ServiceAccountName: agents.ServiceAccount, Containers: []corev1.Container{
			{Name: "discovery", Image: "registry.example/pilot"}, {Name: "istiod-agent", Image: "registry.example/agent"},
		}},
	}
	clients, err := kubernetes.NewForConfig(s.Plane.Config)
	must(t, err)
	must(t, serviceaccount.Ensure(t.Context(), clients, namespace, agents.ServiceAccount))
	if change != nil {
		change(object)
	}
	must(t, s.Create(t.Context(), object))
	object.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	must(t, s.Status().Update(t.Context(), object))
	return object
}

func (s *side) certificate() *unstructured.Unstructured {
	object := &unstructured.Unstructured{}
	object.SetAPIVersion("certificates.mesh.gloo.solo.io/v1")
	object.SetKind("IssuedCertificate")
	object.SetName("istiod-istio-system-" + s.context)
	object.SetNamespace(namespace)
	return object
}

// contexts writes a kubeconfig with the two clusters, one that cannot be reached, and somebody who may do nothing.
func contexts(t *testing.T) (file string) {
	t.Helper()
	admins := map[string]string{}
	for name, c := range map[string]*cluster.Cluster{"cluster-1": one, "cluster-2": two} {
		admin, err := c.Plane.Kubeconfig("admin", "system:masters")
		must(t, err)
		admins[name] = admin
	}
	nobody, err := one.Plane.Kubeconfig("nobody")
	must(t, err)
	admins["nobody"] = nobody
	dir := t.TempDir()
	admins["away"] = filepath.Join(dir, "away")
	must(t, plugin.Unreachable(admins["away"]))
	file = filepath.Join(dir, "config")
	must(t, plugin.Kubeconfig(file, admins))
	return file
}

var secret = regexp.MustCompile(`PRIVATE KEY|hvs\.|eyJ[A-Za-z0-9_-]{10}`)

// run runs the plugin against all of contexts, and finds no secret in what it says.
func run(t *testing.T, kubeconfig, stdin string, arguments ...string) plugin.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	r := plugin.Run(ctx, stdin, append(arguments, "--kubeconfig", kubeconfig)...)
	if found := secret.FindString(r.Stdout + r.Stderr); found != "" {
		t.Errorf("a secret is said, %.12s…: %s", found, arguments)
	}
	if testing.Verbose() {
		t.Logf("kubectl istiod-agent %s\n%s", strings.Join(arguments, " "), r)
	}
	return r
}

// eventually is run until it ends as it should.
func eventually(t *testing.T, kubeconfig string, arguments []string, code int, texts ...string) {
	t.Helper()
	cluster.Eventually(t, fmt.Sprintf("%q says so", arguments), func() error { return run(t, kubeconfig, "", arguments...).Check(code, texts...) })
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
