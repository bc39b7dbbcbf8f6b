// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/internal/istio"
)

// Which set a Pod is in, by what Istio's charts and injection write on it.
func TestWhichPodsBelongToTheMesh(t *testing.T) {
	type m = map[string]string
	for name, test := range map[string]struct {
		labels, annotations m
		revisions           []string // default: default
		desired             string   // no set where empty
	}{
		"a sidecar":                            {m{proxyLabel: "web"}, m{"istio.io/rev": "default", "sidecar.istio.io/status": `{"revision":"default"}`}, nil, "workloads"},
		"a sidecar of old":                     {m{proxyLabel: "web"}, m{"sidecar.istio.io/status": `{"containers":["istio-proxy"]}`}, nil, "workloads"},
		"of another revision":                  {m{proxyLabel: "web"}, m{"istio.io/rev": "canary"}, nil, ""},
		"of this other revision":               {m{proxyLabel: "web"}, m{"istio.io/rev": "canary"}, []string{"canary"}, "workloads"},
		"of one of two":                        {m{proxyLabel: "web"}, m{"istio.io/rev": "canary"}, []string{"default", "canary"}, "workloads"},
		"by a tag of the revision":             {m{proxyLabel: "web", "istio.io/rev": "prod"}, m{"istio.io/rev": "canary"}, []string{"canary"}, "workloads"},
		"by its status alone":                  {m{proxyLabel: "web", "istio.io/rev": "prod"}, m{"sidecar.istio.io/status": `{"revision":"canary"}`}, []string{"canary"}, "workloads"},
		"the label alone, written by a person": {m{proxyLabel: "web"}, nil, nil, ""},
		"charts/gateway":                       {m{proxyLabel: "public", "istio": "public", "app": "public"}, m{"istio.io/rev": "default", "inject.istio.io/templates": "gateway"}, nil, "gateways"},
		"charts/gateway beside others":         {m{proxyLabel: "public"}, m{"istio.io/rev": "default", "inject.istio.io/templates": "custom,gateway"}, nil, "gateways"},
		"istioctl's ingress gateway":           {m{proxyLabel: "istio-ingressgateway", "istio": "ingressgateway", "istio.io/rev": "default"}, m{"istio.io/rev": "default"}, nil, "gateways"},
		"the east-west gateway":                {m{proxyLabel: "x", "istio": "eastwestgateway"}, m{"sidecar.istio.io/status": "{}"}, nil, "gateways"},
		"an older gateway, by its label":       {m{proxyLabel: "x", "istio": "ingressgateway", "istio.io/rev": "canary"}, nil, []string{"canary"}, "gateways"},
		"Gateway API":                          {m{proxyLabel: "x", "gateway.networking.k8s.io/gateway-name": "x"}, m{"istio.io/rev": "default"}, nil, "gateways"},
		"Gateway API in Istio 1.20":            {m{proxyLabel: "x", "istio.io/gateway-name": "x"}, m{"istio.io/rev": "default"}, nil, "gateways"},
		"ztunnel":                              {m{"app": "ztunnel"}, nil, nil, "gateways"},
		"istiod":                               {m{"app": "istiod", proxyLabel: "istiod"}, m{"istio.io/rev": "default"}, nil, ""},
		"a workload that is called istio":      {m{proxyLabel: "x", "istio": "pilot"}, m{"istio.io/rev": "default"}, nil, "workloads"},
	} {
		t.Run(name, func(t *testing.T) {
			revisions := test.revisions
			if revisions == nil {
				revisions = []string{istio.DefaultRevision}
			}
			got := ""
			for _, s := range meshSets[1:] {
				if s.contains(&metav1.ObjectMeta{Labels: test.labels, Annotations: test.annotations}, revisions) {
					got += s.name
				}
			}
			if got != test.desired {
				t.Errorf("in set %q, want %q", got, test.desired)
			}
		})
	}
}

func TestSetsOfThePublicAPI(t *testing.T) {
	directive := &certificatesv1.PodBounceDirective{Spec: certificatesv1.PodBounceDirectiveSpec{PodsToBounce: []certificatesv1.PodSelector{
		{Namespace: "a", Labels: map[string]string{"app": "web"}}, {Namespace: "b"},
	}}}
	sets := podSetsOf(directive)
	pod := func(namespace, app string) *metav1.ObjectMeta {
		return &metav1.ObjectMeta{Namespace: namespace, Labels: map[string]string{"app": app}}
	}
	for i, desired := range []struct{ in, out []*metav1.ObjectMeta }{
		{[]*metav1.ObjectMeta{pod("a", "web")}, []*metav1.ObjectMeta{pod("b", "web"), pod("a", "db")}},
		{[]*metav1.ObjectMeta{pod("b", "web"), pod("b", "db")}, []*metav1.ObjectMeta{pod("a", "web"), pod("b", "istiod")}},
	} {
		for _, each := range desired.in {
			if !sets[i].contains(each, nil) {
				t.Errorf("%s has not %+v", sets[i].name, each)
			}
		}
		for _, each := range desired.out {
			if sets[i].contains(each, nil) {
				t.Errorf("%s has %+v", sets[i].name, each)
			}
		}
	}
	directive.Annotations = map[string]string{certificatesv1.RestartAnnotation: certificatesv1.RestartMesh}
	if got := podSetsOf(directive); len(got) != 3 || got[0].kind != istiodPods || got[1].kind != gatewayPods || got[2].kind != workloadPods {
		t.Errorf("the whole mesh: %+v", got)
	}
}

