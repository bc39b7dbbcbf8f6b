// SPDX-License-Identifier: Apache-2.0

package certmanager_test

import (
	"context"
	"strings"
	"testing"

	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/plugin"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

// `check` reports an issuer that istiod's agent could not use, before istiod asks it.
func TestCheck(t *testing.T) {
	startCertManager(t)
	i := newIstiod(t, false)
	shared.MustApply(t, cluster.Istiod(t, i.Namespace))
	kubeconfig, err := shared.Plane.Kubeconfig("admin", "system:masters")
	must(t, err)
	wantLine := func(level, subject, text string) {
		t.Helper()
		cluster.Eventually(t, level+": "+subject+": "+text, func() error {
			result := plugin.Run(t.Context(), "", "check", "--kubeconfig", kubeconfig)
			for line := range strings.Lines(result.Stdout) {
				if strings.HasPrefix(line, level+" ") && strings.Contains(line, "  "+subject+"  — ") && strings.Contains(line, text) {
					return nil
				}
			}
			return result.Check(-1, "")
		})
	}
	subject := func(issuer string) string { return "cert-manager's Issuer " + i.Namespace + "/" + issuer }

	i.specify(t, map[string]any{"issuerRef": map[string]any{"name": "none"}})
	wantLine("fail", subject("none"), "does not exist: istiod waits in Init")
	i.specify(t, map[string]any{"issuerRef": map[string]any{"name": "none", "kind": "StepIssuer", "group": "issuers.example.com"}})
	wantLine("fail", "cert-manager's StepIssuer none", "the API server has no kind StepIssuer in group issuers.example.com")
	i.specify(t, i.issuer(t, "self-signed", cmapi.IssuerConfig{SelfSigned: &cmapi.SelfSignedIssuer{}}))
	wantLine("fail", subject("self-signed"), "is a self-signed issuer")
	i.specify(t, i.issuer(t, "empty", cmapi.IssuerConfig{CA: &cmapi.CAIssuer{SecretName: "none"}}))
	wantLine("fail", subject("empty"), "is not Ready: ")
	i.specify(t, i.caIssuer(t, "istio-ca", testca.Root("mesh-root")))
	wantLine("ok", subject("istio-ca"), "is Ready")
	account := "rights of service account " + i.Namespace + "/istiod for cert-manager"
	wantLine("fail", account, "it may not create certificaterequests.cert-manager.io")
	must(t, agents.GrantRequests(t.Context(), shared, i.Namespace))
	wantLine("ok", account, "may request certificates")

	// cert-manager runs here as an administrator, whom the check does not count.
	wantLine("warn", subject("istio-ca"), "no approver may approve its requests")
	approver := metav1.ObjectMeta{Name: "approver-of-" + i.Namespace}
	role := &rbacv1.ClusterRole{ObjectMeta: approver, Rules: []rbacv1.PolicyRule{{
		APIGroups: []string{"cert-manager.io"}, Resources: []string{"signers"}, Verbs: []string{"approve"}, ResourceNames: []string{"issuers.cert-manager.io/" + i.Namespace + ".istio-ca"},
	}}}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: approver, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: approver.Name},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "cert-manager", Name: "cert-manager"}},
	}
	for _, object := range []client.Object{role, binding} {
		must(t, shared.Create(t.Context(), object))
		t.Cleanup(func() { must(t, shared.Delete(context.WithoutCancel(t.Context()), object)) })
	}
	result := plugin.Run(t.Context(), "", "check", "--kubeconfig", kubeconfig)
	if strings.Contains(result.Stdout, "no approver may approve") || !strings.Contains(result.Stdout, subject("istio-ca")+"  — is Ready") {
		t.Error(result)
	}
}
