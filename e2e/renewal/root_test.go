// SPDX-License-Identifier: Apache-2.0

package renewal

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"maps"
	"testing"

	"github.com/istiod-agent/istiod-agent/e2e/agents"
	"github.com/istiod-agent/istiod-agent/e2e/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/istiodserver"
	"github.com/istiod-agent/istiod-agent/e2e/vaultserver"
)

// Another root in Vault never reaches an istiod that runs: it keeps what it has, byte for byte, and a person is
// told both fingerprints. A Pod that starts takes the new root; with the old one back, renewal goes on.
func TestAnotherRootInVaultWaitsForANewPod(t *testing.T) {
	t.Parallel()
	m := newMesh(t, nil)
	sidecar := m.start(t)
	serial := m.confirmed(t, "")
	before := m.files(t)

	var issuers struct{ was, is string }
	answer, err := m.vault.Client.Logical().ReadWithContext(t.Context(), "pki/config/issuers")
	must(t, err)
	issuers.was = answer.Data["default"].(string)
	root, err := vaultserver.FastRoot()
	must(t, err)
	bundle := string(root.Key) + string(root.Certificate)
	answer, err = m.vault.Client.Logical().WriteWithContext(t.Context(), "pki/config/ca", map[string]any{"pem_bundle": bundle})
	must(t, err)
	issuers.is = answer.Data["imported_issuers"].([]any)[0].(string)
	setRoot := func(issuer string) {
		t.Helper()
		_, err := m.vault.Client.Logical().WriteWithContext(t.Context(), "pki/root/replace", map[string]any{"default": issuer})
		must(t, err)
	}
	setRoot(issuers.is)

	must(t, agents.Renew(t.Context(), shared, m.certificate, "under-another-root"))
	words := []string{"Vault's root has changed", "from " + fingerprint(m.root.Certificate) + " to " + fingerprint(root.Certificate), "restart istiod"}
	m.fails(t, serial, words...)
	metric(t, sidecar, "istiod_agent_root_changed", 1)
	m.told(t, "Warning", "RootChanged", words...)
	if after := m.files(t); !maps.Equal(before, after) {
		t.Error("istiod's files have changed")
	}
	must(t, m.signs(t.Context()))
	if n := m.reloads(); n != 0 {
		t.Errorf("istiod has loaded %d other CAs", n)
	}
	if got, err := sidecar.Metric(t.Context(), requested); err != nil || got != 0 {
		t.Errorf("%v renewals count as done (%v)", got, err)
	}

	fresh, err := agents.NewPod(t.Context(), shared, m.Namespace, "istiod-1", istiodserver.TmpfsDir(t), t.TempDir())
	must(t, err)
	_, err = fresh.Init(t.Context())
	must(t, err)
	if _, content := (&mesh{Pod: fresh}).file(t, "root-cert.pem"); !bytes.Equal(bytes.TrimSpace(content), bytes.TrimSpace(root.Certificate)) {
		t.Error("a Pod that starts does not get Vault's new root")
	}

	setRoot(issuers.was)
	must(t, agents.Renew(t.Context(), shared, m.certificate, "under-the-old-root"))
	m.confirmed(t, serial)
	metric(t, sidecar, requested, 1)
	metric(t, sidecar, "istiod_agent_root_changed", 0)
	after := m.files(t)
	if after["root-cert.pem"] != before["root-cert.pem"] {
		t.Error("root-cert.pem has changed")
	}
	if after["ca-cert.pem"] == before["ca-cert.pem"] {
		t.Error("the certificate is the same")
	}
	must(t, m.signs(t.Context()))
	if found := m.events(t, "RootChanged"); len(found) != 1 {
		t.Errorf("the change of the root was told %d times, want once: %q", len(found), found)
	}
}

// fails waits until the status says that the certificate with this serial number stays, and why.
func (m *mesh) fails(t *testing.T, serial string, words ...string) {
	t.Helper()
	cluster.Eventually(t, "the status is FAILED", func() error {
		state, entry := m.status(t)
		if state != "FAILED" || entry["serialNumber"] != serial {
			return fmt.Errorf("state %q, %v", state, entry)
		}
		return says(fmt.Sprint(entry["error"]), words...)
	})
}

// fingerprint is the SHA-256 of a certificate in PEM.
func fingerprint(certificate []byte) string {
	block, _ := pem.Decode(certificate)
	sum := sha256.Sum256(block.Bytes)
	return hex.EncodeToString(sum[:])
}
