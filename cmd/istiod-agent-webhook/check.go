// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spf13/cobra"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/webhook"
)

func checkCommand(f *flags) *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Call the registered webhook as the API server does, with a sample istiod",
		Long: `Reads the MutatingWebhookConfiguration named in the configuration file and
calls each of its webhooks over TLS, trusting only its caBundle. Each must
inject a sample istiod, or admit a sample VirtualMesh. Exits 0 if all do,
else 1 with the cause.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := f.setLogger(cmd.ErrOrStderr()); err != nil {
				return err
			}
			config, cluster, err := f.load()
			if err != nil {
				return err
			}
			scheme := runtime.NewScheme()
			if err := admissionregistrationv1.AddToScheme(scheme); err != nil {
				return err
			}
			reader, err := client.New(cluster, client.Options{Scheme: scheme})
			if err != nil {
				return err
			}
			var configuration admissionregistrationv1.MutatingWebhookConfiguration
			name := config.Server.WebhookConfiguration
			if err := reader.Get(cmd.Context(), types.NamespacedName{Name: name}, &configuration); err != nil {
				return fmt.Errorf("reading the MutatingWebhookConfiguration: %w", err)
			}
			passed, err := webhook.Check(cmd.Context(), &configuration)
			for _, line := range passed {
				fmt.Fprintln(cmd.OutOrStdout(), line)
			}
			return err
		},
	}
}
