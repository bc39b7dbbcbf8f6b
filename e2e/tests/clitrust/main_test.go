// SPDX-License-Identifier: Apache-2.0

// Package clitrust tests the plugin's commands status, verify, renew and rotate-root on two clusters, each with the chart's
// controllers, a Vault, and an istiod with its agent.
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
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/check"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istiodserver"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/kubelet"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/plugin"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/serviceaccount"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/vaultserver"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

var must = check.Must

const (
	namespace = "istio-system"
	pod       = "istiod-0"
	// before is the Pod of an istiod that has made its own root.
	before = "istiod-before"
)

var one, two *cluster.Cluster

func TestMain(m *testing.M) {
	cluster.MainOfSeveral(m, cluster.Spec{Into: &one, Options: &webhookserver.Options{Values: helm.Values{"clusterName": "cluster-1"}}},
		cluster.Spec{Into: &two}) // its chart comes later: the first test is about a cluster without it
}

// side is one of the two clusters: its context and its programs.
type side struct {
	*cluster.Cluster
	context string
	vault   *vaultserver.Server
	root    *vaultserver.Root // Vault's
	mesh    *unstructured.Unstructured
	node    *kubelet.Kubelet
	own     *istiodserver.Server // the one without the agent
	istiod  *istiodserver.Server
	agent   *agents.Pod
	sidecar *agents.Sidecar
}

// newSide returns a cluster without istiod.
func newSide(t *testing.T, c *cluster.Cluster, name string, root func() (*vaultserver.Root, error)) *side {
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
	must(t, s.SetInjection(ctx, namespace, true))
	must(t, s.Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "istio", Namespace: namespace, Labels: map[string]string{"istio.io/rev": "default"}},
		Data:       map[string]string{"mesh": "trustDomain: cluster.local"},
	}))
	s.vault, err = vaultserver.Start(ctx, vaultserver.Options{Storage: true})
	must(t, err)
	t.Cleanup(func() { must(t, s.vault.Stop()) })
	s.root, err = s.vault.Guide(ctx, vaultserver.GuideOptions{
		Cluster: c.Plane.Config, ServiceAccount: agents.ServiceAccount, Namespace: namespace, Root: root,
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
	cluster.Eventually(t, "the VirtualMesh is taken", func() error { // while the chart's webhook starts
		_, err := s.ServerSideApply(ctx, s.mesh, client.ForceOwnership)
		return err
	})
	s.node, err = kubelet.Start(ctx, s, "node-1")
	must(t, err)
	t.Cleanup(func() { must(t, s.node.Stop()) })
	return s
}

// startOwn starts an istiod without the agent, which makes its own root.
func (s *side) startOwn(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	s.pod(t, namespace, before, true, func(p *corev1.Pod) { p.Spec.NodeName, p.Spec.Containers = s.node.Node, p.Spec.Containers[:1] })
	// What Istio's own chart lets istiod do with Secrets of its namespace, where its own CA's is.
	must(t, s.Create(ctx, &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: "istiod", Namespace: namespace},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"create", "get", "watch", "list", "update", "delete"}}},
	}))
	must(t, s.Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "istiod", Namespace: namespace},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "istiod"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: agents.ServiceAccount, Namespace: namespace}},
	}))
	var err error
	s.own, err = istiodserver.Start(ctx, istiodserver.Options{Plane: s.Plane, Namespace: namespace, Pod: before})
	must(t, err)
	t.Cleanup(func() { must(t, s.own.Stop()) })
	s.node.Forward(namespace, before, 15012, s.own.SecureAddress)
}

// stopOwn stops it.
func (s *side) stopOwn(t *testing.T) {
	t.Helper()
	must(t, s.own.Stop())
	must(t, s.Delete(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: before, Namespace: namespace}}, client.GracePeriodSeconds(0)))
}

