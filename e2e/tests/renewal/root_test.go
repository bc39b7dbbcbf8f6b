// SPDX-License-Identifier: Apache-2.0

package renewal

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istiodserver"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/vaultserver"
)

// A changed root in Vault never reaches a running istiod: it keeps its files byte for byte, and an Event names both
// fingerprints. A Pod that starts beside it waits until a person accepts the root by the command in the message. Once the
// old root is back, renewal continues.
func TestChangedRoot(t *testing.T) {
	t.Parallel()
	m := newMesh(t, nil)
	sidecar := m.start(t)
	serial := m.confirmed(t, "")
	before := m.Files(t)

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
	words := []string{"the CA's root has changed", "from " + fingerprint(m.root) + " to " + fingerprint(root.Certificate), "restart istiod"}
	m.fails(t, serial, words...)
	metric(t, sidecar, "istiod_agent_root_changed", 1)
	m.wantEvent(t, "Warning", "RootChanged", words...)
	if after := m.Files(t); !maps.Equal(before, after) {
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
	m.published(t)
	output, err := fresh.Init(t.Context(), "--timeout", "3s")
	if err == nil {
		t.Error("a Pod takes another root than the one that runs")
	}
	accept := "istiod-agent.io/accept-root=" + fingerprint(root.Certificate)
	must(t, contains(output, "reason=RootChanged", "istiod-agent: no certificates for istiod: the CA's root has changed", m.Name,
		"kubectl annotate issuedcertificate -n "+m.Namespace+" "+m.certificate.GetName()+" --overwrite "+accept))
	started := make(chan error, 1)
	go func() { _, err := fresh.Init(t.Context()); started <- err }()
	waiting := &mesh{Pod: fresh, certificate: m.certificate}
	cluster.Eventually(t, "the new Pod waits", func() error {
		if _, entry := waiting.status(t); entry["offeredRootFingerprint"] != fingerprint(root.Certificate) || entry["rootFingerprint"] != nil {
			return fmt.Errorf("it has %v", entry)
		}
		if c := waiting.condition(t, "RootTrusted"); c["status"] != "False" || c["reason"] != "RootChanged" {
			return fmt.Errorf("the condition is %v", c)
		}
		return nil
	})
	name, value, _ := strings.Cut(accept, "=")
	must(t, agents.Annotate(t.Context(), shared, m.certificate, name, value))
	must(t, <-started)
	if _, content := (&mesh{Pod: fresh}).file(t, "root-cert.pem"); !bytes.Equal(bytes.TrimSpace(content), bytes.TrimSpace(root.Certificate)) {
		t.Error("a Pod that starts does not get the root that was accepted")
	}

	setRoot(issuers.was)
	must(t, agents.Renew(t.Context(), shared, m.certificate, "under-the-old-root"))
	m.confirmed(t, serial)
	// One or two: the first request is still retried, and may succeed before the agent has seen the second.
	if got, err := sidecar.Metric(t.Context(), requested); err != nil || got < 1 {
		t.Errorf("%v renewals count as done (%v)", got, err)
	}
	metric(t, sidecar, "istiod_agent_root_changed", 0)
	after := m.Files(t)
	if after["root-cert.pem"] != before["root-cert.pem"] {
		t.Error("root-cert.pem has changed")
	}
	if after["ca-cert.pem"] == before["ca-cert.pem"] {
		t.Error("the certificate is the same")
	}
	must(t, m.signs(t.Context()))
	found := slices.DeleteFunc(m.events(t, "RootChanged"), func(note string) bool { return strings.Contains(note, "this istiod waits") })
	if len(found) != 1 {
		t.Errorf("the change of the root was told %d times, want once: %q", len(found), found)
	}
}

// Vault's answers also hold a root reissued with the same key, and another root that the first one has cross-signed.
// Renewals continue, and istiod keeps its root.
func TestReissuedAndCrossSignedRoots(t *testing.T) {
	t.Parallel()
	m := newMesh(t, nil)
	m.start(t)
	serial := m.confirmed(t, "")
	_, before := m.file(t, "root-cert.pem")
	write := func(path string, data map[string]any) map[string]any {
		t.Helper()
		answer, err := m.vault.Client.Logical().WriteWithContext(t.Context(), "pki/"+path, data)
		must(t, err)
		return answer.Data
	}
	renew := func(request string, intermediates int) {
		t.Helper()
		must(t, agents.Renew(t.Context(), shared, m.certificate, request))
		serial = m.confirmed(t, serial)
		if _, after := m.file(t, "root-cert.pem"); !bytes.Equal(before, after) {
			t.Errorf("%s: root-cert.pem has changed", request)
		}
		if _, chain := m.file(t, "cert-chain.pem"); bytes.Count(chain, []byte("-----BEGIN")) != 1+intermediates {
			t.Errorf("%s: cert-chain.pem is %s", request, chain)
		}
		must(t, m.signs(t.Context()))
	}

	answer, err := m.vault.Client.Logical().ReadWithContext(t.Context(), "pki/issuer/default")
	must(t, err)
	old := answer.Data["issuer_id"].(string)
	subject := map[string]any{"organization": "my-org", "ttl": "80000h", "key_ref": answer.Data["key_id"]}
	reissued := write("issuers/generate/root/existing", subject)
	renew("beside-a-reissued-root", 0)
	write("root/replace", map[string]any{"default": reissued["issuer_id"]})
	renew("under-the-reissued-root", 0)

	next := write("root/rotate/internal", map[string]any{"common_name": "root-b", "issuer_name": "root-b", "key_type": "ec", "key_bits": 256, "ttl": "80000h"})
	request := write("intermediate/cross-sign", map[string]any{"common_name": "root-b", "key_ref": next["key_id"]})
	signed := write("issuer/"+old+"/sign-intermediate", map[string]any{"csr": request["csr"], "common_name": "root-b", "ttl": "700h", "use_csr_values": true})
	write("intermediate/set-signed", map[string]any{"certificate": signed["certificate"]})
	write("root/replace", map[string]any{"default": next["issuer_id"]})
	renew("under-a-cross-signed-root", 1)

	// A Pod that starts has the mesh's root too, though it is not that of the issuer that signs.
	m.published(t)
	fresh, err := agents.NewPod(t.Context(), shared, m.Namespace, "istiod-1", istiodserver.TmpfsDir(t), t.TempDir())
	must(t, err)
	_, err = fresh.Init(t.Context(), "--timeout", "30s")
	must(t, err)
	if _, content := (&mesh{Pod: fresh}).file(t, "root-cert.pem"); !bytes.Equal(content, before) {
		t.Error("a Pod that starts has another root than the mesh")
	}
}

// fails waits until the status reports a reason while the certificate with this serial number stays.
func (m *mesh) fails(t *testing.T, serial string, words ...string) {
	t.Helper()
	cluster.Eventually(t, "the status is FAILED", func() error {
		state, entry := m.status(t)
		if state != "FAILED" || entry["serialNumber"] != serial {
			return fmt.Errorf("state %q, %v", state, entry)
		}
		return contains(fmt.Sprint(entry["error"]), words...)
	})
}

// fingerprint returns the SHA-256 fingerprint of a certificate in PEM.
func fingerprint(certificate []byte) string {
	block, _ := pem.Decode(certificate)
	sum := sha256.Sum256(block.Bytes)
	return hex.EncodeToString(sum[:])
}
