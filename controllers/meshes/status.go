// SPDX-License-Identifier: Apache-2.0

package meshes

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/controllers"
)

// ownedFields are the fields of the status that the controller writes.
var ownedFields = []string{"observedGeneration", "state", "errors", "meshes", "notActedOn", "rootRotation", "conditions"}

// Reasons of the Events about a stage of a root change.
//
//reasons:page virtualmesh
const (
	// reasonTrustBoth: Event only: the first stage of a [change of the root](rotation.md) has begun, or is complete.
	// istiods publish the old roots and the new one.
	//
	// Remedy: the message names the next step.
	reasonTrustBoth = "RootRotationTrustBoth"
	// reasonSignWithNew: Event only: the second stage of a [change of the root](rotation.md) has begun, or is
	// complete. istiods sign under the new root.
	//
	// Remedy: the message names the next step.
	reasonSignWithNew = "RootRotationSignWithNew"
	// reasonDropOld: Event only: the last stage of a [change of the root](rotation.md) has begun, or is complete.
	// istiods publish the new root alone.
	//
	// Remedy: the message names the next step.
	reasonDropOld = "RootRotationDropOld"
)

var stageReasons = map[networkingv1.RootRotationStage]string{
	networkingv1.StageTrustBoth:   reasonTrustBoth,
	networkingv1.StageSignWithNew: reasonSignWithNew,
	networkingv1.StageDropOld:     reasonDropOld,
}

// writeStatus writes the controller's status fields and leaves those of other programs.
func (c *reconciler) writeStatus(ctx context.Context, object *unstructured.Unstructured, before, status networkingv1.VirtualMeshStatus) error {
	changed, err := controllers.WithStatus(object, ownedFields, &status)
	if err != nil {
		return err
	}
	if err := c.client.Status().Patch(ctx, changed, client.MergeFrom(object), client.FieldOwner(controllers.Manager)); err != nil {
		if apierrors.IsNotFound(err) {
			return nil // it was deleted, or its CRD has no status
		}
		return fmt.Errorf("writing the status of VirtualMesh %s: %w", client.ObjectKeyFromObject(object), err)
	}
	if before.State != status.State {
		c.notify(ctx, object, status)
	}
	if now := status.RootRotation; now != nil && (before.RootRotation == nil || before.RootRotation.Stage != now.Stage || before.RootRotation.Complete != now.Complete) {
		c.event(ctx, object, corev1.EventTypeNormal, stageReasons[now.Stage], now.Message)
	}
	return nil
}

// notify records the new state.
func (c *reconciler) notify(ctx context.Context, object *unstructured.Unstructured, status networkingv1.VirtualMeshStatus) {
	ready := meta.FindStatusCondition(status.Conditions, readyCondition)
	if ready == nil {
		return
	}
	kind := corev1.EventTypeNormal
	if status.State == networkingv1.Invalid || status.State == networkingv1.Failed {
		kind = corev1.EventTypeWarning
	}
	c.event(ctx, object, kind, ready.Reason, ready.Message)
}

func (c *reconciler) event(ctx context.Context, object *unstructured.Unstructured, kind, reason, message string) {
	controllers.Record(ctx, c.events, controllers.Event{Object: object, Type: kind, Reason: reason, Action: "Translate", Message: message})
}

// statusOf decodes the status; empty when another program wrote other types.
func statusOf(object *unstructured.Unstructured) (status networkingv1.VirtualMeshStatus) {
	stored, _, _ := unstructured.NestedMap(object.Object, "status")
	if runtime.DefaultUnstructuredConverter.FromUnstructured(stored, &status) != nil {
		return networkingv1.VirtualMeshStatus{} // replaced
	}
	return status
}

// settle writes a changed status, at once or after its pause.
func (c *reconciler) settle(ctx context.Context, object *unstructured.Unstructured, before, status networkingv1.VirtualMeshStatus, now time.Time) (reconcile.Result, error) {
	if equality.Semantic.DeepEqual(before, status) {
		return reconcile.Result{}, nil
	}
	key := client.ObjectKeyFromObject(object)
	if pause := c.written.pause(key, status, now); pause > 0 {
		return reconcile.Result{RequeueAfter: pause}, nil
	}
	if err := c.writeStatus(ctx, object, before, status); err != nil {
		return requeueOnConflict(err)
	}
	c.written.wrote(key, status, now)
	return reconcile.Result{}, nil
}
