// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"context"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The webhook changes to a certificate of cert-manager, and back to its own CA.
func TestCertManager(t *testing.T) {
	environment.Test(t, feature("cert-manager", full).
		Assess("istiod changes by a webhook with its certificate", step(func(ctx context.Context, t *testing.T) {
			cluster := clusters[0]
			cluster.installCertManager(ctx, t)
			cluster.serveWith(ctx, t, "cert-manager")
			cluster.kubectl(ctx, t, "wait -n istiod-agent-system certificate/istiod-agent-webhook-tls --for=condition=Ready --timeout=60s")
			cluster.wantTrusted(ctx, t, "istiod-agent-webhook-tls", "ca.crt")
		})).
		Assess("and by a webhook with its own again", step(func(ctx context.Context, t *testing.T) {
			cluster := clusters[0]
			cluster.serveWith(ctx, t, "self-managed")
			cluster.wantTrusted(ctx, t, "istiod-agent-webhook-ca", "tls.crt")
		})).
		Teardown(teardown(func(ctx context.Context, t *testing.T) {
			clusters[0].serveWith(ctx, t, "self-managed")
			clusters[0].kubectl(ctx, t, "delete --ignore-not-found -f e2e/suite/manifests/cert-manager.yaml")
		})).
		Feature())
}

// serveWith changes the source of the webhook's certificate as docs/install.md does.
func (c *target) serveWith(ctx context.Context, t *testing.T, source string) {
	t.Helper()
	_, err := shell(ctx, "helm upgrade istiod-agent charts/istiod-agent -n istiod-agent-system --reset-then-reuse-values --kube-context="+c.name+
		" --set servingCertificate.source="+source)
	must(t, err)
	c.kubectl(ctx, t, "rollout status -n istiod-agent-system deployment/istiod-agent-webhook --timeout=120s")
}

// wantTrusted waits until the API server trusts the CA in a Secret and the webhook admits a change of istiod.
func (c *target) wantTrusted(ctx context.Context, t *testing.T, secret, key string) {
	t.Helper()
	eventually(ctx, t, time.Minute, c.name+": istiod changes by a webhook that is trusted", func(ctx context.Context) error {
		stored, err := c.client.CoreV1().Secrets("istiod-agent-system").Get(ctx, secret, metav1.GetOptions{})
		if err != nil {
			return err
		}
		output, err := shell(ctx, "kubectl --context="+c.name+" get mutatingwebhookconfiguration istiod-agent -o jsonpath='{.webhooks[0].clientConfig.caBundle}'")
		if err != nil {
			return err
		}
		bundle, err := base64.StdEncoding.DecodeString(output)
		if err != nil {
			return err
		}
		if ca := string(stored.Data[key]); ca == "" || !strings.Contains(string(bundle), ca) {
			return errNotYet
		}
		_, err = shell(ctx, "kubectl --context="+c.name+" annotate -n istio-system deployment/istiod suite/certificate="+secret+" --overwrite")
		return err
	})
}
