// SPDX-License-Identifier: Apache-2.0

package renewal

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/check"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
)

// Without a valid specification the init container fails with the remedy and publishes no file.
func TestInitContainerWithoutSpecification(t *testing.T) {
	t.Parallel()
	nowhere := "https://127.0.0.1:1"
	tests := map[string]struct {
		prepare func(t *testing.T, m *mesh)
		words   []string // NAMESPACE stands for istiod's
	}{
		"no IssuedCertificate": {
			func(*testing.T, *mesh) {},
			[]string{`waiting for an IssuedCertificate in namespace "NAMESPACE" with host spiffe://<trust domain>/ns/NAMESPACE/sa/istiod`, "apply"},
		},
		"one for another istiod": {
			func(t *testing.T, m *mesh) {
				other := m.Certificate(nowhere, nil)
				must(t, unstructured.SetNestedStringSlice(other.Object, []string{"spiffe://cluster.local/ns/" + m.Namespace + "/sa/istiod-canary"}, "spec", "hosts"))
				must(t, shared.Create(t.Context(), other))
			},
			[]string{"waiting for an IssuedCertificate", "/ns/NAMESPACE/sa/istiod;"},
		},
		"no right to look for one": {
			func(t *testing.T, m *mesh) {
				must(t, shared.Create(t.Context(), m.Certificate(nowhere, nil)))
				must(t, shared.Delete(t.Context(), &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "istiod-agent", Namespace: m.Namespace}}))
			},
			[]string{
				`service account NAMESPACE/istiod may not list and watch issuedcertificates.certificates.mesh.gloo.solo.io in namespace "NAMESPACE"`,
				"grant it a Role that allows get, list and watch",
			},
		},
		"one full of mistakes": {
			func(t *testing.T, m *mesh) {
				certificate := m.Certificate("vault.example.com", func(vault, options map[string]any) {
					vault["caPath"] = "pki/sign/leaf"
					vault["csrPath"] = "pki_int/intermediate/generate/internal"
					vault["kubernetesAuth"] = map[string]any{}
					options["ttlDays"] = int64(36501)
					options["rsaKeySizeBytes"] = int64(512)
					options["orgName"] = "one, two"
					options["secretRotationGracePeriodRatio"] = 0.0
				})
				hosts := []string{"spiffe://cluster.local/ns/" + m.Namespace + "/sa/istiod", "istiod.istio-system.svc"}
				must(t, unstructured.SetNestedStringSlice(certificate.Object, hosts, "spec", "hosts"))
				must(t, shared.Create(t.Context(), certificate))
			},
			[]string{
				"IssuedCertificate NAMESPACE/istiod-istio-system-cluster-1:", "spec.hosts[1]", "spec.certOptions.ttlDays", "spec.certOptions.rsaKeySizeBytes",
				"spec.certOptions.orgName", "spec.certOptions.secretRotationGracePeriodRatio", "spec.agentCa.vault.server", "spec.agentCa.vault.caPath",
				"spec.agentCa.vault.csrPath", "spec.agentCa.vault.kubernetesAuth.role",
			},
		},
		"no Vault": {
			func(t *testing.T, m *mesh) { must(t, shared.Create(t.Context(), m.Certificate(nowhere, nil))) },
			[]string{nowhere, "the connection was refused"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newPod(t)
			test.prepare(t, m)
			output, err := m.Init(t.Context(), "--timeout", "3s")
			if err == nil || !strings.Contains(err.Error(), "exit status 1") {
				t.Fatalf("want exit code 1, got %v", err)
			}
			lines := strings.Split(strings.TrimSpace(output), "\n")
			last := lines[len(lines)-1]
			must(t, contains(last, "istiod-agent: no certificates for istiod: "))
			for _, words := range test.words {
				if err := contains(last, strings.ReplaceAll(words, "NAMESPACE", m.Namespace)); err != nil {
					t.Error(err)
				}
			}
			check.NoSecrets(t, output)
			left, err := filepath.Glob(filepath.Join(m.CACerts, "*.pem"))
			if err != nil || left != nil {
				t.Errorf("it left %q (%v)", left, err)
			}
		})
	}
}

// An init container that starts before its IssuedCertificate continues once it exists.
func TestLateIssuedCertificate(t *testing.T) {
	t.Parallel()
	m := newMesh(t, nil)
	must(t, shared.Delete(t.Context(), m.certificate.DeepCopy()))
	m.certificate.SetResourceVersion("")
	sidecar := m.crashing(t)
	metric(t, sidecar, "istiod_agent_specification_accepted", 0)
	cluster.Eventually(t, "the sidecar says what it waits for", func() error {
		return contains(sidecar.Output(), "waiting for an IssuedCertificate in namespace")
	})
	if _, err := sidecar.Get(t.Context(), "/readyz"); err == nil {
		t.Error("it is ready without a certificate")
	}
	_, err := shared.ServerSideApply(t.Context(), m.certificate)
	must(t, err)
	metric(t, sidecar, "istiod_agent_specification_accepted", 1)
	cluster.Eventually(t, "it is ready", func() error { _, err := sidecar.Get(t.Context(), "/readyz"); return err })
	m.file(t, "root-cert.pem")
}

