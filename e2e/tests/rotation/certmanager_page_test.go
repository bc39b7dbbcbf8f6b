// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/certmanager"
)

// The commands of docs/cert-manager.md lead from nothing to istiods under a ClusterIssuer, as they are written.
func TestCertManagerPage(t *testing.T) {
	m := newMesh(t)
	m.startCertManager(t)
	must(t, client.IgnoreAlreadyExists(shared.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "cert-manager"}})))
	approver, err := certmanager.StartApproverPolicy(t.Context(), shared.Plane, shared.Client, "cert-manager")
	must(t, err)
	t.Cleanup(func() { must(t, approver.Stop(context.WithoutCancel(t.Context()))) })
	p := newPage(t, m, "cert-manager.md")
	p.samples(t)
	notRun := map[string]string{
		"Install 1":             "cert-manager's programs run without its chart",
		"Install 2":             "the controllers run without the chart; e2e/tests/pages installs it",
		"Rights of the agent 1": "the test grants the chart's Role; the tests of the chart render it",
		"The VirtualMesh 4":     "the test starts istiod's and the agents' programs",
		"By hand 1":             "values of the chart; TestApprovalByHand in e2e/tests/certmanager has the variable",
		"Path length 1":         "a part of a VirtualMesh",
		"By policy 1":           "approver-policy's program runs without its chart",
	}
	done := map[string]bool{}
	run := func(name string) string {
		t.Helper()
		output, err := p.output(t.Context(), name)
		if done[name] = true; err != nil {
			t.Fatal(err)
		}
		return output
	}

	run("An issuer 1")
	run("An issuer 2")
	t.Cleanup(func() { must(t, shared.Delete(context.WithoutCancel(t.Context()), clusterIssuer("mesh"))) })
	run("The VirtualMesh 1")
	run("The VirtualMesh 2")
	// istiod's Deployment has no agent here, so the check fails for other reasons.
	output, _ := p.output(t.Context(), "The VirtualMesh 3")
	if done["The VirtualMesh 3"] = true; !strings.Contains(output, "ok       cert-manager's ClusterIssuer mesh  — is Ready") {
		t.Error(output)
	}
	m.replica(t, "istiod-0")
	m.replica(t, "istiod-1")
	run("Check 1")
	output, _ = p.output(t.Context(), "Check 2") // these Pods have no containers of the agent
	if done["Check 2"] = true; !strings.Contains(output, "cert-manager's ClusterIssuer mesh") {
		t.Error(output)
	}
	if output := run("Check 3"); !strings.Contains(output, "No resources found") {
		t.Errorf("requests are left:\n%s", output)
	}
	m.published(t, p.read(t, "root-cert.pem"))
	run("By policy 2")
	m.signedBy(t, "CN=mesh,O=my-org")

	secrets := &corev1.SecretList{}
	must(t, shared.List(t.Context(), secrets, client.InNamespace(m.namespace)))
	if len(secrets.Items) > 0 {
		t.Errorf("istiod's namespace has %d Secrets", len(secrets.Items))
	}
	for name := range p.blocks {
		if _, excepted := notRun[name]; done[name] == excepted {
			t.Errorf("docs/cert-manager.md, %s: run %t, an exception %t", name, done[name], excepted)
		}
	}
}

func clusterIssuer(name string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "cert-manager.io/v1", "kind": "ClusterIssuer", "metadata": map[string]any{"name": name},
	}}
}

// samples puts config/samples where the page's commands expect it, for the test's namespace.
func (p *page) samples(t *testing.T) {
	t.Helper()
	root, err := built.Root()
	must(t, err)
	for _, name := range []string{"virtualmesh-cert-manager.yaml", "certificaterequestpolicy.yaml"} {
		content, err := os.ReadFile(filepath.Join(root, "config", "samples", name))
		must(t, err)
		must(t, os.MkdirAll(filepath.Join(p.dir, "config", "samples"), 0o700))
		must(t, os.WriteFile(filepath.Join(p.dir, "config", "samples", name), []byte(p.names.Replace(string(content))), 0o600))
	}
}
