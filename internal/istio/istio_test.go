// SPDX-License-Identifier: Apache-2.0

package istio_test

import (
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/istiod-agent/istiod-agent/internal/istio"
)

func TestParseIdentity(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]istio.Identity{
		"spiffe://cluster.local/ns/istio-system/sa/istiod": {TrustDomain: "cluster.local", Namespace: "istio-system", ServiceAccount: "istiod"},
		"spiffe://td/ns/a/sa/b.c":                          {TrustDomain: "td", Namespace: "a", ServiceAccount: "b.c"},
		"":                                                 {},
		"cluster.local/ns/a/sa/b":                          {},
		"https://cluster.local/ns/a/sa/b":                  {},
		"spiffe://cluster.local/ns/a/sa":                   {},
		"spiffe://cluster.local/ns/a/sa/":                  {},
		"spiffe:///ns/a/sa/b":                              {},
		"spiffe://td/ns//sa/b":                             {},
		"spiffe://td/ns/a/sa/b/c":                          {},
		"spiffe://td/x/ns/a/sa/b":                          {},
		"spiffe://td/sa/a/ns/b":                            {},
	} {
		got, ok := istio.ParseIdentity(id)
		if got != want || ok != (want != istio.Identity{}) {
			t.Errorf("%q: got %+v, %t", id, got, ok)
		}
		if ok && got.String() != id {
			t.Errorf("%q is written as %q", id, got)
		}
	}
}

func TestCovers(t *testing.T) {
	t.Parallel()
	hosts := []string{"x", "spiffe://a/ns/istio-system/sa/istiod", "spiffe://b/ns/n/sa/s"}
	for _, test := range []struct {
		namespace, account string
		want               bool
	}{
		{"istio-system", "istiod", true}, {"n", "s", true}, {"istio-system", "s", false}, {"n", "", false}, {"", "", false},
	} {
		if got := istio.Covers(hosts, test.namespace, test.account); got != test.want {
			t.Errorf("%s/%s: %t", test.namespace, test.account, got)
		}
	}
	if found := istio.Identities(hosts); len(found) != 2 || found[1].TrustDomain != "b" {
		t.Errorf("identities: %v", found)
	}
}

func deployment(change func(map[string]any)) *unstructured.Unstructured {
	object := map[string]any{"spec": map[string]any{"template": map[string]any{"spec": map[string]any{}}}}
	change(object)
	return &unstructured.Unstructured{Object: object}
}

func podSpec(object map[string]any) map[string]any {
	return object["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)
}

func TestRevision(t *testing.T) {
	t.Parallel()
	env := func(value any) func(map[string]any) {
		return func(object map[string]any) {
			podSpec(object)["containers"] = []any{
				"no object", map[string]any{"name": "discovery", "env": []any{map[string]any{"name": "A"}, map[string]any{"name": "REVISION", "value": value}}},
			}
		}
	}
	labelled := func(object map[string]any) {
		object["metadata"] = map[string]any{"labels": map[string]any{"istio.io/rev": "label"}}
	}
	for name, test := range map[string]struct {
		change func(map[string]any)
		want   string
	}{
		"none":                     {func(map[string]any) {}, "default"},
		"the variable":             {env("canary"), "canary"},
		"an empty variable":        {env(""), "default"},
		"a variable of a number":   {env(int64(1)), "default"},
		"the label":                {labelled, "label"},
		"the variable comes first": {func(o map[string]any) { labelled(o); env("canary")(o) }, "canary"},
	} {
		if got := istio.Revision(deployment(test.change)); got != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
	for revision, want := range map[string][2]string{
		"": {"istiod", "istio"}, "default": {"istiod", "istio"}, "canary": {"istiod-canary", "istio-canary"},
	} {
		if service, configuration := istio.ServiceName(revision), istio.MeshConfigMap(revision); service != want[0] || configuration != want[1] {
			t.Errorf("%q: got %s and %s", revision, service, configuration)
		}
	}
}

func TestDefaultsOfADeployment(t *testing.T) {
	t.Parallel()
	bare := deployment(func(map[string]any) {})
	if istio.ServiceAccount(bare) != "default" || istio.Replicas(bare) != 1 {
		t.Errorf("got %s, %d", istio.ServiceAccount(bare), istio.Replicas(bare))
	}
	full := deployment(func(o map[string]any) {
		podSpec(o)["serviceAccountName"] = "istiod"
		o["spec"].(map[string]any)["replicas"] = int64(0)
	})
	if istio.ServiceAccount(full) != "istiod" || istio.Replicas(full) != 0 {
		t.Errorf("got %s, %d", istio.ServiceAccount(full), istio.Replicas(full))
	}
}

func TestMeshName(t *testing.T) {
	t.Parallel()
	for want, parts := range map[string][3]string{
		"istiod-istio-system-cluster-1": {"istiod", "istio-system", "cluster-1"},
		"istiod-a-gke-p-c":              {"istiod", "a", "GKE_p:c"},
		"istiod-a-b-c-d":                {"istiod", "a", "b/c d"},
	} {
		if got := istio.MeshName(parts[0], parts[1], parts[2]); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestFor(t *testing.T) {
	t.Parallel()
	object := func(name string, age time.Duration, deleting bool) *metav1.ObjectMeta {
		m := &metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(time.Unix(1_000_000, 0).Add(-age))}
		if deleting {
			now := metav1.NewTime(time.Unix(1_000_000, 0))
			m.DeletionTimestamp = &now
		}
		return m
	}
	hosts := func(m *metav1.ObjectMeta) []string {
		if m.Name == "another's" {
			return []string{"spiffe://td/ns/other/sa/istiod"}
		}
		return []string{"spiffe://td/ns/istio-system/sa/istiod"}
	}
	all := []*metav1.ObjectMeta{
		object("young", time.Minute, false), object("b", time.Hour, false), object("a", time.Hour, false),
		object("another's", 3*time.Hour, false), object("going", 2*time.Hour, true),
	}
	var names []string
	for _, found := range istio.For(all, hosts, "istio-system", "istiod") {
		names = append(names, found.Name)
	}
	if want := []string{"a", "b", "young"}; !slices.Equal(names, want) {
		t.Errorf("got %v, want %v", names, want)
	}
}
