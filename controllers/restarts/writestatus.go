// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/controllers"
	"github.com/istiod-agent/istiod-agent/internal/helm"
)

// ownedFields are the fields of the status that the controller writes.
var ownedFields = []string{"podsBounced", "state", "roots", "set", "message", "startedAt", "finishedAt", "restarting", "remaining", "left"}

// attempts is the number of writes of a status that another program changes as well.
const attempts = 10

// errDropped reports a status that was not stored as written.
var errDropped = errors.New("the API server drops the status fields that restarts need, so nothing restarts: the CRD of PodBounceDirective is not the one of this release; " +
	"install it, as in " + helm.Upgrade("--set crds.install=true"))

// writeStatus replaces exactly the version that was read, so that a late writer must read again before it restarts anything.
// Fields of other programs stay, and their changes delay nothing.
func (c *reconciler) writeStatus(ctx context.Context, object *unstructured.Unstructured, before, after certificatesv1.PodBounceDirectiveStatus) error {
	if equality.Semantic.DeepEqual(before, after) {
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
		if runtime.DefaultUnstructuredConverter.FromUnstructured(newest.Object, &directive) != nil || newest.GetGeneration() != object.GetGeneration() || !equality.Semantic.DeepEqual(directive.Status, before) {
			return err // the decision is outdated
		}
		object = newest
	}
}
