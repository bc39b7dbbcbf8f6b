// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"context"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/check"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istiodserver"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/meshcluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/plugin"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/vaultserver"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

var must = check.Must

var one, two *cluster.Cluster

func TestMain(m *testing.M) {
	if load := os.Getenv(loadVariable); load != "" { // this process is a client
		if err := loadMain(load); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	cluster.MainOfSeveral(m,
		cluster.Spec{Into: &one, Options: &webhookserver.Options{Values: helm.Values{"clusterName": "cluster-1"}}},
		cluster.Spec{Into: &two, Options: &webhookserver.Options{Values: helm.Values{"clusterName": "cluster-2"}}})
}

// side is one of the two clusters.
type side struct {
	*meshcluster.Cluster
	region string
}

// newSide starts an istiod under a root, in a mesh of both clusters.
func newSide(t *testing.T, c *cluster.Cluster, index int, root func() (*vaultserver.Root, error)) *side {
	t.Helper()
	s := &side{region: fmt.Sprintf("region-%d", index)}
	s.Cluster = meshcluster.New(t, c, meshcluster.Options{Name: meshcluster.Names[index-1], Clusters: meshcluster.Names, Root: root})
	s.start(t)
	return s
}

// start starts an injected istiod.
func (s *side) start(t *testing.T) {
	t.Helper()
	s.Start(t, istiodserver.Options{Env: map[string]string{"ISTIO_MULTIROOT_MESH": "true"}})
}

// join joins the clusters by the plugin. No Pod of istiod runs here, so the calls show in place of --wait that endpoints arrive.
func join(t *testing.T, kubeconfig string, sides ...*side) {
	t.Helper()
	arguments := []string{"join", "--wait=false"}
	for _, s := range sides {
		arguments = append(arguments, "--api-server="+s.Name+"="+s.Plane.Config.Host)
	}
	if r := run(t, kubeconfig, arguments...); r.Code != 0 {
		t.Fatal(r)
	}
}

// contexts writes a kubeconfig with the two clusters.
func contexts(t *testing.T) (file string) {
	t.Helper()
	return meshcluster.Kubeconfig(t, map[string]*cluster.Cluster{"cluster-1": one, "cluster-2": two}, nil)
}

// run runs the plugin with both contexts.
func run(t *testing.T, kubeconfig string, arguments ...string) plugin.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	r := plugin.Run(ctx, "", append(arguments, "--context=cluster-1", "--context=cluster-2", "--kubeconfig", kubeconfig)...)
	if testing.Verbose() {
		t.Logf("kubectl istiod-agent %s\n%s", arguments, r)
	}
	return r
}

// address returns an address of this machine for the Pods: the API server refuses a loopback address in an EndpointSlice.
func address(t *testing.T) string {
	t.Helper()
	all, err := net.InterfaceAddrs()
	must(t, err)
	for _, each := range all {
		if network, ok := each.(*net.IPNet); ok && network.IP.To4() != nil && network.IP.IsGlobalUnicast() {
			return network.IP.String()
		}
	}
	t.Skip("this machine has no IPv4 address besides loopback, and an EndpointSlice cannot hold a loopback address")
	return ""
}
