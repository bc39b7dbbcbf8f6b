// SPDX-License-Identifier: Apache-2.0

package virtualmesh

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/controlplane"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
)

// The guide's VirtualMesh waits if istiod does not exist, and gets its IssuedCertificate once it does.
func TestGuide(t *testing.T) {
	t.Parallel()
	for name, meshFirst := range map[string]bool{"VirtualMesh first": true, "istiod first": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMesh(t, "cluster.local")
			if !meshFirst {
				shared.MustApply(t, m.istiod)
			}
			m.apply(t, m.guide(t, "virtual-mesh", nil))
			if meshFirst {
				m.wantStatus(t, "virtual-mesh", networkingv1.Pending, "waiting for an istiod Deployment with this name")
				shared.MustApply(t, m.istiod)
			}
			made := m.wantCertificate(t, m.wantHost("cluster.local"))
			vault := made.Spec.AgentCA.Vault
			if vault.Server != "http://vault.vault:8200" || vault.CAPath != "pki/root/sign-intermediate" || vault.KubernetesAuth.Role != "gen-int-ca-istio" {
				t.Errorf("its Vault is %+v", vault)
			}
			if o := made.Spec.CertOptions; *o.TTLDays != 365 || *o.RSAKeySizeBytes != 4096 || o.OrgName != "Istio" || *o.SecretRotationGracePeriodRatio != 0.1 {
				t.Errorf("its options are %+v", o)
			}
			status := m.wantStatus(t, "virtual-mesh", networkingv1.Accepted, "1 of 2 meshes are in this cluster")
			other := status.Meshes["istiod-"+m.namespace+"-cluster-2.gloo-mesh."]
			if other.State != "" || !strings.Contains(other.Message, "not in this cluster") {
				t.Errorf("the other cluster's mesh: %+v", other)
			}
			if len(status.NotActedOn) != 1 || !strings.HasPrefix(status.NotActedOn[0], "spec.mtlsConfig.autoRestartPods: ") {
				t.Errorf("not acted on: %q", status.NotActedOn)
			}
		})
	}
}

// The trust domain comes from istiod's ConfigMap. Without it the controller does not guess.
func TestTrustDomain(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "")
	shared.MustApply(t, m.istiod)
	m.apply(t, m.guide(t, "virtual-mesh", nil))
	m.wantStatus(t, "virtual-mesh", networkingv1.Pending, "waiting for the ConfigMap "+m.namespace+"/istio")
	// One without the charts' label is found as well.
	configuration := m.configMap("one.example", nil)
	must(t, shared.Create(t.Context(), configuration))
	m.wantCertificate(t, m.wantHost("one.example"))
	configuration.Data["mesh"] = "trustDomain: two.example"
	must(t, shared.Update(t.Context(), configuration))
	m.wantCertificate(t, m.wantHost("two.example"))
}

