// SPDX-License-Identifier: Apache-2.0

package meshes

import (
	"context"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/controllers"
	"github.com/istiod-agent/istiod-agent/patches"
)

// recheckInterval is how often unwatched state is read again: the rights to restart Pods and the ConfigMaps of
// revisions.
const recheckInterval = 5 * time.Minute

// restartRights reports the rights that the controller lacks to restart Pods, and how to grant them.
type restartRights interface {
	Lacking(ctx context.Context) (string, error)
}

// reconciler applies the IssuedCertificates and PodBounceDirectives of this cluster's istiods.
type reconciler struct {
	client  client.Client
	live    client.Reader
	events  events.EventRecorder
	rights  restartRights
	cluster string
	allowed v1alpha1.VirtualMesh
	target  patches.Kind
	written *contested
}

func (c *reconciler) list(ctx context.Context, kind schema.GroupVersionKind, options ...client.ListOption) ([]unstructured.Unstructured, error) {
	return controllers.List(ctx, c.client, kind, options...)
}

// Reconcile implements reconcile.Reconciler.
func (c *reconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	object := virtualMesh()
	err := c.client.Get(ctx, request.NamespacedName, object)
	if client.IgnoreNotFound(err) != nil {
		return reconcile.Result{}, err
	}
	if apierrors.IsNotFound(err) {
		c.written.forget(request.NamespacedName)
	}
	if err != nil || object.GetDeletionTimestamp() != nil { // another program's finalizer keeps it
		if !c.allowed.Allows(request.Namespace) {
			return reconcile.Result{}, nil // its namespace may have been allowed before; nothing is deleted for it now
		}
		return requeueOnConflict(c.prune(ctx, request.NamespacedName, (&meshPlan{}).retentions()...))
	}
	facts, err := c.gather(ctx, object)
	if err != nil {
		return reconcile.Result{}, err
	}
	before := statusOf(object)
	plan := translate(sourceOf(object), before, facts)
	if plan.Status.RootRotation.At() != before.RootRotation.At() {
		// Store the stage before acting on it. In the opposite order, after a crash, replicas that have already
		// advanced would look outdated and be sent back.
		return c.settle(ctx, object, before, plan.Status, facts.Now.Time)
	}
	for _, directive := range plan.Directives { // before the IssuedCertificates that name them
		if err := c.apply(ctx, directive, podBounceDirective()); err != nil {
			return reconcile.Result{}, err
		}
	}
	for _, certificate := range plan.Certificates {
		if err := c.apply(ctx, certificate, issuedCertificate()); err != nil {
			return reconcile.Result{}, err
		}
	}
	if !plan.RetainAll {
		if err := c.prune(ctx, request.NamespacedName, plan.retentions()...); err != nil {
			return requeueOnConflict(err)
		}
	}
	result, err := c.settle(ctx, object, before, plan.Status, facts.Now.Time)
	if err == nil && result.IsZero() && (facts.MissingRights != "" || facts.unwatched()) {
		result.RequeueAfter = recheckInterval
	}
	return result, err
}

// requeueOnConflict retries a conflict without reporting an error.
func requeueOnConflict(err error) (reconcile.Result, error) {
	if apierrors.IsConflict(err) {
		return reconcile.Result{RequeueAfter: time.Second}, nil
	}
	return reconcile.Result{}, err
}
