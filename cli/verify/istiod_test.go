// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

// An istiod, or an API server, that accepts a connection and never answers does not hold the command.
func TestSilence(t *testing.T) {
	t.Parallel()
	silent, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	labels := map[string]string{"app": "istiod"}
	c := fake.NewClientBuilder().WithObjects(
		&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "istiod", Labels: labels}},
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "istiod-0", Labels: labels}},
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "default"}},
	).Build()
	cluster := &clusters.Cluster{Client: c, Config: &rest.Config{Host: "http://" + silent.Addr().String(), Timeout: time.Millisecond}}
	for address, want := range map[string]string{
		silent.Addr().String(): "requesting a workload's certificate from istiod istio-system/istiod-0: its port 15012 does not respond (context deadline exceeded); is it running?",
		"":                     "forwarding a port to istiod istio-system/istiod-0: context deadline exceeded; check the cluster's address and your login: kubectl version",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // ends the test where it would hang
		defer cancel()
		published := Published{"istio-system": string(testca.Root("one").PEM())}
		if _, err := obtainWorkload(ctx, cluster, published, serviceAccount{"default", "default"}, address); err == nil || err.Error() != want || ctx.Err() != nil {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

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
