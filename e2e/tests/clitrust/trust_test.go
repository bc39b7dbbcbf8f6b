// SPDX-License-Identifier: Apache-2.0

package clitrust

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/vaultserver"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

// Each command reports a cluster without an installation, with the remedy.
func TestNothingInstalled(t *testing.T) {
	config := contexts(t)
	const install = "install the CRDs: helm upgrade --install istiod-agent charts/istiod-agent -n istiod-agent-system --create-namespace --reset-then-reuse-values --set crds.install=true"
	for _, command := range [][]string{{"status"}, {"renew", "--all"}, {"renew", "istiod"}, {"rotate-root"}, {"rotate-root", "drop-old"}, {"verify", "--vault"}} {
		run(t, config, "", append(command, "--context=cluster-2")...).Wants(t, 2, install)
	}
	run(t, config, "", "verify", "--context=cluster-2").Wants(t, 2, "no istiod has published a root")
}

// TestTrust changes a cluster from istiod's own root to the Vault root of another cluster, runs every command on both on the
// way, and then breaks one thing after the other.
func TestTrust(t *testing.T) {
	config := contexts(t)
	must(t, two.Install(t.Context(), webhookserver.Options{Values: helm.Values{"clusterName": "cluster-2"}}))
	first := newSide(t, one, "cluster-1", vaultserver.FastRoot)
	first.start(t)
	other := newSide(t, two, "cluster-2", func() (*vaultserver.Root, error) { return first.Root, nil })
	other.startOwn(t)
	root := filepath.Join(t.TempDir(), "root.pem")
	must(t, os.WriteFile(root, first.Root.Certificate, 0o600))

	twoRoots(t, config, root)
	oneRoot(t, config, root, other)
	healthy(t, config, root)
	allowReader(t)
	brokenStatus(t, config, first)
	brokenVerify(t, config, first)
	brokenRenew(t, config, other)
	brokenRotation(t, config, root, other)
	healthy(t, config, root)
}

// inBoth returns a command for both clusters.
func inBoth(command ...string) []string {
	return append(command, "--context=cluster-1", "--context=cluster-2")
}

// twoRoots expects that each command reports two roots.
func twoRoots(t *testing.T, config, root string) {
	t.Helper()
	eventually(t, config, []string{"status", "--context=cluster-1"}, 0, "istiod-0   Ready")
	eventually(t, config, inBoth("status"), 1, "istiod-0        Ready", "istiod-before   NotInjected", "cluster-2: istio-system/istiod-before: runs without the agent")
	eventually(t, config, inBoth("verify", "--root", root, "-n", "default"), 1,
		"ok    cluster-1: istio-ca-root-cert in namespace default: is the root", "fail  cluster-2: istio-ca-root-cert in namespace default: holds another root: O=cluster.local")
	run(t, config, "", inBoth("verify", "--handshake")...).Wants(t, 1,
		"ok    cluster-1: istio-ca-root-cert in ", "fail  cluster-2: istio-ca-root-cert in ",
		"ok    cluster-1: handshake with cluster-1: succeeds", "ok    cluster-2: handshake with cluster-2: succeeds",
		"fail  cluster-1: handshake with cluster-2: the client refuses the server: x509: certificate signed by unknown authority", "fail  cluster-2: handshake with cluster-1: ")
}

// oneRoot changes the second cluster to the first one's root, in stages that both clusters complete before the next begins.
func oneRoot(t *testing.T, config, root string, other *side) {
	t.Helper()
	const nothing = "cluster-1: gloo-mesh/virtual-mesh: no root change is in progress\ncluster-2: gloo-mesh/virtual-mesh: no root change is in progress\n"
	run(t, config, "", inBoth("rotate-root")...).Wants(t, 0, nothing)
	run(t, config, "", inBoth("rotate-root", "sign-with-new")...).Wants(t, 1, "no context was changed", "cluster-1: no root change has begun")
	run(t, config, "", inBoth("rotate-root", "trust-both", "--vault")...).Wants(t, 1, "cluster-2: no agent has reported from istiod yet, so istiod uses its own CA: name the Secret with that CA by --from-secret")
	begin := inBoth("rotate-root", "trust-both", "--vault", "--from-secret=istio-ca-secret")
	run(t, config, "", append(begin, "--dry-run")...).Wants(t, 0, "Old root O=cluster.local", "New root O=my-org", "cluster-2: gloo-mesh/virtual-mesh: would be set to trust-both")
	run(t, config, "", inBoth("rotate-root")...).Wants(t, 0, nothing)
	run(t, config, "", append(begin, "--wait=false")...).Wants(t, 0, "cluster-2: gloo-mesh/virtual-mesh: was set to trust-both, without waiting")

	other.start(t) // the rollout that the injection is
	other.stopOwn(t)
	run(t, config, "", inBoth("rotate-root", "trust-both", "--new-root", root)...).Wants(t, 0,
		"cluster-1: gloo-mesh/virtual-mesh: trust-both is complete: every replica of istiod has confirmed it",
		"\n  kubectl istiod-agent rotate-root sign-with-new --context=cluster-1 --context=cluster-2")
	run(t, config, "", inBoth("rotate-root")...).Wants(t, 0, "cluster-1: gloo-mesh/virtual-mesh: TrustBoth: every istiod of this cluster publishes all roots")
	eventually(t, config, inBoth("status"), 0, "A root change is in progress", "(+1)")
	eventually(t, config, inBoth("verify", "--root", root), 1, "holds additional roots, which are trusted too")
	eventually(t, config, inBoth("verify", "--handshake"), 0, "holds all 2 roots", "ok    cluster-1: handshake with cluster-2: succeeds")

	run(t, config, "", inBoth("rotate-root", "drop-old")...).Wants(t, 1, "cluster-2: it is only at TrustBoth; continue to sign-with-new first")
	run(t, config, "", inBoth("rotate-root", "sign-with-new", "--now")...).Wants(t, 0, "cluster-2: gloo-mesh/virtual-mesh: sign-with-new is complete")
	run(t, config, "", inBoth("rotate-root", "none")...).Wants(t, 1, "cluster-1: it is at SignWithNew and cannot go back")
	run(t, config, "", inBoth("rotate-root", "drop-old")...).Wants(t, 0, "cluster-2: gloo-mesh/virtual-mesh: drop-old is complete", "rotate-root none")
	run(t, config, "", inBoth("rotate-root", "none")...).Wants(t, 0, nothing)
}

