// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// Without rights in all namespaces, Pods are listed in those with rights alone; what a user's directive or an old status names
// elsewhere is skipped, without a request.
func TestOtherNamespaces(t *testing.T) {
	var listed []string
	live := interceptor.NewClient(fake.NewClientBuilder().Build(), interceptor.Funcs{
		List: func(_ context.Context, _ client.WithWatch, _ client.ObjectList, options ...client.ListOption) error {
			listed = append(listed, (&client.ListOptions{}).ApplyOptions(options).Namespace)
			return nil
		},
		Get: func(_ context.Context, _ client.WithWatch, key client.ObjectKey, _ client.Object, _ ...client.GetOption) error {
			t.Errorf("%s was read", key)
			return nil
		},
	})
	for name, test := range map[string]struct{ namespaces, want []string }{
		"all":   {nil, []string{""}},
		"named": {[]string{"a", "b"}, []string{"a", "b"}},
	} {
		t.Run(name, func(t *testing.T) {
			listed = nil
			c := &reconciler{live: live, namespaces: test.namespaces}
			if err := c.forEachPod(t.Context(), podSet{kind: workloadPods}, func(*metav1.ObjectMeta) error { return nil }); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(listed, test.want) {
				t.Errorf("listed in %q, want %q", listed, test.want)
			}
		})
	}

	listed = nil
	set := podSet{name: "c", kind: selectedPods, selector: certificatesv1.PodSelector{Namespace: "c"}}
	r := &rollout{
		reconciler: &reconciler{live: live, namespaces: []string{"a"}, now: time.Now}, mesh: &mesh{}, roots: roots{settled: true},
		status: &certificatesv1.PodBounceDirectiveStatus{Restarting: []certificatesv1.RestartingWorkload{{APIVersion: apps, Kind: "Deployment", Namespace: "b", Name: "old"}}},
	}
	waiting, err := r.advanceRestarting(t.Context())
	if err != nil || len(waiting) > 0 || len(r.status.Restarting) > 0 {
		t.Errorf("waits for %q, %v, restarting %v", waiting, err, r.status.Restarting)
	}
	if waiting, err := r.advanceSet(t.Context(), set, &certificatesv1.BouncedPodSet{}); err != nil || len(waiting) > 0 {
		t.Errorf("waits for %q, %v", waiting, err)
	}
	if len(listed) > 0 {
		t.Errorf("listed in %q", listed)
	}
	r.finish()
	left := strings.Join(r.status.Left, "\n")
	if !strings.Contains(left, "Deployment b/old: "+notCovered) || !strings.Contains(left, "set c: "+notCovered) || !strings.Contains(r.status.Message, "outside of rbac.namespaces") {
		t.Errorf("the status says %q, skipped:\n%s", r.status.Message, left)
	}
}
