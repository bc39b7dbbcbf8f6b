// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/e2e-framework/pkg/envconf"
	"sigs.k8s.io/e2e-framework/pkg/features"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/check"
)

var must = check.Must

// sections of docs/try-it.md, each a step of the guide.
var sections = []string{"Vault", "istiod-agent", "The VirtualMesh", "Istio"}

// The guide, command by command, with the chart instead of its patch.
func TestGuide(t *testing.T) {
	environment.Test(t, features.New("the guide").WithLabel(label, core).
		Setup(func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
			followed(ctx, t)
			return ctx
		}).
		Assess("istiod starts with the agent, without a patch by hand", step(func(ctx context.Context, t *testing.T) {
			for _, cluster := range clusters {
				for _, pod := range cluster.istiods(ctx, t) {
					wantInjected(t, cluster, &pod)
				}
				deployment, err := cluster.client.AppsV1().Deployments("istio-system").Get(ctx, "istiod", metav1.GetOptions{})
				must(t, err)
				for _, entry := range deployment.ManagedFields {
					if !slices.Contains([]string{"istio-operator", "kube-controller-manager"}, entry.Manager) {
						t.Errorf("%s: %s has written fields of istiod's Deployment", cluster.name, entry.Manager)
					}
				}
			}
		})).
		Assess("the last step: the diff is empty", step(func(ctx context.Context, t *testing.T) {
			output, err := follow(ctx, "The last step")
			must(t, err)
			if output != "" {
				t.Errorf("the published root is not Vault's:\n%s", output)
			}
		})).
		Assess("workloads of all clusters trust each other", step(func(ctx context.Context, t *testing.T) {
			for _, cluster := range clusters {
				cluster.deployWorkload(ctx, t, "bookinfo")
			}
			for _, from := range clusters {
				for _, to := range clusters {
					wantCall(ctx, t, from, to, "bookinfo")
				}
			}
		})).
		Assess("and the plugin proves it", step(func(ctx context.Context, t *testing.T) {
			output, err := follow(ctx, "Further")
			must(t, err)
			t.Log(output)
		})).
		Feature())
}

var guide sync.Once

// followed runs the guide once for all tests.
func followed(ctx context.Context, t *testing.T) {
	t.Helper()
	guide.Do(func() {
		for _, section := range sections {
			if _, err := follow(ctx, section); err != nil {
				t.Fatalf("docs/try-it.md, %s: %v\n%s", section, err, describe(ctx))
			}
			t.Logf("docs/try-it.md: %s", section)
			if last := clusters[len(clusters)-1]; section == "istiod-agent" && len(clusters) > 1 && last.servesPolicies() {
				last.change(ctx, t, "policy") // each form goes through the guide
			}
			must(t, sabotage(ctx, section))
		}
		guided = true
	})
	if !guided {
		t.Fatal("the guide could not be gone through")
	}
}

var guided bool

// sabotage breaks the part that package broken names, after a section of the guide.
func sabotage(ctx context.Context, section string) (err error) {
	switch {
	case *broken == "root" && section == "Vault":
		_, err = shell(ctx, `openssl req -new -newkey rsa:2048 -x509 -days 1 -nodes -out root-cert.pem -keyout root-key.pem -subj "/O=other"`)
	case *broken == "webhook" && section == "istiod-agent":
		_, err = shell(ctx, "helm uninstall -n istiod-agent-system istiod-agent --wait --kube-context="+clusters[0].name)
	}
	return err
}

// step is an assessment that passes on no context value.
func step(assess func(ctx context.Context, t *testing.T)) features.Func {
	return func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
		assess(ctx, t)
		return ctx
	}
}

// wantInjected checks an istiod Pod for what the webhook injects.
func wantInjected(t *testing.T, cluster *target, pod *corev1.Pod) {
	t.Helper()
	has := func(containers []corev1.Container, name string) bool {
		return slices.ContainsFunc(containers, func(c corev1.Container) bool { return c.Name == name })
	}
	native := has(pod.Spec.InitContainers, "istiod-agent")
	pair := has(pod.Spec.InitContainers, "istiod-agent-init") && has(pod.Spec.Containers, "istiod-agent")
	if !native && !pair {
		t.Errorf("%s: Pod %s has no agent", cluster.name, pod.Name)
	}
	for _, volume := range pod.Spec.Volumes {
		if volume.Name == "cacerts" && (volume.EmptyDir == nil || volume.EmptyDir.Medium != corev1.StorageMediumMemory) {
			t.Errorf("%s: Pod %s has its CA in another place than memory", cluster.name, pod.Name)
		}
	}
}

// describe returns the state of the clusters for a failed test.
func describe(ctx context.Context) string {
	var all strings.Builder
	for _, cluster := range clusters {
		output, err := shell(ctx, fmt.Sprintf(`exec 2>&1
kubectl --context=%[1]s get pods -A -o wide
kubectl --context=%[1]s get virtualmeshes,issuedcertificates -A -o yaml | head -150
kubectl --context=%[1]s get events -A --sort-by=.lastTimestamp | tail -40
for container in istiod-agent-init istiod-agent discovery; do
  echo "--- $container"
  kubectl --context=%[1]s logs -n istio-system -l app=istiod -c "$container" --tail=15 || true
done`, cluster.name))
		fmt.Fprintf(&all, "=== %s\n%s", cluster.name, output)
		if err != nil {
			fmt.Fprintln(&all, err)
		}
	}
	return all.String()
}