// Of two IssuedCertificates for an istiod the oldest counts, whatever its name, and an Event reports both.
func TestTwoIssuedCertificates(t *testing.T) {
	t.Parallel()
	m := newMesh(t, nil)
	newer := m.Certificate("https://127.0.0.1:1", nil)
	newer.SetName("a-newer-one")
	created := m.stored(t).GetCreationTimestamp()
	cluster.Eventually(t, "the clock is a second on, by which ages are told", func() error {
		if time.Since(created.Time) < 2*time.Second {
			return errors.New("it is not")
		}
		return nil
	})
	must(t, shared.Create(t.Context(), newer))
	m.start(t)
	m.confirmed(t, "")
	cluster.Eventually(t, "there is an event", func() error {
		return contains(strings.Join(m.events(t, "SpecificationWarning"), "\n"),
			`several IssuedCertificates are for`, `the agent uses the oldest, "istiod-istio-system-cluster-1", and ignores "a-newer-one"`)
	})
}

// With the specification in a file the agent needs no API server, neither to start nor to renew.
func TestSpecificationFile(t *testing.T) {
	t.Parallel()
	m := newMesh(t, nil)
	must(t, shared.Delete(t.Context(), m.certificate.DeepCopy()))
	m.Env = append(m.Env, "KUBECONFIG=", "ISTIOD_AGENT_TOKEN_FILE=")
	path := filepath.Join(t.TempDir(), "issued-certificate.json")
	write := func() {
		t.Helper()
		content, err := json.Marshal(m.certificate.Object)
		must(t, err)
		// In one step: the agent reads it at any time.
		must(t, os.WriteFile(path+".new", content, 0o600))
		must(t, os.Rename(path+".new", path))
	}
	write()
	arguments := []string{"--spec", path, "--token-file", m.TokenFile}
	output, err := m.Init(t.Context(), arguments...)
	must(t, err)
	check.NoSecrets(t, output)
	m.startIstiod(t)
	sidecar := m.startSidecar(t, arguments...)
	metric(t, sidecar, "istiod_agent_istiod_confirmed", 1)
	must(t, m.signs(t.Context()))

	m.certificate.SetAnnotations(map[string]string{"istiod-agent.io/renew": "once"})
	write()
	// A file does not say when it changes: the sidecar looks every half a minute.
	cluster.Within(t, time.Minute, "it is renewed", func() error {
		got, err := sidecar.Metric(t.Context(), requested)
		if err == nil && got != 1 {
			err = fmt.Errorf("%v renewals count as done", got)
		}
		return err
	})
	must(t, m.signs(t.Context()))
}

// A certificate with a lifetime of one minute, which is all that Vault allows, is renewed in time again and again, and an
// Event warns that it is too short for workload certificates.
func TestShortLivedCertificates(t *testing.T) {
	t.Parallel()
	m := newMesh(t, nil)
	// Vault dates certificates half a minute back.
	must(t, m.vault.Client.Sys().TuneMountAllowNilWithContext(t.Context(), "pki", api.TuneMountConfigInput{DefaultLeaseTTL: new("30s"), MaxLeaseTTL: new("30s")}))
	sidecar := m.start(t)
	serial := m.confirmed(t, "")
	cluster.Eventually(t, "the short life is told", func() error {
		return contains(strings.Join(m.events(t, "LifetimeTooShort"), "\n"), "The CA certificate's lifetime of 1m0s is too short for workload certificates of 24h0m0s", "max_lease_ttl")
	})
	for i := range 3 {
		certificate, _ := m.file(t, "ca-cert.pem")
		cluster.Within(t, time.Minute, "the certificate is renewed", func() error {
			if time.Now().After(certificate.NotAfter) {
				t.Fatalf("certificate %s has expired", serial)
			}
			got, err := sidecar.Metric(t.Context(), `istiod_agent_renewals_total{outcome="success",reason="Expiring"}`)
			if err == nil && got != float64(i+1) {
				err = fmt.Errorf("%v renewals count as done", got)
			}
			return err
		})
		serial = m.confirmed(t, serial)
		must(t, m.signs(t.Context()))
	}
	if n := m.reloads(); n != 3 {
		t.Errorf("istiod has loaded %d other CAs, want 3", n)
	}
	if found := m.events(t, "Expired"); found != nil {
		t.Error(found)
	}
}
