// SPDX-License-Identifier: Apache-2.0

// Package clusters connects to the clusters of a kubeconfig's contexts.
package clusters

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/cli/shell"
)

// parallel is how many contexts are queried at the same time. Each holds its answers in memory, and a server that does not
// answer holds one place until the timeout.
const parallel = 32

// ForEach calls query for each context, many at the same time, and returns the results in the order of the flags. A context
// that cannot be opened has an error.
func ForEach[T any](f *Flags, query func(cluster *Cluster, err error) T) []T {
	defer f.loadOnce()()
	names := []string{""}
	if len(f.Contexts) > 0 {
		names = nil
	}
	for _, name := range f.Contexts {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	results := make([]T, len(names))
	var pending sync.WaitGroup
	places := make(chan struct{}, parallel)
	for i, name := range names {
		places <- struct{}{}
		pending.Go(func() {
			defer func() { <-places }()
			cluster, err := f.Open(name)
			cluster.Context = cmp.Or(cluster.Context, "(none)")
			results[i] = query(cluster, err)
		})
	}
	pending.Wait()
	return results
}

// Cluster is the cluster of a kubeconfig's context.
type Cluster struct {
	// Context is the context's name, Namespace its default namespace.
	Context, Namespace string
	Config             *rest.Config
	Client             client.Client
	Discovery          discovery.DiscoveryInterface

	arguments string // Flags.Arguments
}

// Limit limits ctx to the time of one request (--request-timeout), for connections that the client does not limit.
func (c *Cluster) Limit(ctx context.Context) (context.Context, context.CancelFunc) {
	if c.Config.Timeout <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, c.Config.Timeout)
}

// Open reads the kubeconfig and sends no request. The context "" is the current one.
func (f *Flags) Open(contextName string) (*Cluster, error) {
	overrides := f.overrides
	overrides.AuthInfo, overrides.CurrentContext = *f.overrides.AuthInfo.DeepCopy(), contextName
	loading := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(f.loader(), &overrides)
	c := &Cluster{Context: contextName, arguments: f.Arguments()}
	raw, err := loading.RawConfig()
	if err != nil {
		return c, fmt.Errorf("reading the kubeconfig: %w; name another by --kubeconfig", err)
	}
	c.Context = cmp.Or(contextName, raw.CurrentContext)
	if c.Context != "" {
		c.arguments = " --context=" + shell.Quote(c.Context) + c.arguments
	}
	switch oneServer := cmp.Or(overrides.ClusterInfo.Server, overrides.Context.Cluster) != ""; {
	case oneServer && len(f.Contexts) > 1:
		// The same cluster under several names would pass for several clusters that agree.
		return c, errors.New("--server and --cluster: expected one --context, since they name one cluster")
	case overrides.AuthInfo.Token != "" && len(f.Contexts) > 1:
		return c, errors.New("--token: expected one --context, since each cluster would receive the token; set the tokens of several clusters in the kubeconfig")
	case c.Context == "" && overrides.ClusterInfo.Server == "":
		return c, errors.New("the kubeconfig has no current context; name one by --context (kubectl config get-contexts)")
	case c.Context != "" && raw.Contexts[c.Context] == nil:
		return c, fmt.Errorf("the kubeconfig has no context %q; kubectl config get-contexts lists its contexts", c.Context)
	}
	config, err := loading.ClientConfig()
	if err != nil {
		return c, fmt.Errorf("reading context %s of the kubeconfig: %w", c.Context, err)
	}
	if c.Namespace, _, err = loading.Namespace(); err != nil {
		return c, fmt.Errorf("reading context %s of the kubeconfig: %w", c.Context, err)
	}
	c.Context = cmp.Or(c.Context, config.Host) // --server without a kubeconfig
	config.Timeout = f.Timeout
	config.WarningHandler = rest.NoWarnings{} // they concern writers
	config.QPS, config.Burst = 50, 100
	c.Config = config
	if c.Discovery, err = discovery.NewDiscoveryClientForConfig(config); err != nil {
		return c, err
	}
	// The client looks up the resource of each kind when it first needs it.
	c.Client, err = client.New(config, client.Options{})
	return c, err
}
