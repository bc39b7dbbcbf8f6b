// SPDX-License-Identifier: Apache-2.0

package clisetup

import (
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/controlplane"
)

// An API server that does not inject by policy: check reports it before the installation, and with the policies of
// `kubectl istiod-agent policy` stored anyway, before a namespace is labelled.
func TestPolicySwitchedOff(t *testing.T) {
	for name, test := range map[string]struct {
		served bool
		why    string
	}{
		"but served": {true, "the feature gate MutatingAdmissionPolicy of this API server is off"},
		"not served": {false, "this API server does not serve MutatingAdmissionPolicy"},
	} {
		t.Run(name, func(t *testing.T) {
			plane, err := controlplane.Start(func(server *envtest.APIServer) {
				server.Configure().Append("feature-gates", "MutatingAdmissionPolicy=false")
				if !test.served { // with the feature gate on, such an API server does not start
					server.Configure().Append("runtime-config", "admissionregistration.k8s.io/v1/mutatingadmissionpolicies=false")
				}
			})
			must(t, err)
			t.Cleanup(func() { must(t, plane.Stop()) })
			admin, err := plane.Kubeconfig("admin", "system:masters")
			must(t, err)
			check := []string{"check", "--kubeconfig", admin}
			run(t, "", check...).Wants(t, 1, "fail     form of the injection  — there is neither a webhook configuration nor a policy: no istiod is injected; injection.by=webhook is possible, injection.by=policy is not possible: "+test.why)

			c, err := client.New(plane.Config, client.Options{})
			must(t, err)
			printed := run(t, "", "policy", "-o", "json")
			printed.Wants(t, 0)
			list := object(t, printed.Stdout)
			must(t, list.EachListItem(func(item runtime.Object) error {
				object := item.(*unstructured.Unstructured)
				if object.GetKind() == "MutatingAdmissionPolicy" && !test.served {
					if err := c.Create(t.Context(), object); !meta.IsNoMatchError(err) {
						t.Errorf("creating the policy: %v", err)
					}
					return nil
				}
				cluster.Eventually(t, "the API server stores "+object.GetKind(), func() error { return c.Create(t.Context(), object.DeepCopy()) })
				return nil
			}))
			eventually(t, check, 1, "fail     injection policy  — injects nothing: "+test.why, "start every API server without --feature-gates=MutatingAdmissionPolicy=false",
				"ok       Injection istiod-agent-system/istiod-agent  — injects ", "warn     injection  — was not tried, since no namespace is labelled")
		})
	}
}
