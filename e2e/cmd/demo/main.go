// SPDX-License-Identifier: Apache-2.0

// Command demo shows the product's main job on this machine. It starts an API server and the webhook on loopback, installs
// istiod from Istio's chart, and prints the stored Deployment. Then it sets up a Vault by the guide, runs the containers of
// the stored Pod template as local processes, and shows that the mesh's root is Vault's and that istiod loads a renewed CA.
// It exits with 1 and the reason if that fails, and stops everything that it started.
//
// With the argument "injection" it ends after the Deployment, so that neither Vault nor istiod must be built.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/injected"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istio"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

const (
	namespace = "istio-system"
	istioTag  = "1.31.0"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := demo(ctx); err != nil {
		if ctx.Err() != nil {
			err = errors.New("interrupted; everything that was started is stopped")
		}
		fmt.Fprintln(os.Stderr, "\ndemo:", err)
		os.Exit(1)
	}
}

func demo(ctx context.Context) (err error) {
	s := newSteps()
	if err := s.step("go build ./cmd/istiod-agent-webhook", func() error {
		_, err := built.Webhook(ctx)
		return err
	}); err != nil {
		return err
	}

	var c *cluster.Cluster
	defer func() {
		if c != nil {
			err = errors.Join(err, s.step("stop the webhook, kube-apiserver and etcd", c.Stop))
			s.table()
		}
	}()
	if err := s.step("start etcd and kube-apiserver on loopback", func() (err error) {
		c, err = cluster.Start()
		return err
	}); err != nil {
		return err
	}
	if err := install(ctx, s, c); err != nil {
		return err
	}
	stored, err := show(ctx, s, c)
	if err != nil || len(os.Args) > 1 && os.Args[1] == "injection" {
		return err
	}
	return trust(ctx, s, c, &stored.Spec.Template.Spec)
}

// install runs a person's commands.
func install(ctx context.Context, s *steps, c *cluster.Cluster) error {
	release := helm.Release{Name: "istiod", Namespace: namespace}
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
		if err := s.step(each.command, each.run); err != nil {
			return err
		}
	}
	return nil
}

// show prints the stored Deployment and checks it point by point.
func show(ctx context.Context, s *steps, c *cluster.Cluster) (stored *appsv1.Deployment, err error) {
	var (
		without *appsv1.Deployment
		report  []string
	)
	stored = &appsv1.Deployment{}
	if err := s.step("read the stored Deployment", func() error {
		rendered, err := istio.Deployment(ctx, namespace, istio.Values(namespace, istioTag))
		if err != nil {
			return err
		}
		if without, err = c.WithoutWebhook(ctx, rendered); err != nil {
			return err
		}
		if err := c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "istiod"}, stored); err != nil {
			return err
		}
		report, err = webhooksReport(ctx, c)
		return err
	}); err != nil {
		return nil, err
	}

	difference, err := unifiedDifference(without, stored)
	if err != nil {
		return nil, err
	}
	s.title("istiod's Deployment: as applied (-) and as stored (+)")
	s.difference(difference)
	s.title("The webhook's report")
	for _, line := range report {
		fmt.Println(line)
	}

	points := injected.Check(&without.Spec.Template, &stored.Spec.Template, injected.Default(c.Webhook.AgentImage()))
	points = append(points, injected.Point{Name: "the upgrade with nothing new has restarted nothing", Err: sameGeneration(stored)})
	s.title("What must hold")
	s.points(points)
	if missing := injected.Missing(points); len(missing) > 0 {
		return nil, fmt.Errorf("the stored Deployment is wrong: %d of %d points do not hold", len(missing), len(points))
	}
	return stored, nil
}

func sameGeneration(stored *appsv1.Deployment) error {
	if stored.Generation != 1 {
		return fmt.Errorf("the Deployment is at generation %d", stored.Generation)
	}
	return nil
}
