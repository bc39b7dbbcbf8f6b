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

// lookAgain is how often what is not watched is read again: whether rights to restart Pods have been given, and the
// ConfigMaps of revisions.
const lookAgain = 5 * time.Minute

// Rights says which rights to restart Pods are lacking, and how to give them.
type Rights interface {
	Lacking(ctx context.Context) (string, error)
}

// Controller keeps the IssuedCertificates of this cluster's istiods, and their PodBounceDirectives.
type Controller struct {
	client  client.Client
	live    client.Reader
	events  events.EventRecorder
	rights  Rights
	cluster string
	allowed v1alpha1.VirtualMesh
	target  patches.Kind
	written *contested
}

func (c *Controller) list(ctx context.Context, kind schema.GroupVersionKind, options ...client.ListOption) ([]unstructured.Unstructured, error) {
	return controllers.List(ctx, c.client, kind, options...)
}

// Reconcile implements reconcile.Reconciler.
func (c *Controller) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	object := virtualMesh()
	err := c.client.Get(ctx, request.NamespacedName, object)
	if client.IgnoreNotFound(err) != nil {
		return reconcile.Result{}, err
	}
	if apierrors.IsNotFound(err) {
		c.written.forget(request.NamespacedName)
	}
	if err != nil || object.GetDeletionTimestamp() != nil { // another's finalizer; what it asks for does not count any more
		if !c.allowed.Allows(request.Namespace) {
			return reconcile.Result{}, nil // it owns nothing, also of what was made for it when it was acted on
		}
		return again(c.prune(ctx, request.NamespacedName, (&Plan{}).keepings()...))
	}
	facts, err := c.gather(ctx, object)
	if err != nil {
		return reconcile.Result{}, err
	}
	before := statusOf(object)
	plan := Translate(sourceOf(object), before, facts)
	if plan.Status.RootRotation.At() != before.RootRotation.At() {
		// A stage is kept before it is acted on. Were it asked for first and this program killed, replicas that have gone on
		// would be taken for such that lag behind, and be called back.
		return c.settle(ctx, object, before, plan.Status, facts.Now.Time)
	}
	for _, each := range plan.Directives { // before what names them
		if err := c.ensure(ctx, each, podBounceDirective()); err != nil {
			return reconcile.Result{}, err
		}
	}
	for _, each := range plan.Certificates {
		if err := c.ensure(ctx, each, issuedCertificate()); err != nil {
			return reconcile.Result{}, err
		}
	}
	if !plan.KeepAll {
		if err := c.prune(ctx, request.NamespacedName, plan.keepings()...); err != nil {
			return again(err)
		}
	}
	result, err := c.settle(ctx, object, before, plan.Status, facts.Now.Time)
	if err == nil && result.IsZero() && (facts.MayNotRestart != "" || facts.unwatched()) {
		result.RequeueAfter = lookAgain
	}
	return result, err
}

// again tries a conflict again without making an error of it: what has changed meanwhile is read anew.
func again(err error) (reconcile.Result, error) {
	if apierrors.IsConflict(err) {
		return reconcile.Result{RequeueAfter: time.Second}, nil
	}
	return reconcile.Result{}, err
}
