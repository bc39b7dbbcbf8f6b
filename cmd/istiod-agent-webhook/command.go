// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/internal/bounded"
	"github.com/istiod-agent/istiod-agent/internal/regular"
	"github.com/istiod-agent/istiod-agent/internal/version"
)

// flags of the program. The configuration file holds its options.
type flags struct {
	config     string
	kubeconfig string
	logFormat  string
	logLevel   string
}

func newCommand() *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:   "istiod-agent-webhook",
		Short: "Injects the istiod agent into istiod as it is installed",
		Long: `Serves the admission webhook, which injects the agent into istiod's Deployment
(or its Pods) and validates VirtualMeshes, and maintains the webhook
configuration's caBundle. On the leader, it also runs the controllers: they inject
existing istiods, create the IssuedCertificates of VirtualMeshes, and restart Pods
after a change of the root if a VirtualMesh requests it.

The configuration file contains the injection and the server's options.`,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := f.setLogger(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			config, cluster, err := f.load()
			if err == nil {
				err = run(cmd.Context(), config, cluster)
			}
			if err != nil {
				return f.logFailure(log, err)
			}
			return nil
		},
	}
	cmd.PersistentFlags().StringVar(&f.config, "config", "/etc/istiod-agent-webhook/config.yaml", "the configuration `file`")
	cmd.PersistentFlags().StringVar(&f.kubeconfig, "kubeconfig", "", "kubeconfig `file`, to run outside a cluster (default: the Pod's own service account, else $KUBECONFIG, else ~/.kube/config)")
	cmd.PersistentFlags().StringVar(&f.logFormat, "log-format", "json", "`format` of the log: json or text")
	cmd.PersistentFlags().StringVar(&f.logLevel, "log-level", "info", "`level` of the log: info, or debug, which includes requests that change nothing")
	cmd.AddCommand(checkCommand(&f), version.Command())
	return cmd
}

// maxConfig is the size in bytes of the largest ConfigMap that an API server stores.
const maxConfig = 1 << 20

// errLogged stands for an error that is in the log.
var errLogged = errors.New("see the log")

// logFailure logs why the program ends: each mistake of a configuration in a line of its own, since lines are cut.
func (f *flags) logFailure(log logr.Logger, err error) error {
	mistakes, ok := errors.AsType[v1alpha1.MistakesError](err)
	for _, mistake := range mistakes {
		log.Error(mistake, "Invalid configuration", "file", f.config)
	}
	if !ok {
		log.Error(err, "Exiting")
	}
	return errLogged
}

// load reads the configuration file and the client configuration of the API server.
func (f *flags) load() (*v1alpha1.InjectionConfiguration, *rest.Config, error) {
	content, err := regular.Read(f.config, maxConfig)
	if err != nil {
		return nil, nil, fmt.Errorf("--config: %w", err)
	}
	config, err := v1alpha1.Decode(content)
	if err != nil {
		return nil, nil, fmt.Errorf("configuration %s: %w", f.config, err)
	}
	client, err := f.restConfig()
	if err != nil {
		return nil, nil, fmt.Errorf("no API server: %w", err)
	}
	return config, client, nil
}

// setLogger returns the logger of the flags, and makes every library use it.
func (f *flags) setLogger(to io.Writer) (logr.Logger, error) {
	log, err := bounded.NewLogger(to, f.logLevel, f.logFormat)
	if err == nil {
		ctrl.SetLogger(log)
		klog.SetLogger(log)
	}
	return log, err
}

// restConfig uses --kubeconfig, then the Pod's service account, then kubectl's defaults.
func (f *flags) restConfig() (*rest.Config, error) {
	if f.kubeconfig == "" {
		if config, err := rest.InClusterConfig(); err == nil {
			return config, nil
		}
	}
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = f.kubeconfig
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
}
