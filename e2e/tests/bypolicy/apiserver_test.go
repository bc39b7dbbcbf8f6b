// SPDX-License-Identifier: Apache-2.0

package bypolicy

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/discovery"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

// An API server that does not serve MutatingAdmissionPolicy refuses the release with one sentence, and nothing is installed.
func TestUnservedPolicy(t *testing.T) {
	const version = "admissionregistration.k8s.io/v1/"
	c := startEmpty(t, map[string]string{
		"feature-gates":  "MutatingAdmissionPolicy=false",
		"runtime-config": version + "mutatingadmissionpolicies=false," + version + "mutatingadmissionpolicybindings=false",
	})
	err := c.Install(t.Context(), webhookserver.Options{Values: by("policy", "deployments")})
	running, versionErr := discovery.NewDiscoveryClientForConfigOrDie(c.Plane.Config).ServerVersion()
	if versionErr != nil {
		t.Fatal(versionErr)
	}
	want := "injection.by: policy needs Kubernetes 1.36 or later with MutatingAdmissionPolicy, which this API server (" + running.GitVersion + ") does not serve; use webhook"
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
	var accounts corev1.ServiceAccountList
	if err := c.List(t.Context(), &accounts, client.InNamespace(webhookserver.Release.Namespace)); err != nil {
		t.Fatal(err)
	}
	for _, account := range accounts.Items {
		if account.Name != "default" {
			t.Errorf("ServiceAccount %s was installed", account.Name)
		}
	}
}

// An API server that serves MutatingAdmissionPolicy but whose feature gate is off evaluates none: the guard refuses istiods.
func TestFeatureOff(t *testing.T) {
	c := startEmpty(t, map[string]string{"feature-gates": "MutatingAdmissionPolicy=false"})
	if err := c.Install(t.Context(), webhookserver.Options{Values: by("policy", "deployments")}); err != nil {
		t.Fatal(err)
	}
	istiod := cluster.Istiod(t, c.Namespace(t, true))
	cluster.Eventually(t, "the guard refuses an istiod", func() error {
		_, err := c.ServerSideApply(t.Context(), istiod, client.DryRunAll)
		if err == nil {
			return errors.New("it is stored")
		}
		if !strings.Contains(err.Error(), "istiod-agent-guard") {
			return fmt.Errorf("refused by another one: %w", err)
		}
		return nil
	})
}
