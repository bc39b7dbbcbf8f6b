// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istiodserver"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/meshcluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/plugin"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/serviceaccount"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/vaultserver"
)

// TestVerifyRights runs `verify --traffic` with too few rights: it names the missing one, tries to remove what it may have created
// and nothing else, and reports what it could not remove. No Pod runs here; the suite has those.
func TestVerifyRights(t *testing.T) {
	ctx := t.Context()
	published(t, one)
	read := []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps", "pods", "namespaces"}, Verbs: []string{"get", "list"}}}
	create := func(group string, resources ...string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: resources, Verbs: []string{"create"}}
	}
	for name, test := range map[string]struct {
		rules   []rbacv1.PolicyRule
		want    []string
		never   string
		created int // namespaces that remain
	}{
		"no namespaces": {
			read,
			[]string{"creating Namespace istiod-agent-traffic-", "get the right to create namespaces (kubectl --context=limited auth can-i create namespaces -A)"},
			"is not removed", 0,
		},
		"no policies, no deletion": {
			append(read, create("", "namespaces", "serviceaccounts", "services")),
			[]string{
				"creating PeerAuthentication default for the traffic", "get the right to create peerauthentications.security.istio.io",
				"limited: clean-up: namespace istiod-agent-traffic-", "remove it: kubectl --context=limited delete namespace istiod-agent-traffic-",
			},
			"", 1,
		},
		"no node, no deletion": {
			append(read, create("", "namespaces", "serviceaccounts", "services", "pods"), create("security.istio.io", "*"), create("networking.istio.io", "*")),
			[]string{"/server was not ready after 10s: it waited for its container", "remove it: kubectl --context=limited delete namespace"},
			"", 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			must(t, one.DeleteAllOf(ctx, &rbacv1.ClusterRoleBinding{}, client.MatchingLabels{"test": "limited"}))
			must(t, one.DeleteAllOf(ctx, &rbacv1.ClusterRole{}, client.MatchingLabels{"test": "limited"}))
			labelled := metav1.ObjectMeta{Name: "limited", Labels: map[string]string{"test": "limited"}}
			must(t, one.Create(ctx, &rbacv1.ClusterRole{ObjectMeta: labelled, Rules: test.rules}))
			must(t, one.Create(ctx, &rbacv1.ClusterRoleBinding{
				ObjectMeta: labelled, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "limited"},
				Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: "limited"}},
			}))
			user, err := one.Plane.Kubeconfig("limited")
			must(t, err)
			config := filepath.Join(t.TempDir(), "config")
			must(t, plugin.Kubeconfig(config, map[string]string{"limited": user}))
			before := trafficNamespaces(ctx, t, one)
			limited, cancel := context.WithTimeout(ctx, 2*time.Minute)
			defer cancel()
			r := plugin.Run(limited, "", "verify", "--traffic", "--traffic-timeout=10s", "--context=limited", "--kubeconfig", config)
			r.Wants(t, 2, test.want...)
			if test.never != "" && strings.Contains(r.Stdout, test.never) {
				t.Errorf("it prints %q: %s", test.never, r)
			}
			if created := trafficNamespaces(ctx, t, one) - before; created != test.created {
				t.Errorf("%d namespaces remain, want %d", created, test.created)
			}
		})
	}
}

// published makes an API server look like that of a cluster whose istiod has started, unless it is one.
func published(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	ctx := t.Context()
	istiod, err := istiodserver.New(ctx, istiodserver.Options{Plane: c.Plane}) // installs Istio's CRDs, and is not started
	must(t, err)
	must(t, istiod.Stop())
	clients, err := kubernetes.NewForConfig(c.Plane.Config)
	must(t, err)
	must(t, serviceaccount.Ensure(ctx, clients, meshcluster.Namespace, "istiod"))
	must(t, c.SetInjection(ctx, meshcluster.Namespace, true))
	root, err := vaultserver.FastRoot()
	must(t, err)
	for _, object := range []client.Object{
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "istio-ca-root-cert", Namespace: meshcluster.Namespace}, Data: map[string]string{"root-cert.pem": string(root.Certificate)}},
		&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: meshcluster.Pod, Namespace: meshcluster.Namespace, Labels: map[string]string{"app": "istiod"}, Annotations: map[string]string{"istiod-agent.io/inject": "false"}},
			Spec:       corev1.PodSpec{ServiceAccountName: "istiod", Containers: []corev1.Container{{Name: "discovery", Image: "registry.example/pilot"}}},
		},
	} {
		must(t, client.IgnoreAlreadyExists(c.Create(ctx, object)))
	}
}

func trafficNamespaces(ctx context.Context, t *testing.T, c *cluster.Cluster) int {
	t.Helper()
	var list corev1.NamespaceList
	must(t, c.List(ctx, &list, client.HasLabels{"istiod-agent.io/traffic"}))
	return len(list.Items)
}
