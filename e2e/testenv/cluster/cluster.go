// SPDX-License-Identifier: Apache-2.0

// Package cluster starts the cluster that the tests of a package share: a control plane, this project's chart with its
// webhook, and clients.
package cluster

import (
	"context"
	"errors"

	"github.com/go-logr/logr"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/controlplane"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

// Cluster is a running control plane with its clients.
type Cluster struct {
	// Client has an administrator's rights and no cache.
	client.Client
	Plane *controlplane.ControlPlane
	Helm  *helm.Client
	// Webhook is nil before Install.
	Webhook *webhookserver.Webhook
}

// Start starts a control plane. Stop must be called. Each configure function may add flags to the API server.
func Start(configure ...func(*envtest.APIServer)) (*Cluster, error) {
	logf.SetLogger(logr.Discard()) // errors are returned
	klog.SetLogger(logr.Discard())
	plane, err := controlplane.Start(configure...)
	if err != nil {
		return nil, err
	}
	c := &Cluster{Plane: plane}
	config := rest.CopyConfig(plane.Config)
	config.WarningHandler = rest.NoWarnings{} // tests of warnings use a client of their own
	if c.Client, err = client.New(config, client.Options{}); err == nil {
		c.Helm, err = helm.NewClient(config)
	}
	if err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	return c, nil
}

// Install installs the chart and starts its webhook.
func (c *Cluster) Install(ctx context.Context, options webhookserver.Options) (err error) {
	c.Webhook, err = webhookserver.Start(ctx, c.Plane, options)
	return err
}

// Stop ends all processes.
func (c *Cluster) Stop() error {
	var failed []error
	if c.Webhook != nil {
		failed = append(failed, c.Webhook.Stop())
	}
	return errors.Join(append(failed, c.Plane.Stop())...)
}
