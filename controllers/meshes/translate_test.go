// SPDX-License-Identifier: Apache-2.0

package meshes

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
)

// guide is the VirtualMesh of the public guide.
const guide = `
apiVersion: networking.mesh.gloo.solo.io/v1
kind: VirtualMesh
metadata: {name: virtual-mesh, namespace: gloo-mesh, generation: 3}
spec:
  mtlsConfig:
    autoRestartPods: true
    shared:
      intermediateCertificateAuthority:
        vault:
          caPath: "pki/root/sign-intermediate"
          csrPath: "pki_int/intermediate/generate/exported"
          server: "http://vault.vault:8200"
          kubernetesAuth:
            role: "gen-int-ca-istio"
  federation:
    selectors:
    - {}
  meshes:
  - name: istiod-istio-system-cluster-1
    namespace: gloo-mesh
  - name: istiod-istio-system-cluster-2
    namespace: gloo-mesh
`

var (
	start  = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	istiod = deployedIstiod{Name: "istiod", Namespace: "istio-system", ServiceAccount: "istiod-service-account", TrustDomain: "cluster.local"}
)

// collides is another Deployment whose mesh has the name of istiod's.
var collides = deployedIstiod{Name: "istiod-istio", Namespace: "system", ServiceAccount: "istiod", TrustDomain: "cluster.local"}

const (
	ours   = "istiod-istio-system-cluster-1"
	theirs = "istiod-istio-system-cluster-2"
)

// read is a VirtualMesh as it is stored.
func read(t *testing.T, content string, change func(map[string]any)) storedMesh {
	t.Helper()
	var object map[string]any
	if err := yaml.Unmarshal([]byte(content), &object); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(object)
	}
	mesh, unknown, errs := networkingv1.FromObject(object)
	mesh.CreationTimestamp = metav1.NewTime(start)
	return storedMesh{VirtualMesh: mesh, Unknown: unknown, Unreadable: errs}
}

// facts are those of a cluster with one istiod.
func facts(cluster string, claims ...storedMesh) clusterFacts {
	return clusterFacts{
		Cluster: cluster, Now: metav1.NewTime(start), Allowed: v1alpha1.VirtualMesh{Namespaces: []string{"gloo-mesh", "istiod-agent-system"}},
		Istiods:      map[string][]deployedIstiod{istiod.mesh(cluster): {istiod}},
		Claims:       map[string][]storedMesh{istiod.mesh(cluster): claims},
		Certificates: map[types.NamespacedName]storedCertificate{},
	}
}

// Each cluster acts on its own mesh of the guide's VirtualMesh, and knows that the other is another cluster's.
func TestTheGuide(t *testing.T) {
	for cluster, names := range map[string][2]string{"cluster-1": {ours, theirs}, "cluster-2": {theirs, ours}} {
		t.Run(cluster, func(t *testing.T) {
			source := read(t, guide, nil)
			plan := translate(source, networkingv1.VirtualMeshStatus{}, facts(cluster, source))
			if len(plan.Certificates) != 1 || plan.RetainAll {
				t.Fatalf("planned %+v", plan)
			}
			got, err := yaml.Marshal(plan.Certificates[0])
			if err != nil {
				t.Fatal(err)
			}
			want := `apiVersion: certificates.mesh.gloo.solo.io/v1
kind: IssuedCertificate
metadata:
  annotations:
    istiod-agent.io/virtual-mesh: gloo-mesh/virtual-mesh
  labels:
    app.kubernetes.io/managed-by: istiod-agent-webhook
  name: ` + names[0] + `
  namespace: istio-system
spec:
  agentCa:
    vault:
      caPath: pki/root/sign-intermediate
      csrPath: pki_int/intermediate/generate/exported
      kubernetesAuth:
        mountPath: /v1/auth/kubernetes
        mountedSaPath: /var/run/secrets/kubernetes.io/serviceaccount
        role: gen-int-ca-istio
        secretTokenKey: token
      server: http://vault.vault:8200
  certOptions:
    orgName: Istio
    rsaKeySizeBytes: 4096
    secretRotationGracePeriodRatio: 0.1
    ttlDays: 365
  hosts:
  - spiffe://cluster.local/ns/istio-system/sa/istiod-service-account
  podBounceDirective:
    name: ` + names[0] + `
    namespace: istio-system
`
			if string(got) != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			status := plan.Status
			if status.State != networkingv1.Accepted || status.ObservedGeneration != 3 || len(status.Errors) > 0 {
				t.Errorf("status %+v", status)
			}
			owned, other := status.Meshes[names[0]+".gloo-mesh."], status.Meshes[names[1]+".gloo-mesh."]
			if owned.State != networkingv1.Accepted || owned.IssuedCertificate == nil || owned.IssuedCertificate.Namespace != "istio-system" || owned.IssuedCertificate.Name != names[0] {
				t.Errorf("the mesh of this cluster: %+v", owned)
			}
			if len(owned.Warnings) != 3 || !strings.Contains(owned.Warnings[0], "http://") || !strings.Contains(owned.Warnings[1], "audience: vault") || !strings.Contains(owned.Warnings[2], "do not use it in production") {
				t.Errorf("warnings of the mesh: %q", owned.Warnings)
			}
			if other.State != "" || other.IssuedCertificate != nil || other.Message != "the mesh is not in this cluster, "+cluster {
				t.Errorf("the mesh of the other: %+v", other)
			}
			if len(status.NotActedOn) != 0 {
				t.Errorf("not acted on: %q", status.NotActedOn)
			}
			if !meta.IsStatusConditionTrue(status.Conditions, readyCondition) {
				t.Errorf("conditions: %+v", status.Conditions)
			}
		})
	}
}

