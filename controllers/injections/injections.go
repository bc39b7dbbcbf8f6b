// SPDX-License-Identifier: Apache-2.0

// Package injections keeps one object, the Injection of a configuration: what is injected, as the parameter of the
// admission policy of package policy. It is kept in both forms of the injection, so that a change from the webhook to the
// policy finds it. Other fields, and objects of other names, are left alone.
package injections

import (
	"context"
	"fmt"
	"net/http"
	"time"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/istiod-agent/istiod-agent/controllers"
)

type reconciler struct {
	reader  client.Reader
	writer  client.Writer
	desired *unstructured.Unstructured
}

// Setup registers the controller on the leader. The API server must serve the kind of desired.
func Setup(mgr ctrl.Manager, desired *unstructured.Unstructured) error {
	// A cache of its own, since the manager's refuses to start with a kind that is not served.
	one, err := cache.New(mgr.GetConfig(), cache.Options{
		HTTPClient: mgr.GetHTTPClient(), Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(),
		DefaultNamespaces:    map[string]cache.Config{desired.GetNamespace(): {}},
		DefaultFieldSelector: fields.OneTermEqualSelector("metadata.name", desired.GetName()),
	})
	if err != nil {
		return fmt.Errorf("making the cache of the Injection: %w", err)
	}
	if err := mgr.Add(one); err != nil {
		return err
	}
	// The object may be missing: then no event of the watch starts the first reconciliation.
	first := make(chan event.GenericEvent, 1)
	first <- event.GenericEvent{Object: desired.DeepCopy()}
	return ctrl.NewControllerManagedBy(mgr).
		Named("injections").
		WatchesRawSource(source.Kind[client.Object](one, injection(desired), &handler.EnqueueRequestForObject{})).
		WatchesRawSource(source.Channel(first, &handler.EnqueueRequestForObject{})).
		Complete(&reconciler{one, mgr.GetClient(), desired})
}

// injection returns an empty object of the kind.
func injection(desired *unstructured.Unstructured) *unstructured.Unstructured {
	return controllers.Untyped(desired.GroupVersionKind())
}

// Reconcile implements reconcile.Reconciler. It replaces the whole spec: fields that another writer added would otherwise
// be injected too.
func (r *reconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	log := logf.FromContext(ctx)
	stored := injection(r.desired)
	switch err := r.reader.Get(ctx, request.NamespacedName, stored); {
	case apierrors.IsNotFound(err):
		err := r.writer.Create(ctx, r.desired.DeepCopy())
		if apierrors.IsAlreadyExists(err) {
			return reconcile.Result{RequeueAfter: time.Second}, nil // the cache is late
		}
		if err != nil {
			return reconcile.Result{}, fmt.Errorf("creating Injection %s: %w", request, err)
		}
		log.Info("Created the Injection")
		return reconcile.Result{}, nil
	case err != nil:
		return reconcile.Result{}, fmt.Errorf("reading Injection %s: %w", request, err)
	}
	if apiequality.Semantic.DeepEqual(stored.Object["spec"], r.desired.Object["spec"]) {
		return reconcile.Result{}, nil
	}
	changed := stored.DeepCopy() // the cache's object stays as it is
	changed.Object["spec"] = r.desired.DeepCopy().Object["spec"]
	err := r.writer.Update(ctx, changed)
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return reconcile.Result{RequeueAfter: time.Second}, nil
	}
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("writing Injection %s: %w", request, err)
	}
	log.Info("Wrote the Injection")
	return reconcile.Result{}, nil
}

// Ready returns a health check that passes once the Injection exists, from when on istiods can be stored. Whether it is
// current is not asked: at an upgrade the old leader writes it until the new replica is ready.
func Ready(reader client.Reader, desired *unstructured.Unstructured) func(*http.Request) error {
	return func(request *http.Request) error {
		ctx, cancel := context.WithTimeout(request.Context(), 5*time.Second)
		defer cancel()
		err := reader.Get(ctx, client.ObjectKeyFromObject(desired), injection(desired))
		if err != nil {
			return fmt.Errorf("reading Injection %s/%s, without which no istiod can be stored: %w", desired.GetNamespace(), desired.GetName(), err)
		}
		return nil
	}
}
