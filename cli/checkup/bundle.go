// SPDX-License-Identifier: Apache-2.0

package checkup

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/cli/terminal"
	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

// readBundle reads the roots that istiods publish for the bundle endpoint, PEM by the endpoint's namespaces in their order; nil
// where the endpoint is not enabled.
func readBundle(ctx context.Context, reader client.Reader, facts *clusterFacts) []fact[string] {
	endpoint := facts.Configuration.Value.Server.BundleEndpoint
	if !endpoint.Enabled() {
		return nil
	}
	published := make([]fact[string], len(endpoint.Namespaces))
	for i, namespace := range endpoint.Namespaces {
		var stored corev1.ConfigMap
		err := reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: istio.RootConfigMap}, &stored)
		published[i] = factOf(stored.Data[istio.RootCertFile], err)
	}
	return published
}

// bundle adds a bundle endpoint that cannot serve what istiod publishes. It does not connect to the endpoint: whether other
// clusters reach it and trust its certificate is visible only from there.
func (d *decision) bundle() {
	const subject = "bundle endpoint"
	namespaces := d.facts.Configuration.Value.Server.BundleEndpoint.Namespaces
	var roots []string
	for i, published := range d.facts.Bundle {
		configMap := namespaces[i] + "/" + istio.RootConfigMap
		found, invalid := pemcerts.ParseRoots([]byte(published.Value))
		switch {
		case apierrors.IsNotFound(published.Err):
			d.add(levelFail, subject, "istiod has not published its roots in ConfigMap "+configMap+", so no bundle is served",
				d.kubectl+" get pods -n "+namespaces[i]+" -l app=istiod; if istiod is in another namespace, "+d.release("--set 'bundleEndpoint.namespaces={NAMESPACE}'"))
			return
		case published.Err != nil:
			d.unknown(subject, "reading ConfigMap "+configMap, "get", "configmaps", published.Err)
			return
		case invalid != nil:
			d.add(levelFail, subject, fmt.Sprintf("%s in ConfigMap %s cannot be served: %s", istio.RootCertFile, configMap, terminal.Plain(invalid.Error())),
				d.kubectl+" logs -n "+namespaces[i]+" -l app=istiod --tail=50")
			return
		}
		roots = append(roots, fmt.Sprintf("%d from %s", len(found), configMap))
	}
	if len(roots) > 0 {
		d.add(levelOK, subject, "the roots can be served: "+strings.Join(roots, ", "), "")
	}
}
