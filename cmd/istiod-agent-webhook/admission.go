// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"net/http"

	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	ctrlwebhook "sigs.k8s.io/controller-runtime/pkg/webhook"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/internal/serve"
	"github.com/istiod-agent/istiod-agent/patches"
	"github.com/istiod-agent/istiod-agent/webhook"
	"github.com/istiod-agent/istiod-agent/webhook/servingcert"
)

// setupAdmission wires what the form webhook has and the form policy has not: the admission port, its certificate, and the
// check that the API server can call it.
func setupAdmission(mgr manager.Manager, config *v1alpha1.InjectionConfiguration, injector *patches.Injector, rights *webhook.Rights, admission admissionTLS) (listener, func(*http.Request) error, error) {
	server := config.Server
	source, err := certificate(mgr, server)
	if err != nil {
		return listener{}, nil, err
	}
	admission.server.GetCertificate = source.GetCertificate
	routes := ctrlwebhook.NewServer(ctrlwebhook.Options{}) // for its metrics by path; it is never started
	warning := func(ctx context.Context, namespace, account string) string {
		if !config.Covers(namespace) {
			return config.NotCovered(namespace)
		}
		return rights.Warning(ctx, namespace, account)
	}
	webhook.Register(routes, injector, config.VirtualMesh, warning, ctrl.Log.WithName("admission"))
	ready := webhook.Ready(server, admission.probe, source, ctrl.Log.WithName("readiness"))
	port := &serve.Server{Handler: webhook.Bounded(routes.WebhookMux()), TLS: admission.server, Connections: admissionConnections}
	return listener{server.Port, port}, ready, nil
}

// certificate sets up the source of the serving certificate, and what writes the webhook configuration's caBundle.
func certificate(mgr manager.Manager, server v1alpha1.Server) (servingcert.Source, error) {
	source := servingcert.New(server, mgr)
	if file := server.ServingCertificate.CABundle; file != "" {
		keeper, err := servingcert.NewStaticBundle(source, mgr.GetClient(), server.WebhookConfiguration, file)
		if err != nil {
			return nil, err
		}
		if err := keeper.SetupWithManager(mgr); err != nil {
			return nil, err
		}
		source = keeper
	}
	if err := mgr.Add(source); err != nil {
		return nil, err
	}
	if err := metrics.Registry.Register(servingcert.NotAfter(source)); err != nil {
		return nil, err
	}
	if managed, ok := source.(*servingcert.SelfManaged); ok {
		keeper := &servingcert.BundleKeeper{
			Client:               mgr.GetClient(),
			WebhookConfiguration: server.WebhookConfiguration,
			Secret:               types.NamespacedName{Namespace: server.Namespace, Name: server.ServingCertificate.SecretName},
			Source:               managed,
		}
		if err := keeper.SetupWithManager(mgr); err != nil {
			return nil, err
		}
	}
	return source, nil
}
