// SPDX-License-Identifier: Apache-2.0

package webhookserver

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
)

func (w *Webhook) install(ctx context.Context) error {
	c, err := client.New(w.plane.Config, client.Options{})
	if err != nil {
		return err
	}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.release.Namespace}}
	if err := c.Create(ctx, namespace); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	chrt, err := ourChart()
	if err != nil {
		return err
	}
	return w.helm.InstallPatched(ctx, w.release, chrt, w.options.Values, toLoopback(w.Service.Port()))
}

// takeOver points the webhook configuration of an installed release to the Service on loopback.
func (w *Webhook) takeOver(ctx context.Context) error {
	c, err := client.New(w.plane.Config, client.Options{})
	if err != nil {
		return err
	}
	configuration := &unstructured.Unstructured{}
	configuration.SetGroupVersionKind(admissionregistrationv1.SchemeGroupVersion.WithKind("MutatingWebhookConfiguration"))
	if err := c.Get(ctx, client.ObjectKey{Name: w.release.Name}, configuration); err != nil {
		return err
	}
	if err := toLoopback(w.Service.Port())(configuration); err != nil {
		return err
	}
	return c.Update(ctx, configuration)
}

func ourChart() (*chart.Chart, error) {
	root, err := built.Root()
	if err != nil {
		return nil, err
	}
	return loader.Load(filepath.Join(root, "charts", "istiod-agent"))
}

// Upgrade does what `helm upgrade` of the chart with these values does.
func (w *Webhook) Upgrade(ctx context.Context, release helm.Release, values helm.Values) error {
	chrt, err := ourChart()
	if err != nil {
		return err
	}
	return w.helm.UpgradePatched(ctx, release, chrt, values, toLoopback(w.Service.Port()))
}

// toLoopback points the webhook configuration, and the names of a Certificate, to the Service on loopback: no cluster
// network exists.
func toLoopback(port int) func(*unstructured.Unstructured) error {
	return func(object *unstructured.Unstructured) error {
		names, found, err := unstructured.NestedStringSlice(object.Object, "spec", "dnsNames")
		if object.GetKind() == "Certificate" && found {
			return errors.Join(err, unstructured.SetNestedStringSlice(object.Object, append(names, "localhost"), "spec", "dnsNames"))
		}
		if object.GetKind() != "MutatingWebhookConfiguration" {
			return nil
		}
		webhooks, _, err := unstructured.NestedSlice(object.Object, "webhooks")
		if err != nil {
			return err
		}
		for _, webhook := range webhooks {
			clientConfig := webhook.(map[string]any)["clientConfig"].(map[string]any)
			path, _, err := unstructured.NestedString(clientConfig, "service", "path")
			if err != nil {
				return err
			}
			delete(clientConfig, "service")
			clientConfig["url"] = fmt.Sprintf("https://localhost:%d%s", port, path)
		}
		return unstructured.SetNestedSlice(object.Object, webhooks, "webhooks")
	}
}
