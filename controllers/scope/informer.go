// SPDX-License-Identifier: Apache-2.0

package scope

import (
	"context"
	"sync/atomic"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	toolscache "k8s.io/client-go/tools/cache"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
)

// retryInterval is how often a namespace is tried again in which the program has no rights.
const retryInterval = time.Minute

// newInformer returns an informer of one kind in one namespace that needs no rights to start: without them, as in a
// namespace that does not exist yet, it is empty. Otherwise one such namespace would stop the controllers of all others.
// Kinds that are not read per listed namespace need their rights as always.
//
// Rights that are lost later empty nothing: the controllers would take the objects for deleted.
func newInformer(lw toolscache.ListerWatcher, object runtime.Object, resync time.Duration, indexers toolscache.Indexers) toolscache.SharedIndexInformer {
	switch object := object.(type) {
	case *corev1.Secret, *admissionregistrationv1.MutatingWebhookConfiguration:
		return toolscache.NewSharedIndexInformer(lw, object, resync, indexers)
	case *metav1.PartialObjectMetadata:
		if kindOf(object).Kind == namespaceKind {
			return toolscache.NewSharedIndexInformer(lw, object, resync, indexers)
		}
	}
	tolerant := &tolerantListerWatcher{ListerWatcherWithContext: toolscache.ToListerWatcherWithContext(lw), retry: retryInterval}
	return toolscache.NewSharedIndexInformer(tolerant.listWatch(), object, resync, indexers)
}

type tolerantListerWatcher struct {
	toolscache.ListerWatcherWithContext
	retry time.Duration
	// granted is set by the first answer, forbidden by a refusal before it.
	granted, forbidden atomic.Bool
}

func (t *tolerantListerWatcher) listWatch() *toolscache.ListWatch {
	return &toolscache.ListWatch{ListWithContextFunc: t.ListWithContext, WatchFuncWithContext: t.WatchWithContext}
}

// ListWithContext returns an empty list where the program never had the right to list.
func (t *tolerantListerWatcher) ListWithContext(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
	list, err := t.ListerWatcherWithContext.ListWithContext(ctx, options)
	switch {
	case err == nil:
		t.granted.Store(true)
		t.forbidden.Store(false)
	case apierrors.IsForbidden(err) && !t.granted.Load():
		if !t.forbidden.Swap(true) {
			logf.FromContext(ctx).Error(err, "No rights in a namespace of rbac.namespaces or virtualMesh.namespaces: it is ignored until an upgrade of the chart grants them, as after its creation")
		}
		return &metav1.PartialObjectMetadataList{}, nil
	}
	return list, err
}

// WatchWithContext waits before the list that follows a refused one. Reflectors list by a watch for initial events, and
// otherwise by a list.
func (t *tolerantListerWatcher) WatchWithContext(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	if t.forbidden.Load() && options.SendInitialEvents == nil {
		return expiring(ctx, t.retry), nil
	}
	watching, err := t.ListerWatcherWithContext.WatchWithContext(ctx, options)
	if err == nil {
		t.granted.Store(true)
		t.forbidden.Store(false)
	}
	return watching, err
}

// expiring is a watch without events that makes its reader list again after a time.
func expiring(ctx context.Context, after time.Duration) watch.Interface {
	events := make(chan watch.Event)
	watching := watch.NewProxyWatcher(events)
	go func() {
		defer close(events)
		select {
		case <-ctx.Done():
			return
		case <-watching.StopChan():
			return
		case <-time.After(after):
		}
		expired := apierrors.NewResourceExpired("the rights are checked again").Status()
		select {
		case events <- watch.Event{Type: watch.Error, Object: &expired}:
		case <-watching.StopChan():
		case <-ctx.Done():
		}
	}()
	return watching
}
