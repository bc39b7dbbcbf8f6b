// SPDX-License-Identifier: Apache-2.0

// Package sources holds what must be so whatever CA istiod's certificate comes from: each source of the agent goes through the
// same tables.
package sources

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/certmanager"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/check"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/externalissuer"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/faultproxy"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istiodserver"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/vaultserver"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

var must = check.Must

var shared *cluster.Cluster

func TestMain(m *testing.M) {
	_ = flag.Set("test.parallel", "6") // nearly all of the time is waiting
	if err := cmapi.AddToScheme(scheme.Scheme); err != nil {
		panic(err)
	}
	cluster.Main(m, &shared, nil)
}

// answer is what a CA answers to a CSR: a certificate and the CAs above it, from its issuer on.
type answer func(csr *x509.CertificateRequest, ttl time.Duration) (certificate string, above []string)

// source is a CA with a Pod of istiod that may use it.
type source struct {
	*agents.Pod
	// agentCA is what a specification has for it.
	agentCA map[string]any
	// answers replaces what the CA answers.
	answers func(answer)
	// breaks has the CA fail in a way, until end is called.
	breaks func(how failure) (end func())
	// reached returns an error until the agent has got to a step.
	reached map[string]func() (stop func() error, end func())
	// left returns an error where the CA still keeps something of a request.
	left func() error
}

// failure is a way in which a CA fails.
type failure string

const (
	down    failure = "down"
	slow    failure = "slow"
	denying failure = "denying"
)

// kinds are the sources.
var kinds = map[string]func(*testing.T) *source{"Vault": vault, "cert-manager": issuer}

var install = sync.OnceValue(func() error {
	return errors.Join(agents.Install(context.Background(), shared), certmanager.InstallCRDs(context.Background(), shared.Plane))
})

// eachSource runs a test for each.
func eachSource(t *testing.T, test func(t *testing.T, s *source)) {
	t.Helper()
	must(t, install())
	for name, newSource := range kinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSource(t)
			s.answers(rightly)
			certificate := s.Certificate("", func(_, options map[string]any) { options["ecKeyCurve"], options["ttlDays"] = "P-256", int64(30) })
			must(t, unstructured.SetNestedField(certificate.Object, s.agentCA, "spec", "agentCa"))
			_, err := shared.ServerSideApply(t.Context(), certificate)
			must(t, err)
			test(t, s)
		})
	}
}

func newPod(t *testing.T) *agents.Pod {
	t.Helper()
	pod, err := agents.NewPod(t.Context(), shared, shared.Namespace(t, false), "istiod-0", istiodserver.TmpfsDir(t), t.TempDir())
	must(t, err)
	return pod
}

// Paths of the agent's calls of Vault.
const (
	loginPath    = "/auth/kubernetes/login"
	generatePath = "/intermediate/generate/exported"
	signPath     = "/root/sign-intermediate"
	revokePath   = "/auth/token/revoke-self"
)

// vault is a real Vault set up by the guide, behind a proxy that signs in its place.
func vault(t *testing.T) *source {
	t.Helper()
	pod := newPod(t)
	server, err := vaultserver.Start(t.Context(), vaultserver.Options{})
	must(t, err)
	t.Cleanup(func() { must(t, server.Stop()) })
	_, err = server.Guide(t.Context(), vaultserver.GuideOptions{
		Cluster: shared.Plane.Config, ServiceAccount: agents.ServiceAccount, Namespace: pod.Namespace, Root: vaultserver.FastRoot,
	})
	must(t, err)
	proxy, err := faultproxy.Start(server.Address)
	must(t, err)
	t.Cleanup(func() { must(t, proxy.Stop()) })
	end := func() {}
	s := &source{
		Pod: pod, agentCA: map[string]any{"vault": map[string]any{
			"server": proxy.Address, "caPath": "pki/root/sign-intermediate", "csrPath": "pki_int/intermediate/generate/exported",
			"kubernetesAuth": map[string]any{"role": "gen-int-ca-istio"},
		}},
		left: func() error { return nil },
		answers: func(with answer) {
			end()
			end = proxy.Spoil(signPath, 0, func(w http.ResponseWriter, r *http.Request, _ http.Handler) { signInVaultsPlace(t, w, r, with) })
		},
		breaks: func(how failure) (end func()) {
			return map[failure]func() func(){
				down: func() func() { return proxy.Spoil("", 0, faultproxy.Reset) },
				slow: func() func() { return proxy.Spoil(generatePath, 0, faultproxy.Slow(4*time.Second)) },
				denying: func() func() {
					return proxy.Spoil(loginPath, 0, faultproxy.Answer(http.StatusForbidden, "application/json", `{"errors":["permission denied"]}`))
				},
			}[how]()
		},
		reached: map[string]func() (func() error, func()){},
	}
	for _, path := range []string{loginPath, generatePath, signPath, revokePath} {
		s.reached["calls "+path] = func() (func() error, func()) {
			end() // rules apply in their order
			before, release := proxy.Count(path), proxy.Spoil(path, 0, faultproxy.Hang)
			return func() error {
				if proxy.Count(path) == before {
					return errors.New("it is not called")
				}
				return nil
			}, func() { release(); s.answers(rightly) }
		}
	}
	return s
}

