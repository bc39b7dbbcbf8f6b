// SPDX-License-Identifier: Apache-2.0

package certmanager_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cmutil "github.com/cert-manager/cert-manager/pkg/api/util"
	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	cmmeta "github.com/cert-manager/cert-manager/pkg/apis/meta/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/certmanager"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/controlplane"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/manifest"
)

// policySample returns the sample's objects for istiod's namespace and issuer in a test.
func policySample(t *testing.T, namespace string, issuer map[string]any) []*unstructured.Unstructured {
	t.Helper()
	root, err := built.Root()
	must(t, err)
	content, err := os.ReadFile(filepath.Join(root, "config", "samples", "certificaterequestpolicy.yaml"))
	must(t, err)
	objects, err := manifest.Parse([]byte(strings.ReplaceAll(string(content), "istio-system", namespace)))
	must(t, err)
	must(t, unstructured.SetNestedMap(objects[0].Object, issuer, "spec", "selector", "issuerRef"))
	return objects
}

// approver-policy approves the agent's request by the sample of a policy, and denies what differs from it in anything.
func TestApproverPolicy(t *testing.T) {
	i := newIstiod(t, true)
	approver, err := certmanager.StartApproverPolicy(t.Context(), shared.Plane, shared.Client, shared.Namespace(t, false))
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(approver.Output())
		}
		must(t, approver.Stop(context.WithoutCancel(t.Context())))
	})
	issuer := map[string]any{"name": "mesh", "kind": "ClusterIssuer", "group": "cert-manager.io"}
	strict := client.WithFieldValidation(shared.Client, metav1.FieldValidationStrict)
	for _, object := range policySample(t, i.Namespace, issuer) {
		must(t, strict.Create(t.Context(), object))
		t.Cleanup(func() {
			must(t, client.IgnoreNotFound(shared.Delete(context.WithoutCancel(t.Context()), object.DeepCopy())))
		})
	}
	cluster.Eventually(t, "the policy is ready", func() error {
		policy := policySample(t, i.Namespace, issuer)[0]
		if err := shared.Get(t.Context(), client.ObjectKeyFromObject(policy), policy); err != nil {
			return err
		}
		conditions, _, _ := unstructured.NestedSlice(policy.Object, "status", "conditions")
		if len(conditions) != 1 || conditions[0].(map[string]any)["status"] != "True" {
			return fmt.Errorf("its conditions are %v", conditions)
		}
		return nil
	})

	i.specifyFor(t, 90, map[string]any{"issuerRef": issuer})
	must(t, unstructured.SetNestedStringSlice(i.certificate.Object, []string{"cluster.local"}, "spec", "certOptions", "permittedURIDomains"))
	_, err = shared.ServerSideApply(t.Context(), i.certificate)
	must(t, err)
	sidecar, err := i.Sidecar(t.Context())
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(sidecar.Output())
		}
		must(t, sidecar.Kill())
	})
	mine := i.waitForRequest(t)
	wantDecision(t, mine, cmapi.CertificateRequestConditionApproved)
	i.wantStatus(t, "REQUESTED", "CertManagerWaitingForIssuer")
	if pending, err := sidecar.Metric(t.Context(), "istiod_agent_request_pending"); err != nil || pending != 1 {
		t.Errorf("istiod_agent_request_pending is %v (%v)", pending, err)
	}

	// The same requester, with requests that the agent does not make.
	config := rest.CopyConfig(shared.Plane.Config)
	user, groups := controlplane.ServiceAccount(i.Namespace, agents.ServiceAccount)
	config.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: groups}
	asIstiod, err := client.New(config, client.Options{})
	must(t, err)
	var (
		host   = "spiffe://cluster.local/ns/" + i.Namespace + "/sa/istiod"
		other  = "spiffe://cluster.local/ns/other/sa/istiod"
		istio  = pkix.Name{CommonName: "Istio", Organization: []string{"Istio"}}
		denied = cmapi.CertificateRequestConditionDenied
	)
	for name, test := range map[string]struct {
		change func(*cmapi.CertificateRequestSpec)
		want   cmapi.CertificateRequestConditionType
	}{
		"the same":         {func(*cmapi.CertificateRequestSpec) {}, cmapi.CertificateRequestConditionApproved},
		"a longer life":    {func(s *cmapi.CertificateRequestSpec) { s.Duration.Duration += time.Hour }, denied},
		"no duration":      {func(s *cmapi.CertificateRequestSpec) { s.Duration = nil }, denied},
		"another usage":    {func(s *cmapi.CertificateRequestSpec) { s.Usages = append(s.Usages, cmapi.UsageServerAuth) }, denied},
		"another identity": {func(s *cmapi.CertificateRequestSpec) { s.Request = csr(t, elliptic.P256(), istio, other) }, denied},
		"two identities":   {func(s *cmapi.CertificateRequestSpec) { s.Request = csr(t, elliptic.P256(), istio, host, other) }, denied},
		"no identity":      {func(s *cmapi.CertificateRequestSpec) { s.Request = csr(t, elliptic.P256(), istio) }, denied},
		"another key":      {func(s *cmapi.CertificateRequestSpec) { s.Request = csr(t, elliptic.P384(), istio, host) }, denied},
		"another subject": {func(s *cmapi.CertificateRequestSpec) {
			s.Request = csr(t, elliptic.P256(), pkix.Name{CommonName: "other"}, host)
		}, denied},
		// isCA in a policy permits both; the agent asks for a CA and accepts nothing else.
		"no CA": {func(s *cmapi.CertificateRequestSpec) { s.IsCA, s.Request = false, csr(t, elliptic.P256(), istio, host) }, cmapi.CertificateRequestConditionApproved},
	} {
		t.Run(name, func(t *testing.T) {
			request := &cmapi.CertificateRequest{ObjectMeta: metav1.ObjectMeta{Namespace: i.Namespace, GenerateName: "by-hand-"}, Spec: *mine.Spec.DeepCopy()}
			request.Spec.Username, request.Spec.Groups = "", nil
			test.change(&request.Spec)
			must(t, asIstiod.Create(t.Context(), request))
			wantDecision(t, request, test.want)
		})
	}
}

