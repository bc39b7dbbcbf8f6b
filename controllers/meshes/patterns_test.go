// SPDX-License-Identifier: Apache-2.0

package meshes

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/internal/istio"
)

func TestPattern(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		pattern, deployment, namespace, cluster string
		want                                    bool
	}{
		"every istiod":                    {"*-istio-system-cluster-1", "istiod", "istio-system", "cluster-1", true},
		"every revision":                  {"istiod-*-istio-system-cluster-1", "istiod-canary", "istio-system", "cluster-1", true},
		"a revision with a dot":           {"istiod-*-istio-system-cluster-1", "istiod-1.31", "istio-system", "cluster-1", true},
		"no revision":                     {"istiod-*-istio-system-cluster-1", "istiod", "istio-system", "cluster-1", false},
		"an empty end":                    {"istiod*-istio-system-cluster-1", "istiod", "istio-system", "cluster-1", true},
		"another beginning":               {"istiod*-istio-system-cluster-1", "pilot", "istio-system", "cluster-1", false},
		"a namespace that ends alike":     {"*-istio-system-cluster-1", "istiod", "evil-istio-system", "cluster-1", false},
		"a namespace that is its end":     {"*-istio-system-cluster-1", "istiod-istio", "system", "cluster-1", false},
		"another cluster":                 {"*-istio-system-cluster-1", "istiod", "istio-system", "cluster-2", false},
		"a cluster that ends alike":       {"*-istio-system-cluster-1", "istiod", "istio-system", "1", false},
		"a cluster's name in capitals":    {"*-istio-system-cluster-1", "istiod", "istio-system", "Cluster_1", true},
		"the prefix is the whole name":    {"istiod-canary*-istio-system-cluster-1", "istiod-canary", "istio-system", "cluster-1", true},
		"the prefix reaches past the end": {"istiod-istio*-istio-system-cluster-1", "istiod", "istio-system", "cluster-1", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, ok := patternOf(networkingv1.MeshRef{Name: test.pattern})
			mesh := deployedIstiod{Name: test.deployment, Namespace: test.namespace}.mesh(test.cluster)
			if got := ok && p.matches(mesh, test.namespace, test.cluster); got != test.want {
				t.Errorf("%s matches %s: %t, want %t", test.pattern, mesh, got, test.want)
			}
			if test.want && !slices.Contains(keysOf(mesh), p.key()) {
				t.Errorf("%s is not found by the keys of %s", test.pattern, mesh)
			}
		})
	}
}

// patterned is the guide's VirtualMesh with these meshes.
func patterned(t *testing.T, name string, younger time.Duration, meshes ...string) storedMesh {
	t.Helper()
	source := read(t, guide, func(object map[string]any) {
		var refs []any
		for _, mesh := range meshes {
			refs = append(refs, map[string]any{"name": mesh})
		}
		object["spec"].(map[string]any)["meshes"] = refs
	})
	source.Name, source.CreationTimestamp = name, metav1.NewTime(start.Add(younger))
	return source
}

const everyIstiod = "*-istio-system-cluster-1"

func canary(number int) deployedIstiod {
	return deployedIstiod{Name: fmt.Sprintf("istiod-%03d", number), Namespace: "istio-system", ServiceAccount: "istiod", TrustDomain: "cluster.local"}
}

