// SPDX-License-Identifier: Apache-2.0

package meshes

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/controllers"
)

var (
	inIstioSystem = types.NamespacedName{Namespace: "istio-system", Name: ours}
	inSystem      = types.NamespacedName{Namespace: "system", Name: ours}
)

// rival is a VirtualMesh of the same meshes, younger or, by a negative age, older than the guide's.
func rival(t *testing.T, namespace, name string, younger time.Duration, change func(map[string]any)) storedMesh {
	t.Helper()
	source := read(t, guide, change)
	source.Namespace, source.Name = namespace, name
	source.CreationTimestamp = metav1.NewTime(start.Add(younger))
	return source
}

func mistaken(object map[string]any) { set(object, "no URL", "server") }

// Only a VirtualMesh that can be acted on claims a mesh; the one that has its IssuedCertificate keeps it while it asks for
// it, valid or not.
func TestWhoGovernsAMesh(t *testing.T) {
	const guides = "gloo-mesh/virtual-mesh"
	owned := func(by string) func(*clusterFacts) {
		return func(f *clusterFacts) { f.Certificates[inIstioSystem] = storedCertificate{Owner: by} }
	}
	for name, test := range map[string]struct {
		change func(map[string]any) // of the guide's
		facts  func(*clusterFacts)
		other  storedMesh
		// governing is whose IssuedCertificate is planned, "" for nobody's.
		governing string
		says      string // to the one that does not
	}{
		"the older of two": {other: rival(t, "gloo-mesh", "second", time.Hour, nil), governing: guides, says: "VirtualMesh " + guides + " already governs"},
		"an older one without the certificate does not take it": {
			facts: owned(guides), other: rival(t, "gloo-mesh", "first", -time.Hour, nil), governing: guides, says: "VirtualMesh " + guides + " already governs",
		},
		"an older one that is not valid": {other: rival(t, "gloo-mesh", "first", -time.Hour, mistaken), governing: guides, says: "vault.server"},
		"an older one that refers to another namespace": {
			other: rival(t, "gloo-mesh", "first", -time.Hour, refersTo("kube-system")), governing: guides, says: "VirtualMesh " + guides + " already governs",
		},
		"the one with the certificate has become invalid": {
			change: mistaken, facts: owned(guides), other: rival(t, "gloo-mesh", "second", time.Hour, nil),
			says: "VirtualMesh " + guides + " already governs this mesh; remove the mesh from one of them; it is invalid, and the IssuedCertificate does not change",
		},
		"the one with the certificate is invalid and names the mesh no more": {
			change: func(object map[string]any) { mistaken(object); delete(object["spec"].(map[string]any), "meshes") },
			facts:  owned(guides), other: rival(t, "gloo-mesh", "second", time.Hour, nil), says: "it is invalid",
		},
		"the one with the certificate names another namespace's account": {
			change: refersTo("kube-system"), facts: owned(guides), other: rival(t, "gloo-mesh", "second", time.Hour, nil), says: "it is invalid",
		},
		"the one with the certificate names the mesh no more": {
			change: func(object map[string]any) { delete(object["spec"].(map[string]any), "meshes") },
			facts:  owned(guides), other: rival(t, "gloo-mesh", "second", time.Hour, nil), governing: "gloo-mesh/second",
		},
		"an invalid one without a certificate": {change: mistaken, other: rival(t, "gloo-mesh", "second", time.Hour, nil), governing: "gloo-mesh/second"},
		"the certificate of one that is gone": {
			facts: owned("gloo-mesh/before"), other: rival(t, "gloo-mesh", "second", time.Hour, nil), governing: guides, says: "already governs",
		},
		"the certificate of one in a namespace that is not allowed": {
			facts: owned("tenant/mesh"), other: rival(t, "tenant", "mesh", -time.Hour, nil), governing: guides, says: "VirtualMeshes in namespace \"tenant\" are not acted on",
		},
		"a certificate labelled by hand":             {facts: owned(controllers.Manager), other: rival(t, "gloo-mesh", "second", time.Hour, nil), governing: guides, says: "already governs"},
		"a certificate whose annotation was forged":  {facts: owned("gloo-mesh/second"), other: rival(t, "tenant", "mesh", time.Hour, nil), governing: guides, says: "not acted on"},
		"an older one of a namespace not allowed":    {other: rival(t, "tenant", "mesh", -time.Hour, nil), governing: guides, says: "VirtualMeshes in namespace \"tenant\" are not acted on"},
		"the first by name, of two of the same age":  {other: rival(t, "gloo-mesh", "another", 0, nil), governing: "gloo-mesh/another"},
		"an invalid one of a namespace not allowed ": {other: rival(t, "tenant", "mesh", -time.Hour, mistaken), governing: guides, says: "not acted on"},
	} {
		t.Run(name, func(t *testing.T) {
			sources := []storedMesh{read(t, guide, test.change), test.other}
			f := facts("cluster-1")
			if test.facts != nil {
				test.facts(&f)
			}
			f.Owners = map[string]storedMesh{}
			for _, source := range sources {
				if !f.Allowed.Allows(source.Namespace) {
					continue
				}
				if f.Certificates[inIstioSystem].Owner == source.key().String() {
					f.Owners[source.key().String()] = source
				}
				if len(source.Spec.Meshes) > 0 {
					f.Claims[ours] = append(f.Claims[ours], source)
				}
			}
			governing, said := "", ""
			for _, source := range sources {
				plan := translate(source, networkingv1.VirtualMeshStatus{}, f)
				if len(plan.Certificates) == 0 {
					said += fmt.Sprintln(plan.Status.Errors)
					continue
				}
				if governing != "" {
					t.Errorf("both govern the mesh")
				}
				governing = source.key().String()
			}
			if governing != test.governing || !strings.Contains(said, test.says) {
				t.Errorf("governed by %q; said: %s", governing, said)
			}
		})
	}
}

