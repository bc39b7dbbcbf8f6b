// SPDX-License-Identifier: Apache-2.0

package clusters

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/istiod-agent/istiod-agent/cli/shell"
)

// Flags are kubectl's flags for the connection to a cluster. They apply to each context alike.
//
// They come from clientcmd, as kubectl's do. genericclioptions.ConfigFlags would add kustomize and 103 other packages
// (0.8 MB of the binary) and a discovery cache in the home directory, and knows one context only.
type Flags struct {
	// Kubeconfig is a file name; by default KUBECONFIG counts, then ~/.kube/config.
	Kubeconfig string
	// Contexts are the values of --context; none stands for the current context.
	Contexts []string
	// Timeout limits each request; 0 for no limit.
	Timeout time.Duration

	overrides clientcmd.ConfigOverrides
	// loaded returns the kubeconfig; nil unless it is loaded once for several contexts.
	loaded func() (*clientcmdapi.Config, error)
}

// connectionFlag annotates the flags that `options` lists and no command's help does.
const connectionFlag = "istiod-agent.io/connection"

// Add registers the flags, except --context.
func (f *Flags) Add(cmd *cobra.Command) {
	set := cmd.Flags()
	set.StringVar(&f.Kubeconfig, "kubeconfig", "", "kubeconfig `file` (default: $KUBECONFIG, or ~/.kube/config)")
	f.Timeout = 10 * time.Second
	set.Func("request-timeout", "`time` limit of each request, such as 30s; 0 for none (default 10s)", func(value string) (err error) {
		f.Timeout, err = clientcmd.ParseTimeout(value)
		return err
	})
	set.AddFlagSet(f.connection())
	f.complete(cmd, "cluster", func(config *clientcmdapi.Config) []string { return slices.Sorted(maps.Keys(config.Clusters)) })
	f.complete(cmd, "user", func(config *clientcmdapi.Config) []string { return slices.Sorted(maps.Keys(config.AuthInfos)) })
}

func (f *Flags) connection() *pflag.FlagSet {
	names := clientcmd.RecommendedConfigOverrideFlags("")
	names.ClusterOverrideFlags.APIServer.ShortName = "s"
	// The commands have their own --context, --namespace and --request-timeout; API servers have no basic authentication
	// since Kubernetes 1.19.
	none := clientcmd.FlagInfo{}
	names.CurrentContext, names.ContextOverrideFlags.Namespace, names.Timeout = none, none, none
	names.AuthOverrideFlags.Username, names.AuthOverrideFlags.Password = none, none
	set := pflag.NewFlagSet("connection", pflag.ContinueOnError)
	clientcmd.BindOverrideFlags(&f.overrides, set, names)
	set.VisitAll(func(flag *pflag.Flag) {
		flag.Usage = strings.Replace(flag.Usage, " file ", " `file` ", 1) // completes file names
		_ = set.SetAnnotation(flag.Name, connectionFlag, []string{"true"})
	})
	return set
}

// AddContexts registers --context for a command that reads several clusters; verb is what it does with them.
func (f *Flags) AddContexts(cmd *cobra.Command, verb string) {
	cmd.Flags().StringArrayVar(&f.Contexts, "context", nil, "kubeconfig `context` to "+verb+"; may be repeated (default: the current context)")
	f.CompleteContext(cmd)
}

// CompleteContext completes --context with the names of contexts.
func (f *Flags) CompleteContext(cmd *cobra.Command) {
	f.complete(cmd, "context", func(config *clientcmdapi.Config) []string { return slices.Sorted(maps.Keys(config.Contexts)) })
}

func (f *Flags) complete(cmd *cobra.Command, flag string, names func(*clientcmdapi.Config) []string) {
	_ = cmd.RegisterFlagCompletionFunc(flag, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		config, err := f.rules().Load()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return names(config), cobra.ShellCompDirectiveNoFileComp
	}) // the flag exists
}

func (f *Flags) rules() *clientcmd.ClientConfigLoadingRules {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = f.Kubeconfig
	return rules
}

// loadOnce makes all contexts share one loaded kubeconfig, until the returned function is called: each would read and decode
// the entries of all the others.
func (f *Flags) loadOnce() (end func()) {
	f.loaded = sync.OnceValues(f.rules().Load)
	return func() { f.loaded = nil }
}

// loader returns what Open loads the kubeconfig with.
func (f *Flags) loader() clientcmd.ClientConfigLoader {
	if f.loaded == nil {
		return f.rules()
	}
	return shared{f.rules(), f.loaded}
}

// shared loads a kubeconfig that other contexts use at the same time.
type shared struct {
	*clientcmd.ClientConfigLoadingRules
	load func() (*clientcmdapi.Config, error)
}

// Load implements clientcmd.ClientConfigLoader.
func (s shared) Load() (*clientcmdapi.Config, error) {
	config, err := s.load()
	if err != nil {
		return nil, err
	}
	own := *config
	own.Clusters, own.Contexts, own.AuthInfos = maps.Clone(config.Clusters), maps.Clone(config.Contexts), maps.Clone(config.AuthInfos)
	for name, user := range own.AuthInfos {
		if user.Exec != nil { // clientcmd changes it
			own.AuthInfos[name] = user.DeepCopy()
		}
	}
	return &own, nil
}

// Arguments returns the flags that choose a server and a user, as a shell reads them: a printed command must reach the same server
// as the same user. It never holds a token, and no --proxy-url, which kubectl does not have.
func (f *Flags) Arguments() string {
	var out strings.Builder
	add := func(flag, value string) {
		if value != "" {
			out.WriteString(" --" + flag + "=" + shell.Quote(value))
		}
	}
	file := func(flag, name string) {
		if absolute, err := filepath.Abs(name); err == nil && name != "" {
			name = absolute
		}
		add(flag, name)
	}
	file(clientcmd.RecommendedConfigPathFlag, f.Kubeconfig)
	add(clientcmd.FlagAPIServer, f.overrides.ClusterInfo.Server)
	add(clientcmd.FlagClusterName, f.overrides.Context.Cluster)
	add(clientcmd.FlagTLSServerName, f.overrides.ClusterInfo.TLSServerName)
	file(clientcmd.FlagCAFile, f.overrides.ClusterInfo.CertificateAuthority)
	if f.overrides.ClusterInfo.InsecureSkipTLSVerify {
		add(clientcmd.FlagInsecure, "true")
	}
	add(clientcmd.FlagAuthInfoName, f.overrides.Context.AuthInfo)
	file(clientcmd.FlagCertFile, f.overrides.AuthInfo.ClientCertificate)
	file(clientcmd.FlagKeyFile, f.overrides.AuthInfo.ClientKey)
	add(clientcmd.FlagImpersonate, f.overrides.AuthInfo.Impersonate)
	add(clientcmd.FlagImpersonateUID, f.overrides.AuthInfo.ImpersonateUID)
	for _, group := range f.overrides.AuthInfo.ImpersonateGroups {
		add(clientcmd.FlagImpersonateGroup, group)
	}
	return out.String()
}

// HideConnection hides the connection flags of a command until the returned function is called.
func HideConnection(cmd *cobra.Command) (found bool, restore func()) {
	set := func(hidden bool) {
		cmd.Flags().VisitAll(func(flag *pflag.Flag) {
			if flag.Annotations[connectionFlag] != nil {
				flag.Hidden, found = hidden, true
			}
		})
	}
	set(true)
	return found, func() { set(false) }
}

// ConnectionUsages describes the connection flags.
func ConnectionUsages() string { return new(Flags).connection().FlagUsages() }
