// SPDX-License-Identifier: Apache-2.0

package checkup

import (
	"context"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
)

// readWebhook returns nil without a configuration. It is found by the names of its webhooks, since a release may have any name.
func readWebhook(ctx context.Context, reader client.Reader) (*admissionregistrationv1.MutatingWebhookConfiguration, error) {
	var all admissionregistrationv1.MutatingWebhookConfigurationList
	if err := reader.List(ctx, &all); err != nil {
		return nil, err
	}
	for i := range all.Items {
		if injecting(&all.Items[i], "deployments") != nil || injecting(&all.Items[i], "pods") != nil {
			return &all.Items[i], nil
		}
	}
	return nil, nil
}

// serviceOf returns the webhook's Service; nil without a configuration, or with a URL in it.
func serviceOf(configuration *admissionregistrationv1.MutatingWebhookConfiguration) *admissionregistrationv1.ServiceReference {
	if configuration == nil {
		return nil
	}
	for i := range configuration.Webhooks {
		if service := configuration.Webhooks[i].ClientConfig.Service; service != nil {
			return service
		}
	}
	return nil
}

// readConfiguration reads the webhook's configuration, whose ConfigMap has the name of the Service.
func readConfiguration(ctx context.Context, reader client.Reader, webhook *admissionregistrationv1.MutatingWebhookConfiguration) (*v1alpha1.InjectionConfiguration, error) {
	service := serviceOf(webhook)
	if service == nil {
		return v1alpha1.Default(), nil
	}
	var stored corev1.ConfigMap
	if err := reader.Get(ctx, client.ObjectKey{Namespace: service.Namespace, Name: service.Name}, &stored); err != nil {
		return v1alpha1.Default(), err
	}
	config, err := v1alpha1.Decode([]byte(stored.Data["config.yaml"]))
	if err != nil {
		return v1alpha1.Default(), err
	}
	return config, nil
}

// readControllers returns the service accounts of the webhook's Deployments; without permission to read these only the one
// with the name of the Service, as in the chart.
func readControllers(ctx context.Context, reader client.Reader, webhook *admissionregistrationv1.MutatingWebhookConfiguration) []string {
	service := serviceOf(webhook)
	if service == nil {
		return nil
	}
	accounts := []string{service.Namespace + "/" + service.Name}
	var deployments appsv1.DeploymentList
	labels := client.MatchingLabels{"app.kubernetes.io/part-of": "istiod-agent", "app.kubernetes.io/component": "webhook"}
	if reader.List(ctx, &deployments, client.InNamespace(service.Namespace), labels) == nil {
		for i := range deployments.Items {
			accounts = append(accounts, service.Namespace+"/"+deployments.Items[i].Spec.Template.Spec.ServiceAccountName)
		}
	}
	return accounts
}

// injecting returns the webhook that injects a resource; nil without one.
func injecting(configuration *admissionregistrationv1.MutatingWebhookConfiguration, resource string) *admissionregistrationv1.MutatingWebhook {
	for i := range configuration.Webhooks {
		if configuration.Webhooks[i].Name == resource+".istiod-agent.io" {
			return &configuration.Webhooks[i]
		}
	}
	return nil
}
