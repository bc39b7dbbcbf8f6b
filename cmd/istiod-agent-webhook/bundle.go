// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/bundle"
	"github.com/istiod-agent/istiod-agent/internal/serve"
	"github.com/istiod-agent/istiod-agent/webhook/servingcert"
)

// setupBundle wires the bundle endpoint: its port, its certificate, and its reading of the roots. No readiness check depends
// on it, so that no problem of it stops admissions.
func setupBundle(mgr manager.Manager, config v1alpha1.BundleEndpoint) (listener, error) {
	certificate := servingcert.Files(config.Directory)
	endpoint := bundle.NewEndpoint(mgr.GetAPIReader(), config.Namespaces, ctrl.Log.WithName("bundle"))
	for _, runnable := range []manager.Runnable{certificate, endpoint} {
		if err := mgr.Add(runnable); err != nil {
			return listener{}, err
		}
	}
	if err := metrics.Registry.Register(bundle.Metrics(endpoint, certificate.GetCertificate)); err != nil {
		return listener{}, err
	}
	secured := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: certificate.GetCertificate}
	return listener{config.Port, &serve.Server{Handler: endpoint, TLS: secured, Connections: bundleConnections}}, nil
}
