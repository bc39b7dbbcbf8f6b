// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/controllers/injections"
	"github.com/istiod-agent/istiod-agent/policy"
	"github.com/istiod-agent/istiod-agent/webhook"
)

func checkCommand(f *flags) *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Check that an istiod would be injected",
		Long: `With injection by the webhook: reads the MutatingWebhookConfiguration named in
the configuration file and calls each of its webhooks over TLS, as the API server
does, trusting only its caBundle. Each must inject a sample istiod, or admit a
sample VirtualMesh. By the policy: reads the policies, their bindings and the
Injection, each of which must be as this version writes it. Exits 0 if all is
well, else 1 with the cause.`,
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
			check := checkWebhook
			if config.By == v1alpha1.ByPolicy {
				check = checkPolicy
			}
			passed, err := check(cmd.Context(), reader, config)
			for _, line := range passed {
				fmt.Fprintln(cmd.OutOrStdout(), line)
			}
			return err
		},
	}
}

func checkWebhook(ctx context.Context, reader client.Reader, config *v1alpha1.InjectionConfiguration) ([]string, error) {
	var configuration admissionregistrationv1.MutatingWebhookConfiguration
	if err := reader.Get(ctx, client.ObjectKey{Name: config.Server.WebhookConfiguration}, &configuration); err != nil {
		return nil, fmt.Errorf("reading the MutatingWebhookConfiguration: %w", err)
	}
	return webhook.Check(ctx, &configuration)
}

func checkPolicy(ctx context.Context, reader client.Reader, config *v1alpha1.InjectionConfiguration) ([]string, error) {
	desired, err := policy.New(config, policy.Names{Policy: config.Server.Injection, Namespace: config.Server.Namespace})
	if err != nil {
		return nil, err
	}
	return injections.Check(ctx, reader, desired)
}
