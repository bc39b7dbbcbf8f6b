// SPDX-License-Identifier: Apache-2.0

package configurations

import (
	"fmt"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

// A new revision needs neither a chart value nor an entry in a VirtualMesh: its service account gets the agent's rights and it
// gets an IssuedCertificate. Both are deleted with it. No other account gets rights, and the webhook can grant no others.
func TestRevisionsByPattern(t *testing.T) {
	namespace, other := shared.Namespace(t, true), shared.Namespace(t, true)
	installed(t, webhookserver.Options{Values: helm.Values{
		"clusterName":   "cluster-1",
		"istiodSidecar": helm.Values{"serviceAccounts": []any{}, "namespaces": []any{namespace}},
	}})
	for _, at := range []string{namespace, other} {
		for _, name := range []string{"istio", "istio-canary"} {
			configuration := &corev1.ConfigMap{
				ObjectMeta: metav1.ObjectMeta{Namespace: at, Name: name, Labels: map[string]string{"istio.io/rev": "any"}},
				Data:       map[string]string{"mesh": "trustDomain: cluster.local"},
			}
			if err := client.IgnoreAlreadyExists(shared.Create(t.Context(), configuration)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := shared.Create(t.Context(), virtualMesh("*-"+namespace+"-cluster-1")); err != nil {
		t.Fatal(err)
	}

	shared.MustApply(t, cluster.Istiod(t, namespace))
	shared.MustApply(t, cluster.Istiod(t, other))
	revision := cluster.Istiod(t, namespace, helm.Values{"revision": "canary"})
	shared.MustApply(t, revision)
	for _, account := range []string{"istiod", "istiod-canary"} {
		cluster.Eventually(t, account+" has its rights", func() error { return wantRights(t, namespace, account, true) })
		cluster.Eventually(t, account+" has its IssuedCertificate", func() error { return issued(t, namespace, account, true) })
	}
	if err := wantRights(t, other, "istiod", false); err != nil {
		t.Error(err)
	}
	if err := wantRights(t, namespace, "stranger", false); err != nil {
		t.Error(err)
	}
	if err := issued(t, other, "istiod", false); err != nil {
		t.Error(err)
	}

	values := helm.Values{
		"commonLabels": helm.Values{"upgraded": "yes"}, "clusterName": "cluster-1",
		"istiodSidecar": helm.Values{"serviceAccounts": []any{}, "namespaces": []any{namespace}},
	}
	if err := shared.Webhook.Upgrade(t.Context(), webhookserver.Release, values); err != nil {
		t.Fatal(err)
	}
	if err := wantRights(t, namespace, "istiod-canary", true); err != nil {
		t.Errorf("after an upgrade: %v", err)
	}
	if err := shared.Delete(t.Context(), revision); err != nil {
		t.Fatal(err)
	}
	cluster.Eventually(t, "the revision's rights are gone", func() error { return wantRights(t, namespace, "istiod-canary", false) })
	cluster.Eventually(t, "the revision's IssuedCertificate is gone", func() error { return issued(t, namespace, "istiod-canary", false) })
	if err := issued(t, namespace, "istiod", true); err != nil {
		t.Error(err)
	}

	program := asTheWebhook(t)
	for what, attempt := range map[string]func() error{
		"another RoleBinding": func() error {
			return program.Create(t.Context(), &rbacv1.RoleBinding{
				ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "another"},
				RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "istiod-agent.istiods"},
			})
		},
		"another namespace's": func() error {
			return program.Create(t.Context(), &rbacv1.RoleBinding{
				ObjectMeta: metav1.ObjectMeta{Namespace: other, Name: "istiod-agent.istiods"},
				RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "istiod-agent.istiods"},
			})
		},
		"its own RoleBinding": func() error {
			binding := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "istiod-agent.webhook"}}
			return program.Patch(t.Context(), binding, client.RawPatch(types.MergePatchType, []byte(`{"subjects":[]}`)))
		},
		"the Role's rules": func() error {
			role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "istiod-agent.istiods"}}
			return program.Patch(t.Context(), role, client.RawPatch(types.MergePatchType, []byte(`{"rules":[]}`)))
		},
	} {
		if err := attempt(); !apierrors.IsForbidden(err) {
			t.Errorf("the webhook may change %s: %v", what, err)
		}
	}
}

func virtualMesh(meshes ...string) *unstructured.Unstructured {
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(networkingv1.GroupVersion.WithKind(networkingv1.Kind))
	object.SetNamespace(webhookserver.Release.Namespace)
	object.SetName("revisions")
	var refs []any
	for _, mesh := range meshes {
		refs = append(refs, map[string]any{"name": mesh})
	}
	object.Object["spec"] = map[string]any{"meshes": refs, "mtlsConfig": map[string]any{"shared": map[string]any{
		"intermediateCertificateAuthority": map[string]any{"vault": map[string]any{
			"server": "https://vault:8200", "caPath": "pki/root/sign-intermediate",
			"kubernetesAuth": map[string]any{"role": "istiod", "audience": "vault"},
		}},
	}}}
	return object
}

func issued(t *testing.T, namespace, istiod string, want bool) error {
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(certificatesv1.GroupVersion.WithKind(certificatesv1.Kind))
	err := shared.Get(t.Context(), types.NamespacedName{Namespace: namespace, Name: istiod + "-" + namespace + "-cluster-1"}, object)
	switch {
	case want || err != nil && !apierrors.IsNotFound(err):
		return err
	case err == nil:
		return fmt.Errorf("%s is there", object.GetName())
	}
	return nil
}

// wantRights checks the agent's rights of a service account in the API server.
func wantRights(t *testing.T, namespace, account string, want bool) error {
	for _, verb := range []string{"get", "list", "watch"} {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User:   "system:serviceaccount:" + namespace + ":" + account,
			Groups: strings.Fields("system:serviceaccounts system:authenticated system:serviceaccounts:" + namespace),
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Namespace: namespace, Verb: verb, Group: certificatesv1.GroupVersion.Group, Resource: "issuedcertificates",
			},
		}}
		if err := shared.Create(t.Context(), review); err != nil {
			return err
		}
		if review.Status.Allowed != want {
			return fmt.Errorf("%s/%s may %s issuedcertificates: %t", namespace, account, verb, review.Status.Allowed)
		}
	}
	return nil
}

// asTheWebhook returns a client with the rights of the chart's ServiceAccount.
func asTheWebhook(t *testing.T) client.Client {
	t.Helper()
	config, err := shared.Webhook.Cluster()
	if err != nil {
		t.Fatal(err)
	}
	program, err := client.New(config, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return program
}
