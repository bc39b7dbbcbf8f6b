// SPDX-License-Identifier: Apache-2.0

package clitrust

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/meshcluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/vaultserver"
)

// line is a fault and the text that reports it.
type line struct {
	broken  string
	command []string
	code    int
	says    []string
}

func (l line) check(t *testing.T, config string) {
	t.Helper()
	t.Run(l.command[0]+": "+l.broken, func(t *testing.T) { eventually(t, config, l.command, l.code, l.says...) })
}

// brokenStatus tests status with one fault of an istiod after the other.
func brokenStatus(t *testing.T, config string, s *side) {
	t.Helper()
	ctx := t.Context()
	for _, name := range []string{"bare", "mesh", "alien"} {
		must(t, s.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}))
	}
	s.CreatePod(t, "bare", "istiod-bare", false, func(p *corev1.Pod) { p.Spec.Containers = p.Spec.Containers[:1] })
	s.CreatePod(t, "alien", "istiod-alien", false, nil)
	reports := map[string]any{
		"istiod-unconfirmed": map[string]any{"confirmed": false, "serialNumber": "01:02"},
		"istiod-expired":     map[string]any{"confirmed": true, "serialNumber": "01:03", "notAfter": "2020-01-01T00:00:00Z"},
		"istiod-failing":     map[string]any{"confirmed": true, "serialNumber": "01:04", "rootFingerprint": strings.Repeat("ab", 32), "error": "asking Vault at https://vault:8200 to sign: permission denied"},
	}
	certificate := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "certificates.mesh.gloo.solo.io/v1", "kind": "IssuedCertificate", "metadata": map[string]any{"name": "mesh", "namespace": "mesh"},
		"spec": map[string]any{
			"hosts":   []any{"spiffe://cluster.local/ns/mesh/sa/istiod"},
			"agentCa": map[string]any{"vault": map[string]any{"server": "https://vault:8200", "caPath": "pki/root/sign-intermediate", "kubernetesAuth": map[string]any{"role": "istiod"}}},
		},
	}}
	must(t, s.Create(ctx, certificate))
	var entries []any
	for _, name := range []string{"istiod-expired", "istiod-failing", "istiod-unconfirmed"} {
		s.CreatePod(t, "mesh", name, false, nil)
		entry := reports[name].(map[string]any)
		entry["pod"] = name
		entries = append(entries, entry)
	}
	s.CreatePod(t, "mesh", "istiod-silent", false, nil)
	must(t, unstructured.SetNestedField(certificate.Object, map[string]any{"certificates": entries}, "status"))
	must(t, s.Status().Update(ctx, certificate))

	for _, l := range []line{
		{"istiods of every kind", []string{"status", "--context=cluster-1"}, 1, []string{
			"cluster-1   istio-system   istiod-0             Ready ",
			"cluster-1   bare           istiod-bare          NotInjected ", "cluster-1: bare/istiod-bare: runs without the agent; see kubectl istiod-agent check",
			"cluster-1   alien          istiod-alien         NoCertificate ", "cluster-1: alien/istiod-alien: there is no IssuedCertificate for its service account",
			"cluster-1   mesh           istiod-silent        NoReport ", "cluster-1: mesh/istiod-silent: its agent has not reported a CA",
			"cluster-1   mesh           istiod-unconfirmed   NotConfirmed ", "cluster-1: mesh/istiod-unconfirmed: istiod has not loaded its CA certificate",
			"cluster-1   mesh           istiod-expired       Expired ", "cluster-1: mesh/istiod-expired: its CA certificate has expired",
			"cluster-1   mesh           istiod-failing       Failing ", "cluster-1: mesh/istiod-failing: asking Vault at https://vault:8200 to sign: permission denied",
			"The roots of trust differ: ", "abababababab in cluster-1",
		}},
		{"another namespace", []string{"status", "--context=cluster-1", "-n=istio-system"}, 0, []string{"istiod-0   Ready"}},
		{"no istiod", []string{"status", "--context=cluster-1", "-n=default"}, 1, []string{"cluster-1: there is no Pod of istiod (label app=istiod)"}},
		{"a context cannot be reached", []string{"status", "--context=away", "--context=cluster-2", "--context=gone"}, 2, []string{
			"cluster-2   istio-system   istiod-0   Ready", "away: listing istiod's Pods: ", "connection refused; check the cluster's address and your login: kubectl --context=away version",
			`gone: the kubeconfig has no context "gone"; kubectl config get-contexts lists its contexts`,
		}},
		{"a right is missing", []string{"status", "--context=nobody", "--context=cluster-2"}, 2, []string{
			"cluster-2   istio-system   istiod-0   Ready", "nobody: listing istiod's Pods: pods is forbidden", "get the right to list pods (kubectl --context=nobody auth can-i list pods -A)",
		}},
		{"the format", []string{"status", "-o=xml"}, 2, []string{`--output "xml": expected wide, json or yaml`}},
	} {
		l.check(t, config)
	}
	for _, each := range []string{"bare", "mesh", "alien"} {
		must(t, s.DeleteAllOf(ctx, &corev1.Pod{}, client.InNamespace(each), client.GracePeriodSeconds(0)))
	}
	must(t, s.Delete(ctx, certificate))
}

