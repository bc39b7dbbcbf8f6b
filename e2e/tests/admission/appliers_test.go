// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"errors"
	"maps"
	"slices"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
)

// A second tool that applies the same manifest server-side under its own name conflicts with the first one: in the fields
// that the API server stores in another form than Istio's chart writes, and in a labelled namespace also in the replaced
// volume. The solutions of docs/gitops.md change no stored field, and restart nothing.
func TestSecondApplier(t *testing.T) {
	inBothForms(t, func(t *testing.T, c *cluster.Cluster) {
		const container, volume = `.spec.template.spec.containers[name="discovery"]`, `.spec.template.spec.volumes[name="cacerts"]`
		everywhere := []string{container + `.env[name="PLATFORM"].value`, container + ".resources.requests.memory"}
		for name, test := range map[string]struct {
			labelled bool
			want     []string
		}{
			"not injected": {false, everywhere},
			"injected":     {true, append(slices.Clone(everywhere), volume+".secret.optional", volume+".secret.secretName")},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				istiod := cluster.Istiod(t, c.Namespace(t, test.labelled))
				apply := func(manager string, options ...client.ApplyOption) (*unstructured.Unstructured, error) {
					answer := istiod.DeepCopy()
					err := c.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(answer), append(options, client.FieldOwner(manager))...)
					return answer, err
				}
				works := func(what, manager string, options ...client.ApplyOption) {
					t.Helper()
					answer, err := apply(manager, options...)
					if err != nil {
						t.Errorf("%s: %v", what, err)
					} else if answer.GetGeneration() != 1 {
						t.Errorf("%s: generation %d, which restarts istiod", what, answer.GetGeneration())
					}
				}
				conflicts := func(what, manager string, options ...client.ApplyOption) {
					t.Helper()
					_, err := apply(manager, options...)
					if got := conflictsOf(err); !slices.Equal(got, test.want) {
						t.Errorf("%s: conflicts at %q, want %q (%v)", what, got, test.want, err)
					}
				}
				works("the first tool", "first")
				conflicts("kubectl diff --server-side", "second", client.DryRunAll)
				conflicts("kubectl apply --server-side", "second")
				works("kubectl diff --server-side --force-conflicts", "second", client.DryRunAll, client.ForceOwnership)
				works("kubectl diff --server-side --field-manager=first", "first", client.DryRunAll)
				works("kubectl apply --server-side --field-manager=first", "first")
				works("kubectl apply --server-side --force-conflicts", "second", client.ForceOwnership)
				conflicts("the first tool after that", "first")
				works("the first tool, forcing", "first", client.ForceOwnership)
				works("both, forcing", "second", client.ForceOwnership)
			})
		}
	})
}

// conflictsOf returns the conflicting fields of an apply, sorted and unique.
func conflictsOf(err error) []string {
	var status *apierrors.StatusError
	if !errors.As(err, &status) || status.ErrStatus.Details == nil {
		return nil
	}
	fields := map[string]bool{}
	for _, cause := range status.ErrStatus.Details.Causes {
		if cause.Type == metav1.CauseTypeFieldManagerConflict {
			fields[cause.Field] = true
		}
	}
	return slices.Sorted(maps.Keys(fields))
}
