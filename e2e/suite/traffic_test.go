// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/e2e-framework/pkg/envconf"
	"sigs.k8s.io/e2e-framework/pkg/features"

	"github.com/istiod-agent/istiod-agent/cli/pods"
	"github.com/istiod-agent/istiod-agent/cli/remotes"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/node"
)

// `verify --traffic` starts Pods that call each other, and removes them, also when it is interrupted.
func TestTraffic(t *testing.T) {
	environment.Test(t, features.New("verify --traffic").WithLabel(label, core).
		Setup(func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
			followed(ctx, t)
			return ctx
		}).
		Assess("workloads call each other within a cluster, and between clusters once they are joined", step(func(ctx context.Context, t *testing.T) {
			output, err := trafficCommand(ctx, t).CombinedOutput()
			for i, from := range clusters {
				for j, to := range clusters {
					want := fmt.Sprintf("ok    %s: traffic to %s: calls", from.name, to.name)
					if i != j {
						want = fmt.Sprintf("fail  %[1]s: traffic to %[2]s: does not reach: istiod of %[1]s knows no endpoint in %[2]s; run kubectl istiod-agent join --context=%[1]s --context=%[2]s",
							from.name, to.name)
					}
					if !strings.Contains(string(output), want) {
						t.Errorf("no %q", want)
					}
				}
			}
			if (err == nil) != (len(clusters) == 1) || t.Failed() {
				t.Errorf("%v:\n%s", err, output)
			}
			noTrafficNamespace(ctx, t)
		})).
		Assess("an interruption leaves nothing", step(func(ctx context.Context, t *testing.T) {
			interrupt(t, trafficCommand(ctx, t), "Pod server waits for")
			noTrafficNamespace(ctx, t)
		})).
		Assess("an image that cannot be pulled is named", step(func(ctx context.Context, t *testing.T) {
			command := trafficCommand(ctx, t)
			command.Args = append(command.Args, "--traffic-image=registry.invalid/none:1")
			output, err := command.CombinedOutput()
			if err == nil || !strings.Contains(string(output), "image registry.invalid/none:1 cannot be pulled") || !strings.Contains(string(output), "--traffic-image") {
				t.Errorf("%v:\n%s", err, output)
			}
			noTrafficNamespace(ctx, t)
		})).
		Feature())
}

// TestSeveralClusters runs the commands of docs/multicluster.md in two clusters: they become one mesh, in which Pods of each
// call those of the other, and separate again.
func TestSeveralClusters(t *testing.T) {
	environment.Test(t, features.New("docs/multicluster.md").WithLabel(label, full).
		Setup(func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
			if len(clusters) < 2 {
				t.Skip("one cluster has no other to join")
			}
			followed(ctx, t)
			for _, cluster := range clusters {
				cluster.rename(ctx, t, " --set values.global.multiCluster.clusterName="+cluster.name)
			}
			return ctx
		}).
		Assess("clusters whose networks do not route are not joined", step(func(ctx context.Context, t *testing.T) {
			if started == nil {
				t.Skip("the networks of these clusters are not this test's")
			}
			one, two := clusters[0].name, clusters[1].name
			notJoined(ctx, t, node.CutPods,
				fmt.Sprintf("%[1]s: Pods do not reach those of %[2]s at 10.", one, two), fmt.Sprintf("%[2]s: Pods do not reach those of %[1]s at 10.", one, two),
				": no answer in time; connect the Pod networks (routes, firewalls, network policies), or name the network of each context by --network CONTEXT=NAME")
			notJoined(ctx, t, node.CutAPIServer,
				fmt.Sprintf("%[1]s: Pods do not reach the API server of %[2]s at https://", one, two),
				": no route to the host; allow the connection (routes, firewalls, DNS), or pass an address that Pods of the other clusters can reach, with --api-server "+two+"=https://HOST:PORT")
		})).
		Assess("an interruption before that leaves nothing", step(func(ctx context.Context, t *testing.T) {
			command := joinCommand(ctx, t)
			interrupt(t, command, "Pod istiod-agent-")
			nothingOfJoin(ctx, t)
		})).
		Assess("join", step(func(ctx context.Context, t *testing.T) {
			output := runPage(ctx, t, "Join")
			for _, cluster := range clusters {
				if want := cluster.name + ": Pods reach the API servers and Pods of "; !strings.Contains(output, want) {
					t.Errorf("no %q in\n%s", want, output)
				}
			}
			noProbe(ctx, t)
		})).
		Assess("Pods of each cluster call those of the other", step(func(ctx context.Context, t *testing.T) {
			output := runPage(ctx, t, "Prove it by calls")
			for _, from := range clusters {
				for _, to := range clusters {
					if want := fmt.Sprintf("ok    %s: traffic to %s: calls", from.name, to.name); !strings.Contains(output, want) {
						t.Errorf("no %q in\n%s", want, output)
					}
				}
			}
			noTrafficNamespace(ctx, t)
		})).
		Assess("renewed tokens", step(func(ctx context.Context, t *testing.T) {
			runPage(ctx, t, "Renew the tokens")
		})).
		Assess("leave", step(func(ctx context.Context, t *testing.T) {
			runPage(ctx, t, "Leave")
			for _, cluster := range clusters {
				secrets, err := cluster.client.CoreV1().Secrets("istio-system").List(ctx, metav1.ListOptions{LabelSelector: "istio/multiCluster"})
				must(t, err)
				if len(secrets.Items) > 0 {
					t.Errorf("%s has %d remote secrets", cluster.name, len(secrets.Items))
				}
			}
		})).
		Teardown(func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
			for _, cluster := range clusters {
				cluster.rename(ctx, t, "")
			}
			return ctx
		}).
		Feature())
}

