// SPDX-License-Identifier: Apache-2.0

package pages

// elsewhere names the tests that run all commands of a page, because they need more than an API server.
var elsewhere = map[string]string{
	"docs/cert-manager.md":   "e2e/tests/rotation.TestCertManagerPage",
	"docs/rotation.md":       "e2e/tests/rotation.TestPageCommands",
	"docs/trust-bundles.md":  "e2e/tests/bundle.TestOwnClusterTrustBundle",
	"docs/try-it.md":         "e2e/suite.TestGuide",
	"docs/vault.md":          "e2e/tests/vaultdocs.TestPage",
	"docs/verify-release.md": "tools/release.TestRelease",
}

// exceptBlocks are the blocks that do not run here, with the test that runs them, or the reason.
var exceptBlocks = map[string]string{
	"docs/install.md: Without Helm 1":            "e2e/tests/chart compares config/ with the chart, object by object",
	"docs/install.md: Gloo Mesh's agent 1":       "another release; e2e/tests/configurations installs the chart with these values",
	"docs/upgrade.md: Change the form 2":         "the last resort; e2e/tests/bypolicy deletes these objects",
	"docs/command-line.md: Install it 2":         "krew; tools/krew has the rules of its manifest, tools/release the archives",
	"docs/command-line.md: Static policies 1":    "writes to /etc/kubernetes; e2e/tests/static has API servers with such files",
	"docs/monitoring.md: Switch it on 1":         "needs the kinds of the Prometheus operator; e2e/tests/chart renders them",
	"docs/platforms.md: GKE 1":                   "Google's cloud",
	"docs/uninstall.md: 1. Give istiod a CA 1":   "e2e/suite.TestUninstall",
	"docs/uninstall.md: 1. Give istiod a CA 2":   "e2e/suite.TestUninstall",
	"docs/uninstall.md: 4. Remove the label 1":   "e2e/suite.TestUninstall",
	"docs/uninstall.md: 4. Remove the label 2":   "e2e/suite.TestUninstall",
	"docs/uninstall.md: 5. Remove the release 1": "e2e/suite.TestUninstall",
	"e2e/README.md: Run one test 1":              "tests of tests",
	"e2e/README.md: The suite in clusters 1":     "tests of tests",
}

// exceptCommands are the commands that do not run here, with the test that runs them, or the reason.
var exceptCommands = map[string]string{
	"sudo install bin/kubectl-istiod_agent /usr/local/bin/":                                                                                               "changes this machine",
	"helm test istiod-agent -n istiod-agent-system":                                                                                                       "needs a Pod: e2e/suite.TestGuide",
	"kubectl logs -n istio-system deployment/istiod -c discovery | grep 'in cluster cluster-2'":                                                           "needs a Pod of istiod",
	"kubectl wait virtualmesh virtual-mesh -n gloo-mesh --for=condition=Federated --timeout=5m":                                                           "needs two clusters: e2e/tests/federation",
	"kubectl istiod-agent join --context cluster-1 --context cluster-2 --dry-run":                                                                         "needs two clusters: e2e/suite.TestSeveralClusters",
	"kubectl istiod-agent join --context kind-a --context kind-b --api-server kind-a=https://172.18.0.2:6443 --api-server kind-b=https://172.18.0.3:6443": "needs two clusters: e2e/tests/join",
	"kubectl istiod-agent verify --traffic --context cluster-1 --context cluster-2":                                                                       "needs two clusters: e2e/suite.TestSeveralClusters",
	"kubectl istiod-agent join --context cluster-1 --context cluster-2 --renew":                                                                           "needs two clusters: e2e/suite.TestSeveralClusters",
	"kubectl istiod-agent join --context cluster-1 --context cluster-2 --network cluster-1=network-1 --network cluster-2=network-2":                       "needs two clusters: e2e/tests/join",
	"kubectl istiod-agent leave --context cluster-1 --context cluster-2":                                                                                  "needs two clusters: e2e/suite.TestSeveralClusters",
	"kubectl istiod-agent join --context cluster-1 --context cluster-2":                                                                                   "needs two clusters: e2e/suite.TestSeveralClusters",
	"helm rollback istiod-agent -n istiod-agent-system":                                                                                                   "upgrades are dry runs here, so there is no former revision: e2e/suite.TestChartUpgrade",
	"kubectl istiod-agent verify":                                  "needs an istiod that publishes its root: e2e/tests/clitrust",
	"kubectl istiod-agent status":                                  "needs a Pod of istiod: e2e/tests/clitrust",
	"kubectl apply -f policy.yaml || kubectl apply -f policy.yaml": "beside the webhook it would inject twice; e2e/tests/policy applies the same objects",
	"helm upgrade istiod-agent charts/istiod-agent -n istiod-agent-system --reset-then-reuse-values --set servingCertificate.source=cert-manager":       "needs cert-manager: e2e/tests/certmanager",
	"kubectl wait issuedcertificates -n istio-system --all --for=condition=Ready --timeout=1m":                                                          "needs an agent: docs/cert-manager.md has the same, and its test runs it",
	"kubectl exec -n istiod-agent-system deployment/istiod-agent-webhook -- /istiod-agent-webhook check":                                                "needs a Pod; e2e/tests/configurations runs the program's check",
	"kubectl get --raw '/api/v1/namespaces/istiod-agent-system/services/istiod-agent-webhook:metrics/proxy/metrics' | grep ^istiod_agent":               "needs a cluster's network",
	"export VAULT_ADDR=http://127.0.0.1:8200 VAULT_TOKEN=...":                                                                                           "needs a Vault: e2e/tests/clisetup",
	"kubectl istiod-agent vault virtual-mesh -n gloo-mesh --context cluster-1 --dry-run":                                                                "needs a Vault: e2e/tests/clisetup",
	"kubectl istiod-agent vault virtual-mesh -n gloo-mesh --context cluster-1 --apply":                                                                  "needs a Vault: e2e/tests/clisetup",
	`kubectl get configmap -n istio-system istio-ca-root-cert -o jsonpath='{.data.root-cert\.pem}' | openssl x509 -noout -subject -fingerprint -sha256`: "needs an istiod that publishes its root: e2e/suite.TestUninstall",
}
