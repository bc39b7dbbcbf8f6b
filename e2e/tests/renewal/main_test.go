// SPDX-License-Identifier: Apache-2.0

// Package renewal tests the agent's whole life with an API server, a Vault set up by the guide, and an istiod.
package renewal

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/certmanager"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/check"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istiodserver"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/vaultserver"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

var must = check.Must

var shared *cluster.Cluster

func TestMain(m *testing.M) {
	beKubectl()
	cluster.Main(m, &shared, nil)
}

// mesh is an istiod with its agent and its Vault.
type mesh struct {
	*agents.Pod
	vault *vaultserver.Server
	// root is the mesh's, in PEM.
	root        []byte
	certificate *unstructured.Unstructured
	istiod      *istiodserver.Server
}

// newMesh sets up Vault by the guide for a new namespace, and writes the specification. EC keys make renewals fast; TestGuide
// has the guide's RSA keys.
func newMesh(t *testing.T, change func(vault, certOptions map[string]any)) *mesh {
	t.Helper()
	ctx := t.Context()
	m := newPod(t)
	var err error
	m.vault, err = vaultserver.Start(ctx, vaultserver.Options{Storage: true})
	must(t, err)
	t.Cleanup(func() { must(t, m.vault.Stop()) })
	root, err := m.vault.Guide(ctx, vaultserver.GuideOptions{
		Cluster: shared.Plane.Config, ServiceAccount: agents.ServiceAccount, Namespace: m.Namespace, Root: vaultserver.FastRoot,
	})
	must(t, err)
	m.root = root.Certificate
	if change == nil {
		change = func(vault, certOptions map[string]any) {
			delete(vault, "csrPath")
			certOptions["ecKeyCurve"] = "P-256"
		}
	}
	m.certificate = m.Certificate(m.vault.Address, change)
	_, err = shared.ServerSideApply(ctx, m.certificate)
	must(t, err)
	return m
}

// newIssuerMesh is newMesh with cert-manager and a CA issuer in Vault's place. The issuer's key is in a Secret, as cert-manager
// needs it.
func newIssuerMesh(t *testing.T) (m *mesh, issuerKey []byte) {
	t.Helper()
	ctx := t.Context()
	m = newPod(t)
	running, err := certmanager.Start(ctx, shared.Plane)
	must(t, err)
	t.Cleanup(func() { must(t, running.Stop()) })
	must(t, agents.GrantRequests(ctx, shared, m.Namespace))
	root := testca.Root("mesh-root")
	m.root = root.PEM()
	template := testca.Authority("mesh-issuer")
	template.MaxPathLen = 1
	issuer := root.Sign(template, nil)
	const name = "istio-ca"
	must(t, certmanager.CreateCAIssuer(ctx, shared, m.Namespace, name, append(issuer.PEM(), m.root...), issuer.KeyPEM()))
	m.certificate = m.Certificate("", func(_, certOptions map[string]any) { certOptions["ecKeyCurve"] = "P-256" })
	must(t, unstructured.SetNestedField(m.certificate.Object, map[string]any{"certManager": map[string]any{
		"issuerRef": map[string]any{"name": name},
	}}, "spec", "agentCa"))
	_, err = shared.ServerSideApply(ctx, m.certificate)
	must(t, err)
	return m, issuer.KeyPEM()
}

// newPod returns a mesh without Vault and specification, in a new namespace.
func newPod(t *testing.T) *mesh {
	t.Helper()
	must(t, agents.Install(t.Context(), shared))
	pod, err := agents.NewPod(t.Context(), shared, shared.Namespace(t, false), "istiod-0", istiodserver.TmpfsDir(t), t.TempDir())
	must(t, err)
	return &mesh{Pod: pod}
}

