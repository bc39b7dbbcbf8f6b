// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istio"
)

func TestHelm(t *testing.T) {
	inBothForms(t, func(t *testing.T, c *cluster.Cluster) {
		for name, clientSide := range map[string]bool{"server-side": false, "client-side": true} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				release := helm.Release{Name: "istiod", Namespace: c.Namespace(t, true), ClientSide: clientSide}
				template := func(tag string) *unstructured.Unstructured {
					deployment, err := istio.Deployment(t.Context(), release.Namespace, istio.Values(release.Namespace, tag))
					if err != nil {
						t.Fatal(err)
					}
					return deployment
				}
				// step runs one helm command and says what must be stored then.
				step := func(command string, run func() error, tag string, generation int64) {
					t.Helper()
					if err := run(); err != nil {
						t.Fatalf("helm %s: %v", command, err)
					}
					stored := c.Stored(t, release.Namespace, "istiod")
					wantInjected(t, c.Without(t, template(tag)), stored)
					if stored.Generation != generation {
						t.Errorf("after helm %s: generation %d, want %d", command, stored.Generation, generation)
					}
				}
				install := func() error {
					chart, err := istio.Discovery()
					if err != nil {
						return err
					}
					return c.Helm.Install(t.Context(), release, chart, istio.Values(release.Namespace, "1.31.0"))
				}
				upgrade := func(tag string) func() error {
					return func() error {
						chart, err := istio.Discovery()
						if err != nil {
							return err
						}
						return c.Helm.Upgrade(t.Context(), release, chart, istio.Values(release.Namespace, tag))
					}
				}

				step("install", install, "1.31.0", 1)
				step("upgrade with nothing new", upgrade("1.31.0"), "1.31.0", 1)
				step("upgrade to a new tag", upgrade("1.31.1"), "1.31.1", 2)
				step("rollback", func() error { return c.Helm.Rollback(release, 1) }, "1.31.0", 3)
				step("upgrade after the rollback", upgrade("1.31.0"), "1.31.0", 3)
			})
		}
	})
}

func TestIstioctl(t *testing.T) {
	inBothForms(t, func(t *testing.T, c *cluster.Cluster) {
		namespace := c.Namespace(t, true)
		objects, err := istio.Manifests(t.Context(), namespace, istio.Values(namespace, "1.31.0"))
		if err != nil {
			t.Fatal(err)
		}
		istiod, err := istio.Deployment(t.Context(), namespace, istio.Values(namespace, "1.31.0"))
		if err != nil {
			t.Fatal(err)
		}

		for range 2 { // istioctl install, and the same again
			if err := istio.ApplyAsIstioctl(t.Context(), c, namespace, objects...); err != nil {
				t.Fatal(err)
			}
			stored := c.Stored(t, namespace, "istiod")
			wantInjected(t, c.Without(t, istiod), stored)
			wantGeneration(t, stored, 1)
		}

		setImage(t, istiod, "docker.io/istio/pilot:1.31.1") // istioctl upgrade
		if err := istio.ApplyAsIstioctl(t.Context(), c, namespace, istiod); err != nil {
			t.Fatal(err)
		}
		stored := c.Stored(t, namespace, "istiod")
		wantInjected(t, c.Without(t, istiod), stored)
		wantGeneration(t, stored, 2)
	})
}
