// SPDX-License-Identifier: Apache-2.0

// Package virtualmesh tests the controller of VirtualMeshes with the chart's rights and its admission webhook.
package virtualmesh

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/check"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/manifest"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

var must = check.Must

var shared *cluster.Cluster

func TestMain(m *testing.M) {
	cluster.Main(m, &shared, &webhookserver.Options{Replicas: 2, Values: helm.Values{"clusterName": "cluster-1"}})
}

// home is the namespace of VirtualMeshes, which the chart's default allows.
const home = "gloo-mesh"

// mesh is an istiod in a labelled namespace of one test, with its VirtualMeshes in home.
type mesh struct {
	namespace string
	istiod    *unstructured.Unstructured
	// suffix of the names of its VirtualMeshes.
	suffix string
}

// key returns the key of a VirtualMesh of this test.
func (m *mesh) key(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: home, Name: name + m.suffix}
}

// newMesh returns an istiod of Istio's chart, not applied yet, and applies its ConfigMap.
func newMesh(t *testing.T, trustDomain string, values ...helm.Values) *mesh {
	t.Helper()
	m := &mesh{namespace: shared.Namespace(t, true)}
	m.suffix = "-of-" + m.namespace
	must(t, client.IgnoreAlreadyExists(shared.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: home}})))
	m.istiod = cluster.Istiod(t, m.namespace, values...)
	if trustDomain != "" {
		must(t, shared.Create(t.Context(), m.configMap(trustDomain, map[string]string{"istio.io/rev": "default"})))
	}
	return m
}

func (m *mesh) configMap(trustDomain string, labels map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "istio", Namespace: m.namespace, Labels: labels},
		Data:       map[string]string{"mesh": "trustDomain: " + trustDomain + "\nrootNamespace: " + m.namespace, "meshNetworks": "networks: {}"},
	}
}

// letReadConfigMaps creates the chart's Role for the namespaces of istiodSidecar, which permits reading revisions' ConfigMaps.
func (m *mesh) letReadConfigMaps(t *testing.T) {
	t.Helper()
	at := metav1.ObjectMeta{Namespace: m.namespace, Name: "istiod-agent.webhook"}
	must(t, shared.Create(t.Context(), &rbacv1.Role{ObjectMeta: at, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"get"}},
	}}))
	must(t, shared.Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: at,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: at.Name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: webhookserver.Release.Namespace, Name: webhookserver.Name}},
	}))
}

func (m *mesh) name() string { return "istiod-" + m.namespace + "-cluster-1" }

// certificateObject returns the name of the IssuedCertificate of this namespace's istiod.
func (m *mesh) certificateObject() *unstructured.Unstructured {
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(certificatesv1.GroupVersion.WithKind(certificatesv1.Kind))
	object.SetName(m.name())
	object.SetNamespace(m.namespace)
	return object
}

// guide returns the guide's VirtualMesh for this test's istiod.
func (m *mesh) guide(t *testing.T, name string, change func(spec map[string]any)) *unstructured.Unstructured {
	t.Helper()
	object := sample(t)
	for _, ref := range object.Object["spec"].(map[string]any)["meshes"].([]any) {
		ref := ref.(map[string]any)
		ref["name"] = strings.Replace(ref["name"].(string), "istio-system", m.namespace, 1)
	}
	object.SetName(m.key(name).Name)
	object.SetNamespace(home)
	if change != nil {
		change(object.Object["spec"].(map[string]any))
	}
	t.Cleanup(func() { _ = client.IgnoreNotFound(shared.Delete(t.Context(), object.DeepCopy())) })
	return object
}

// sample returns the guide's VirtualMesh verbatim.
func sample(t *testing.T) *unstructured.Unstructured {
	t.Helper()
	root, err := built.Root()
	must(t, err)
	content, err := os.ReadFile(filepath.Join(root, "config", "samples", "virtualmesh.yaml"))
	must(t, err)
	objects, err := manifest.Parse(content)
	must(t, err)
	return objects[0]
}