// start runs the init container, istiod and the sidecar, in a Pod's order.
func (m *mesh) start(t *testing.T) *agents.Sidecar {
	t.Helper()
	output, err := m.Init(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	check.NoSecrets(t, output)
	m.startIstiod(t)
	return m.startSidecar(t)
}

// starting is locked while an istiod starts, since the first one installs Istio's CRDs.
var starting sync.Mutex

func (m *mesh) startIstiod(t *testing.T) {
	t.Helper()
	var err error
	starting.Lock()
	m.istiod, err = istiodserver.Start(t.Context(), istiodserver.Options{
		Plane: shared.Plane, Namespace: m.Namespace, CACerts: m.CACerts,
		// Several istiods run here at a time, each with a root of its own to publish.
		MeshConfig: "discoverySelectors: [{matchLabels: {kubernetes.io/metadata.name: " + m.Namespace + "}}]",
	})
	starting.Unlock()
	must(t, err)
	t.Cleanup(func() { must(t, m.istiod.Stop()) })
	m.IstiodAddress = m.istiod.SecureAddress
}

func (m *mesh) startSidecar(t *testing.T, arguments ...string) *agents.Sidecar {
	t.Helper()
	sidecar, err := m.Sidecar(t.Context(), arguments...)
	must(t, err)
	t.Cleanup(func() {
		check.NoSecrets(t, sidecar.Output())
		must(t, sidecar.Stop(10*time.Second))
		if t.Failed() {
			t.Log(sidecar.Output())
		}
	})
	return sidecar
}

// confirmed waits until the status reports that istiod uses a certificate other than the one named.
func (m *mesh) confirmed(t *testing.T, other string) (serial string) {
	t.Helper()
	cluster.Eventually(t, "istiod's CA is confirmed in the status", func() error {
		state, entry := m.status(t)
		if state != "FINISHED" || entry["confirmed"] != true || entry["serialNumber"] == other {
			return fmt.Errorf("state %q, %v", state, entry)
		}
		serial = entry["serialNumber"].(string)
		return nil
	})
	return serial
}

func (m *mesh) status(t *testing.T) (state string, entry map[string]any) {
	t.Helper()
	stored := m.stored(t)
	state, _, _ = unstructured.NestedString(stored.Object, "status", "state")
	entries, _, _ := unstructured.NestedSlice(stored.Object, "status", "certificates")
	for _, each := range entries {
		if each := each.(map[string]any); each["pod"] == m.Name {
			return state, each
		}
	}
	return state, map[string]any{}
}

func (m *mesh) stored(t *testing.T) *unstructured.Unstructured {
	t.Helper()
	stored := m.certificate.DeepCopy()
	must(t, shared.Get(t.Context(), client.ObjectKeyFromObject(m.certificate), stored))
	return stored
}

// metric waits until a metric of the sidecar has the value.
func metric(t *testing.T, sidecar *agents.Sidecar, name string, want float64) {
	t.Helper()
	cluster.Eventually(t, fmt.Sprintf("%s is %v", name, want), func() error {
		got, err := sidecar.Metric(t.Context(), name)
		if err == nil && got != want {
			err = fmt.Errorf("it is %v", got)
		}
		return err
	})
}

// file parses the first certificate of one of istiod's files.
func (m *mesh) file(t *testing.T, name string) (*x509.Certificate, []byte) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(m.CACerts, name))
	must(t, err)
	block, _ := pem.Decode(content)
	certificate, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	return certificate, content
}

// serial returns the published certificate's serial number.
func (m *mesh) serial(t *testing.T) string {
	t.Helper()
	certificate, _ := m.file(t, "ca-cert.pem")
	return certificate.SerialNumber.Text(16)
}

// events returns type and note of the IssuedCertificate's Events with a reason.
func (m *mesh) events(t *testing.T, reason string) (found []string) {
	t.Helper()
	var all eventsv1.EventList
	must(t, shared.List(t.Context(), &all, client.InNamespace(m.Namespace)))
	for _, event := range all.Items {
		if event.Reason == reason && event.Regarding.Kind == "IssuedCertificate" && event.Regarding.UID == m.stored(t).GetUID() {
			found = append(found, event.Type+" "+event.Note)
		}
	}
	return found
}

// wantEvent waits for one Event with a reason and all words in its note.
func (m *mesh) wantEvent(t *testing.T, kind, reason string, words ...string) {
	t.Helper()
	cluster.Eventually(t, "there is an event "+reason, func() error {
		found := m.events(t, reason)
		if len(found) != 1 || !strings.HasPrefix(found[0], kind+" ") {
			return fmt.Errorf("there are %q", found)
		}
		return contains(found[0], words...)
	})
}

// contains returns an error unless a text contains all words.
func contains(text string, words ...string) error {
	for _, each := range words {
		if !strings.Contains(text, each) {
			return fmt.Errorf("%q is not in: %s", each, text)
		}
	}
	return nil
}

// signs expects istiod to sign a workload's certificate that verifies against the root.
func (m *mesh) signs(ctx context.Context) error {
	workload, err := m.istiod.CSR(ctx, istiodserver.CSROptions{Namespace: m.Namespace, ServiceAccount: "default", Root: m.root})
	if err != nil {
		return err
	}
	return workload.Verify(m.root)
}

// published expects no difference in the guide's last step.
func (m *mesh) published(t *testing.T) {
	t.Helper()
	cluster.Eventually(t, "istio-ca-root-cert is Vault's root", func() error {
		root, err := m.istiod.PublishedRoot(t.Context(), m.Namespace)
		if err == nil && !bytes.Equal(bytes.TrimSpace(root), bytes.TrimSpace(m.root)) {
			err = errors.New("it is another")
		}
		return err
	})
}

// reloads counts istiod's log lines about a loaded CA.
func (m *mesh) reloads() int {
	return strings.Count(m.istiod.Process().Output(), "Istiod has detected the newly added intermediate CA and updated its key and certs accordingly")
}
