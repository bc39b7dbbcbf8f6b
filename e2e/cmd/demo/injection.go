// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/injected"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istio"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

// install runs a person's commands.
func (d *demo) install(ctx context.Context) error {
	c, release := d.cluster, helm.Release{Name: "istiod", Namespace: namespace}
	for _, each := range []struct {
		command string
		run     func() error
	}{
		{"kubectl create namespace " + namespace, func() error {
			return c.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
		}},
		{"helm install istiod-agent charts/istiod-agent -n istiod-agent-system --set clusterName=cluster-1, and start its webhook", func() error {
			return c.Install(ctx, webhookserver.Options{Values: helm.Values{"clusterName": "cluster-1"}})
		}},
		{"kubectl label namespace " + namespace + " " + cluster.InjectionLabel + "=enabled", func() error {
			return c.SetInjection(ctx, namespace, true)
		}},
		{"helm install istio-base istio/base -n " + namespace, func() error {
			chart, err := istio.Base()
			if err != nil {
				return err
			}
			return c.Helm.Install(ctx, helm.Release{Name: "istio-base", Namespace: namespace}, chart, nil)
		}},
		{"helm install istiod istio/istiod -n " + namespace + " --set global.tag=" + istioTag, func() error {
			chart, err := istio.Discovery()
			if err != nil {
				return err
			}
			return c.Helm.Install(ctx, release, chart, istio.Values(namespace, istioTag))
		}},
		{"helm upgrade istiod istio/istiod, with nothing new", func() error {
			chart, err := istio.Discovery()
			if err != nil {
				return err
			}
			return c.Helm.Upgrade(ctx, release, chart, istio.Values(namespace, istioTag))
		}},
	} {
		if err := d.steps.step(each.command, each.run); err != nil {
			return err
		}
	}
	return nil
}

// show prints the stored Deployment and checks it point by point.
func (d *demo) show(ctx context.Context) error {
	var (
		without *appsv1.Deployment
		report  []string
	)
	stored := &appsv1.Deployment{}
	if err := d.steps.step("read the stored Deployment", func() error {
		rendered, err := istio.Deployment(ctx, namespace, istio.Values(namespace, istioTag))
		if err != nil {
			return err
		}
		if without, err = d.cluster.WithoutWebhook(ctx, rendered); err != nil {
			return err
		}
		if err := d.cluster.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "istiod"}, stored); err != nil {
			return err
		}
		report, err = webhooksReport(ctx, d.cluster)
		return err
	}); err != nil {
		return err
	}

	difference, err := unifiedDifference(without, stored)
	if err != nil {
		return err
	}
	d.steps.title("istiod's Deployment: as applied (-) and as stored (+)")
	d.steps.difference(difference)
	d.steps.title("The webhook's report")
	for _, line := range report {
		fmt.Println(line)
	}

	points := injected.Check(&without.Spec.Template, &stored.Spec.Template, injected.Default(d.cluster.Webhook.AgentImage()))
	points = append(points, injected.Point{Name: "the upgrade with nothing new has restarted nothing", Err: sameGeneration(stored)})
	d.steps.title("What must hold")
	d.steps.points(points)
	if missing := injected.Missing(points); len(missing) > 0 {
		return fmt.Errorf("the stored Deployment is wrong: %d of %d points do not hold", len(missing), len(points))
	}
	d.istiod, d.summary.points = stored, len(points)
	return nil
}

func sameGeneration(stored *appsv1.Deployment) error {
	if stored.Generation != 1 {
		return fmt.Errorf("the Deployment is at generation %d", stored.Generation)
	}
	return nil
}
