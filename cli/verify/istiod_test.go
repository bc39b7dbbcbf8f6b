// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/istiod-agent/istiod-agent/cli/clusters"
)

// A Pod with the label of an istiod gets no token unless its namespace is istiod's: a tenant may create one, with its own root
// beside it.
func TestIstiodPod(t *testing.T) {
	t.Parallel()
	of := func(namespace, name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": "istiod"}}
	}
	pod := func(namespace string, ready bool) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: of(namespace, "istiod-0")}
		if ready {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		}
		return p
	}
	deployment := func(namespace string) *appsv1.Deployment {
		return &appsv1.Deployment{ObjectMeta: of(namespace, "istiod")}
	}
	namespace := func(name, injection string) *corev1.Namespace {
		n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if injection != "" {
			n.Labels = map[string]string{"istiod-agent.io/injection": injection}
		}
		return n
	}
	// a-tenant sorts before istio-system.
	for name, test := range map[string]struct {
		objects []client.Object
		want    string // the Pod's namespace
		fails   string
	}{
		"labelled, beside a tenant":    {[]client.Object{namespace("istio-system", "enabled"), namespace("a-tenant", ""), pod("a-tenant", true), pod("istio-system", true)}, "istio-system", ""},
		"labelled, not ready":          {[]client.Object{namespace("istio-system", "enabled"), namespace("a-tenant", ""), pod("a-tenant", true), pod("istio-system", false)}, "istio-system", ""},
		"labelled, no Pod":             {[]client.Object{namespace("istio-system", "enabled"), namespace("a-tenant", ""), pod("a-tenant", true), deployment("a-tenant")}, "", "there is no Pod of istiod (label app=istiod) in istio-system"},
		"the tenant's is disabled":     {[]client.Object{namespace("istio-system", "enabled"), namespace("a-tenant", "disabled"), pod("a-tenant", true), pod("istio-system", true)}, "istio-system", ""},
		"one of two labelled is ready": {[]client.Object{namespace("istio-system", "enabled"), namespace("b", "enabled"), pod("b", false), pod("istio-system", true)}, "istio-system", ""},
		"no label":                     {[]client.Object{namespace("istio-system", ""), deployment("istio-system"), pod("istio-system", true)}, "istio-system", ""},
		"no label, a tenant's Pod":     {[]client.Object{namespace("istio-system", ""), deployment("istio-system"), pod("istio-system", true), pod("a-tenant", true)}, "istio-system", ""},
		"no label, two Deployments": {
			[]client.Object{deployment("istio-system"), deployment("a-tenant"), pod("istio-system", true), pod("a-tenant", true)},
			"",
			"there are istiods in the namespaces a-tenant, istio-system, and no label tells which is the mesh's; label its namespace, which also lets the agent be injected there: kubectl label namespace NAME istiod-agent.io/injection=enabled",
		},
		"no label, revisions": {[]client.Object{deployment("istio-system"), &appsv1.Deployment{ObjectMeta: of("istio-system", "istiod-canary")}, pod("istio-system", true)}, "istio-system", ""},
		"only Pods":           {[]client.Object{pod("a-tenant", true)}, "", "there is no Deployment of istiod"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := &clusters.Cluster{Client: fake.NewClientBuilder().WithScheme(scheme.Scheme).WithObjects(test.objects...).Build()}
			got, err := istiodPod(t.Context(), cluster)
			switch {
			case test.fails != "":
				if err == nil || !strings.Contains(err.Error(), test.fails) {
					t.Errorf("got %v, want %s", err, test.fails)
				}
			case err != nil || got.Namespace != test.want:
				t.Errorf("got %v, %v; want %s", got, err, test.want)
			}
		})
	}
}