// What becomes of the mesh of this cluster, and what is planned for it.
func TestWhatBecomesOfAMesh(t *testing.T) {
	meshKeys := func(name string, age time.Duration) storedMesh {
		other := read(t, guide, nil)
		other.Name, other.CreationTimestamp = name, metav1.NewTime(start.Add(-age))
		return other
	}
	at := types.NamespacedName{Namespace: "istio-system", Name: ours}
	for name, test := range map[string]struct {
		change func(object map[string]any)
		facts  func(*clusterFacts)
		state  networkingv1.ApprovalState // of the whole
		says   string                     // in the mesh's message, errors or warnings, or the whole's errors
		made   bool
		gone   bool // what is there does not stay
	}{
		"all is well": {state: networkingv1.Accepted, says: "have not reported yet", made: true},
		"istiod uses it": {
			facts: func(f *clusterFacts) {
				f.Certificates[at] = storedCertificate{Owner: "gloo-mesh/virtual-mesh", State: certificatesv1.Finished}
			},
			state: networkingv1.Accepted, says: "istiod's agents report FINISHED", made: true,
		},
		"Vault is sealed": {
			facts: func(f *clusterFacts) {
				f.Certificates[at] = storedCertificate{Owner: "gloo-mesh/virtual-mesh", State: certificatesv1.Failed, Error: "Vault is sealed"}
			},
			state: networkingv1.Accepted, says: "Vault is sealed", made: true,
		},
		"no istiod yet": {
			facts: func(f *clusterFacts) { f.Istiods = nil },
			state: networkingv1.Pending, says: "waiting for an istiod Deployment with this name",
		},
		"no ConfigMap yet": {
			facts: func(f *clusterFacts) { f.Istiods[ours][0].Problem = "waiting for the ConfigMap" },
			state: networkingv1.Pending, says: "waiting for the ConfigMap",
		},
		"two istiods of one name": {
			facts: func(f *clusterFacts) { f.Istiods[ours] = append(f.Istiods[ours], collides) },
			state: networkingv1.Failed, says: "several istiod Deployments have this name, istio-system/istiod, system/istiod-istio",
		},
		"another's IssuedCertificate": {
			facts: func(f *clusterFacts) { f.Certificates[at] = storedCertificate{} },
			state: networkingv1.Failed, says: "another program created IssuedCertificate istio-system/" + ours,
		},
		"an IssuedCertificate of a VirtualMesh that is gone": {
			facts: func(f *clusterFacts) { f.Certificates[at] = storedCertificate{Owner: "gloo-mesh/before"} },
			state: networkingv1.Accepted, made: true,
		},
		"an older VirtualMesh": {
			facts: func(f *clusterFacts) { f.Claims[ours] = append(f.Claims[ours], meshKeys("first", time.Hour)) },
			state: networkingv1.Failed, says: "VirtualMesh gloo-mesh/first already governs",
		},
		"a newer VirtualMesh": {
			facts: func(f *clusterFacts) {
				f.Claims[ours] = append([]storedMesh{meshKeys("second", -time.Hour)}, f.Claims[ours]...)
			},
			state: networkingv1.Accepted, says: "VirtualMesh gloo-mesh/second names this mesh too and is ignored for it", made: true,
		},
		"one of the same age": {
			facts: func(f *clusterFacts) { f.Claims[ours] = append(f.Claims[ours], meshKeys("another", 0)) },
			state: networkingv1.Failed, says: "gloo-mesh/another already governs",
		},
		"the cluster's name is not set": {
			facts: func(f *clusterFacts) { f.Cluster = "" },
			state: networkingv1.Failed, says: "clusterName",
		},
		"a mistake": {
			change: func(object map[string]any) { set(object, "no URL", "server") },
			state:  networkingv1.Invalid, says: "spec.mtlsConfig.shared.intermediateCertificateAuthority.vault.server",
		},
		"a number for a text": {
			change: func(object map[string]any) { set(object, int64(8200), "server") },
			state:  networkingv1.Invalid, says: "spec.mtlsConfig.shared.intermediateCertificateAuthority.vault.server",
		},
		"no CA": {
			change: func(object map[string]any) { delete(object["spec"].(map[string]any), "mtlsConfig") },
			state:  networkingv1.Accepted, says: "nothing is done", gone: true,
		},
		"a name that Gloo Mesh would sanitize": {
			facts: func(f *clusterFacts) {
				f.Cluster = "Cluster_1"
				f.Istiods = map[string][]deployedIstiod{istiod.mesh("Cluster_1"): {istiod}}
			},
			state: networkingv1.Accepted, made: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			source := read(t, guide, test.change)
			f := facts("cluster-1", source)
			if test.facts != nil {
				test.facts(&f)
			}
			plan := translate(source, networkingv1.VirtualMeshStatus{}, f)
			if plan.Status.State != test.state {
				t.Errorf("state %s: %q", plan.Status.State, plan.Status.Errors)
			}
			mesh := plan.Status.Meshes[ours+".gloo-mesh."]
			said := append(slices.Concat(mesh.Errors, mesh.Warnings, plan.Status.Errors), mesh.Message)
			if !slices.ContainsFunc(said, func(s string) bool { return strings.Contains(s, test.says) }) {
				t.Errorf("said %q", said)
			}
			if made := len(plan.Certificates) == 1; made != test.made || len(plan.Certificates) > 1 {
				t.Errorf("made %d", len(plan.Certificates))
			}
			if keptMetadata := plan.RetainAll || plan.Retain[ours]; keptMetadata == test.gone {
				t.Errorf("what is there is kept: %v", keptMetadata)
			}
			ready := meta.FindStatusCondition(plan.Status.Conditions, readyCondition)
			if ready == nil || (ready.Status == metav1.ConditionTrue) != (test.state == networkingv1.Accepted) || ready.Message == "" {
				t.Errorf("condition %+v", ready)
			}
		})
	}
}

