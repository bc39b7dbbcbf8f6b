// SPDX-License-Identifier: Apache-2.0

package issuing

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/faultproxy"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/vaultserver"
)

// underMiddle makes the mount pki_middle sign.
func underMiddle(vault map[string]any) { vault["caPath"] = "pki_middle/root/sign-intermediate" }

// middle creates the mount pki_middle, an intermediate under the root of mount pki. The chain is what it knows of the root.
func (s *setting) middle(t *testing.T, chain []byte) (certificate string) {
	t.Helper()
	ctx := t.Context()
	must(t, s.vault.Client.Sys().TuneMountAllowNilWithContext(ctx, "pki", api.TuneMountConfigInput{MaxLeaseTTL: new("43800h")}))
	must(t, s.vault.Client.Sys().MountWithContext(ctx, "pki_middle", &api.MountInput{Type: "pki", Config: api.MountConfigInput{MaxLeaseTTL: "8760h"}}))
	ask := func(path string, data map[string]any) *api.Secret {
		t.Helper()
		answer, err := s.vault.Client.Logical().WriteWithContext(context.WithoutCancel(ctx), path, data)
		must(t, err)
		return answer
	}
	request := ask("pki_middle/intermediate/generate/internal", map[string]any{"common_name": "middle", "key_type": "ec", "key_bits": 256})
	signed := ask("pki/root/sign-intermediate", map[string]any{"csr": request.Data["csr"], "common_name": "middle", "ttl": "43000h", "format": "pem"})
	certificate = signed.Data["certificate"].(string)
	ask("pki_middle/intermediate/set-signed", map[string]any{"certificate": certificate + "\n" + string(chain)})
	rules, err := s.vault.Client.Sys().GetPolicyWithContext(ctx, vaultserver.Role)
	must(t, err)
	// The docs' table names what else is read of the mount; Vault asks nobody for a right to that.
	s.policy(t, vaultserver.Role, rules+"\n"+`path "pki_middle/root/sign-intermediate" { capabilities = ["update"] }`)
	return certificate
}

// threeLevels expects a published certificate under the intermediate, which is under the right root.
func (s *setting) threeLevels(t *testing.T, middle string) {
	t.Helper()
	files := s.Files(t)
	if got, want := strings.TrimSpace(files["root-cert.pem"]), strings.TrimSpace(string(s.root.Certificate)); got != want {
		t.Errorf("root-cert.pem is %q of %q, want the real root alone", parse(t, got).Subject, parse(t, got).Issuer)
	}
	var chain []*x509.Certificate
	for rest := []byte(files["cert-chain.pem"]); len(bytes.TrimSpace(rest)) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			t.Fatal("cert-chain.pem is not PEM")
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		must(t, err)
		chain = append(chain, certificate)
	}
	if len(chain) != 2 || !chain[0].Equal(parse(t, files["ca-cert.pem"])) || !chain[1].Equal(parse(t, middle)) {
		t.Fatalf("cert-chain.pem has %d certificates, want istiod's and the middle one", len(chain))
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(parse(t, string(s.root.Certificate)))
	between.AddCert(chain[1])
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	must(t, err)
}

// A mount that signs as an intermediate and knows the chain above it works like a root.
func TestIntermediateIssuer(t *testing.T) {
	for name, change := range map[string]faultproxy.Fault{
		"its answer holds the root":       nil,
		"its answer ends before the root": faultproxy.Change(shortened(2)),
		"its answer has no chain":         faultproxy.Change(shortened(0)),
	} {
		t.Run(name, func(t *testing.T) {
			s := newSetting(t, vaultserver.Options{})
			middle := s.middle(t, s.root.Certificate)
			proxy := s.proxy(t)
			if change != nil {
				proxy.Spoil(signPath, 0, change)
			}
			s.specify(t, underMiddle)
			s.issues(t, "--timeout", "20s")
			s.threeLevels(t, middle)
			s.runs(t) // on with the same files
			if looked := proxy.Count("/pki_middle/cert/ca_chain") > 0; looked != (change != nil) {
				t.Errorf("that it has looked for the root is %t: %q", looked, proxy.Calls())
			}
		})
	}
}

// shortened truncates the chain of an answer.
func shortened(to int) func(body []byte) []byte {
	return func(body []byte) []byte {
		var answer map[string]any
		if err := json.Unmarshal(body, &answer); err != nil {
			return nil
		}
		data, _ := answer["data"].(map[string]any)
		if chain, ok := data["ca_chain"].([]any); ok && len(chain) == 3 {
			data["ca_chain"] = chain[:to]
		}
		changed, err := json.Marshal(answer)
		if err != nil {
			return nil
		}
		return changed
	}
}

