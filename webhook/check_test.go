// SPDX-License-Identifier: Apache-2.0

package webhook_test

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/istiod-agent/istiod-agent/webhook"
)

func TestCheck(t *testing.T) {
	t.Parallel()
	s := httptest.NewUnstartedServer(handler(t, "", logr.Discard()))
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	passed, err := webhook.Check(t.Context(), configurationOf(hook(s, webhook.DeploymentPath, "deployments")))
	if err != nil {
		t.Fatal(err)
	}
	if len(passed) != 1 || !strings.HasPrefix(passed[0], "webhook deployments.istiod-agent.io injects: istiod gets its intermediate CA from the agent: ") {
		t.Errorf("got %q", passed)
	}
}

func TestCheckPods(t *testing.T) {
	t.Parallel()
	s := httptest.NewTLSServer(handler(t, "target: pods", logr.Discard()))
	t.Cleanup(s.Close)
	if _, err := webhook.Check(t.Context(), configurationOf(hook(s, webhook.PodPath, "pods"))); err != nil {
		t.Error(err)
	}
}

func TestCheckErrors(t *testing.T) {
	t.Parallel()
	answering := func(status int, body string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		})
	}
	tests := map[string]struct {
		handler http.Handler
		change  func(*testing.T, *admissionregistrationv1.MutatingWebhook)
		want    string
	}{
		"no caBundle yet": {
			change: func(_ *testing.T, h *admissionregistrationv1.MutatingWebhook) { h.ClientConfig.CABundle = nil },
			want:   "its caBundle contains no certificate, so no API server can call it; check that a replica of the webhook runs",
		},
		"a caBundle that is no PEM": {
			change: func(_ *testing.T, h *admissionregistrationv1.MutatingWebhook) {
				h.ClientConfig.CABundle = []byte("Cg==")
			},
			want: "its caBundle contains no certificate",
		},
		"a caBundle of somebody else": {
			change: func(t *testing.T, h *admissionregistrationv1.MutatingWebhook) {
				h.ClientConfig.CABundle = bundle(certificate(t, servingName, time.Now(), time.Now().Add(time.Hour)))
			},
			want: "certificate signed by unknown authority",
		},
		"neither service nor URL": {
			change: func(_ *testing.T, h *admissionregistrationv1.MutatingWebhook) { h.ClientConfig.URL = nil },
			want:   "its clientConfig names neither a service nor a URL",
		},
		"another path": {
			change: func(_ *testing.T, h *admissionregistrationv1.MutatingWebhook) {
				h.ClientConfig.URL = new(*h.ClientConfig.URL + "-gone")
			},
			want: "answered with HTTP status 404 Not Found, not with an admission response",
		},
		"a server that fails":                {handler: answering(http.StatusInternalServerError, "oh no"), want: "answered with HTTP status 500 Internal Server Error, not with an admission response"},
		"a server that fails politely":       {handler: answering(http.StatusInternalServerError, `{"response":{"allowed":true,"patch":"W10="}}`), want: "500 Internal Server Error"},
		"a page of something else":           {handler: answering(http.StatusOK, "<html>"), want: "answered with HTTP status 200 OK, not with an admission response"},
		"a review that is only the question": {handler: answering(http.StatusOK, `{"request":{"uid":"x"}}`), want: "200 OK, not with an admission response"},
		"a webhook that lets istiod through": {handler: answering(http.StatusOK, `{"response":{"allowed":true}}`), want: "it did not inject a sample istiod: allowed=true, without a message"},
		"a webhook that refuses":             {handler: answering(http.StatusOK, `{"response":{"allowed":false,"status":{"message":"not today"}}}`), want: "it did not inject a sample istiod: allowed=false, not today"},
		"a webhook of the other target":      {handler: handler(t, "target: pods", logr.Discard()), want: "it did not inject a sample istiod: allowed=true, the Deployment is not changed"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if test.handler == nil {
				test.handler = handler(t, "", logr.Discard())
			}
			s := httptest.NewUnstartedServer(test.handler)
			s.Config.ErrorLog = quiet()
			s.StartTLS()
			t.Cleanup(s.Close)
			h := hook(s, webhook.DeploymentPath, "deployments")
			if test.change != nil {
				test.change(t, &h)
			}
			good := hook(s, webhook.DeploymentPath, "deployments")
			passed, err := webhook.Check(t.Context(), configurationOf(h, good))
			if err == nil || len(passed) > 0 || !strings.HasPrefix(err.Error(), "webhook deployments.istiod-agent.io: ") || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %q and %v, want %q", passed, err, test.want)
			}
		})
	}
}

func TestCheckEmptyConfiguration(t *testing.T) {
	t.Parallel()
	if _, err := webhook.Check(t.Context(), configurationOf()); err == nil || err.Error() != "MutatingWebhookConfiguration istiod-agent contains no webhook" {
		t.Errorf("got %v", err)
	}
}

func TestCheckTimeout(t *testing.T) {
	t.Parallel()
	ctx, giveUp := context.WithCancel(t.Context())
	s := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // else a server does not notice that the client is gone
		giveUp()
		<-r.Context().Done()
	}))
	t.Cleanup(s.Close)
	if _, err := webhook.Check(ctx, configurationOf(hook(s, "/", "deployments"))); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func configurationOf(hooks ...admissionregistrationv1.MutatingWebhook) *admissionregistrationv1.MutatingWebhookConfiguration {
	return &admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "istiod-agent"}, Webhooks: hooks}
}

// hook calls a server as the chart's webhook configuration does, but by URL.
func hook(s *httptest.Server, path, resource string) admissionregistrationv1.MutatingWebhook {
	return admissionregistrationv1.MutatingWebhook{
		Name: resource + ".istiod-agent.io",
		ClientConfig: admissionregistrationv1.WebhookClientConfig{
			URL:      new(s.URL + path),
			CABundle: bundle(tls.Certificate{Certificate: [][]byte{s.Certificate().Raw}}),
		},
		Rules: []admissionregistrationv1.RuleWithOperations{{Rule: admissionregistrationv1.Rule{Resources: []string{resource}}}},
	}
}

func bundle(certificate tls.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]})
}
