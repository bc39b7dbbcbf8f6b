// SPDX-License-Identifier: Apache-2.0

package bypolicy

import (
	"errors"
	"slices"
	"strings"
	"testing"

	registrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

// startEmpty starts a cluster of the test's own without the chart, with further flags of its API server.
func startEmpty(t *testing.T, flags map[string]string) *cluster.Cluster {
	t.Helper()
	c, err := cluster.Start(func(server *envtest.APIServer) {
		for flag, value := range flags {
			server.Configure().Append(flag, value)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// start starts a cluster of the test's own with the chart.
func start(t *testing.T, values helm.Values) *cluster.Cluster {
	t.Helper()
	c := startEmpty(t, nil)
	if err := c.Install(t.Context(), webhookserver.Options{Values: values, Replicas: 2}); err != nil {
		t.Fatal(err)
	}
	return c
}

func by(form, target string) helm.Values {
	return helm.Values{"injection": helm.Values{"by": form, "target": target}}
}

// A change of injection.by refuses no istiod, stores none without the agent, and restarts none.
func TestChange(t *testing.T) {
	for _, target := range []string{"deployments", "pods"} {
		t.Run(target, func(t *testing.T) {
			c := start(t, by("webhook", target))
			traffic := startTraffic(t, c, target)
			for _, form := range []string{"policy", "webhook"} {
				notes := upgrade(t, c, by(form, target))
				old := map[string]string{"policy": "webhook", "webhook": "policy"}[form]
				for _, part := range []string{"The change to injection.by=" + form + " is not finished", "upgrade again, to remove the " + old} {
					if !strings.Contains(notes, part) {
						t.Errorf("by=%s: the notes do not contain %q:\n%s", form, part, notes)
					}
				}
				wantForms(t, c, "webhook", "policy")
				if form == "webhook" {
					trusted(t, c)
				}
				traffic.continues(t)

				if notes := upgrade(t, c, by(form, target)); strings.Contains(notes, "upgrade again") {
					t.Errorf("by=%s: the second upgrade announces another one:\n%s", form, notes)
				}
				wantForms(t, c, form)
				traffic.continues(t)
			}
			traffic.wantUninterrupted(t)
		})
	}
}

// A chart without the Injection's CRD is changed by one more upgrade: the policy waits for the Injection.
func TestChangeWithoutDefinition(t *testing.T) {
	values := by("webhook", "deployments")
	values["crds"] = helm.Values{"install": false}
	c := start(t, values)
	traffic := startTraffic(t, c, "deployments")
	values = by("policy", "deployments")

	if notes := upgrade(t, c, values); !strings.Contains(notes, "only the webhook injects") || !strings.Contains(notes, "upgrade again, to continue") {
		t.Errorf("the first upgrade's notes:\n%s", notes)
	}
	wantForms(t, c, "webhook")
	traffic.continues(t)
	cluster.Eventually(t, "the program creates the Injection", func() error { return c.Get(t.Context(), injectionKey, injection()) })

	upgrade(t, c, values)
	wantForms(t, c, "webhook", "policy")
	traffic.continues(t)
	upgrade(t, c, values)
	wantForms(t, c, "policy")
	traffic.continues(t)
	traffic.wantUninterrupted(t)
}

// upgrade is `helm upgrade` with the rollout that follows from it. It returns the chart's notes.
func upgrade(t *testing.T, c *cluster.Cluster, values helm.Values) (notes string) {
	t.Helper()
	rolling(t, c, func() error { return c.Webhook.Upgrade(t.Context(), webhookserver.Release, values) })
	notes, err := c.Helm.Notes(webhookserver.Release)
	if err != nil {
		t.Fatal(err)
	}
	return notes
}

// rolling does what changes the release, and then replaces the replicas if the Deployment has changed.
func rolling(t *testing.T, c *cluster.Cluster, change func() error) {
	t.Helper()
	key := client.ObjectKey{Namespace: webhookserver.Release.Namespace, Name: webhookserver.Name}
	var before, after appsv1.Deployment
	for _, step := range []func() error{
		func() error { return c.Get(t.Context(), key, &before) },
		change,
		func() error { return c.Get(t.Context(), key, &after) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	if after.Generation == before.Generation {
		return
	}
	if err := c.Webhook.Roll(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// trusted waits until the API server can call the webhook.
func trusted(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	cluster.Eventually(t, "the caBundle is written", func() error {
		if len(webhook(t, c).ClientConfig.CABundle) == 0 {
			return errors.New("it is empty")
		}
		return nil
	})
}

// wantForms requires the webhook configuration, and the policy with its binding, where they are named, and no others. A webhook
// may only be ignored where the policy injects.
func wantForms(t *testing.T, c *cluster.Cluster, forms ...string) {
	t.Helper()
	for _, object := range []*unstructured.Unstructured{
		registration("MutatingWebhookConfiguration", "istiod-agent"),
		registration("MutatingAdmissionPolicyBinding", mutatingBinding),
		registration("ValidatingAdmissionPolicyBinding", decision),
	} {
		form := "policy"
		if object.GetKind() == "MutatingWebhookConfiguration" {
			form = "webhook"
		}
		want := slices.Contains(forms, form)
		err := c.Get(t.Context(), client.ObjectKeyFromObject(object), object)
		if client.IgnoreNotFound(err) != nil {
			t.Fatal(err)
		}
		if found := err == nil; found != want {
			t.Errorf("%s %s: installed %t, want %t", object.GetKind(), object.GetName(), found, want)
		}
	}
	if !slices.Contains(forms, "webhook") {
		return
	}
	want := registrationv1.Fail
	if slices.Contains(forms, "policy") {
		want = registrationv1.Ignore
	}
	if got := *webhook(t, c).FailurePolicy; got != want {
		t.Errorf("the webhook's failurePolicy is %s, want %s", got, want)
	}
}

// webhook reads the webhook that injects.
func webhook(t *testing.T, c *cluster.Cluster) registrationv1.MutatingWebhook {
	t.Helper()
	var stored registrationv1.MutatingWebhookConfiguration
	if err := c.Get(t.Context(), client.ObjectKey{Name: "istiod-agent"}, &stored); err != nil {
		t.Fatal(err)
	}
	return stored.Webhooks[0]
}