// healthy expects that each command reports success, in text and in JSON.
func healthy(t *testing.T, config, root string) {
	t.Helper()
	eventually(t, config, inBoth("status"), 0, "cluster-1   istio-system   istiod-0   Ready", "cluster-2   istio-system   istiod-0   Ready")
	eventually(t, config, inBoth("verify", "--root", root), 0, "ok    cluster-1: istio-ca-root-cert in ", "ok    cluster-2: istio-ca-root-cert in ")
	run(t, config, "", inBoth("verify", "--vault", "--handshake")...).Wants(t, 0, "ok    cluster-2: handshake with cluster-1: succeeds")
	run(t, config, "", inBoth("renew", "--all")...).Wants(t, 0,
		"cluster-1: istio-system/istiod-istio-system-cluster-1: istiod in Pod istiod-0 uses CA certificate ", "cluster-2: istio-system/istiod-istio-system-cluster-2: istiod in Pod istiod-0 uses")

	var status struct {
		Contexts []struct {
			Context  string
			Replicas []struct {
				Pod, State string
				CA         struct{ SerialNumber string }
			}
		}
		Roots    []struct{ Contexts []string }
		Problems []string
	}
	run(t, config, "", inBoth("status", "-o=yaml")...).Parse(t, &status)
	if len(status.Contexts) != 2 || status.Contexts[0].Replicas[0].State != "Ready" || status.Contexts[1].Replicas[0].CA.SerialNumber == "" ||
		len(status.Roots) != 1 || len(status.Roots[0].Contexts) != 2 || len(status.Problems) != 0 {
		t.Errorf("status says %+v", status)
	}
	var checked struct {
		Contexts []struct {
			Context string
			Checks  []struct{ Status, What string }
		}
	}
	run(t, config, "", inBoth("check", "-o=yaml")...).Parse(t, &checked)
	if len(checked.Contexts) != 2 || checked.Contexts[0].Context != "cluster-1" || checked.Contexts[1].Checks[0].Status != "ok" {
		t.Errorf("check says %+v", checked)
	}
	var verified struct {
		Roots []string
		Lines []struct {
			OK                       bool
			Context, Namespace, What string
		}
	}
	run(t, config, "", inBoth("verify", "-n=default", "-o=json")...).Parse(t, &verified)
	if len(verified.Roots) != 1 || len(verified.Lines) != 2 || !verified.Lines[1].OK || verified.Lines[1].Context != "cluster-2" || verified.Lines[1].Namespace != "default" {
		t.Errorf("verify says %+v", verified)
	}
	var renewed struct {
		Certificates []struct{ Context, Name, State string }
	}
	run(t, config, "", inBoth("renew", "--all", "--wait=false", "-o=json")...).Parse(t, &renewed)
	if len(renewed.Certificates) != 2 || renewed.Certificates[0].State != "Asked" {
		t.Errorf("renew says %+v", renewed)
	}
	var rotation struct {
		Contexts []struct {
			Context, VirtualMesh string
			Complete             bool
		}
	}
	run(t, config, "", inBoth("rotate-root", "-o=json")...).Parse(t, &rotation)
	if len(rotation.Contexts) != 2 || rotation.Contexts[0].VirtualMesh != "gloo-mesh/virtual-mesh" {
		t.Errorf("rotate-root says %+v", rotation)
	}
}
