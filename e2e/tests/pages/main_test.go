// SPDX-License-Identifier: Apache-2.0

// Package pages runs the commands of the README and of the guides, as they are written, from an empty cluster on. It also
// knows which other test runs the commands of the pages that need more than an API server.
package pages

import (
	"context"
	"fmt"
	"os"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/check"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istio"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/kubectl"
)

var must = check.Must

var shared *cluster.Cluster

// toolVariable makes this program act as one of the pages' tools.
const toolVariable = "PAGES_TEST_TOOL"

func TestMain(m *testing.M) {
	switch os.Getenv(toolVariable) {
	case "kubectl":
		kubectl.Main()
	case "istioctl":
		if err := istioctl(context.Background(), os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	cluster.Main(m, &shared, nil)
}

// istioVersion is the tag of istiod's image.
const istioVersion = "1.31.0"

// istioctl does what `istioctl install` applies of istiod. It does not wait for Pods, which never come here.
func istioctl(ctx context.Context, arguments []string) error {
	const namespace = "istio-system"
	if len(arguments) != 1 || arguments[0] != "install" {
		return fmt.Errorf("the test knows no istioctl %q", arguments)
	}
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return err
	}
	c, err := client.New(config, client.Options{})
	if err != nil {
		return err
	}
	objects, err := istio.Manifests(ctx, namespace, istio.Values(namespace, istioVersion))
	if err != nil {
		return err
	}
	return istio.ApplyAsIstioctl(ctx, c, namespace, objects...)
}
