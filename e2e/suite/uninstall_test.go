// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/e2e-framework/pkg/envconf"
)

// The documented order of uninstallation leaves a working istiod with the same root. It is the last test: go test runs files in
// the order of their names.
func TestUninstall(t *testing.T) {
	builder := feature("uninstalling", full).
		Setup(func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
			clusters[0].serials(ctx, t)
			clusters[0].deployWorkload(ctx, t, "bookinfo")
			// Another intermediate CA of the root, as the page asks for.
			_, err := shell(ctx, `
openssl req -new -newkey rsa:2048 -nodes -out ca.csr -keyout ca-key.pem -subj "/O=my-org"
printf 'basicConstraints=critical,CA:true,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n' >ca.ext
openssl x509 -req -in ca.csr -CA root-cert.pem -CAkey root-key.pem -CAcreateserial -days 30 -sha256 -extfile ca.ext -out ca-cert.pem
cat ca-cert.pem root-cert.pem >cert-chain.pem
kubectl config use-context `+clusters[0].name)
			must(t, err)
			return ctx
		})
	for _, section := range []string{"1. Give istiod a CA", "2. Opt out", "3. Check", "4. Remove the label", "5. Remove the release"} {
		builder = builder.Assess(section, step(func(ctx context.Context, t *testing.T) {
			blocks, err := scripts(filepath.Join(folder, "docs", "uninstall.md"), section)
			must(t, err)
			for _, block := range blocks {
				if output, err := shell(ctx, block); err != nil {
					t.Fatal(err)
				} else if section == "3. Check" && strings.Contains(output, "istiod-agent") {
					t.Errorf("the agent is still there:\n%s", output)
				}
			}
		}))
	}
	environment.Test(t, builder.
		Assess("istiod works as before, without the agent", step(func(ctx context.Context, t *testing.T) {
			cluster := clusters[0]
			cluster.kubectl(ctx, t, "rollout status -n istio-system deployment/istiod --timeout=120s")
			for _, pod := range cluster.istiods(ctx, t) {
				for _, container := range pod.Spec.Containers {
					if container.Name != "discovery" {
						t.Errorf("Pod %s still has container %s", pod.Name, container.Name)
					}
				}
			}
			// The Secret's root ends with a newline, and so the guide's diff is not empty: certificates are compared instead.
			_, err := shell(ctx, "kubectl istiod-agent verify --root root-cert.pem -n bookinfo --context="+cluster.name)
			must(t, err)
			for _, other := range clusters {
				wantCall(ctx, t, cluster, other, "bookinfo")
			}
		})).
		Feature())
}