// The IssuedCertificate follows the VirtualMesh, and other changes of its fields are reverted. A person's additions stay.
func TestChanges(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "cluster.local")
	shared.MustApply(t, m.istiod)
	m.apply(t, m.guide(t, "virtual-mesh", nil))
	made := m.wantCertificate(t, m.wantHost("cluster.local"))
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": certificatesv1.GroupVersion.String(), "kind": certificatesv1.Kind,
		"metadata": map[string]any{"name": made.Name, "namespace": made.Namespace},
	}}
	renew := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"annotations":{"istiod-agent.io/renew":"now"}}}`))
	must(t, shared.Patch(t.Context(), object.DeepCopy(), renew))

	m.apply(t, m.guide(t, "virtual-mesh", func(spec map[string]any) { vaultOf(spec)["server"] = "https://other:8200" }))
	as := func(server string) func(*certificatesv1.IssuedCertificate) error {
		return func(c *certificatesv1.IssuedCertificate) error {
			if c.Spec.AgentCA == nil || c.Spec.AgentCA.Vault.Server != server || c.Annotations["istiod-agent.io/renew"] != "now" || c.UID != made.UID {
				return fmt.Errorf("it is %+v", c)
			}
			return nil
		}
	}
	m.wantCertificate(t, as("https://other:8200"))
	edit := client.RawPatch(types.MergePatchType, []byte(`{"spec":{"agentCa":{"vault":{"server":"https://mine:8200"}}}}`))
	must(t, shared.Patch(t.Context(), object.DeepCopy(), edit))
	m.wantCertificate(t, as("https://other:8200"))

	must(t, shared.Delete(t.Context(), object.DeepCopy()))
	m.wantCertificate(t, func(c *certificatesv1.IssuedCertificate) error {
		if c.UID == made.UID {
			return errors.New("it is still the old one")
		}
		return nil
	})
	// What an agent reports is passed on.
	reported := object.DeepCopy()
	reported.Object["status"] = map[string]any{"state": "FAILED", "error": "Vault is sealed"}
	must(t, shared.Status().Apply(t.Context(), client.ApplyConfigurationFromUnstructured(reported), client.FieldOwner("istiod-agent/x"), client.ForceOwnership))
	m.wantStatus(t, "virtual-mesh", networkingv1.Accepted, "Vault is sealed")
}

// An IssuedCertificate without a VirtualMesh is deleted.
func TestUnneededIssuedCertificate(t *testing.T) {
	t.Parallel()
	for name, take := range map[string]func(t *testing.T, m *mesh, object *unstructured.Unstructured){
		"the VirtualMesh": func(t *testing.T, _ *mesh, object *unstructured.Unstructured) {
			t.Helper()
			must(t, shared.Delete(t.Context(), object.DeepCopy()))
		},
		"the mesh in it": func(t *testing.T, m *mesh, _ *unstructured.Unstructured) {
			t.Helper()
			m.apply(t, m.guide(t, "virtual-mesh", func(spec map[string]any) { spec["meshes"] = spec["meshes"].([]any)[1:] }))
		},
		"the CA": func(t *testing.T, m *mesh, object *unstructured.Unstructured) {
			t.Helper()
			must(t, shared.Delete(t.Context(), object.DeepCopy()))
			m.apply(t, m.guide(t, "virtual-mesh", func(spec map[string]any) { delete(spec, "mtlsConfig") }))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMesh(t, "cluster.local")
			shared.MustApply(t, m.istiod)
			object := m.guide(t, "virtual-mesh", nil)
			m.apply(t, object)
			m.wantCertificate(t, m.wantHost("cluster.local"))
			take(t, m, object)
			m.wantNoCertificate(t, m.name())
		})
	}
}

// A revision beside the default istiod is a separate mesh. Its removal does not affect the default.
func TestRevision(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "cluster.local")
	canary := cluster.Istiod(t, m.namespace, helm.Values{"revision": "canary"})
	configuration := m.configMap("cluster.local", map[string]string{"istio.io/rev": "canary"})
	configuration.Name = "istio-canary"
	m.letReadConfigMaps(t)
	must(t, shared.Create(t.Context(), configuration))
	for _, istiod := range []*unstructured.Unstructured{m.istiod, canary} {
		shared.MustApply(t, istiod)
	}
	m.apply(t, m.guide(t, "virtual-mesh", func(spec map[string]any) {
		spec["meshes"] = []any{map[string]any{"name": m.name()}, map[string]any{"name": "istiod-canary-" + m.namespace + "-cluster-1"}}
	}))
	before := m.wantCertificate(t, m.wantHost("cluster.local"))
	cluster.Eventually(t, "the canary has one", func() error {
		made, err := m.certificate(t, "istiod-canary-"+m.namespace+"-cluster-1")
		if err == nil && !strings.HasSuffix(made.Spec.Hosts[0], "/sa/istiod-canary") {
			err = fmt.Errorf("hosts %q", made.Spec.Hosts)
		}
		return err
	})
	must(t, shared.Delete(t.Context(), canary.DeepCopy()))
	m.wantStatus(t, "virtual-mesh", networkingv1.Pending, "waiting for an istiod Deployment with this name") // and what is there stays
	m.apply(t, m.guide(t, "virtual-mesh", func(spec map[string]any) { spec["meshes"] = []any{map[string]any{"name": m.name()}} }))
	m.wantNoCertificate(t, "istiod-canary-"+m.namespace+"-cluster-1")
	if after := m.wantCertificate(t, m.wantHost("cluster.local")); after.UID != before.UID || after.ResourceVersion != before.ResourceVersion {
		t.Error("the default istiod's was written")
	}
}

// Without the right to read a revision's ConfigMap the status names the chart's value that lacks the namespace.
func TestRevisionWithoutRights(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "cluster.local")
	configuration := m.configMap("cluster.local", map[string]string{"istio.io/rev": "canary"})
	configuration.Name = "istio-canary"
	must(t, shared.Create(t.Context(), configuration))
	shared.MustApply(t, cluster.Istiod(t, m.namespace, helm.Values{"revision": "canary"}))
	m.apply(t, m.guide(t, "virtual-mesh", func(spec map[string]any) {
		spec["meshes"] = []any{map[string]any{"name": "istiod-canary-" + m.namespace + "-cluster-1"}}
	}))
	m.wantStatus(t, "virtual-mesh", networkingv1.Pending, "the webhook cannot read the ConfigMap "+m.namespace+"/istio-canary")
	m.wantStatus(t, "virtual-mesh", networkingv1.Pending, "istiodSidecar.namespaces")
}

// Of two VirtualMeshes the older one counts, and both report it. After its deletion the other adopts the IssuedCertificate.
func TestTwoVirtualMeshes(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "cluster.local")
	shared.MustApply(t, m.istiod)
	// Of the same second, the first by name counts.
	m.apply(t, m.guide(t, "a-first", nil))
	made := m.wantCertificate(t, m.wantHost("cluster.local"))
	m.apply(t, m.guide(t, "b-second", func(spec map[string]any) { vaultOf(spec)["server"] = "https://second:8200" }))
	m.wantStatus(t, "b-second", networkingv1.Failed, "VirtualMesh "+m.key("a-first").String()+" already governs")
	m.wantStatus(t, "a-first", networkingv1.Accepted, "VirtualMesh "+m.key("b-second").String()+" names this mesh too")
	must(t, shared.Delete(t.Context(), m.guide(t, "a-first", nil)))
	m.wantCertificate(t, func(c *certificatesv1.IssuedCertificate) error {
		if c.Spec.AgentCA.Vault.Server != "https://second:8200" {
			return fmt.Errorf("its Vault is %s", c.Spec.AgentCA.Vault.Server)
		}
		return nil
	})
	m.wantStatus(t, "b-second", networkingv1.Accepted, "")
	if after := m.wantCertificate(t, m.wantHost("cluster.local")); after.Annotations["istiod-agent.io/virtual-mesh"] != m.key("b-second").String() || after.UID != made.UID {
		t.Errorf("it is for %v, as %s (it was %s)", after.Annotations, after.UID, made.UID)
	}
}

// The controller does not change an IssuedCertificate that another program created.
func TestForeignIssuedCertificate(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "cluster.local")
	shared.MustApply(t, m.istiod)
	theirs := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": certificatesv1.GroupVersion.String(), "kind": certificatesv1.Kind,
		"metadata": map[string]any{"name": m.name(), "namespace": m.namespace},
		"spec":     map[string]any{"hosts": []any{"spiffe://theirs/ns/a/sa/b"}},
	}}
	must(t, shared.Create(t.Context(), theirs))
	object := m.guide(t, "virtual-mesh", nil)
	m.apply(t, object)
	m.wantStatus(t, "virtual-mesh", networkingv1.Failed, "another program created")
	must(t, shared.Delete(t.Context(), object.DeepCopy()))
	if kept, err := m.certificate(t, m.name()); err != nil || kept.Spec.Hosts[0] != "spiffe://theirs/ns/a/sa/b" {
		t.Errorf("%+v, %v", kept, err)
	}
}

// The webhook rejects mistakes that no schema finds, with their path and the expected value. Package crds tests the schema.
func TestValidation(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "cluster.local")
	const (
		shares = "spec.mtlsConfig.shared"
		vault  = shares + ".intermediateCertificateAuthority.vault"
		auth   = vault + ".kubernetesAuth"
	)
	set := func(field string, value any) func(*unstructured.Unstructured) {
		return func(object *unstructured.Unstructured) {
			_ = unstructured.SetNestedField(object.Object, value, strings.Split(field, ".")...)
		}
	}
	annotations := func(all map[string]string) func(*unstructured.Unstructured) {
		return func(object *unstructured.Unstructured) { object.SetAnnotations(all) }
	}
	for name, test := range map[string]struct {
		spoil func(*unstructured.Unstructured)
		field string
		says  string
	}{
		"no URL":                        {set(vault+".server", "vault"), vault + ".server", "expected https://<host>[:<port>]"},
		"a path in the server":          {set(vault+".server", "https://vault:8200/v1"), vault + ".server", "contains a path"},
		"a password in the server":      {set(vault+".server", "https://a:b@vault:8200"), vault + ".server", "a user name or a password"},
		"no port":                       {set(vault+".server", "https://vault:"), vault + ".server", "has no port"},
		"certificates that are none":    {set(vault+".caBundle", "YWI="), vault + ".caBundle", "expected PEM certificates"},
		"a path that signs leaves":      {set(vault+".caPath", "pki/sign/istio"), vault + ".caPath", "signs leaf certificates"},
		"a CA path that is none":        {set(vault+".caPath", "pki"), vault + ".caPath", "expected <mount>/root/sign-intermediate"},
		"a key that stays in Vault":     {set(vault+".csrPath", "pki_int/intermediate/generate/internal"), vault + ".csrPath", "never leave Vault"},
		"a CSR path that is none":       {set(vault+".csrPath", "pki_int"), vault + ".csrPath", "expected <mount>/intermediate/generate/exported"},
		"a Vault namespace that climbs": {set(vault+".namespace", "a/../b"), vault + ".namespace", "expected a Vault namespace"},
		"a role that is none":           {set(auth+".role", "a b"), auth + ".role", "expected letters, digits"},
		"a login mount that is none":    {set(auth+".mountPath", "kubernetes"), auth + ".mountPath", "expected /v1/auth/<mount>"},
		"a relative path":               {set(auth+".mountedSaPath", "a"), auth + ".mountedSaPath", "expected the absolute path"},
		"a token file that is none":     {set(auth+".secretTokenKey", "a/b"), auth + ".secretTokenKey", "expected the name of a file"},
		"an audience with a space":      {set(auth+".audience", "a b"), auth + ".audience", "without spaces"},
		"an organization with a comma":  {set(shares+".intermediateCertOptions", map[string]any{"orgName": "a,b"}), shares + ".intermediateCertOptions.orgName", "expected"},
		"a mesh twice":                  {set("spec.meshes", []any{map[string]any{"name": "a"}, map[string]any{"name": "a"}}), "spec.meshes[1]", "Duplicate value"},
		"a mesh that no object is":      {set("spec.meshes", []any{map[string]any{"name": "A B"}}), "spec.meshes[0].name", "in lower case"},
		"a namespace that no object is": {set("spec.meshes", []any{map[string]any{"name": "a", "namespace": "A"}}), "spec.meshes[0].namespace", "lower case"},
		"an unknown word":               {annotations(map[string]string{networkingv1.RootRotationAnnotation: "go"}), "metadata.annotations[istiod-agent.io/root-rotation]", `supported values: "trust-both"`},
		"roots that are none":           {annotations(map[string]string{networkingv1.RootRotationAnnotation: "trust-both", networkingv1.TrustedRootsAnnotation: "a"}), "metadata.annotations[istiod-agent.io/trusted-roots]", "expected PEM certificates"},
	} {
		t.Run(name, func(t *testing.T) {
			object := m.guide(t, "virtual-mesh", nil)
			test.spoil(object)
			err := shared.Create(t.Context(), object, client.DryRunAll)
			var refusal apierrors.APIStatus
			if !errors.As(err, &refusal) || !apierrors.IsInvalid(err) {
				t.Fatalf("want a refusal, got: %v", err)
			}
			if !slices.ContainsFunc(refusal.Status().Details.Causes, func(cause metav1.StatusCause) bool {
				return cause.Field == test.field && strings.Contains(cause.Message, test.says)
			}) {
				t.Errorf("%s does not say %q: %v", test.field, test.says, err)
			}
			if strings.Contains(err.Error(), "a:b@") {
				t.Error("the password is quoted")
			}
		})
	}
}

// Another writer's fields of the status stay, and the controller restores its own.
func TestSharedStatus(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "cluster.local")
	shared.MustApply(t, m.istiod)
	m.apply(t, m.guide(t, "virtual-mesh", nil))
	m.wantStatus(t, "virtual-mesh", networkingv1.Accepted, "1 of 2")
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(networkingv1.GroupVersion.WithKind(networkingv1.Kind))
	object.SetName(m.key("virtual-mesh").Name)
	object.SetNamespace(home)
	theirs := client.RawPatch(types.MergePatchType, []byte(`{"status":{"state":"PENDING","destinations":{"x":{"state":"ACCEPTED"}}}}`))
	must(t, shared.Status().Patch(t.Context(), object, theirs, client.FieldOwner("gloo-mesh")))
	m.wantStatus(t, "virtual-mesh", networkingv1.Accepted, "destinations")
}

// The guide's VirtualMesh verbatim, in a cluster under each name that it lists: the controller manages that cluster's mesh, and
// deletes what it created under another name.
func TestGuideInEachCluster(t *testing.T) {
	for _, namespace := range []string{"gloo-mesh", "istio-system"} {
		must(t, client.IgnoreAlreadyExists(shared.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})))
	}
	must(t, shared.SetInjection(t.Context(), "istio-system", true))
	m := &mesh{namespace: "istio-system"}
	m.istiod = cluster.Istiod(t, m.namespace)
	t.Cleanup(func() { must(t, shared.Delete(context.Background(), m.istiod.DeepCopy())) })
	must(t, shared.Create(t.Context(), m.configMap("cluster.local", map[string]string{"istio.io/rev": "default"})))
	shared.MustApply(t, m.istiod)
	object := sample(t)
	t.Cleanup(func() { must(t, shared.Delete(context.Background(), object.DeepCopy())) })
	m.apply(t, object)

	names := []string{"cluster-1", "cluster-2"}
	for i, name := range names {
		if i > 0 {
			must(t, shared.Webhook.Reconfigure(t.Context(), map[string]any{"clusterName": name}))
		}
		mine, other := "istiod-istio-system-"+name, "istiod-istio-system-"+names[1-i]
		cluster.Eventually(t, name+" acts on its mesh", func() error {
			made, err := m.certificate(t, mine)
			if err == nil {
				err = m.wantHost("cluster.local")(made)
			}
			return err
		})
		m.wantNoCertificate(t, other)
		status := m.wantStatus(t, "virtual-mesh", networkingv1.Accepted, "the mesh is not in this cluster, "+name)
		if made := status.Meshes[mine+".gloo-mesh."].IssuedCertificate; made == nil || made.Name != mine || made.Namespace != "istio-system" {
			t.Errorf("in %s its mesh is %+v", name, status.Meshes)
		}
	}
	must(t, shared.Webhook.Reconfigure(t.Context(), map[string]any{"clusterName": names[0]}))
}

// The program watches only what it acts on: all objects of its own kinds, and of other kinds those with a label or a name,
// since a cluster has many.
func TestWatches(t *testing.T) {
	m := newMesh(t, "cluster.local")
	shared.MustApply(t, m.istiod)
	m.apply(t, m.guide(t, "virtual-mesh", nil))
	m.wantCertificate(t, m.wantHost("cluster.local")) // the controllers have started
	whole := []string{networkingv1.VirtualMeshes.Resource, certificatesv1.IssuedCertificates.Resource, certificatesv1.PodBounceDirectives.Resource}
	watched := map[string]bool{}
	for _, event := range requests(t, func(event *controlplane.AuditEvent) bool { return event.Verb == "watch" || event.Verb == "list" }) {
		resource := event.ObjectRef.Resource
		watched[resource] = true
		if !slices.Contains(whole, resource) && !strings.Contains(event.RequestURI, "labelSelector=") && !strings.Contains(event.RequestURI, "fieldSelector=") {
			t.Errorf("all %s are asked for: %s %s", resource, event.Verb, event.RequestURI)
		}
	}
	for _, resource := range append(whole, "deployments", "pods", "configmaps", "namespaces") {
		if !watched[resource] {
			t.Errorf("no watch of %s was seen, only of %v", resource, watched)
		}
	}
}

// When the leader ends, the other replica continues, and also handles what was deleted meanwhile.
func TestLeaderChange(t *testing.T) {
	m := newMesh(t, "cluster.local")
	shared.MustApply(t, m.istiod)
	object := m.guide(t, "virtual-mesh", nil)
	m.apply(t, object)
	m.wantCertificate(t, m.wantHost("cluster.local"))
	other := newMesh(t, "cluster.local")
	shared.MustApply(t, other.istiod) // which the webhook must admit
	must(t, shared.Webhook.StopReplicas())
	must(t, shared.Delete(t.Context(), object.DeepCopy()))
	// Nobody looks at what is applied now; the one after it must not suffer.
	bad := m.guide(t, "a-bad-one", func(spec map[string]any) { vaultOf(spec)["server"] = "no URL" })
	m.apply(t, bad)
	other.apply(t, other.guide(t, "virtual-mesh", nil))
	_, err := shared.Webhook.Scale(t.Context())
	must(t, err)
	m.wantStatus(t, "a-bad-one", networkingv1.Invalid, "spec.mtlsConfig.shared.intermediateCertificateAuthority.vault.server")
	other.wantCertificate(t, other.wantHost("cluster.local"))
	other.wantStatus(t, "virtual-mesh", networkingv1.Accepted, "")
	// What the bad one names stays until it is gone too.
	_, err = m.certificate(t, m.name())
	must(t, err)
	must(t, shared.Delete(t.Context(), bad))
	m.wantNoCertificate(t, m.name())
}