// runPage runs the commands of a section of docs/multicluster.md, but those for kind, and returns their output. The contexts and
// the addresses of the API servers are those of the clusters. The image of the Pods is that beside the installed agent's.
func runPage(ctx context.Context, t *testing.T, section string) (output string) {
	t.Helper()
	blocks, err := scripts(filepath.Join(folder, "docs", "multicluster.md"), section)
	must(t, err)
	var contexts, servers string
	for _, cluster := range clusters {
		contexts += " --context=" + cluster.name
		servers += " --api-server=" + cluster.name + "=" + cluster.server(ctx, t)
	}
	for _, block := range blocks {
		if strings.Contains(block, "--context kind-") {
			continue
		}
		for line := range strings.Lines(block) {
			line = strings.Replace(strings.TrimSpace(line), " --context cluster-1 --context cluster-2", contexts, 1)
			if strings.HasPrefix(line, "kubectl istiod-agent join ") {
				line += servers
			}
			printed, err := shell(ctx, line)
			t.Logf("$ %s\n%s", line, printed)
			must(t, err)
			output += printed
		}
	}
	return output
}

// server is the URL of the API server in the cluster's own network.
func (c *target) server(ctx context.Context, t *testing.T) string {
	t.Helper()
	address, err := shell(ctx, "kubectl get endpointslices -n default kubernetes --context="+c.name+` -o jsonpath='{.endpoints[0].addresses[0]}:{.ports[0].port}'`)
	must(t, err)
	return "https://" + address
}

// joinCommand is `kubectl istiod-agent join` with all clusters.
func joinCommand(ctx context.Context, t *testing.T) *exec.Cmd {
	t.Helper()
	limited, cancel := context.WithTimeout(ctx, 5*time.Minute)
	t.Cleanup(cancel)
	command := exec.CommandContext(limited, "kubectl", "istiod-agent", "join")
	for _, cluster := range clusters {
		command.Args = append(command.Args, "--context="+cluster.name, "--api-server="+cluster.name+"="+cluster.server(ctx, t))
	}
	return command
}

