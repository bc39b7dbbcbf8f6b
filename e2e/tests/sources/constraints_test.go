// SPDX-License-Identifier: Apache-2.0

package sources

import (
	"crypto/x509"
	"errors"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/check"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
)

// With permittedURIDomains, a CA that ignores the request, as Vault before 1.19 and OpenBao do, or that permits more, is refused
// with what to do; one that honours it is used.
func TestNameConstraints(t *testing.T) {
	t.Parallel()
	permitting := func(domains ...string) answer {
		return func(csr *x509.CertificateRequest, ttl time.Duration) (string, []string) {
			limit := func(c *x509.Certificate) {
				c.PermittedURIDomains, c.PermittedDNSDomainsCritical = domains, true
			}
			return signed(csr, ttl, limited, limit), []string{string(limited.PEM()), string(root.PEM())}
		}
	}
	eachSource(t, func(t *testing.T, s *source) {
		certificate := s.Certificate("", func(_, options map[string]any) {
			options["ecKeyCurve"], options["ttlDays"], options["permittedURIDomains"] = "P-256", int64(30), []any{"cluster.local"}
		})
		must(t, unstructured.SetNestedField(certificate.Object, s.agentCA, "spec", "agentCa"))
		_, err := shared.ServerSideApply(t.Context(), certificate)
		must(t, err)
		for what, test := range map[string]struct {
			answer answer
			says   string
		}{
			"none":    {rightly, "upgrade Vault to 1.19 or later"},
			"broader": {permitting("cluster.local", "other.domain"), "expected no others than"},
		} {
			s.answers(test.answer)
			refused := s.start(t)
			cluster.Eventually(t, what+" is refused", func() error {
				return errors.Join(contains(refused, "reason=WrongNameConstraints"), contains(refused, test.says))
			})
			must(t, refused.Signal(syscall.SIGTERM))
			<-refused.Exited()
			if err := errors.Join(s.published(false), s.left()); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			check.NoSecrets(t, refused.Output())
		}
		s.answers(permitting("cluster.local"))
		_, err = s.Init(t.Context())
		must(t, err)
		must(t, s.published(true))
	})
}
