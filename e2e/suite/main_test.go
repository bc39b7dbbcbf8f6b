// SPDX-License-Identifier: Apache-2.0

// Package suite runs docs/try-it.md in real clusters with real Pods, and then what happens to clusters in the course of a
// year. It uses any clusters:
//
//	go test ./suite                                                    starts two of its own, on Linux as root
//	go test ./suite -args -number 1 -labels suite=core                 only the guide, on one: make e2e-core
//	go test ./suite -args -kubeconfig FILE -contexts cluster-1,other   in those of a kubeconfig
//
// A test that needs the guide's set-up runs the guide first, once.
package suite

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/e2e-framework/pkg/env"
	"sigs.k8s.io/e2e-framework/pkg/envconf"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/node"
)

var (
	number   = flag.Int("number", 2, "how many clusters to start, 1 or 2")
	contexts = flag.String("contexts", "", "the clusters' contexts in the kubeconfig, instead of clusters that are started here")
	// These two are for package broken, which proves that checks can fail.
	broken     = flag.String("broken", "", "what to break: root (of trust), webhook")
	agentImage = flag.String("agent-image", "", "archive of another agent's image, for clusters that are started here")
)

// core labels the tests of make e2e-core, for which one cluster is enough.
const (
	label = "suite"
	core  = "core"
	full  = "full"
)

var (
	environment env.Environment
	// clusters are those to test in; started are those of them that were started here.
	clusters []*target
	started  *node.Clusters
	// folder is where the page's commands run.
	folder string
)

// target is a cluster to test in.
type target struct {
	name   string
	config *rest.Config
	client kubernetes.Interface
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	configuration, err := envconf.NewFromFlags()
	if err != nil {
		return fail(err)
	}
	dir, err := os.MkdirTemp("", "istiod-agent-suite-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(dir)
	kubeconfig, names := configuration.KubeconfigFile(), strings.Split(*contexts, ",")
	programs := ""
	if *contexts == "" {
		started, err = node.StartSeveral(ctx, *number, dir, os.Stderr)
		takeAway := sync.OnceFunc(func() {
			if err := started.Stop(); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		})
		defer takeAway()
		ended := context.AfterFunc(ctx, func() { // Ctrl-C: no test waits for it
			takeAway()
			_ = os.RemoveAll(dir)
			os.Exit(1)
		})
		defer ended()
		if err != nil {
			return fail(err)
		}
		kubeconfig, programs, names = started.Kubeconfig, started.Programs, nil
		for _, cluster := range started.All {
			names = append(names, cluster.Name)
			if *agentImage != "" {
				if err := cluster.Load(ctx, *agentImage); err != nil {
					return fail(err)
				}
			}
		}
	}
	for _, name := range names {
		config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
			&clientcmd.ClientConfigLoadingRules{ExplicitPath: kubeconfig}, &clientcmd.ConfigOverrides{CurrentContext: name}).ClientConfig()
		if err != nil {
			return fail(err)
		}
		config.QPS, config.Burst = 100, 200
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			return fail(err)
		}
		clusters = append(clusters, &target{name: name, config: config, client: client})
	}
	if folder, err = workspace(dir); err != nil {
		return fail(err)
	}
	for name, value := range map[string]string{
		"KUBECONFIG": kubeconfig, "PATH": programs + ":" + os.Getenv("PATH"),
		"CONTEXT_1": clusters[0].name, "CONTEXT_2": clusters[len(clusters)-1].name,
		"HELM_CACHE_HOME": filepath.Join(dir, "helm"), "HELM_CONFIG_HOME": filepath.Join(dir, "helm"), "HELM_DATA_HOME": filepath.Join(dir, "helm"),
	} {
		if name == "CONTEXT_2" && len(clusters) == 1 {
			value = ""
		}
		if err := os.Setenv(name, value); err != nil {
			return fail(err)
		}
	}
	environment = env.NewWithConfig(configuration.WithKubeconfigFile(kubeconfig))
	return environment.Run(m)
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// workspace is a folder that looks like a clone to the page's commands and receives the files that they write.
func workspace(dir string) (string, error) {
	root, err := built.Root()
	if err != nil {
		return "", err
	}
	at := filepath.Join(dir, "clone")
	if err := os.Mkdir(at, 0o700); err != nil {
		return "", err
	}
	for _, name := range []string{"charts", "config", "docs", "e2e"} {
		if err := os.Symlink(filepath.Join(root, name), filepath.Join(at, name)); err != nil {
			return "", err
		}
	}
	return at, nil
}
