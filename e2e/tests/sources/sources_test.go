// SPDX-License-Identifier: Apache-2.0

package sources

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/check"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/process"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

// What is wrong is refused, with the same reason from every source, and published by none.
func TestWrongAnswers(t *testing.T) {
	t.Parallel()
	changed := func(change func(*x509.Certificate)) answer {
		return func(csr *x509.CertificateRequest, ttl time.Duration) (string, []string) {
			return signed(csr, ttl, limited, change), []string{string(limited.PEM()), string(root.PEM())}
		}
	}
	name := func(text string) *url.URL {
		parsed, err := url.Parse(text)
		must(t, err)
		return parsed
	}
	other := testca.NewKey()
	above := func(by *testca.Certificate, chain ...*testca.Certificate) answer {
		return func(csr *x509.CertificateRequest, ttl time.Duration) (string, []string) {
			var texts []string
			for _, each := range chain {
				texts = append(texts, string(each.PEM()))
			}
			return signed(csr, ttl, by, nil), texts
		}
	}
	eachSource(t, func(t *testing.T, s *source) {
		for what, test := range map[string]struct {
			answer answer
			reason string
		}{
			"another key":            {changed(func(c *x509.Certificate) { c.PublicKey = other.Public() }), "KeyMismatch"},
			"another name":           {changed(func(c *x509.Certificate) { c.URIs = []*url.URL{name("spiffe://cluster.local/ns/other/sa/istiod")} }), "WrongNames"},
			"a name more":            {changed(func(c *x509.Certificate) { c.URIs = append(c.URIs, name("spiffe://other/ns/a/sa/b")) }), "WrongNames"},
			"a DNS name":             {changed(func(c *x509.Certificate) { c.DNSNames = []string{"istiod.example.com"} }), "WrongNames"},
			"another organization":   {changed(func(c *x509.Certificate) { c.Subject.Organization = []string{"other"} }), "WrongOrganization"},
			"no CA":                  {changed(func(c *x509.Certificate) { c.IsCA, c.MaxPathLenZero = false, false }), "NotACA"},
			"a CA that may not sign": {changed(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }), "NotACA"},
			"one that has ended": {changed(func(c *x509.Certificate) {
				c.NotBefore, c.NotAfter = c.NotBefore.Add(-48*time.Hour), time.Now().Add(-time.Hour)
			}), "NotValidNow"},
			"one that begins later": {changed(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }), "NotValidNow"},
			"one that lives longer": {changed(func(c *x509.Certificate) { c.NotAfter = c.NotAfter.Add(24 * time.Hour) }), "LivesTooLong"},
			"a longer path": {func(csr *x509.CertificateRequest, ttl time.Duration) (string, []string) {
				longer := func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 1, false }
				return signed(csr, ttl, unlimited, longer), []string{string(unlimited.PEM()), string(root.PEM())}
			}, "BadPathLength"},
			"an unlimited path": {func(csr *x509.CertificateRequest, ttl time.Duration) (string, []string) {
				unbounded := func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = -1, false }
				return signed(csr, ttl, unlimited, unbounded), []string{string(unlimited.PEM()), string(root.PEM())}
			}, "BadPathLength"},
			"no root":                {above(limited, limited), "NoRoot"},
			"no chain":               {above(limited), "NoRoot"},
			"the chain of another":   {above(limited, unlimited, root), "NoRoot"},
			"a root of its own name": {above(limited, limited, testca.Root("mesh-root")), "BadChain"},
			"no PEM": {func(*x509.CertificateRequest, time.Duration) (string, []string) {
				return "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", nil
			}, "BadPEM"},
		} {
			s.answers(test.answer)
			refused := s.start(t)
			cluster.Eventually(t, what+" is refused", func() error { return contains(refused, "reason="+test.reason) })
			must(t, refused.Signal(syscall.SIGTERM))
			<-refused.Exited()
			output := refused.Output()
			if err := s.published(false); err != nil {
				t.Errorf("%s: published: %v", what, err)
			}
			if err := s.left(); err != nil {
				t.Errorf("%s: left at the CA: %v", what, err)
			}
			check.NoSecrets(t, output)
		}
		s.answers(rightly)
		_, err := s.Init(t.Context())
		must(t, err)
		must(t, s.published(true))
	})
}

// A CA that is down, slow or denies is waited for, and used once it is well again.
func TestFailures(t *testing.T) {
	t.Parallel()
	eachSource(t, func(t *testing.T, s *source) {
		for how, says := range map[failure]map[string]string{
			down:    {"Vault": "reason=VaultUnreachable", "cert-manager": "reason=CertManagerWaitingForApproval"},
			denying: {"Vault": "reason=VaultNotAuthorized", "cert-manager": "reason=CertManagerDenied"},
			slow:    {"cert-manager": "reason=CertManagerWaitingForIssuer"},
		} {
			end := s.breaks(how)
			waiting := s.start(t)
			for source, text := range says {
				if strings.HasSuffix(t.Name(), source) {
					cluster.Eventually(t, string(how)+": it says so", func() error {
						return errors.Join(contains(waiting, text), s.published(false))
					})
				}
			}
			end()
			cluster.Eventually(t, string(how)+": it has recovered", func() error {
				select {
				case <-waiting.Exited():
					return s.published(true)
				default:
					return errors.New("it still waits:\n" + waiting.Output())
				}
			})
			must(t, s.left())
			must(t, s.Empty())
			check.NoSecrets(t, waiting.Output())
		}
	})
}

// An agent that is killed at any step has published nothing or all, and the next one leaves nothing behind.
func TestKilled(t *testing.T) {
	t.Parallel()
	eachSource(t, func(t *testing.T, s *source) {
		for step, at := range s.reached {
			reached, end := at()
			killed := s.start(t)
			cluster.Eventually(t, "the agent "+step, reached)
			must(t, killed.Kill())
			end()
			if err := s.published(step == "calls "+revokePath); err != nil {
				t.Errorf("killed as it %s: published: %v", step, err)
			}
			check.NoSecrets(t, killed.Output())
			must(t, s.Empty())
			_, err := s.Init(t.Context())
			must(t, err)
			if err := s.left(); err != nil {
				t.Errorf("killed as it %s: left at the CA: %v", step, err)
			}
			must(t, s.Empty())
		}
	})
}

// start starts an init container.
func (s *source) start(t *testing.T) *process.Process {
	t.Helper()
	started, err := process.Start("istiod-agent", s.Command(t.Context(), "init-container"))
	must(t, err)
	t.Cleanup(func() { must(t, started.Kill()) })
	return started
}

func contains(running *process.Process, text string) error {
	if output := running.Output(); !strings.Contains(output, text) {
		return fmt.Errorf("want %s in:\n%s", text, output)
	}
	return nil
}
