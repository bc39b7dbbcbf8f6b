// SPDX-License-Identifier: Apache-2.0

package checkup

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

const ready = "status: {conditions: [{type: Ready, status: 'True'}]}\n"

// withIssuer is a healthy cluster whose VirtualMesh names a ClusterIssuer.
func withIssuer(t *testing.T) *clusterFacts {
	t.Helper()
	facts := healthy(t)
	sample, err := os.ReadFile("../../config/samples/virtualmesh-cert-manager.yaml")
	if err != nil {
		t.Fatal(err)
	}
	facts.Meshes.Value[0] = parse(t, string(sample)+"status: {state: ACCEPTED}\n")
	set(facts.Certificates.Value, map[string]any{"certManager": map[string]any{"issuerRef": map[string]any{"name": "mesh", "kind": "ClusterIssuer"}}}, "spec", "agentCa")
	issuer := parse(t, "spec: {ca: {secretName: mesh}}\n"+ready)
	facts.CertManager = &certManagerState{
		CRD: fact[*crdState]{Value: &crdState{Served: []string{"v1"}, Established: true}},
		Issuers: []issuerState{{
			Ref: certificatesv1.IssuerRef{Name: "mesh", Kind: "ClusterIssuer", Group: "cert-manager.io"}, Resource: "clusterissuers",
			Object: fact[*unstructured.Unstructured]{Value: &issuer},
		}},
		Lacking: map[string]fact[[]string]{"istio-system/istiod": {}},
	}
	facts.Grants.Value = []grant{approver("clusterissuers.cert-manager.io/*", "issuers.cert-manager.io/*")}
	return facts
}

func approver(signers ...string) grant {
	return grant{
		subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "cert-manager", Name: "cert-manager"}},
		rules:    []rbacv1.PolicyRule{{APIGroups: []string{"cert-manager.io"}, Resources: []string{"signers"}, Verbs: []string{"approve"}, ResourceNames: signers}},
	}
}

