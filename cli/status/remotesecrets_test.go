// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"errors"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/istiod-agent/istiod-agent/cli/clusters"
)

// A tenant's Pod with the label of an istiod, and its remote secret with an expired token, are not the mesh's.
func TestRemoteSecretsOfATenant(t *testing.T) {
	t.Parallel()
	secret := func(namespace string) *corev1.Secret {
		return &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "remote", Labels: map[string]string{"istio/multiCluster": "true"}},
			Data:       map[string][]byte{"cluster-2": nil},
		}
	}
	namespace := func(name string, labels map[string]string) *corev1.Namespace {
		return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
	}
	injected := map[string]string{"istiod-agent.io/injection": "enabled"}
	forbidden := interceptor.Funcs{List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) error {
		if _, namespaces := list.(*corev1.NamespaceList); namespaces {
			return errors.New("forbidden")
		}
		return c.List(ctx, list, options...)
	}}
	for name, test := range map[string]struct {
		labels map[string]string
		funcs  interceptor.Funcs
		chosen string
		want   []string
	}{
		"labelled":                            {injected, interceptor.Funcs{}, "", []string{"istio-system/remote"}},
		"no label":                            {nil, interceptor.Funcs{}, "", []string{"tenant/remote", "istio-system/remote"}},
		"labels unknown":                      {injected, forbidden, "", nil},
		"labels unknown, of chosen namespace": {injected, forbidden, "istio-system", []string{"istio-system/remote"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reader := fake.NewClientBuilder().WithScheme(scheme.Scheme).WithInterceptorFuncs(test.funcs).
				WithObjects(secret("istio-system"), secret("tenant"), namespace("istio-system", test.labels), namespace("tenant", nil)).Build()
			var replicas []replicaStatus
			for _, of := range []string{"tenant", "istio-system"} {
				if test.chosen == "" || test.chosen == of {
					replicas = append(replicas, replicaStatus{Namespace: of})
				}
			}
			var got []string
			for _, s := range readRemoteSecrets(t.Context(), &clusters.Cluster{Client: reader}, test.chosen, replicas, now) {
				got = append(got, s.Secret)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
