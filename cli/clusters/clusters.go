// SPDX-License-Identifier: Apache-2.0

// Package clusters opens the clusters of a kubeconfig's contexts, for the commands that ask them something.
package clusters

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Flags say which kubeconfig is read, as kubectl's do, and which of its contexts.
type Flags struct {
	// Kubeconfig is a file; by default KUBECONFIG counts, then ~/.kube/config.
	Kubeconfig string
	// Contexts are those of AddContexts, none for the current one.
	Contexts []string
	// Timeout is that of each request.
	Timeout time.Duration
}

// Add registers the flags.
func (f *Flags) Add(flags *pflag.FlagSet) {
	flags.StringVar(&f.Kubeconfig, "kubeconfig", "", "kubeconfig `file` (default: $KUBECONFIG, or ~/.kube/config)")
	flags.DurationVar(&f.Timeout, "request-timeout", 10*time.Second, "how long to wait for each answer")
}

// AddContexts registers the flag of a command that asks several clusters; verb says what it does there.
func (f *Flags) AddContexts(cmd *cobra.Command, verb string) {
	cmd.Flags().StringArrayVar(&f.Contexts, "context", nil, "kubeconfig `context` to "+verb+"; may be repeated (default: the current one)")
	_ = cmd.RegisterFlagCompletionFunc("context", CompleteContexts(f))
}

// Ask has each context asked, all at once, also one that could not be opened. The answers come in the order in which the
// contexts were named.
func Ask[T any](f *Flags, ask func(cluster *Cluster, err error) T) []T {
	names := []string{""}
	if len(f.Contexts) > 0 {
		names = nil
	}
	for _, name := range f.Contexts {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	answers := make([]T, len(names))
	var pending sync.WaitGroup
	for i, name := range names {
		pending.Go(func() {
			cluster, err := f.Open(name)
			cluster.Context = cmp.Or(cluster.Context, "(none)")
			answers[i] = ask(cluster, err)
		})
	}
	pending.Wait()
	return answers
}

// Cluster is one of a kubeconfig's contexts.
type Cluster struct {
	// Context is its name; Namespace its default one.
	Context, Namespace string
	Config             *rest.Config
	Client             client.Client
	Discovery          discovery.DiscoveryInterface
}

// Open reads the kubeconfig and asks nothing yet. The context "" is the current one.
func (f *Flags) Open(context string) (*Cluster, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = f.Kubeconfig
	loading := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: context})
	c := &Cluster{Context: context}
	raw, err := loading.RawConfig()
	if err != nil {
		return c, fmt.Errorf("reading the kubeconfig: %w; name another by --kubeconfig", err)
	}
	if c.Context = cmp.Or(context, raw.CurrentContext); c.Context == "" {
		return c, errors.New("the kubeconfig has no current context; name one by --context, of those that kubectl config get-contexts lists")
	}
	if raw.Contexts[c.Context] == nil {
		return c, fmt.Errorf("the kubeconfig has no context %q; kubectl config get-contexts lists those that it has", c.Context)
	}
	config, err := loading.ClientConfig()
	if err != nil {
		return c, fmt.Errorf("reading context %s of the kubeconfig: %w", c.Context, err)
	}
	if c.Namespace, _, err = loading.Namespace(); err != nil {
		return c, fmt.Errorf("reading context %s of the kubeconfig: %w", c.Context, err)
	}
	config.Timeout = f.Timeout
	config.WarningHandler = rest.NoWarnings{} // they are for who changes something
	config.QPS, config.Burst = 50, 100
	c.Config = config
	if c.Discovery, err = discovery.NewDiscoveryClientForConfig(config); err != nil {
		return c, err
	}
	// What each kind's resource is called is looked up when it is first needed.
	c.Client, err = client.New(config, client.Options{})
	return c, err
}

// CompleteContexts completes the names of contexts.
func CompleteContexts(f *Flags) cobra.CompletionFunc {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		rules := clientcmd.NewDefaultClientConfigLoadingRules()
		rules.ExplicitPath = f.Kubeconfig
		config, err := rules.Load()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return slices.Sorted(maps.Keys(config.Contexts)), cobra.ShellCompDirectiveNoFileComp
	}
}