// replica starts an injected istiod.
func (s *side) replica(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	var err error
	s.pod(t, namespace, pod, true, func(p *corev1.Pod) { p.Spec.NodeName = s.node.Node })
	s.agent, err = agents.NewPod(ctx, s.Cluster, namespace, pod, istiodserver.TmpfsDir(t), t.TempDir())
	must(t, err)
	s.agent.Env = []string{"ISTIO_MULTIROOT_MESH=true"}
	_, err = s.agent.Init(ctx)
	must(t, err)
	s.istiod, err = istiodserver.Start(ctx, istiodserver.Options{
		Plane: s.Plane, Namespace: namespace, CACerts: s.agent.CACerts, Pod: pod, Env: map[string]string{"ISTIO_MULTIROOT_MESH": "true"},
	})
	must(t, err)
	t.Cleanup(func() { must(t, s.istiod.Stop()) })
	s.agent.IstiodAddress, s.agent.MonitoringAddress = s.istiod.SecureAddress, s.istiod.MonitoringAddress
	s.node.Forward(namespace, pod, 15012, s.istiod.SecureAddress)
	s.startSidecar(t)
}

func (s *side) startSidecar(t *testing.T) {
	t.Helper()
	sidecar, err := s.agent.Sidecar(t.Context())
	must(t, err)
	s.sidecar = sidecar
	t.Cleanup(func() {
		_ = sidecar.Stop(10 * time.Second)
		if t.Failed() {
			t.Log(s.context, sidecar.Output())
		}
	})
}

// pod creates an istiod Pod with the agent that no kubelet runs.
func (s *side) pod(t *testing.T, namespace, name string, ready bool, change func(*corev1.Pod)) {
	t.Helper()
	object := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: namespace, Labels: map[string]string{"app": "istiod", "istio.io/rev": "default"},
			Annotations: map[string]string{"istiod-agent.io/inject": "false"}, // for the guard: it stands for an injected one
		},
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
	if ready {
		object.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		must(t, s.Status().Update(t.Context(), object))
	}
}

// contexts writes a kubeconfig with the two clusters, a cluster that does not answer, a user without rights, and a user who
// may read what the commands read.
func contexts(t *testing.T) (file string) {
	t.Helper()
	files := map[string]string{}
	for name, c := range map[string]*cluster.Cluster{"cluster-1": one, "cluster-2": two} {
		admin, err := c.Plane.Kubeconfig("admin", "system:masters")
		must(t, err)
		files[name] = admin
	}
	for _, name := range []string{"nobody", "reader"} {
		limited, err := one.Plane.Kubeconfig(name)
		must(t, err)
		files[name] = limited
	}
	dir := t.TempDir()
	files["away"] = filepath.Join(dir, "away")
	must(t, plugin.Unreachable(files["away"]))
	file = filepath.Join(dir, "config")
	must(t, plugin.Kubeconfig(file, files))
	return file
}

// allowReader grants the context reader the rights that the commands need.
func allowReader(t *testing.T) {
	t.Helper()
	must(t, one.Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "reader"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"", "apps"}, Resources: []string{"namespaces", "pods", "configmaps", "deployments"}, Verbs: []string{"get", "list"}},
		{APIGroups: []string{"certificates.mesh.gloo.solo.io", "networking.mesh.gloo.solo.io"}, Resources: []string{"*"}, Verbs: []string{"get", "list"}},
	}}))
	must(t, one.Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "reader"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "reader"},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: "reader"}},
	}))
}

var secret = regexp.MustCompile(`PRIVATE KEY|hvs\.|eyJ[A-Za-z0-9_-]{10}`)

// run runs the plugin with contexts and expects no secret in its output.
func run(t *testing.T, kubeconfig, stdin string, arguments ...string) plugin.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	r := plugin.Run(ctx, stdin, append(arguments, "--kubeconfig", kubeconfig)...)
	if found := secret.FindString(r.Stdout + r.Stderr); found != "" {
		t.Errorf("a secret is printed, %.12s…: %s", found, arguments)
	}
	if testing.Verbose() {
		t.Logf("kubectl istiod-agent %s\n%s", strings.Join(arguments, " "), r)
	}
	return r
}

// eventually runs the command until it ends as expected. A new leader of the istiods publishes its roots after up to a minute.
func eventually(t *testing.T, kubeconfig string, arguments []string, code int, texts ...string) {
	t.Helper()
	cluster.Within(t, 2*time.Minute, fmt.Sprintf("%q reports it", arguments), func() error { return run(t, kubeconfig, "", arguments...).Check(code, texts...) })
}