// notJoined expects that join refuses the clusters while a route from the first to the second is cut, and leaves nothing.
func notJoined(ctx context.Context, t *testing.T, cut func(ctx context.Context, from, to *node.Cluster) (func(context.Context) error, error), want ...string) {
	t.Helper()
	restore, err := cut(ctx, started.All[0], started.All[1])
	must(t, err)
	defer func() { must(t, restore(context.WithoutCancel(ctx))) }()
	command := joinCommand(ctx, t)
	output, err := command.CombinedOutput()
	t.Logf("%s", output)
	if command.ProcessState.ExitCode() != 1 {
		t.Errorf("%v", err)
	}
	for _, text := range append(want, "no context was changed:") {
		if !strings.Contains(string(output), text) {
			t.Errorf("no %q", text)
		}
	}
	nothingOfJoin(ctx, t)
}

// nothingOfJoin expects no object of join in any cluster.
func nothingOfJoin(ctx context.Context, t *testing.T) {
	t.Helper()
	noProbe(ctx, t)
	for _, cluster := range clusters {
		for _, resources := range []string{"secrets", "serviceaccounts", "clusterroles", "clusterrolebindings"} {
			if left := cluster.kubectl(ctx, t, "get "+resources+" -A -o name -l "+remotes.PartnerLabel); strings.TrimSpace(left) != "" {
				t.Errorf("%s has %s", cluster.name, left)
			}
		}
	}
}

// noProbe expects that join has removed its Pods.
func noProbe(ctx context.Context, t *testing.T) {
	t.Helper()
	for _, cluster := range clusters {
		left, err := cluster.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{LabelSelector: pods.Label})
		must(t, err)
		for _, pod := range left.Items {
			t.Errorf("%s: Pod %s/%s is left", cluster.name, pod.Namespace, pod.Name)
		}
	}
}

// interrupt runs a command until it prints a text, presses Ctrl-C, and expects that it fails.
func interrupt(t *testing.T, command *exec.Cmd, text string) {
	t.Helper()
	progress, err := command.StderrPipe()
	must(t, err)
	must(t, command.Start())
	lines := bufio.NewScanner(progress)
	for lines.Scan() {
		if strings.Contains(lines.Text(), text) {
			must(t, command.Process.Signal(os.Interrupt))
			break
		}
	}
	_, err = io.Copy(io.Discard, progress)
	must(t, err)
	if command.Wait() == nil {
		t.Error("it succeeded")
	}
}

// rename installs istiod again with settings for the name of its cluster.
func (c *target) rename(ctx context.Context, t *testing.T, settings string) {
	t.Helper()
	_, err := shell(ctx, installIstio+c.name+settings)
	must(t, err)
	c.kubectl(ctx, t, "rollout status -n istio-system deployment/istiod --timeout=120s")
}

// trafficCommand is `kubectl istiod-agent verify --traffic` with all clusters.
func trafficCommand(ctx context.Context, t *testing.T) *exec.Cmd {
	t.Helper()
	limited, cancel := context.WithTimeout(ctx, 5*time.Minute)
	t.Cleanup(cancel)
	command := exec.CommandContext(limited, "kubectl", "istiod-agent", "verify", "--traffic", "--traffic-image="+trafficImage(t))
	for _, cluster := range clusters {
		command.Args = append(command.Args, "--context="+cluster.name)
	}
	return command
}

// trafficImage is the image that was built for the tests, which has the chart's tag.
func trafficImage(t *testing.T) string {
	t.Helper()
	root, err := built.Root()
	must(t, err)
	chart, err := os.ReadFile(filepath.Join(root, "charts", "istiod-agent", "Chart.yaml"))
	must(t, err)
	tag := regexp.MustCompile(`(?m)^appVersion: (\S+)$`).FindStringSubmatch(string(chart))
	if tag == nil {
		t.Fatal("the chart has no appVersion")
	}
	return "ghcr.io/istiod-agent/istiod-agent-traffic:" + tag[1]
}

// noTrafficNamespace expects that the command has removed its namespace from all clusters.
func noTrafficNamespace(ctx context.Context, t *testing.T) {
	t.Helper()
	for _, cluster := range clusters {
		left, err := cluster.client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{LabelSelector: "istiod-agent.io/traffic"})
		must(t, err)
		for _, namespace := range left.Items {
			t.Errorf("%s: namespace %s is left", cluster.name, namespace.Name)
		}
	}
}
