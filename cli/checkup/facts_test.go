// SPDX-License-Identifier: Apache-2.0

package checkup

import (
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Only objects that administrators of the cluster write name the program: nothing that a tenant can create.
func TestProgram(t *testing.T) {
	t.Parallel()
	release := map[string]string{"meta.helm.sh/release-namespace": "istiod-agent-system"}
	service := &admissionregistrationv1.ServiceReference{Namespace: "elsewhere", Name: "other-webhook"}
	for name, test := range map[string]struct {
		annotations map[string]string
		service     *admissionregistrationv1.ServiceReference
		want        string
	}{
		"a Service":               {nil, service, "elsewhere/other-webhook"},
		"a Service of a release":  {release, service, "elsewhere/other-webhook"},
		"a URL of a release":      {release, nil, "istiod-agent-system/istiod-agent-webhook"},
		"a URL without a release": {nil, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var facts clusterFacts
			facts.Webhook.Value = &admissionregistrationv1.MutatingWebhookConfiguration{
				ObjectMeta: metav1.ObjectMeta{Name: "istiod-agent", Annotations: test.annotations},
				Webhooks:   []admissionregistrationv1.MutatingWebhook{{ClientConfig: admissionregistrationv1.WebhookClientConfig{Service: test.service}}},
			}
			got := ""
			if key := facts.program(); key != nil {
				got = key.String()
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	if key := new(clusterFacts).program(); key != nil {
		t.Errorf("got %s without a configuration", key)
	}
}