// brokenVerify tests verify with wrong roots, and with workloads that get no certificates.
func brokenVerify(t *testing.T, config string, s *side) {
	t.Helper()
	ctx, dir := t.Context(), t.TempDir()
	stranger, err := vaultserver.FastRoot()
	must(t, err)
	foreign, garbage, mesh := filepath.Join(dir, "foreign.pem"), filepath.Join(dir, "garbage"), filepath.Join(dir, "mesh.yaml")
	must(t, os.WriteFile(foreign, stranger.Certificate, 0o600))
	must(t, os.WriteFile(garbage, stranger.Key, 0o600))
	text, err := yaml.Marshal(s.VirtualMesh.Object)
	must(t, err)
	must(t, os.WriteFile(mesh, []byte(strings.Replace(string(text), "pki/root/", "pki_int/root/", 1)), 0o600))
	// A namespace that istiod leaves alone.
	forged := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "istio-ca-root-cert", Namespace: "kube-public"}, Data: map[string]string{"root-cert.pem": string(s.Root.Certificate) + string(stranger.Certificate)}}
	must(t, s.Create(ctx, forged))
	const of = "--context=cluster-1"
	for _, l := range []line{
		{"another root is published", []string{"verify", of}, 1, []string{"fail  cluster-1: istio-ca-root-cert in namespace kube-public: holds additional roots, which are trusted too: O=my-org"}},
		{"another root is expected", []string{"verify", of, "-n=default", "--root", foreign}, 1, []string{"fail  cluster-1: istio-ca-root-cert in namespace default: holds another root: O=my-org"}},
		{"nothing is published", []string{"verify", of, "-n=default", "-n=nowhere"}, 1, []string{"ok    cluster-1: istio-ca-root-cert in namespace default", "fail  cluster-1: istio-ca-root-cert in namespace nowhere: is missing or empty: istiod has published no root here"}},
		{"a key for a root", []string{"verify", of, "--root", garbage}, 2, []string{"--root " + garbage + ": expected a root certificate in PEM"}},
		{"Vault's mount has no CA", []string{"verify", of, "--vault", "-f", mesh}, 2, []string{"--vault: asking Vault at " + s.Vault.Address + " to read the CA's chain: pki_int/cert/ca_chain: no default issuer", "give the mount its CA first"}},
		{"a context cannot be reached", []string{"verify", "--context=away", of, "-n=default", "--handshake"}, 2, []string{"fail  away: listing ConfigMaps istio-ca-root-cert: ", "connection refused", "ok    cluster-1: istio-ca-root-cert in namespace default", "ok    cluster-1: handshake with cluster-1: succeeds"}},
		{"no context can be", []string{"verify", "--context=away"}, 2, []string{"away: listing ConfigMaps istio-ca-root-cert: ", "kubectl --context=away version"}},
		{"a right is missing", []string{"verify", "--context=nobody", of, "-n=default"}, 2, []string{"fail  nobody: listing ConfigMaps istio-ca-root-cert: ", "get the right to list configmaps", "ok    cluster-1: "}},
		{"the right to a token is missing", []string{"verify", "--context=reader", "-n=default", "--handshake"}, 2, []string{"fail  reader: handshake: requesting a token of service account default/default: ", "get the right to create serviceaccounts/token (kubectl --context=reader auth can-i create serviceaccounts --subresource=token -A)"}},
		{"no such service account", []string{"verify", of, "-n=default", "--handshake", "--service-account=default/gone"}, 2, []string{`fail  cluster-1: handshake: requesting a token of service account default/gone: serviceaccounts "gone" not found; name another by --service-account`}},
		{"istiod does not answer", []string{"verify", of, "-n=default", "--handshake", "--istiod-address=cluster-1=127.0.0.1:1"}, 2, []string{"fail  cluster-1: handshake: requesting a workload's certificate from istiod istio-system/istiod-0: dial tcp 127.0.0.1:1: connect: connection refused"}},
		{"istiod is another program", []string{"verify", of, "-n=default", "--handshake", "--istiod-address=cluster-1=" + strings.TrimPrefix(s.Vault.Address, "http://")}, 2, []string{"fail  cluster-1: handshake: requesting a workload's certificate from istiod istio-system/istiod-0: tls: "}},
	} {
		l.check(t, config)
	}
	t.Run("verify: istiod at its own address", func(t *testing.T) {
		eventually(t, config, []string{"verify", of, "-n=default", "--handshake", "--istiod-address=cluster-1=" + s.Istiod.SecureAddress}, 0, "handshake with cluster-1: succeeds")
	})
	s.node.Forward(namespace, meshcluster.Pod, 15012, "127.0.0.1:1")
	line{"istiod's port is closed", []string{"verify", of, "-n=default", "--handshake"}, 2, []string{"fail  cluster-1: handshake: requesting a workload's certificate from istiod istio-system/istiod-0: its port 15012 does not respond"}}.check(t, config)
	s.node.Forward(namespace, meshcluster.Pod, 15012, s.Istiod.SecureAddress)
	must(t, s.Delete(ctx, forged))
	t.Setenv("VAULT_ADDR", "http://127.0.0.1:1")
	line{"Vault does not answer", []string{"verify", of, "--vault"}, 2, []string{"--vault: asking Vault at http://127.0.0.1:1 to read the CA's chain: ", "check the address, VAULT_ADDR and VAULT_CACERT"}}.check(t, config)
	must(t, os.Unsetenv("VAULT_ADDR"))
}

