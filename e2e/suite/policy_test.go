// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"context"
	"maps"
	"strings"
	"testing"
	"time"
)

// A change between webhook and policy restarts no istiod. By the policy, istiod changes with every Pod of this project gone.
func TestByPolicy(t *testing.T) {
	if !clusters[0].servesPolicies() {
		t.Skip("the API server does not serve MutatingAdmissionPolicy")
	}
	builder := feature("injection by the policy", core)
	unaffected := func(by string) func(context.Context, *testing.T) {
		return func(ctx context.Context, t *testing.T) {
			cluster := clusters[0]
			before, starts := cluster.serials(ctx, t), cluster.starts(ctx, t, "discovery")
			cluster.change(ctx, t, by)
			if after := cluster.serials(ctx, t); !maps.Equal(before, after) || cluster.starts(ctx, t, "discovery") != starts {
				t.Errorf("istiod was restarted: CA %v before, %v after", before, after)
			}
			_, err := shell(ctx, "helm test istiod-agent -n istiod-agent-system --kube-context="+cluster.name)
			must(t, err)
		}
	}
	environment.Test(t, builder.
		Assess("the change to the policy restarts no istiod", step(unaffected("policy"))).
		Assess("without a Pod of this project, istiod restarts", step(func(ctx context.Context, t *testing.T) {
			cluster := clusters[0]
			cluster.addCanary(ctx, t) // its rights come from the chart, its certificate from the controllers
			cluster.scaleWebhook(ctx, t, 0)
			cluster.webhookSettled(ctx, t)
			cluster.kubectl(ctx, t, "rollout restart -n istio-system deployment/istiod")
			cluster.rolledOut(ctx, t, "istiod")
		})).
		Assess("and is scaled", step(func(ctx context.Context, t *testing.T) {
			cluster := clusters[0]
			cluster.kubectl(ctx, t, "delete hpa -n istio-system istiod")
			// Half a processor each is more than a machine for tests may have for several of them.
			cluster.kubectl(ctx, t, "set resources -n istio-system deployment/istiod -c discovery --requests=cpu=10m,memory=64Mi")
			cluster.kubectl(ctx, t, "scale -n istio-system deployment/istiod --replicas=2")
			cluster.rolledOut(ctx, t, "istiod")
			cluster.kubectl(ctx, t, "scale -n istio-system deployment/istiod --replicas=1")
		})).
		Assess("and is rolled back", step(func(ctx context.Context, t *testing.T) {
			cluster := clusters[0]
			cluster.kubectl(ctx, t, "rollout undo -n istio-system deployment/istiod")
			cluster.rolledOut(ctx, t, "istiod")
			wantLastStep(ctx, t)
		})).
		Assess("and a new revision is stored with the agent", step(func(ctx context.Context, t *testing.T) {
			cluster := clusters[0]
			_, err := shell(ctx, installIstio+cluster.name+" --revision=canary --readiness-timeout=1s")
			if err == nil || !strings.Contains(err.Error(), "istiod-canary") {
				t.Errorf("the new revision waits for its IssuedCertificate, and istioctl for the revision: %v", err)
			}
			for _, pod := range cluster.istiods(ctx, t) {
				wantInjected(t, cluster, &pod)
			}
		})).
		Assess("which starts when the Pods are back", step(func(ctx context.Context, t *testing.T) {
			cluster := clusters[0]
			cluster.scaleWebhook(ctx, t, 2)
			cluster.rolledOut(ctx, t, "istiod-canary")
			wantLastStep(ctx, t)
		})).
		Assess("the change back to the webhook restarts no istiod", step(func(ctx context.Context, t *testing.T) {
			cluster := clusters[0]
			cluster.removeCanary(ctx, t)
			unaffected("webhook")(ctx, t)
			wantCall(ctx, t, cluster, clusters[len(clusters)-1], "bookinfo")
		})).
		Teardown(teardown(func(ctx context.Context, t *testing.T) {
			cluster := clusters[0]
			cluster.scaleWebhook(ctx, t, 2)
			cluster.kubectl(ctx, t, "apply -f config/samples/virtualmesh.yaml")
			_, err := shell(ctx, installIstio+cluster.name)
			must(t, err)
			cluster.serials(ctx, t)
		})).
		Feature())
}

// servesPolicies reports whether the API server serves MutatingAdmissionPolicy.
func (c *target) servesPolicies() bool {
	served, err := c.client.Discovery().ServerResourcesForGroupVersion("admissionregistration.k8s.io/v1")
	if err != nil {
		return false
	}
	for _, resource := range served.APIResources {
		if resource.Kind == "MutatingAdmissionPolicy" {
			return true
		}
	}
	return false
}

// change changes what injects as docs/upgrade.md describes it: upgrades until the chart's notes announce no other one.
func (c *target) change(ctx context.Context, t *testing.T, by string) {
	t.Helper()
	eventually(ctx, t, 3*time.Minute, "injection.by is "+by, func(ctx context.Context) error {
		notes, err := shell(ctx, "helm upgrade istiod-agent charts/istiod-agent -n istiod-agent-system --reset-then-reuse-values --set injection.by="+by+
			" --wait --timeout=2m --kube-context="+c.name)
		if err == nil && strings.Contains(notes, "upgrade again") {
			return errNotYet
		}
		return err
	})
	stored := c.kubectl(ctx, t, "get mutatingwebhookconfigurations,mutatingadmissionpolicies,mutatingadmissionpolicybindings -l app.kubernetes.io/instance=istiod-agent -o name")
	if strings.Contains(stored, "webhookconfiguration") != (by == "webhook") || strings.Contains(stored, "policy") != (by == "policy") {
		t.Errorf("injection.by is %s, and the cluster has\n%s", by, stored)
	}
	c.webhookSettled(ctx, t)
}

// rolledOut waits until a Deployment's new Pods run, and requires the agent in each.
func (c *target) rolledOut(ctx context.Context, t *testing.T, deployment string) {
	t.Helper()
	c.kubectl(ctx, t, "rollout status -n istio-system deployment/"+deployment+" --timeout=120s")
	for _, pod := range c.istiods(ctx, t) {
		wantInjected(t, c, &pod)
	}
}
