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
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/check"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istiodserver"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/kubelet"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/meshcluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/plugin"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/serviceaccount"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/vaultserver"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

var must = check.Must

const (
	namespace = meshcluster.Namespace
	// before is the Pod of an istiod that has made its own root.
	before = "istiod-before"
)

var one, two *cluster.Cluster

func TestMain(m *testing.M) {
	cluster.MainOfSeveral(m, cluster.Spec{Into: &one, Options: &webhookserver.Options{Values: helm.Values{"clusterName": "cluster-1"}}},
		cluster.Spec{Into: &two}) // its chart comes later: the first test is about a cluster without it
}

// side is one of the two clusters, with the node of its istiods.
type side struct {
	*meshcluster.Cluster
	node *kubelet.Kubelet
	own  *istiodserver.Server // the one without the agent
}

// newSide returns a cluster without istiod.
func newSide(t *testing.T, c *cluster.Cluster, name string, root func() (*vaultserver.Root, error)) *side {
	t.Helper()
	s := &side{Cluster: meshcluster.New(t, c, meshcluster.Options{
		Name: name, Clusters: meshcluster.Names, Root: root, Vault: vaultserver.Options{Storage: true},
	})}
	must(t, serviceaccount.Ensure(t.Context(), s.Clients, "default", "default"))
	var err error
	s.node, err = kubelet.Start(t.Context(), s, "node-1")
	must(t, err)
	t.Cleanup(func() { must(t, s.node.Stop()) })
	s.Node = s.node.Node
	return s
}

// startOwn starts an istiod without the agent, which makes its own root.
func (s *side) startOwn(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	s.CreatePod(t, namespace, before, true, func(p *corev1.Pod) { p.Spec.Containers = p.Spec.Containers[:1] })
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

// start starts an injected istiod.
func (s *side) start(t *testing.T) {
	t.Helper()
	s.Start(t, istiodserver.Options{Env: map[string]string{"ISTIO_MULTIROOT_MESH": "true"}})
	s.node.Forward(namespace, meshcluster.Pod, 15012, s.Istiod.SecureAddress)
}

// contexts writes a kubeconfig with the two clusters, a cluster that does not answer, a user without rights, and a user who
// may read what the commands read.
func contexts(t *testing.T) (file string) {
	t.Helper()
	away := filepath.Join(t.TempDir(), "away")
	must(t, plugin.Unreachable(away))
	others := map[string]string{"away": away}
	for _, name := range []string{"nobody", "reader"} {
		limited, err := one.Plane.Kubeconfig(name)
		must(t, err)
		others[name] = limited
	}
	return meshcluster.Kubeconfig(t, map[string]*cluster.Cluster{"cluster-1": one, "cluster-2": two}, others)
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

// eventually runs the command until it ends as expected.
func eventually(t *testing.T, kubeconfig string, arguments []string, code int, texts ...string) {
	t.Helper()
	cluster.Eventually(t, fmt.Sprintf("%q reports it", arguments), func() error { return run(t, kubeconfig, "", arguments...).Check(code, texts...) })
}