// refersTo has the guide's VirtualMesh log in with a service account of a namespace.
func refersTo(namespace string) func(map[string]any) {
	return func(object map[string]any) {
		set(object, map[string]any{"role": "a", "serviceAccountRef": map[string]any{"name": "a", "namespace": namespace}}, "kubernetesAuth")
	}
}

// A VirtualMesh refers to Secrets and service accounts of istiod's namespace alone.
func TestReferencesStayInIstiodsNamespace(t *testing.T) {
	const vault = "spec.mtlsConfig.shared.intermediateCertificateAuthority.vault."
	token := func(namespace string) func(map[string]any) {
		return func(object map[string]any) {
			set(object, nil, "kubernetesAuth")
			set(object, map[string]any{"name": "token", "namespace": namespace}, "tokenSecretRef")
		}
	}
	roots := func(namespace string) func(map[string]any) {
		return func(object map[string]any) {
			roots := map[string]any{"configMapRef": map[string]any{"name": "roots", "namespace": namespace}}
			if err := unstructured.SetNestedMap(object, roots, "spec", "mtlsConfig", "shared", "intermediateCertificateAuthority", "trustedRoots"); err != nil {
				t.Fatal(err)
			}
		}
	}
	login := func(field, reference, namespace string) func(map[string]any) {
		return func(object map[string]any) {
			set(object, nil, "kubernetesAuth")
			login := map[string]any{"role": "a", "roleId": "a", "audience": "vault", reference: map[string]any{"name": "a", "namespace": namespace}}
			set(object, login, field)
			if field == "certAuth" {
				set(object, "https://vault.vault:8200", "server")
			}
		}
	}
	serverCA := func(namespace string) func(map[string]any) {
		return func(object map[string]any) {
			set(object, map[string]any{"name": "a", "namespace": namespace}, "caSecretRef")
		}
	}
	ofIssuer := func(change func(map[string]any)) func(map[string]any) {
		return func(object map[string]any) {
			change(object)
			const ca = "intermediateCertificateAuthority"
			unstructured.RemoveNestedField(object, "spec", "mtlsConfig", "shared", ca, "vault")
			if err := unstructured.SetNestedField(object, "mesh", "spec", "mtlsConfig", "shared", ca, "certManager", "issuerRef", "name"); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, test := range map[string]struct {
		change func(map[string]any)
		says   string
	}{
		"roots elsewhere, beside an issuer":     {ofIssuer(roots("kube-system")), strings.TrimSuffix(vault, "vault.") + `trustedRoots.configMapRef.namespace: Invalid value: "kube-system"`},
		"roots here, beside an issuer":          {ofIssuer(roots("istio-system")), ""},
		"a Secret of istiod's namespace":        {token("istio-system"), ""},
		"a Secret of no namespace":              {token(""), ""},
		"a Secret elsewhere":                    {token("kube-system"), vault + `tokenSecretRef.namespace: Invalid value: "kube-system": expected no namespace, or istiod's own, istio-system`},
		"a Secret of the VirtualMesh's":         {token("gloo-mesh"), vault + `tokenSecretRef.namespace: Invalid value: "gloo-mesh"`},
		"a secret id elsewhere":                 {login("appRoleAuth", "secretIdSecretRef", "kube-system"), vault + `appRoleAuth.secretIdSecretRef.namespace: Invalid value: "kube-system"`},
		"a secret id of istiod's namespace":     {login("appRoleAuth", "secretIdSecretRef", "istio-system"), ""},
		"a client certificate elsewhere":        {login("certAuth", "certSecretRef", "kube-system"), vault + `certAuth.certSecretRef.namespace: Invalid value: "kube-system"`},
		"a JWT elsewhere":                       {login("jwtAuth", "serviceAccountRef", "kube-system"), vault + `jwtAuth.serviceAccountRef.namespace: Invalid value: "kube-system"`},
		"Vault's CA elsewhere":                  {serverCA("kube-system"), vault + `caSecretRef.namespace: Invalid value: "kube-system"`},
		"Vault's CA in istiod's namespace":      {serverCA("istio-system"), ""},
		"roots of istiod's namespace":           {roots("istio-system"), ""},
		"roots elsewhere":                       {roots("kube-system"), strings.TrimSuffix(vault, "vault.") + `trustedRoots.configMapRef.namespace: Invalid value: "kube-system"`},
		"an account of istiod's namespace":      {refersTo("istio-system"), ""},
		"an account elsewhere":                  {refersTo("istio-system-2"), vault + `kubernetesAuth.serviceAccountRef.namespace: Invalid value: "istio-system-2"`},
		"an account of the VirtualMesh's space": {refersTo("gloo-mesh"), vault + `kubernetesAuth.serviceAccountRef.namespace`},
	} {
		t.Run(name, func(t *testing.T) {
			source := read(t, guide, test.change)
			plan := translate(source, networkingv1.VirtualMeshStatus{}, facts("cluster-1", source))
			if made := len(plan.Certificates) == 1; made != (test.says == "") || !plan.Retain[ours] {
				t.Errorf("planned %+v", plan)
			} else if roots := strings.HasPrefix(name, "roots"); made && roots != (plan.Certificates[0].Spec.AgentCA.TrustedRoots != nil) {
				t.Errorf("planned with roots %+v", plan.Certificates[0].Spec.AgentCA.TrustedRoots)
			}
			if said := strings.Join(plan.Status.Errors, "\n"); !strings.Contains(said, test.says) || test.says == "" && said != "" {
				t.Errorf("said %q", said)
			}
		})
	}
}

// Name constraints that exclude an istiod's trust domain are reported for that mesh; its IssuedCertificate does not change.
func TestExcludedTrustDomain(t *testing.T) {
	for name, test := range map[string]struct {
		domains []any
		says    string
	}{
		"permitted": {[]any{"other.domain", "cluster.local"}, ""},
		"excluded":  {[]any{"other.domain"}, `spec.mtlsConfig.shared.intermediateCertOptions.permittedURIDomains: Invalid value: ["other.domain"]: expected also cluster.local`},
	} {
		t.Run(name, func(t *testing.T) {
			source := read(t, guide, func(object map[string]any) {
				if err := unstructured.SetNestedSlice(object, test.domains, "spec", "mtlsConfig", "shared", "intermediateCertOptions", "permittedURIDomains"); err != nil {
					t.Fatal(err)
				}
			})
			plan := translate(source, networkingv1.VirtualMeshStatus{}, facts("cluster-1", source))
			if made := len(plan.Certificates) == 1; made != (test.says == "") || !plan.Retain[ours] {
				t.Errorf("planned %+v", plan)
			} else if made && !slices.Equal(plan.Certificates[0].Spec.CertOptions.PermittedURIDomains, []string{"other.domain", "cluster.local"}) {
				t.Errorf("planned %q", plan.Certificates[0].Spec.CertOptions.PermittedURIDomains)
			}
			if said := strings.Join(plan.Status.Errors, "\n"); !strings.Contains(said, test.says) || test.says == "" && said != "" {
				t.Errorf("said %q", said)
			}
		})
	}
}

// Of several Deployments that come to one mesh's name the one with the IssuedCertificate keeps it, none is guessed, and
// nothing is deleted.
func TestMeshNamesThatCollide(t *testing.T) {
	const guides = "gloo-mesh/virtual-mesh"
	made := storedCertificate{Owner: guides}
	for name, test := range map[string]struct {
		facts    func(*clusterFacts)
		recorded string // the namespace in the status
		planned  string // the namespace of the planned IssuedCertificate
		says     string
	}{
		"neither has an IssuedCertificate": {says: "several istiod Deployments have this name, istio-system/istiod, system/istiod-istio; rename all but one"},
		"both have":                        {facts: func(f *clusterFacts) { f.Certificates[inIstioSystem], f.Certificates[inSystem] = made, made }, says: "several istiod Deployments"},
		"the first has": {
			facts: func(f *clusterFacts) { f.Certificates[inIstioSystem] = made }, planned: "istio-system", says: "istiod system/istiod-istio has the same mesh name",
		},
		"the second has":              {facts: func(f *clusterFacts) { f.Certificates[inSystem] = made }, planned: "system", says: "istiod istio-system/istiod has the same mesh name"},
		"another's counts for nobody": {facts: func(f *clusterFacts) { f.Certificates[inSystem] = storedCertificate{} }, says: "several istiod Deployments"},
		"one was forged in the other's namespace": {
			facts:    func(f *clusterFacts) { f.Certificates[inIstioSystem], f.Certificates[inSystem] = made, made },
			recorded: "istio-system", planned: "istio-system", says: "istiod system/istiod-istio has the same mesh name",
		},
		"the one that has it is away": {
			facts: func(f *clusterFacts) {
				f.Istiods[ours], f.Certificates[inIstioSystem] = nil, made
			},
			recorded: "istio-system", says: "IssuedCertificate istio-system/" + ours + " is for another istiod of this name, which no longer exists; delete it to give the name to system/istiod-istio",
		},
		"the one that had it is away, and it was deleted": {
			facts: func(f *clusterFacts) { f.Istiods[ours] = nil }, recorded: "istio-system", planned: "system",
		},
	} {
		t.Run(name, func(t *testing.T) {
			source := read(t, guide, nil)
			f := facts("cluster-1", source)
			if test.facts != nil {
				test.facts(&f)
			}
			f.Istiods[ours] = append(f.Istiods[ours], collides)
			var before networkingv1.VirtualMeshStatus
			if test.recorded != "" {
				before.Meshes = map[string]networkingv1.MeshStatus{ours + ".gloo-mesh.": {IssuedCertificate: &networkingv1.StatusRef{Name: ours, Namespace: test.recorded}}}
			}
			plan := translate(source, before, f)
			planned := ""
			for _, certificate := range plan.Certificates {
				planned += certificate.Namespace
			}
			mesh := plan.Status.Meshes[ours+".gloo-mesh."]
			if said := strings.Join(slices.Concat(mesh.Errors, mesh.Warnings), "\n"); planned != test.planned || !strings.Contains(said, test.says) {
				t.Errorf("planned in %q, said %s", planned, said)
			}
			for _, rule := range plan.retentions() {
				for _, key := range []types.NamespacedName{inIstioSystem, inSystem} {
					if !rule.retain(key) {
						t.Errorf("%s %s is pruned", rule.kind.Kind, key)
					}
				}
			}
		})
	}
}

// A Deployment that is not injected is no istiod for a mesh; what was made for it before stays.
func TestADeploymentThatIsNotInjected(t *testing.T) {
	source := read(t, guide, nil)
	f := facts("cluster-1", source)
	f.Istiods = nil
	f.NotSelected = map[string][]unselected{ours: {{"istio-system", "istiod", "its namespace is not labelled"}, {"system", "istiod-istio", "it is opted out"}}}
	f.Certificates[inIstioSystem] = storedCertificate{Owner: "gloo-mesh/virtual-mesh"}
	plan := translate(source, networkingv1.VirtualMeshStatus{}, f)
	mesh := plan.Status.Meshes[ours+".gloo-mesh."]
	const want = "waiting for an injected istiod Deployment with this name: Deployment istio-system/istiod is ignored: its namespace is not labelled " +
		"(its IssuedCertificate does not change), Deployment system/istiod-istio is ignored: it is opted out"
	if len(plan.Certificates) > 0 || mesh.State != networkingv1.Pending || mesh.Message != want || !plan.Retain[ours] {
		t.Errorf("planned %+v", plan)
	}
	if len(plan.unplanned) != 1 || !strings.Contains(plan.unplanned[0], "istio-system/istiod") {
		t.Errorf("a change of the root waits for %q", plan.unplanned)
	}
}

// A VirtualMesh of a namespace that is not allowed claims and makes nothing, loses nothing of what was made for it, and
// says which value to set.
func TestANamespaceThatIsNotAllowed(t *testing.T) {
	source := rival(t, "tenant", "mesh", -time.Hour, mistaken)
	f := facts("cluster-1")
	f.Orphans = []string{"a/1", "a/2", "a/3", "a/4", "a/5"}
	before := networkingv1.VirtualMeshStatus{RootRotation: &networkingv1.RootRotationStatus{Stage: networkingv1.StageTrustBoth}}
	plan := translate(source, before, f)
	if !plan.RetainAll || len(plan.Certificates)+len(plan.Directives) > 0 || plan.Status.RootRotation != before.RootRotation || plan.Status.State != networkingv1.Failed {
		t.Errorf("planned %+v", plan)
	}
	ready := meta.FindStatusCondition(plan.Status.Conditions, readyCondition)
	if ready.Status != metav1.ConditionFalse || ready.Reason != "NamespaceNotAllowed" || !strings.Contains(ready.Message, "add \"tenant\" to the chart's value virtualMesh.namespaces") {
		t.Errorf("condition %+v", ready)
	}
	if !strings.Contains(ready.Message, "IssuedCertificate a/1, a/2, a/3 and 2 more, applied for this VirtualMesh before, does not change") {
		t.Errorf("condition %+v", ready)
	}
}

// Two names of a VirtualMesh's own that are sanitized to one are one mesh.
func TestNamesThatAreSanitizedToOne(t *testing.T) {
	source := read(t, guide, func(object map[string]any) {
		object["spec"].(map[string]any)["meshes"] = []any{map[string]any{"name": ours}, map[string]any{"name": "istiod.istio-system.cluster-1"}}
	})
	if plan := translate(source, networkingv1.VirtualMeshStatus{}, facts("cluster-1", source)); len(plan.Certificates) != 1 || len(plan.Directives) != 1 {
		t.Errorf("planned %+v", plan)
	}
}