func TestWhatIsFoundToRestart(t *testing.T) {
	since := begun.Time
	yes := gate{open: true, since: since}
	owner := func(kind, name string) []metav1.OwnerReference {
		return []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: kind, Name: name, UID: "1", Controller: new(true)}}
	}
	pod := func(name string, created time.Duration, owners []metav1.OwnerReference) *metav1.ObjectMeta {
		return &metav1.ObjectMeta{Namespace: "a", Name: name, CreationTimestamp: metav1.NewTime(since.Add(created)), OwnerReferences: owners}
	}
	terminating := pod("going", -time.Hour, owner("ReplicaSet", "web"))
	terminating.DeletionTimestamp = &begun

	there := newCandidates()
	there.add(pod("old", -time.Hour, owner("ReplicaSet", "web")), yes)
	there.add(pod("older", -2*time.Hour, owner("ReplicaSet", "web")), yes)
	there.add(pod("same-second", 0, owner("ReplicaSet", "web")), yes)
	there.add(pod("younger", time.Second, owner("ReplicaSet", "web")), yes)
	there.add(pod("another", -time.Hour, owner("DaemonSet", "agent")), yes)
	there.add(terminating, yes)
	there.add(pod("bare", -time.Hour, nil), yes)
	there.add(pod("younger-bare", time.Hour, nil), yes)
	there.add(pod("static", -time.Hour, owner("Node", "n")), yes)
	there.add(pod("work", -time.Hour, owner("Job", "j")), yes)
	there.add(pod("held", -time.Hour, owner("ReplicaSet", "held")), gate{waiting: "ConfigMap"})
	there.add(pod("held", -time.Hour, owner("ReplicaSet", "held")), gate{waiting: "ConfigMap"})

	var got []string
	for _, each := range there.sorted() {
		got = append(got, fmt.Sprint(each.owner.Kind, each.pods))
	}
	if desired := []string{"DaemonSet[another]", "ReplicaSet[old older same-second]"}; !slices.Equal(got, desired) {
		t.Errorf("found %q, want %q", got, desired)
	}
	if closed := slices.Collect(maps.Keys(there.closed)); !slices.Equal(closed, []string{"ConfigMap"}) {
		t.Errorf("closed %q", closed)
	}
	if len(there.skipped) != 3 {
		t.Errorf("left %q", there.skipped)
	}
}

// A user who may create Pods writes what owns them as they like. The API server checks neither that the owner exists nor how
// long its name is; a request for it, or a status with it, would fail and hold up every other workload.
func TestPodsWithOwnersThatCannotBeAreLeft(t *testing.T) {
	for name, test := range map[string]struct {
		owner metav1.OwnerReference
		left  bool
	}{
		"a ReplicaSet":             {metav1.OwnerReference{APIVersion: apps, Kind: "ReplicaSet", Name: "a", UID: "1"}, false},
		"a kind of others":         {metav1.OwnerReference{APIVersion: "kruise.io/v1", Kind: "CloneSet", Name: "a", UID: "1"}, false},
		"a path for a name":        {metav1.OwnerReference{APIVersion: apps, Kind: "ReplicaSet", Name: "../../secrets/a", UID: "1"}, true},
		"a kind that is not there": {metav1.OwnerReference{APIVersion: apps, Kind: "Nothing", Name: "a", UID: "1"}, true},
		"a long kind":              {metav1.OwnerReference{APIVersion: "a/v1", Kind: strings.Repeat("A", 254), Name: "a", UID: "1"}, true},
		"a long name":              {metav1.OwnerReference{APIVersion: "a/v1", Kind: "A", Name: strings.Repeat("a", 254), UID: "1"}, true},
		"a long uid":               {metav1.OwnerReference{APIVersion: "a/v1", Kind: "A", Name: "a", UID: types.UID(strings.Repeat("a", 129))}, true},
		"a long API version":       {metav1.OwnerReference{APIVersion: strings.Repeat("a", 318) + "/v1", Kind: "A", Name: "a", UID: "1"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			test.owner.Controller = new(true)
			there := newCandidates()
			there.add(&metav1.ObjectMeta{Name: "pod", Namespace: "apps", OwnerReferences: []metav1.OwnerReference{test.owner}}, gate{open: true, since: time.Now()})
			if (len(there.skipped) > 0) != test.left || (len(there.owners) > 0) == test.left {
				t.Errorf("left %.200q, owners %d", there.skipped, len(there.owners))
			}
		})
	}
}