func (m *mesh) apply(t *testing.T, object *unstructured.Unstructured) {
	t.Helper()
	_, err := shared.ServerSideApply(t.Context(), object, client.ForceOwnership)
	must(t, err)
}

// vaultOf returns the Vault in a VirtualMesh's specification.
func vaultOf(spec map[string]any) map[string]any {
	vault, _, _ := unstructured.NestedFieldNoCopy(spec, "mtlsConfig", "shared", "intermediateCertificateAuthority", "vault")
	return vault.(map[string]any)
}

// certificate reads the IssuedCertificate of a mesh of this namespace.
func (m *mesh) certificate(t *testing.T, name string) (*certificatesv1.IssuedCertificate, error) {
	t.Helper()
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(certificatesv1.GroupVersion.WithKind(certificatesv1.Kind))
	if err := shared.Get(t.Context(), types.NamespacedName{Namespace: m.namespace, Name: name}, object); err != nil {
		return nil, err
	}
	var certificate certificatesv1.IssuedCertificate
	return &certificate, runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &certificate)
}

// wantCertificate waits until the IssuedCertificate passes a check.
func (m *mesh) wantCertificate(t *testing.T, verify func(*certificatesv1.IssuedCertificate) error) (found *certificatesv1.IssuedCertificate) {
	t.Helper()
	cluster.Eventually(t, "the IssuedCertificate is as it should be", func() (err error) {
		if found, err = m.certificate(t, m.name()); err != nil {
			return err
		}
		return verify(found)
	})
	return found
}

// wantHost checks the only host of an IssuedCertificate.
func (m *mesh) wantHost(trustDomain string) func(*certificatesv1.IssuedCertificate) error {
	return func(c *certificatesv1.IssuedCertificate) error {
		if want := "spiffe://" + trustDomain + "/ns/" + m.namespace + "/sa/istiod"; !slices.Equal(c.Spec.Hosts, []string{want}) {
			return fmt.Errorf("hosts %q, want %q", c.Spec.Hosts, want)
		}
		return nil
	}
}

func (m *mesh) wantNoCertificate(t *testing.T, name string) {
	t.Helper()
	cluster.Eventually(t, "the IssuedCertificate is gone", func() error {
		if _, err := m.certificate(t, name); !apierrors.IsNotFound(err) {
			return errors.Join(errors.New("it is there"), err)
		}
		return nil
	})
}

// stored returns a VirtualMesh of this test with its status.
func (m *mesh) stored(t *testing.T, name string) (*unstructured.Unstructured, networkingv1.VirtualMeshStatus, error) {
	t.Helper()
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(networkingv1.GroupVersion.WithKind(networkingv1.Kind))
	if err := shared.Get(t.Context(), m.key(name), object); err != nil {
		return nil, networkingv1.VirtualMeshStatus{}, err
	}
	stored, _, _ := unstructured.NestedMap(object.Object, "status")
	var status networkingv1.VirtualMeshStatus
	return object, status, runtime.DefaultUnstructuredConverter.FromUnstructured(stored, &status)
}

// wantStatus waits until a VirtualMesh's status has a state and holds a text.
func (m *mesh) wantStatus(t *testing.T, name string, state networkingv1.ApprovalState, says string) (status networkingv1.VirtualMeshStatus) {
	t.Helper()
	cluster.Eventually(t, fmt.Sprintf("VirtualMesh %s is %s: %s", name, state, says), func() (err error) {
		var object *unstructured.Unstructured
		if object, status, err = m.stored(t, name); err != nil {
			return err
		}
		if stored := object.Object["status"]; status.State != state || status.ObservedGeneration != object.GetGeneration() || !strings.Contains(fmt.Sprint(stored), says) {
			return fmt.Errorf("generation %d, status %v", object.GetGeneration(), stored)
		}
		return nil
	})
	return status
}