// brokenRenew tests renew with agents that get no new CA.
func brokenRenew(t *testing.T, config string, s *side) {
	t.Helper()
	const of, name = "--context=cluster-2", "cluster-2: istio-system/istiod-istio-system-cluster-2: "
	// An agent that was asked as often as these tests do pauses for a minute; one that was started just now does not.
	must(t, s.Sidecar.Kill())
	s.StartSidecar(t)
	for _, l := range []line{
		{"no such certificate", []string{"renew", "gone", "istiod-istio-system-cluster-2", of}, 2, []string{"cluster-2: istio-system/gone: there is no IssuedCertificate istio-system/gone; list them by kubectl --context=cluster-2 get issuedcertificates -A", name + "istiod in Pod istiod-0 uses"}},
		{"none at all", []string{"renew", "--all", "-n=default", of}, 2, []string{"cluster-2: namespace default: there is no IssuedCertificate; kubectl istiod-agent check shows the cause"}},
		{"a context cannot be reached", []string{"renew", "--all", "--context=away", of}, 2, []string{"away: listing IssuedCertificates: ", "connection refused", name + "istiod in Pod istiod-0 uses"}},
		{"the right to ask is missing", []string{"renew", "--all", "--context=reader"}, 2, []string{"reader: istio-system/istiod-istio-system-cluster-1: requesting a renewal: ", "get the right to patch issuedcertificates.certificates.mesh.gloo.solo.io"}},
	} {
		l.check(t, config)
	}
	must(t, s.Vault.Seal(t.Context()))
	line{"Vault is sealed", []string{"renew", "--all", of, "--timeout=5s"}, 1, []string{name + "not renewed after 5s; still waiting for Pod istiod-0, which reports: asking Vault at " + s.Vault.Address, "sealed"}}.check(t, config)
	line{"Vault is sealed", []string{"status", of}, 1, []string{"istiod-0   Failing", "cluster-2: istio-system/istiod-0: asking Vault at " + s.Vault.Address}}.check(t, config)
	must(t, s.Vault.Unseal(t.Context()))
	eventually(t, config, []string{"renew", "--all", of, "--timeout=10s"}, 0, name+"istiod in Pod istiod-0 uses")
	must(t, s.Sidecar.Kill())
	line{"the agent is dead", []string{"renew", "--all", of, "--timeout=1s"}, 1, []string{name + "not renewed after 1s; still waiting for Pod istiod-0, which has no new CA yet"}}.check(t, config)
	s.StartSidecar(t)
}