func TestCertManager(t *testing.T) {
	t.Parallel()
	const subject = "cert-manager's ClusterIssuer mesh  — "
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "clusterissuers"}, "mesh", errors.New("no"))
	spec := func(text string) func(*testing.T, *clusterFacts) {
		return func(t *testing.T, f *clusterFacts) {
			issuer := parse(t, text)
			f.CertManager.Issuers[0].Object.Value = &issuer
		}
	}
	external := func(change func(*issuerState)) func(*testing.T, *clusterFacts) {
		return func(_ *testing.T, f *clusterFacts) {
			issuer := &f.CertManager.Issuers[0]
			issuer.Ref, issuer.Resource, issuer.Namespace = certificatesv1.IssuerRef{Name: "mesh", Kind: "StepIssuer", Group: "issuers.example.com"}, "stepissuers", "istio-system"
			change(issuer)
		}
	}
	for name, test := range map[string]struct {
		change func(*testing.T, *clusterFacts)
		status level
		want   string
	}{
		"all is well":     {func(*testing.T, *clusterFacts) {}, levelOK, subject + "is Ready"},
		"its rights":      {func(*testing.T, *clusterFacts) {}, levelOK, "rights of service account istio-system/istiod for cert-manager  — may request certificates"},
		"its issuing":     {func(*testing.T, *clusterFacts) {}, levelOK, "cert-manager  — seen from istiod's Pods: it issued the certificates of 1 IssuedCertificate"},
		"no cert-manager": {func(_ *testing.T, f *clusterFacts) { f.CertManager.CRD.Value = nil }, levelFail, "CRD certificaterequests.cert-manager.io  — is not installed, and a specification names an issuer of cert-manager"},
		"no issuer":       {func(_ *testing.T, f *clusterFacts) { f.CertManager.Issuers[0].Object.Value = nil }, levelFail, subject + "does not exist: istiod waits in Init; next: create it, or correct issuerRef.name"},
		"no right to read it": {func(_ *testing.T, f *clusterFacts) {
			f.CertManager.Issuers[0].Object = fact[*unstructured.Unstructured]{Err: forbidden}
		}, levelUnknown, "kubectl --context=a auth can-i get clusterissuers.cert-manager.io -A"},
		"not ready":                 {spec("spec: {ca: {secretName: mesh}}\nstatus: {conditions: [{type: Ready, status: 'False', message: \"no Secret\\e\"}]}\n"), levelFail, subject + "is not Ready: no Secret"},
		"not seen yet":              {spec("spec: {ca: {secretName: mesh}}\n"), levelFail, subject + "is not Ready: cert-manager has not reported on it; next: kubectl --context=a get clusterissuers.cert-manager.io mesh -o yaml"},
		"an ACME issuer":            {spec("spec: {acme: {}}\n" + ready), levelFail, subject + "is an ACME issuer"},
		"a self-signed one":         {spec("spec: {selfSigned: {}}\n" + ready), levelFail, subject + "is a self-signed issuer"},
		"a role of Vault":           {spec("spec: {vault: {path: pki/sign/mesh}}\n" + ready), levelFail, subject + "signs at Vault's path pki/sign/mesh, which signs leaf certificates; next: set vault instead of certManager"},
		"a role of Vault, verbatim": {spec("spec: {vault: {path: a/b/sign-verbatim/mesh}}\n" + ready), levelFail, "which signs leaf certificates"},
		"a mount called sign":       {spec("spec: {vault: {path: sign/root/sign-intermediate}}\n" + ready), levelFail, subject + "is a Vault issuer: it requests no organization"},
		"no rights": {func(_ *testing.T, f *clusterFacts) {
			f.CertManager.Lacking["istio-system/istiod"] = fact[[]string]{Value: []string{"create certificaterequests.cert-manager.io"}}
		}, levelFail, "rights of service account istio-system/istiod for cert-manager  — it may not create certificaterequests.cert-manager.io; no certificate is issued until it has this permission; next: "},
		"no approver":                           {func(_ *testing.T, f *clusterFacts) { f.Grants.Value = nil }, levelWarn, subject + "no approver may approve its requests"},
		"an approver of others":                 {func(_ *testing.T, f *clusterFacts) { f.Grants.Value = []grant{approver("issuers.cert-manager.io/*")} }, levelWarn, "the right to approve clusterissuers.cert-manager.io/*"},
		"an external issuer":                    {external(func(*issuerState) {}), levelWarn, "cert-manager's StepIssuer istio-system/mesh  — no approver may approve its requests"},
		"an external issuer that is unknown":    {external(func(i *issuerState) { i.Resource, i.Object.Value = "", nil }), levelFail, "the API server has no kind StepIssuer in group issuers.example.com"},
		"an external issuer without conditions": {external(func(i *issuerState) { i.Object.Value = &unstructured.Unstructured{Object: map[string]any{}} }), levelWarn, "reports no condition Ready, so its state is not known; next: kubectl --context=a get -n istio-system stepissuers.issuers.example.com mesh -o yaml"},
		"an external issuer with an approver": {func(t *testing.T, f *clusterFacts) {
			external(func(*issuerState) {})(t, f)
			f.Grants.Value = []grant{approver("stepissuers.issuers.example.com/istio-system.mesh")}
		}, levelOK, "StepIssuer istio-system/mesh  — is Ready"},
		"waiting for an approval": {func(_ *testing.T, f *clusterFacts) {
			const waits = "CertificateRequest a waits for an approval"
			set(f.Certificates.Value, "REQUESTED", "status", "state")
			set(f.Certificates.Value, waits, "status", "error")
			set(f.Certificates.Value, []any{map[string]any{"pod": "istiod-0", "error": waits, "reason": "CertManagerWaitingForApproval"}}, "status", "certificates")
		}, levelWarn, "IssuedCertificate istio-system/istiod-istio-system-cluster-1  — CertificateRequest a waits for an approval"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			facts := withIssuer(t)
			test.change(t, facts)
			contexts := []contextFindings{{"a", decide("kubectl --context=a", facts, now)}}
			var text bytes.Buffer
			printText(&text, contexts)
			said := false
			for line := range strings.Lines(text.String()) {
				said = said || strings.HasPrefix(line, string(test.status)+" ") && strings.Contains(line, test.want)
			}
			if !said {
				t.Errorf("want %s with %q in\n%s", test.status, test.want, &text)
			}
			if fails := count(contexts, levelFail) > 0; fails != (test.status == levelFail) || strings.Contains(text.String(), "\x1b") {
				t.Errorf("fails is %t:\n%s", fails, &text)
			}
			for _, line := range contexts[0].Lines {
				if line.Status != levelOK && line.Next == "" {
					t.Errorf("no next command: %+v", line)
				}
			}
		})
	}
}

// The issuers to check are those that some istiod will ask, once each; a hostile name leads to no request.
func TestIssuerUses(t *testing.T) {
	t.Parallel()
	facts := withIssuer(t)
	facts.Configuration.Value.ClusterName = "cluster-1"
	facts.Istiods.Value = append(facts.Istiods.Value, istiodState{Name: "other", Namespace: "elsewhere", ServiceAccount: "other"})
	want := func(when string, want ...string) {
		t.Helper()
		var got []string
		for _, use := range issuerUses(facts) {
			if text := fmt.Sprint(use.istiod.Namespace, " ", use.ref.Kind, " ", use.ref.Group, " ", use.ref.Name); len(got) == 0 || got[len(got)-1] != text {
				got = append(got, text)
			}
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("%s: got %q, want %q", when, got, want)
		}
	}
	const mesh = "istio-system ClusterIssuer cert-manager.io mesh"
	want("both name it", mesh)
	set(facts.Certificates.Value, "x; rm -rf", "spec", "agentCa", "certManager", "issuerRef", "name")
	want("a hostile name", mesh)
	set(facts.Meshes.Value, []any{map[string]any{"name": "other-elsewhere-cluster-2"}}, "spec", "meshes")
	want("another cluster's mesh: the labelled namespace", mesh)
	set(facts.Meshes.Value, []any{map[string]any{"name": "*-elsewhere-cluster-1"}}, "spec", "meshes")
	want("a pattern", "elsewhere ClusterIssuer cert-manager.io mesh")
	set(facts.Meshes.Value, "kube-system", "metadata", "namespace")
	want("a VirtualMesh that does not count")
	if readCertManager(t.Context(), nil, facts) != nil {
		t.Error("cert-manager is checked, and nothing names it")
	}
}
