// SPDX-License-Identifier: Apache-2.0

package webhook_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/istiod-agent/istiod-agent/patches"
	"github.com/istiod-agent/istiod-agent/webhook"
)

// BenchmarkServed compares Served with controller-runtime's admission.Webhook, around a handler that does nothing.
func BenchmarkServed(b *testing.B) {
	nothing := admission.HandlerFunc(func(context.Context, admission.Request) admission.Response { return admission.Allowed("") })
	library := &admission.Webhook{Handler: nothing, LogConstructor: func(logr.Logger, *admission.Request) logr.Logger { return logr.Discard() }}
	for _, variables := range []int{10, 1500} {
		var env strings.Builder
		for i := range variables {
			fmt.Fprintf(&env, `{"name":"VARIABLE_%d","value":"value %d"},`, i, i)
		}
		_, review := reviewOf(patches.Deployment, strings.Replace(deployment, `{"name":"discovery"}`, `{"name":"discovery","env":[`+env.String()+`{"name":"LAST"}]}`, 1))
		body := marshal(b, review)
		for name, handler := range map[string]http.Handler{"Served": webhook.Served(nothing, logr.Discard()), "controller-runtime": library} {
			b.Run(fmt.Sprintf("%d variables/%s", variables, name), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					request := httptest.NewRequest(http.MethodPost, webhook.DeploymentPath, bytes.NewReader(body))
					request.Header.Set("Content-Type", "application/json")
					answer := httptest.NewRecorder()
					handler.ServeHTTP(answer, request)
					if !strings.Contains(answer.Body.String(), `"allowed":true`) {
						b.Fatal(answer.Body)
					}
				}
			})
		}
	}
}
