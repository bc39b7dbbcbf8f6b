// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/controllers"
	"github.com/istiod-agent/istiod-agent/internal/helm"
)

// ownedFields are the fields of the status that are written here.
var ownedFields = []string{"podsBounced", "state", "roots", "set", "message", "startedAt", "finishedAt", "restarting", "remaining", "left"}

// attempts are how often a status is written that somebody else writes as well.
const attempts = 10

// errDropped is for a status that is not stored as it was written.
var errDropped = errors.New("the API server drops the fields of the status that say what is restarted, and nothing is: the CRD of PodBounceDirective is not this release's; " +
	"install it, as by " + helm.Upgrade("--set crds.install=true"))

// report writes the status where it is not so already, in place of just what was read: whoever is late must read again
// before they restart anything. What others write beside it stays, and holds up nothing.
func (c *reconciler) writeStatus(ctx context.Context, object *unstructured.Unstructured, before, after certificatesv1.PodBounceDirectiveStatus) error {
	if equal(before, after) {
		return nil
	}
	key := client.ObjectKeyFromObject(object)
	for attempt := 1; ; attempt++ {
		changed, err := controllers.WithStatus(object, ownedFields, &after)
		if err != nil {
			return err
		}
		patch := client.MergeFromWithOptions(object, client.MergeFromWithOptimisticLock{})
		err = c.client.Status().Patch(ctx, changed, patch, client.FieldOwner(controllers.Manager))
		switch {
		case err == nil:
			if state, _, _ := unstructured.NestedString(changed.Object, "status", "state"); state != string(after.State) {
				return errDropped
			}
			c.notify(ctx, object, before, after)
			return nil
		case apierrors.IsNotFound(err):
			return nil
		case !apierrors.IsConflict(err):
			return fmt.Errorf("writing the status of PodBounceDirective %s: %w", key, err)
		case attempt == attempts:
			return err
		}
		newest := untyped(certificatesv1.PodBounceDirectiveKind)
		if err := c.live.Get(ctx, key, newest); err != nil {
			return client.IgnoreNotFound(err)
		}
		var directive certificatesv1.PodBounceDirective
		if runtime.DefaultUnstructuredConverter.FromUnstructured(newest.Object, &directive) != nil || newest.GetGeneration() != object.GetGeneration() || !equal(directive.Status, before) {
			return err // what was decided on is not so any more
		}
		object = newest
	}
}
