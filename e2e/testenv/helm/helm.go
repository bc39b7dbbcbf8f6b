// SPDX-License-Identifier: Apache-2.0

// Package helm installs, upgrades, rolls back and uninstalls charts by Helm's own Go packages: by server-side apply (Helm
// 4's default), or client-side (as Helm 3 and the Sail operator do).
package helm

import (
	"context"
	"log/slog"
	"time"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart/common"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/kube"
	release "helm.sh/helm/v4/pkg/release/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Values are a chart's values, as in a -f file or --set.
type Values = map[string]any

// Release names an installed chart and how it is applied.
type Release struct {
	Name      string
	Namespace string
	// ClientSide means Helm 3's three-way merge instead of server-side apply.
	ClientSide bool
}

// Client manages the releases of a cluster.
type Client struct{ getter restClientGetter }

// NewClient returns a client for the cluster of config.
func NewClient(config *rest.Config) (*Client, error) {
	client, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, err
	}
	cached := memory.NewMemCacheClient(client)
	return &Client{getter: restClientGetter{
		config:    config,
		discovery: cached,
		mapper:    restmapper.NewDeferredDiscoveryRESTMapper(cached),
	}}, nil
}

// Install is `helm install`, without --wait: no controller creates Pods here.
func (c *Client) Install(ctx context.Context, r Release, chrt *chart.Chart, values Values) error {
	return c.InstallPatched(ctx, r, chrt, values, nil)
}

// InstallPatched is `helm install --post-renderer`, with patch applied to each rendered object.
func (c *Client) InstallPatched(ctx context.Context, r Release, chrt *chart.Chart, values Values, patch Patch) error {
	configuration, err := c.configuration(r.Namespace)
	if err != nil {
		return err
	}
	install := action.NewInstall(configuration)
	install.ReleaseName, install.Namespace = r.Name, r.Namespace
	install.ServerSideApply = !r.ClientSide
	install.WaitStrategy, install.Timeout = kube.HookOnlyStrategy, time.Minute
	if patch != nil {
		install.PostRenderer = patch
	}
	_, err = install.RunWithContext(ctx, chrt, values)
	return err
}

// Upgrade is `helm upgrade`.
func (c *Client) Upgrade(ctx context.Context, r Release, chrt *chart.Chart, values Values) error {
	return c.UpgradePatched(ctx, r, chrt, values, nil)
}

// UpgradePatched is `helm upgrade --post-renderer`.
func (c *Client) UpgradePatched(ctx context.Context, r Release, chrt *chart.Chart, values Values, patch Patch) error {
	configuration, err := c.configuration(r.Namespace)
	if err != nil {
		return err
	}
	upgrade := action.NewUpgrade(configuration)
	upgrade.Namespace = r.Namespace
	upgrade.ServerSideApply = r.serverSide()
	upgrade.WaitStrategy, upgrade.Timeout = kube.HookOnlyStrategy, time.Minute
	if patch != nil {
		upgrade.PostRenderer = patch
	}
	_, err = upgrade.RunWithContext(ctx, r.Name, chrt, values)
	return err
}

// Rollback is `helm rollback` to a revision.
func (c *Client) Rollback(r Release, revision int) error {
	configuration, err := c.configuration(r.Namespace)
	if err != nil {
		return err
	}
	rollback := action.NewRollback(configuration)
	rollback.Version = revision
	rollback.ServerSideApply = r.serverSide()
	rollback.WaitStrategy, rollback.Timeout = kube.HookOnlyStrategy, time.Minute
	return rollback.Run(r.Name)
}

// Notes is `helm get notes`.
func (c *Client) Notes(r Release) (string, error) {
	configuration, err := c.configuration(r.Namespace)
	if err != nil {
		return "", err
	}
	found, err := action.NewGet(configuration).Run(r.Name)
	if err != nil {
		return "", err
	}
	return found.(*release.Release).Info.Notes, nil
}

// Uninstall is `helm uninstall`.
func (c *Client) Uninstall(r Release) error {
	configuration, err := c.configuration(r.Namespace)
	if err != nil {
		return err
	}
	uninstall := action.NewUninstall(configuration)
	uninstall.WaitStrategy, uninstall.Timeout = kube.HookOnlyStrategy, time.Minute
	_, err = uninstall.Run(r.Name)
	return err
}

// Render is `helm template`.
func Render(ctx context.Context, r Release, chrt *chart.Chart, values Values) (string, error) {
	install := action.NewInstall(action.NewConfiguration(action.ConfigurationSetLogger(slog.DiscardHandler)))
	install.ReleaseName, install.Namespace = r.Name, r.Namespace
	install.DryRunStrategy = action.DryRunClient
	install.KubeVersion = &common.KubeVersion{Version: "v1.37.0", Major: "1", Minor: "37"} // that of the tests
	rendered, err := install.RunWithContext(ctx, chrt, values)
	if err != nil {
		return "", err
	}
	return rendered.(*release.Release).Manifest, nil
}

func (r Release) serverSide() string {
	if r.ClientSide {
		return "false"
	}
	return "true"
}

func (c *Client) configuration(namespace string) (*action.Configuration, error) {
	configuration := action.NewConfiguration(action.ConfigurationSetLogger(slog.DiscardHandler))
	getter := c.getter
	getter.namespace = namespace
	return configuration, configuration.Init(getter, namespace, "secret")
}

// restClientGetter gives Helm a rest.Config instead of a kubeconfig file.
type restClientGetter struct {
	config    *rest.Config
	discovery discovery.CachedDiscoveryInterface
	mapper    meta.RESTMapper
	namespace string
}

func (g restClientGetter) ToRESTConfig() (*rest.Config, error) {
	return rest.CopyConfig(g.config), nil
}

func (g restClientGetter) ToDiscoveryClient() (discovery.CachedDiscoveryInterface, error) {
	return g.discovery, nil
}

func (g restClientGetter) ToRESTMapper() (meta.RESTMapper, error) { return g.mapper, nil }

func (g restClientGetter) ToRawKubeConfigLoader() clientcmd.ClientConfig {
	return clientcmd.NewDefaultClientConfig(clientcmdapi.Config{},
		&clientcmd.ConfigOverrides{Context: clientcmdapi.Context{Namespace: g.namespace}})
}

// The manager's name in managedFields is the command's; the default is the name of the running program.
func init() { kube.ManagedFieldsManager = "helm" }