// Without a timeout, the init container keeps one request until a person has approved it.
func TestApprovalByHand(t *testing.T) {
	must(t, certmanager.InstallCRDs(t.Context(), shared.Plane))
	root, limited := chain(1)
	i := newIstiod(t, true)
	i.Env = append(i.Env, "ISTIOD_AGENT_TIMEOUT=0")
	i.specify(t, map[string]any{"issuerRef": map[string]any{"name": "external", "kind": "ExternalIssuer", "group": "issuers.example.com"}})
	done := make(chan error, 1)
	go func() {
		_, err := i.Init(t.Context())
		done <- err
	}()
	mine := i.waitForRequest(t)
	i.wantStatus(t, "REQUESTED", "CertManagerWaitingForApproval")
	i.decide(t, mine, cmapi.CertificateRequestConditionApproved, cmmeta.ConditionTrue, "x", "approved by a person")
	mine.Status.Certificate, mine.Status.CA = sign(t, mine, limited), append(limited.PEM(), root.PEM()...)
	i.decide(t, mine, cmapi.CertificateRequestConditionReady, cmmeta.ConditionTrue, "Issued", "signed")
	must(t, <-done)
	if left := i.requests(t); len(left) > 0 {
		t.Errorf("%d requests are left", len(left))
	}
}

// csr is a request for URI names, with a key of its own.
func csr(t *testing.T, curve elliptic.Curve, subject pkix.Name, names ...string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	must(t, err)
	template := &x509.CertificateRequest{Subject: subject}
	for _, name := range names {
		uri, err := url.Parse(name)
		must(t, err)
		template.URIs = append(template.URIs, uri)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

// wantDecision waits for an approver's decision.
func wantDecision(t *testing.T, of *cmapi.CertificateRequest, want cmapi.CertificateRequestConditionType) {
	t.Helper()
	cluster.Eventually(t, "an approver decides", func() error {
		stored := &cmapi.CertificateRequest{}
		if err := shared.Get(t.Context(), client.ObjectKeyFromObject(of), stored); err != nil {
			return err
		}
		for _, decision := range []cmapi.CertificateRequestConditionType{cmapi.CertificateRequestConditionApproved, cmapi.CertificateRequestConditionDenied} {
			if cmutil.CertificateRequestHasCondition(stored, cmapi.CertificateRequestCondition{Type: decision, Status: cmmeta.ConditionTrue}) {
				if decision != want {
					t.Errorf("the request is %s: %+v", decision, stored.Status.Conditions)
				}
				return nil
			}
		}
		return errors.New("there is no decision")
	})
}