// The answer of a mount that does not know the root is refused, and the remedy in the message works.
func TestIntermediateWithoutRoot(t *testing.T) {
	s := newSetting(t, vaultserver.Options{})
	middle := s.middle(t, nil)
	proxy := s.proxy(t)
	s.specify(t, underMiddle)
	s.refused(t, "NoRoot", "signing mount")
	for _, path := range []string{"/pki_middle/cert/ca_chain", "/pki_middle/cert/ca"} {
		if proxy.Count(path) == 0 {
			t.Errorf("it has not looked for the root at %s", path)
		}
	}
	s.write(t, "pki_middle/issuers/import/cert", map[string]any{"pem_bundle": string(s.root.Certificate)})
	s.issues(t)
	s.threeLevels(t, middle)
}

// specifyRoots writes the specification with trustedRoots.
func (s *setting) specifyRoots(t *testing.T, roots map[string]any, change func(vault map[string]any)) {
	t.Helper()
	certificate := s.Certificate(s.server, func(vault, options map[string]any) {
		delete(vault, "csrPath")
		options["ecKeyCurve"] = "P-256"
		change(vault)
	})
	must(t, unstructured.SetNestedMap(certificate.Object, roots, "spec", "agentCa", "trustedRoots"))
	_, err := shared.ServerSideApply(t.Context(), certificate, client.ForceOwnership)
	must(t, err)
}

// trustedRoots names the root that a mount does not know, in the specification or in a ConfigMap. An answer that leads to
// another root is refused.
func TestTrustedRoots(t *testing.T) {
	s := newSetting(t, vaultserver.Options{})
	middle := s.middle(t, nil)
	other, err := vaultserver.FastRoot()
	must(t, err)

	s.specifyRoots(t, map[string]any{"pem": string(other.Certificate)}, underMiddle)
	s.refused(t, "NoRoot", "name the root in spec.agentCa.trustedRoots")
	s.specifyRoots(t, map[string]any{"pem": string(other.Certificate)}, func(map[string]any) {})
	s.refused(t, "RootNotPinned", "is none of the 1 in spec.agentCa.trustedRoots")
	s.specifyRoots(t, map[string]any{"pem": string(other.Certificate) + string(s.root.Certificate)}, underMiddle)
	s.issues(t, "--timeout", "20s")
	s.threeLevels(t, middle)

	// The right is that of the chart's istiodSidecar.serviceAccounts[].rootsConfigMap.
	must(t, s.Empty())
	s.specifyRoots(t, map[string]any{"configMapRef": map[string]any{"name": "mesh-roots", "key": "ca.crt"}}, underMiddle)
	s.refused(t, "RootsUnavailable", "may not read ConfigMap "+s.Namespace+"/mesh-roots")
	at := metav1.ObjectMeta{Name: "mesh-roots", Namespace: s.Namespace}
	must(t, shared.Create(t.Context(), &rbacv1.Role{ObjectMeta: at, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{at.Name}, Verbs: []string{"get"}},
	}}))
	must(t, shared.Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: at,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: at.Name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: s.Namespace, Name: agents.ServiceAccount}},
	}))
	roots := &corev1.ConfigMap{ObjectMeta: at, Data: map[string]string{"ca.crt": string(s.root.Key)}}
	must(t, shared.Create(t.Context(), roots))
	cluster.Eventually(t, "the ConfigMap is read", func() error {
		output, err := s.Init(t.Context(), "--timeout", "2s")
		if err == nil {
			return errors.New("a key counts as a root")
		}
		return contains(output, "holds a private key")
	})
	roots.Data["ca.crt"] = string(s.root.Certificate)
	must(t, shared.Update(t.Context(), roots))
	s.issues(t, "--timeout", "20s")
	s.threeLevels(t, middle)
}

// The agent publishes the chain of a named issuer, not that of the mount's default.
func TestNamedIssuer(t *testing.T) {
	s := newSetting(t, vaultserver.Options{})
	middle := s.middle(t, s.root.Certificate)
	answer, err := s.vault.Client.Logical().ReadWithContext(t.Context(), "pki_middle/config/issuers")
	must(t, err)
	issuer := answer.Data["default"].(string)
	answer, err = s.vault.Client.Logical().WriteWithContext(t.Context(), "pki_middle/issuers/generate/root/internal", map[string]any{"common_name": "other", "key_type": "ec", "key_bits": 256})
	must(t, err)
	s.write(t, "pki_middle/config/issuers", map[string]any{"default": answer.Data["issuer_id"]})
	rules, err := s.vault.Client.Sys().GetPolicyWithContext(t.Context(), vaultserver.Role)
	must(t, err)
	s.policy(t, vaultserver.Role, rules+"\n"+`path "pki_middle/issuer/+/sign-intermediate" { capabilities = ["update"] }`)
	proxy := s.proxy(t)
	proxy.Spoil("/sign-intermediate", 0, faultproxy.Change(shortened(0)))
	s.specify(t, func(vault map[string]any) { vault["caPath"] = "pki_middle/issuer/" + issuer + "/sign-intermediate" })
	s.issues(t, "--timeout", "20s")
	s.threeLevels(t, middle)
	if proxy.Count("/pki_middle/issuer/"+issuer+"/json") == 0 || proxy.Count("/pki_middle/cert/ca_chain") > 0 {
		t.Errorf("it has asked for %q", proxy.Calls())
	}
}
