// SPDX-License-Identifier: Apache-2.0

package join

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/cli/shell"
)

// restart does what `kubectl rollout restart` does with the istiods of a context (kubectl/pkg/polymorphichelpers/objectrestarter.go).
// It cannot fail the join: the remote secrets are in place, and istiod reads them at its next start.
func (a *application) restart(ctx context.Context, i int) {
	t := a.targets[i]
	patch := fmt.Appendf(nil, `{"spec":{"template":{"metadata":{"annotations":{"kubectl.kubernetes.io/restartedAt":%q}}}}}`, time.Now().UTC().Format(time.RFC3339Nano))
	for _, istiod := range t.Istiods {
		object := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: t.Namespace, Name: istiod.Name}}
		if err := t.cluster.Client.Patch(ctx, object, client.RawPatch(types.StrategicMergePatchType, patch), owner); err != nil {
			a.note(fmt.Sprintf("%s: istiod %s/%s could not be restarted (%v), and uses the old token until then: %s", t.Context, t.Namespace, istiod.Name, err, t.restartCommand(istiod)))
		}
	}
}

func (s *clusterState) restartCommand(istiod istiodState) string {
	return s.Kubectl + " rollout restart -n " + shell.Quote(s.Namespace) + " deployment/" + shell.Quote(istiod.Name)
}

// restarting returns the first istiod of a context whose rollout is not complete; empty for none
// (kubectl/pkg/polymorphichelpers/rollout_status.go).
func (t *target) restarting(ctx context.Context) (string, error) {
	for _, istiod := range t.Istiods {
		var d appsv1.Deployment
		if err := t.cluster.Client.Get(ctx, types.NamespacedName{Namespace: t.Namespace, Name: istiod.Name}, &d); err != nil {
			return "", t.cluster.Explain("reading istiod's Deployment", "get", "deployments.apps", err)
		}
		desired := int32(1)
		if d.Spec.Replicas != nil {
			desired = *d.Spec.Replicas
		}
		status := &d.Status
		if status.ObservedGeneration < d.Generation || status.UpdatedReplicas < desired || status.Replicas > status.UpdatedReplicas || status.AvailableReplicas < status.UpdatedReplicas {
			return fmt.Sprintf("istiod %s/%s has not restarted completely", t.Namespace, istiod.Name), nil
		}
	}
	return "", nil
}
