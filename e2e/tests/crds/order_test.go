// SPDX-License-Identifier: Apache-2.0

package crds

import (
	"path/filepath"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/v2/loader"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
)

const (
	upgradeCommand = "helm upgrade istiod-agent <this chart> -n istiod-agent-system --reset-then-reuse-values"
	labelCommand   = "kubectl label namespace istio-system istiod-agent.io/injection=enabled"
)

// Without namespace istio-system the chart cannot grant rights there. Its notes hold the commands that do, in order.
func TestNotes(t *testing.T) {
	c := emptyCluster(t)
	root, err := built.Root()
	must(t, err)
	chart, err := loader.Load(filepath.Join(root, "charts", "istiod-agent"))
	must(t, err)
	release := helm.Release{Name: "istiod-agent", Namespace: "istiod-agent-system"}
	namespace := func(name string) {
		t.Helper()
		must(t, c.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}))
	}
	rights := func() int {
		t.Helper()
		var roles rbacv1.RoleBindingList
		must(t, c.List(t.Context(), &roles, client.InNamespace("istio-system")))
		return len(roles.Items)
	}
	namespace(release.Namespace)
	values := helm.Values{"virtualMesh": helm.Values{"spec": object(t, guide, "").Object["spec"]}}

	must(t, c.Helm.Install(t.Context(), release, chart, values))
	notes, err := c.Helm.Notes(release)
	must(t, err)
	wantOrder(t, notes, "kubectl create namespace istio-system", upgradeCommand, labelCommand, "istioctl install")
	if strings.Count(notes, upgradeCommand) != 1 || strings.Contains(notes, "kubectl apply -f virtual-mesh.yaml") {
		t.Errorf("one upgrade brings rights and VirtualMesh, but the notes are\n%s", notes)
	}
	if found := rights(); found != 0 {
		t.Fatalf("there are %d RoleBindings in a namespace that does not exist", found)
	}

	namespace("istio-system")
	later, err := helm.NewClient(c.Plane.Config) // as another run of helm, which asks the API server for its kinds again
	must(t, err)
	must(t, later.Upgrade(t.Context(), release, chart, values))
	notes, err = later.Notes(release)
	must(t, err)
	wantOrder(t, notes, labelCommand, "istioctl install")
	for _, done := range []string{"create namespace", upgradeCommand} {
		if strings.Contains(notes, done) {
			t.Errorf("%s is still in the notes\n%s", done, notes)
		}
	}
	if rights() == 0 {
		t.Error("after the upgrade istiod's service account has no rights")
	}
	mesh := &unstructured.Unstructured{}
	mesh.SetGroupVersionKind(networkingv1.GroupVersion.WithKind(networkingv1.Kind))
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: release.Namespace, Name: "virtual-mesh"}, mesh); apierrors.IsNotFound(err) {
		t.Error("after the upgrade there is no VirtualMesh")
	} else {
		must(t, err)
	}

	must(t, later.Upgrade(t.Context(), release, chart, helm.Values{"clusterName": "cluster-1"})) // the VirtualMesh is one's own
	notes, err = later.Notes(release)
	must(t, err)
	wantOrder(t, notes, "kubectl create namespace gloo-mesh", "kubectl apply -f virtual-mesh.yaml", labelCommand, "istioctl install")
}

func wantOrder(t *testing.T, text string, commands ...string) {
	t.Helper()
	rest := text
	for _, command := range commands {
		_, after, found := strings.Cut(rest, command)
		if !found {
			t.Errorf("%q is missing, or comes too early, in\n%s", command, text)
			return
		}
		rest = after
	}
}
