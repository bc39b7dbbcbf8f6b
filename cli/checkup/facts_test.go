// SPDX-License-Identifier: Apache-2.0

package checkup

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
)

// A webhook that is called by a URL is found by its Deployment, unless that could be another's.
func TestFindDeployment(t *testing.T) {
	t.Parallel()
	deployment := func(namespace, name, part string) client.Object {
		return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{partOf: part}}}
	}
	ours, other := deployment("istiod-agent-system", "istiod-agent-webhook", partOfValue), deployment("default", "other", partOfValue)
	for name, test := range map[string]struct {
		objects []client.Object
		want    string
	}{
		"none":           {nil, ""},
		"the chart's":    {[]client.Object{ours, other}, "istiod-agent-system/istiod-agent-webhook"},
		"another label":  {[]client.Object{deployment("tenant", "istiod-agent-webhook", "shop")}, ""},
		"another name":   {[]client.Object{other}, ""},
		"and a tenant's": {[]client.Object{ours, deployment("tenant", "istiod-agent-webhook", partOfValue)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			found := findDeployment(t.Context(), fake.NewClientBuilder().WithObjects(test.objects...).Build(), "istiod-agent-webhook")
			got := ""
			if found != nil {
				got = found.String()
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
