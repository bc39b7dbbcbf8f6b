// SPDX-License-Identifier: Apache-2.0

package virtualmesh

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
)

// tenant is a user with rights in one namespace, which is not labelled.
type tenant struct {
	client.Client
	namespace string
	warnings  warnings
}

type warnings struct{ said []string }

func (w *warnings) HandleWarningHeader(_ int, _, text string) { w.said = append(w.said, text) }

// newTenant returns a user with the rights of a rule in a namespace of their own, and no others.
func newTenant(t *testing.T, rule rbacv1.PolicyRule) *tenant {
	t.Helper()
	user := &tenant{namespace: shared.Namespace(t, false)}
	name := "tenant-of-" + user.namespace
	must(t, shared.Create(t.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: user.namespace}, Rules: []rbacv1.PolicyRule{rule}}))
	must(t, shared.Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: user.namespace},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}},
	}))
	config := rest.CopyConfig(shared.Plane.Config)
	config.Impersonate = rest.ImpersonationConfig{UserName: name, Groups: []string{"system:authenticated"}}
	config.WarningHandler = &user.warnings
	var err error
	user.Client, err = client.New(config, client.Options{})
	must(t, err)
	return user
}

// ofTheirs returns a VirtualMesh for the mesh in the tenant's namespace, with the tenant's server.
func (u *tenant) ofTheirs(t *testing.T, m *mesh) *unstructured.Unstructured {
	t.Helper()
	object := m.guide(t, "virtual-mesh", func(spec map[string]any) { vaultOf(spec)["server"] = "https://attacker:8200" })
	object.SetNamespace(u.namespace)
	return object
}

// statusOf returns the status of a VirtualMesh as text.
func statusOf(t *testing.T, object *unstructured.Unstructured) string {
	t.Helper()
	stored := object.DeepCopy()
	must(t, shared.Get(t.Context(), client.ObjectKeyFromObject(object), stored))
	return fmt.Sprint(stored.Object["status"])
}

func (m *mesh) wantServer(server string) func(*certificatesv1.IssuedCertificate) error {
	return func(c *certificatesv1.IssuedCertificate) error {
		if ca := c.Spec.AgentCA; ca == nil || ca.Vault == nil || ca.CertManager != nil || ca.Vault.Server != server {
			return fmt.Errorf("its CA is %+v", c.Spec.AgentCA)
		}
		return nil
	}
}

// A tenant's VirtualMesh never gets a mesh, even if it was first and is the only one. The warning names the chart's value to
// set, and its deletion deletes nothing else.
func TestTenantVirtualMesh(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "cluster.local")
	user := newTenant(t, rbacv1.PolicyRule{APIGroups: []string{networkingv1.GroupVersion.Group}, Resources: []string{"virtualmeshes"}, Verbs: []string{"create", "update", "patch", "delete", "get"}})
	shared.MustApply(t, m.istiod)
	theirs := user.ofTheirs(t, m)
	must(t, user.Create(t.Context(), theirs))
	if said := strings.Join(user.warnings.said, "\n"); !strings.Contains(said, "NamespaceNotAllowed") || !strings.Contains(said, "virtualMesh.namespaces") {
		t.Errorf("admission warned: %s", said)
	}
	cluster.Eventually(t, "the status says which value to set", func() error {
		if status := statusOf(t, theirs); !strings.Contains(status, "NamespaceNotAllowed") || !strings.Contains(status, "virtualMesh.namespaces") {
			return errors.New(status)
		}
		return nil
	})
	if made, err := m.certificate(t, m.name()); client.IgnoreNotFound(err) != nil || made != nil {
		t.Errorf("it has an IssuedCertificate: %+v, %v", made, err)
	}
	m.apply(t, m.guide(t, "virtual-mesh", nil))
	made := m.wantCertificate(t, m.wantServer("http://vault.vault:8200"))
	must(t, user.Delete(t.Context(), theirs))
	m.wantStatus(t, "virtual-mesh", networkingv1.Accepted, "1 of 2")
	if after := m.wantCertificate(t, m.wantServer("http://vault.vault:8200")); after.UID != made.UID {
		t.Error("the IssuedCertificate was made again")
	}
}

// The IssuedCertificate of a VirtualMesh whose namespace is no longer allowed stays until a VirtualMesh of an allowed
// namespace adopts it.
func TestUpgradeKeepsIssuedCertificate(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "cluster.local")
	elsewhere := shared.Namespace(t, false)
	old := m.guide(t, "virtual-mesh", nil)
	old.SetNamespace(elsewhere)
	m.apply(t, old)
	before := m.certificateObject()
	before.SetLabels(map[string]string{"app.kubernetes.io/managed-by": "istiod-agent-webhook"})
	before.SetAnnotations(map[string]string{"istiod-agent.io/virtual-mesh": elsewhere + "/" + old.GetName()})
	before.Object["spec"] = map[string]any{"hosts": []any{"spiffe://cluster.local/ns/" + m.namespace + "/sa/istiod"}}
	must(t, shared.Create(t.Context(), before))
	shared.MustApply(t, m.istiod)
	cluster.Eventually(t, "the status names it", func() error {
		if status := statusOf(t, old); !strings.Contains(status, m.namespace+"/"+m.name()+", applied for this VirtualMesh before, does not change") {
			return errors.New(status)
		}
		return nil
	})
	m.apply(t, m.guide(t, "virtual-mesh", nil))
	after := m.wantCertificate(t, m.wantServer("http://vault.vault:8200"))
	if after.UID != before.GetUID() {
		t.Error("the IssuedCertificate was made again")
	}
}

// A tenant's Deployment with the mesh name of istiod changes nothing for istiod.
func TestTenantDeployment(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "cluster.local")
	shared.MustApply(t, m.istiod)
	m.apply(t, m.guide(t, "virtual-mesh", nil))
	made := m.wantCertificate(t, m.wantHost("cluster.local"))
	// istiod in a-b is istiod-a in b.
	head, tail, _ := strings.Cut(m.namespace, "-")
	must(t, client.IgnoreAlreadyExists(shared.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: tail}})))
	theirs := cluster.Istiod(t, tail)
	theirs.SetName("istiod-" + head)
	shared.MustApply(t, theirs)
	// The controller has seen it when it has acted on what came after it.
	m.apply(t, m.guide(t, "virtual-mesh", func(spec map[string]any) { vaultOf(spec)["server"] = "https://later:8200" }))
	after := m.wantCertificate(t, m.wantServer("https://later:8200"))
	if after.UID != made.UID {
		t.Error("the IssuedCertificate was made again")
	}
	// Also when its namespace has opted in, which takes a person who may label it.
	shared.Label(t, tail, true)
	m.wantStatus(t, "virtual-mesh", networkingv1.Accepted, "istiod "+tail+"/istiod-"+head+" has the same mesh name")
	if after := m.wantCertificate(t, m.wantServer("https://later:8200")); after.UID != made.UID {
		t.Error("the IssuedCertificate was made again")
	}
	shared.Label(t, tail, false)
	must(t, shared.Delete(t.Context(), theirs.DeepCopy()))
}
