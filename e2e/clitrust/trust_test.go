// SPDX-License-Identifier: Apache-2.0

package clitrust

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/helm"
	"github.com/istiod-agent/istiod-agent/e2e/webhookserver"
)

const both = "--context=cluster-1 --context=cluster-2"

// A cluster where nothing is installed is told so by each command, with what to do.
func TestNothingInstalled(t *testing.T) {
	config := contexts(t)
	const install = "install the CRDs: helm upgrade --install istiod-agent"
	for _, command := range [][]string{{"status"}, {"renew", "--all"}, {"renew", "istiod"}, {"rotate-root"}, {"rotate-root", "drop-old"}, {"verify", "--vault"}} {
		texts := []string{install}
		if command[0] == "verify" {
			texts = []string{"no context answers"}
		}
		_ = texts
		run(t, config, "", append(command, "--context=cluster-2")...).Wants(t, 2, install)
	}
	run(t, config, "", "verify", "--context=cluster-2").Wants(t, 2, "no istiod has published a root")
}

// TestTrust takes two clusters with a root each to one root, and looks at them by every command on the way.
func TestTrust(t *testing.T) {
	config := contexts(t)
	must(t, two.Install(t.Context(), webhookserver.Options{Values: helm.Values{"clusterName": "cluster-2"}}))
	first, other := newSide(t, one, "cluster-1"), newSide(t, two, "cluster-2")
	dir := t.TempDir()
	root := filepath.Join(dir, "root.pem")
	must(t, os.WriteFile(root, first.root.Certificate, 0o600))
	all := func(command ...string) []string { return append(command, "--context=cluster-1", "--context=cluster-2") }

	eventually(t, config, []string{"status", "--context=cluster-1"}, 0, "istiod-0   Ready")
	eventually(t, config, all("status"), 1, "istiod-0   Ready", "The roots of trust differ")
	eventually(t, config, all("verify", "--root", root), 1, "ok    cluster-1: istio-system/istio-ca-root-cert: is the root", "fail  cluster-2: istio-system/istio-ca-root-cert: holds another root: O=my-org")
	run(t, config, "", all("verify")...).Wants(t, 1, "fail  cluster-2: default/istio-ca-root-cert: holds another root")
	run(t, config, "", all("verify", "--handshake")...).Wants(t, 1,
		"ok    handshake from cluster-1 to cluster-1: succeeds", "ok    handshake from cluster-2 to cluster-2: succeeds",
		"fail  handshake from cluster-1 to cluster-2: ", "fail  handshake from cluster-2 to cluster-1: ", "unknown authority")

	// To the root of the first.
	must(t, other.vault.Mount(t.Context(), second, first.root))
	run(t, config, "", all("rotate-root")...).Wants(t, 0, "cluster-1: gloo-mesh/virtual-mesh: no change of the root is going on")
	run(t, config, "", all("rotate-root", "sign-with-new")...).Wants(t, 1, "nothing was changed, in any context", "cluster-1: no change of the root has begun")
	run(t, config, "", all("rotate-root", "trust-both", "--new-root", root, "--dry-run")...).Wants(t, 0, "Old root O=my-org", "New root O=my-org", "cluster-2: gloo-mesh/virtual-mesh: would be told trust-both")
	run(t, config, "", all("rotate-root")...).Wants(t, 0, "cluster-1: gloo-mesh/virtual-mesh: no change of the root is going on")
	run(t, config, "", all("rotate-root", "trust-both", "--vault")...).Wants(t, 0,
		"cluster-1: gloo-mesh/virtual-mesh: TrustBoth: trust-both is complete: every replica of istiod has confirmed it", "kubectl istiod-agent rotate-root sign-with-new --context=cluster-1 --context=cluster-2")
	eventually(t, config, all("status"), 0, "The root of trust is being changed", "(+1)")
	run(t, config, "", all("verify", "--root", root)...).Wants(t, 1, "holds what is expected, and more, which is trusted as well")
	run(t, config, "", all("verify", "--handshake")...).Wants(t, 0, "ok    handshake from cluster-1 to cluster-2: succeeds")

	other.caPath(t, second)
	run(t, config, "", all("rotate-root", "drop-old")...).Wants(t, 1, "cluster-2: SignWithNew is not complete")
	run(t, config, "", all("rotate-root", "sign-with-new", "--now")...).Wants(t, 0, "cluster-2: gloo-mesh/virtual-mesh: SignWithNew: sign-with-new is complete")
	run(t, config, "", all("rotate-root", "none")...).Wants(t, 1, "cluster-1: it is at SignWithNew, and there is no way back")
	run(t, config, "", all("rotate-root", "drop-old")...).Wants(t, 0, "cluster-2: gloo-mesh/virtual-mesh: DropOld: drop-old is complete", "rotate-root none")
	run(t, config, "", all("rotate-root", "none")...).Wants(t, 0, "cluster-1: gloo-mesh/virtual-mesh: no change of the root is going on")

	eventually(t, config, all("status"), 0, "istiod-0   Ready")
	eventually(t, config, all("verify", "--vault", "--handshake"), 0, "ok    cluster-2: default/istio-ca-root-cert: is the root", "ok    handshake from cluster-2 to cluster-1: succeeds")

	run(t, config, "", all("renew", "--all")...).Wants(t, 0, "cluster-1: istio-system/istiod-istio-system-cluster-1: istiod in Pod istiod-0 uses CA certificate ", "cluster-2: istio-system/istiod-istio-system-cluster-2: istiod in Pod istiod-0 uses")
	_ = json.Valid
	_ = client.IgnoreNotFound
	_ = cluster.Eventually
}
