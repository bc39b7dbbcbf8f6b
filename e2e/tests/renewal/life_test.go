// SPDX-License-Identifier: Apache-2.0

package renewal

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
)

// With the guide's own values, the type of the key included, istiod starts with Vault's CA and publishes Vault's root. It
// loads a renewed CA in one reload, without a restart.
func TestGuide(t *testing.T) {
	m := newMesh(t, func(_, _ map[string]any) {})
	sidecar := m.start(t)
	first := m.confirmed(t, "")
	m.published(t)
	must(t, m.signs(t.Context()))
	certificate, _ := m.file(t, "ca-cert.pem")
	if got := certificate.PublicKeyAlgorithm.String(); got != "RSA" {
		t.Errorf("the key is %s", got)
	}
	_, root := m.file(t, "root-cert.pem")

	must(t, agents.Renew(t.Context(), shared, m.certificate, "once"))
	second := m.confirmed(t, first)
	if first == second {
		t.Error("the certificate is the same")
	}
	metric(t, sidecar, `istiod_agent_renewals_total{outcome="success",reason="RenewRequested"}`, 1)
	metric(t, sidecar, "istiod_agent_istiod_confirmed", 1)
	cluster.Eventually(t, "istiod has loaded it once", func() error {
		if n := m.reloads(); n != 1 {
			return fmt.Errorf("it has %d times", n)
		}
		return nil
	})
	if _, again := m.file(t, "root-cert.pem"); !bytes.Equal(root, again) {
		t.Error("root-cert.pem has changed")
	}
	must(t, m.signs(t.Context()))
	m.published(t)

	keys, err := m.vault.Client.Logical().ListWithContext(t.Context(), "pki_int/keys")
	must(t, err)
	if keys != nil {
		t.Errorf("Vault keeps %d copies of the CA key", len(keys.Data["keys"].([]any)))
	}
	_, err = sidecar.Get(t.Context(), "/readyz")
	must(t, err)
	if warnings := strings.Count(sidecar.Output(), "SpecificationWarning"); warnings != 2 {
		t.Errorf("%d warnings, want those of http:// and of the audience", warnings)
	}
}