// set changes a field of the guide's Vault.
func set(object map[string]any, value any, name string) {
	vault := object
	for _, key := range []string{"spec", "mtlsConfig", "shared", "intermediateCertificateAuthority", "vault"} {
		vault = vault[key].(map[string]any)
	}
	vault[name] = value
}

// A revision is a mesh of its own, and several meshes of one cluster are told apart.
func TestRevisions(t *testing.T) {
	source := read(t, guide, func(object map[string]any) {
		object["spec"].(map[string]any)["meshes"] = []any{
			map[string]any{"name": ours}, map[string]any{"name": "istiod-canary-istio-system-cluster-1"}, map[string]any{"name": "istiod-mesh-two-cluster-1"},
		}
	})
	f := facts("cluster-1", source)
	for _, other := range []deployedIstiod{
		{Name: "istiod-canary", Namespace: "istio-system", ServiceAccount: "istiod-canary", TrustDomain: "cluster.local"},
		{Name: "istiod", Namespace: "mesh-two", ServiceAccount: "istiod", TrustDomain: "two.example"},
	} {
		f.Istiods[other.mesh("cluster-1")] = []deployedIstiod{other}
	}
	plan := translate(source, networkingv1.VirtualMeshStatus{}, f)
	hosts := map[string]string{}
	for _, certificate := range plan.Certificates {
		hosts[certificate.Namespace+"/"+certificate.Name] = certificate.Spec.Hosts[0]
	}
	want := map[string]string{
		"istio-system/" + ours:                              "spiffe://cluster.local/ns/istio-system/sa/istiod-service-account",
		"istio-system/istiod-canary-istio-system-cluster-1": "spiffe://cluster.local/ns/istio-system/sa/istiod-canary",
		"mesh-two/istiod-mesh-two-cluster-1":                "spiffe://two.example/ns/mesh-two/sa/istiod",
	}
	if !maps.Equal(hosts, want) {
		t.Errorf("got %v", hosts)
	}
}

// A condition keeps its time while it stays what it is, so that nothing is written when nothing changes.
func TestNothingChangesWhenNothingHappens(t *testing.T) {
	source := read(t, guide, nil)
	f := facts("cluster-1", source)
	first := translate(source, networkingv1.VirtualMeshStatus{}, f).Status
	f.Now = metav1.NewTime(start.Add(time.Hour))
	second := translate(source, first, f).Status
	if a, b := first, second; !equality.Semantic.DeepEqual(a, b) {
		t.Errorf("first %+v, then %+v", a, b)
	}
}