// What a pattern matches in this cluster gets certificates; nothing of another namespace, cluster or kind of Deployment does.
func TestTranslatePattern(t *testing.T) {
	t.Parallel()
	foreign := deployedIstiod{Name: "istiod", Namespace: "evil-istio-system", ServiceAccount: "istiod", TrustDomain: "cluster.local"}
	revision := canary(1)
	at := func(i deployedIstiod) types.NamespacedName {
		return types.NamespacedName{Namespace: i.Namespace, Name: i.mesh("cluster-1")}
	}
	many := func(f *clusterFacts) {
		for i := range networkingv1.MaxMatches + 10 {
			f.Istiods[canary(i).mesh("cluster-1")] = []deployedIstiod{canary(i)}
		}
	}
	for name, test := range map[string]struct {
		meshes []string
		facts  func(*clusterFacts)
		made   []string
		state  networkingv1.ApprovalState
		says   string
		keeps  string
	}{
		"every istiod": {[]string{everyIstiod}, nil, []string{"istiod", "istiod-001"}, networkingv1.Accepted, "2 of 2 meshes", ""},
		"revisions":    {[]string{"istiod-*-istio-system-cluster-1"}, nil, []string{"istiod-001"}, networkingv1.Accepted, "1 of 1 meshes", ""},
		"a name and a pattern that matches it": {
			[]string{everyIstiod, ours}, nil, []string{"istiod", "istiod-001"}, networkingv1.Accepted, "2 of 2 meshes", "",
		},
		"two patterns that match it": {
			[]string{everyIstiod, "istiod*-istio-system-cluster-1"}, nil, []string{"istiod", "istiod-001"}, networkingv1.Accepted, "2 of 2 meshes", "",
		},
		"none yet":        {[]string{"pilot*-istio-system-cluster-1"}, nil, nil, networkingv1.Pending, "waiting for an injected istiod Deployment that matches", ""},
		"another cluster": {[]string{"*-istio-system-cluster-2"}, nil, nil, networkingv1.Accepted, "nothing to do in this cluster", ""},
		"another namespace's istiod of the same name": {[]string{everyIstiod}, func(f *clusterFacts) {
			delete(f.Istiods, revision.mesh("cluster-1"))
			delete(f.Istiods, ours)
			f.Istiods[ours] = []deployedIstiod{collides}
		}, nil, networkingv1.Pending, "waiting", ""},
		"both of the same name": {
			[]string{everyIstiod},
			func(f *clusterFacts) { f.Istiods[ours] = append(f.Istiods[ours], collides) },
			[]string{"istiod-001"},
			networkingv1.Failed, "several istiod Deployments have this name", ours,
		},
		"the other has the name": {[]string{everyIstiod}, func(f *clusterFacts) {
			f.Istiods[ours] = append(f.Istiods[ours], collides)
			f.Certificates[inSystem] = storedCertificate{Owner: "gloo-mesh/other"}
		}, []string{"istiod-001"}, networkingv1.Failed, "the name belongs to istiod system/istiod-istio, which no pattern matches", ours},
		"more than may be": {[]string{everyIstiod}, func(f *clusterFacts) {
			many(f)
			f.Certificates[at(canary(109))] = storedCertificate{Owner: "gloo-mesh/virtual-mesh"}
		}, []string{"istiod-000", "istiod-001", "istiod-109"}, networkingv1.Failed, "11 matching istiods get no IssuedCertificate: patterns match at most 100", canary(108).mesh("cluster-1")},
		"one that is not injected any more": {[]string{everyIstiod}, func(f *clusterFacts) {
			delete(f.Istiods, revision.mesh("cluster-1"))
			f.NotSelected[revision.mesh("cluster-1")] = []unselected{{revision.Namespace, revision.Name, "it opted out"}}
			f.Certificates[at(revision)] = storedCertificate{Owner: "gloo-mesh/virtual-mesh"}
		}, []string{"istiod"}, networkingv1.Pending, "it opted out (its IssuedCertificate does not change)", revision.mesh("cluster-1")},
		"one that never was injected": {[]string{everyIstiod}, func(f *clusterFacts) {
			f.NotSelected["pilot-istio-system-cluster-1"] = []unselected{{"istio-system", "pilot", "it opted out"}}
		}, []string{"istiod", "istiod-001"}, networkingv1.Accepted, "2 of 2 meshes", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			source := patterned(t, "virtual-mesh", 0, test.meshes...)
			f := facts("cluster-1")
			f.NotSelected = map[string][]unselected{}
			for _, each := range []deployedIstiod{revision, foreign} {
				f.Istiods[each.mesh("cluster-1")] = []deployedIstiod{each}
			}
			if test.facts != nil {
				test.facts(&f)
			}
			for mesh := range f.Istiods {
				f.Claims[mesh] = []storedMesh{source}
			}
			plan := translate(source, networkingv1.VirtualMeshStatus{}, f)
			var made []string
			for _, certificate := range plan.Certificates {
				made = append(made, strings.TrimSuffix(certificate.Name, "-istio-system-cluster-1"))
				if certificate.Namespace != "istio-system" {
					t.Errorf("a certificate is made in %s", certificate.Namespace)
				}
			}
			slices.Sort(made)
			if len(test.made) == 0 && len(made) > 0 || len(made) > networkingv1.MaxMatches {
				t.Errorf("made for %q", made)
			}
			for _, want := range test.made {
				if !slices.Contains(made, want) {
					t.Errorf("made for %q, want %s too", made, want)
				}
			}
			if len(test.made) < 3 && len(made) != len(test.made) {
				t.Errorf("made for %q, want %q", made, test.made)
			}
			if said := fmt.Sprintf("%+v", plan.Status); plan.Status.State != test.state || !strings.Contains(said, test.says) {
				t.Errorf("state %s, status %s", plan.Status.State, said)
			}
			if test.keeps != "" && !plan.Retain[test.keeps] {
				t.Errorf("the IssuedCertificate of %s does not stay", test.keeps)
			}
			if len(plan.Status.Meshes) > networkingv1.MaxMeshes {
				t.Errorf("the status holds %d meshes", len(plan.Status.Meshes))
			}
		})
	}
}

// A name is stronger than a pattern, and what one has it keeps.
func TestWhoGovernsAMeshByPattern(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		first, second []string // the first is the older
		owner         string
		governing     string
	}{
		"a name before an older pattern":         {[]string{everyIstiod}, []string{ours}, "", "second"},
		"the older of two patterns":              {[]string{everyIstiod}, []string{"istiod*-istio-system-cluster-1"}, "", "first"},
		"the pattern that has the certificate":   {[]string{ours}, []string{everyIstiod}, "second", "second"},
		"not a pattern that does not match":      {[]string{"pilot*-istio-system-cluster-1"}, []string{everyIstiod}, "", "second"},
		"not the owner whose pattern is another": {[]string{everyIstiod}, []string{"pilot*-istio-system-cluster-1"}, "second", "first"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := facts("cluster-1")
			sources := []storedMesh{patterned(t, "first", 0, test.first...), patterned(t, "second", time.Hour, test.second...)}
			f.Claims[ours] = sources
			if test.owner != "" {
				f.Certificates[inIstioSystem] = storedCertificate{Owner: "gloo-mesh/" + test.owner}
				f.Owners = map[string]storedMesh{"gloo-mesh/first": sources[0], "gloo-mesh/second": sources[1]}
			}
			for _, source := range sources {
				plan := translate(source, networkingv1.VirtualMeshStatus{}, f)
				if made := len(plan.Certificates) == 1; made != (source.Name == test.governing) {
					t.Errorf("%s makes the certificate: %t; %+v", source.Name, made, plan.Status.Meshes)
				}
			}
		})
	}
}

func (i deployedIstiod) mesh(cluster string) string {
	return istio.MeshName(i.Name, i.Namespace, cluster)
}