func signInVaultsPlace(t *testing.T, w http.ResponseWriter, r *http.Request, with answer) {
	var body struct {
		CSR string `json:"csr"`
		TTL string `json:"ttl"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		t.Error(err)
	}
	block, _ := pem.Decode([]byte(body.CSR))
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Error(err)
	}
	ttl, err := time.ParseDuration(body.TTL)
	if err != nil {
		t.Error(err)
	}
	certificate, above := with(csr, ttl)
	data := map[string]any{"certificate": certificate, "ca_chain": above}
	if len(above) > 0 {
		data["issuing_ca"] = above[0]
	}
	if err := json.NewEncoder(w).Encode(map[string]any{"data": data}); err != nil {
		t.Error(err)
	}
}

// issuer is an external issuer of cert-manager.
func issuer(t *testing.T) *source {
	t.Helper()
	pod := newPod(t)
	must(t, agents.GrantRequests(t.Context(), shared, pod.Namespace))
	running, err := externalissuer.Start(t, shared, pod.Namespace, nil)
	must(t, err)
	requests := func() ([]cmapi.CertificateRequest, error) {
		list := &cmapi.CertificateRequestList{}
		err := shared.List(t.Context(), list, client.InNamespace(pod.Namespace))
		return list.Items, err
	}
	s := &source{
		Pod: pod, agentCA: map[string]any{"certManager": map[string]any{"issuerRef": running.Reference()}},
		left: func() error {
			items, err := requests()
			if err == nil && len(items) > 0 {
				err = fmt.Errorf("%d CertificateRequests", len(items))
			}
			return err
		},
		answers: func(with answer) {
			running.Answer(func(csr *x509.CertificateRequest, ttl time.Duration) ([]byte, []byte, error) {
				certificate, above := with(csr, ttl)
				return []byte(certificate), []byte(strings.Join(above, "")), nil
			})
		},
	}
	s.breaks = func(how failure) func() {
		switch how {
		case down:
			running.Pause()
			return func() { running.Resume(t) }
		case slow:
			running.Answer(func(*x509.CertificateRequest, time.Duration) ([]byte, []byte, error) {
				return nil, nil, externalissuer.ErrLater
			})
			return func() { s.answers(rightly) }
		default:
			running.Deny()
			return running.Approve
		}
	}
	waitsFor := func(what func(*cmapi.CertificateRequest) bool) func() error {
		return func() error {
			items, err := requests()
			if err == nil && (len(items) != 1 || !what(&items[0])) {
				err = errors.New("it is not requested, or not so")
			}
			return err
		}
	}
	s.reached = map[string]func() (func() error, func()){
		"waits for the approval": func() (func() error, func()) {
			running.Undecided()
			return waitsFor(func(*cmapi.CertificateRequest) bool { return true }), running.Approve
		},
		"waits for the issuer": func() (func() error, func()) {
			end := s.breaks(slow)
			return waitsFor(func(of *cmapi.CertificateRequest) bool { return len(of.Status.Conditions) > 1 }), end
		},
	}
	return s
}

// The CA of all sources: a root, and an issuer below it that allows istiod's CA and no other.
var (
	root      = testca.Root("mesh-root")
	limited   = root.Sign(authority("mesh-issuer", 1), nil)
	unlimited = root.Sign(testca.Authority("another-issuer"), nil)
)

func authority(organization string, pathLength int) x509.Certificate {
	template := testca.Authority(organization)
	template.MaxPathLen, template.MaxPathLenZero = pathLength, pathLength == 0
	return template
}

// rightly answers as asked.
func rightly(csr *x509.CertificateRequest, ttl time.Duration) (string, []string) {
	return signed(csr, ttl, limited, nil), []string{string(limited.PEM()), string(root.PEM())}
}

// signed is what an issuer signs for a CSR, but for a change.
func signed(csr *x509.CertificateRequest, ttl time.Duration, by *testca.Certificate, change func(*x509.Certificate)) string {
	template := authority("", 0)
	template.Subject, template.URIs, template.PublicKey = csr.Subject, csr.URIs, csr.PublicKey
	template.KeyUsage |= x509.KeyUsageCRLSign
	template.NotBefore = time.Now().Add(-30 * time.Second)
	template.NotAfter = time.Now().Add(ttl)
	if change != nil {
		change(&template)
	}
	certificate := by.SignPublic(template, template.PublicKey)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw}))
}

// published returns an error unless all files or none are there.
func (s *source) published(all bool) error {
	entries, err := os.ReadDir(s.CACerts)
	if err == nil && all != (len(entries) > 0) {
		err = fmt.Errorf("%d files", len(entries))
	}
	return err
}