// brokenRotation tests rotate-root with one cluster that blocks both.
func brokenRotation(t *testing.T, config, root string, s *side) {
	t.Helper()
	ctx := t.Context()
	stranger, err := vaultserver.FastRoot()
	must(t, err)
	foreign := filepath.Join(t.TempDir(), "foreign.pem")
	must(t, os.WriteFile(foreign, stranger.Certificate, 0o600))
	begin := func(contexts ...string) []string {
		return append([]string{"rotate-root", "trust-both", "--new-root", foreign}, contexts...)
	}
	const unchanged = "no context was changed"
	for _, l := range []line{
		{"a context cannot be reached", begin("--context=cluster-1", "--context=away"), 2, []string{unchanged + ", since not all of them can be read", "away: listing VirtualMeshes: "}},
		{"the right to read is missing", begin("--context=cluster-1", "--context=nobody"), 2, []string{unchanged, "nobody: listing VirtualMeshes: ", "get the right to list virtualmeshes.networking.mesh.gloo.solo.io"}},
		{"the right to change is missing", begin("--context=cluster-2", "--context=reader"), 2, []string{unchanged, "reader: annotating VirtualMesh gloo-mesh/virtual-mesh: ", "get the right to patch virtualmeshes.networking.mesh.gloo.solo.io"}},
		{"no such VirtualMesh", begin("--context=cluster-1", "--virtual-mesh=a/b"), 2, []string{unchanged, "cluster-1: there is no VirtualMesh a/b"}},
		{"the root is there already", inBoth("rotate-root", "trust-both", "--new-root", root), 2, []string{"every istiod publishes only O=my-org", "there is no change to make"}},
		{"how far it is", []string{"rotate-root", "--context=away", "--context=cluster-2"}, 2, []string{"away: listing VirtualMeshes: ", "cluster-2: gloo-mesh/virtual-mesh: no root change is in progress"}},
	} {
		l.check(t, config)
	}
	more := s.VirtualMesh.DeepCopy()
	more.SetName("another")
	must(t, unstructured.SetNestedSlice(more.Object, []any{map[string]any{"name": "istiod-elsewhere-cluster-9"}}, "spec", "meshes"))
	must(t, s.Create(ctx, more))
	line{"two VirtualMeshes", begin("--context=cluster-2"), 2, []string{"cluster-2: there are several VirtualMeshes, gloo-mesh/another, gloo-mesh/virtual-mesh; choose one by --virtual-mesh"}}.check(t, config)
	must(t, s.Delete(ctx, more))

	// The agent of the second cluster is dead: it never trusts both, and so nobody goes on.
	must(t, s.Sidecar.Kill())
	line{"an agent is dead", inBoth(append(begin(), "--timeout=3s")...), 1, []string{"cluster-1: gloo-mesh/virtual-mesh: trust-both is complete", "cluster-2: gloo-mesh/virtual-mesh: trust-both is not complete after 3s; waiting for istio-system/istiod-0: it does not publish all roots yet"}}.check(t, config)
	line{"an agent is dead", inBoth("rotate-root"), 1, []string{"cluster-2: gloo-mesh/virtual-mesh: TrustBoth: waiting for istio-system/istiod-0"}}.check(t, config)
	line{"an agent is dead", inBoth("rotate-root", "sign-with-new"), 1, []string{unchanged, "cluster-2: TrustBoth is not complete; waiting for istio-system/istiod-0: it does not publish all roots yet"}}.check(t, config)
	s.StartSidecar(t)
	eventually(t, config, inBoth("rotate-root", "none"), 0, "cluster-2: gloo-mesh/virtual-mesh: no root change is in progress")
}
