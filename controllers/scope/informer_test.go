// SPDX-License-Identifier: Apache-2.0

package scope

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	toolscache "k8s.io/client-go/tools/cache"
)

// server answers lists and watches of one ConfigMap, or refuses them.
type server struct {
	mu       sync.Mutex
	refusal  error
	requests int
	watching *watch.FakeWatcher
}

func (s *server) answer(refusal error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusal = refusal
	if s.watching != nil {
		s.watching.Stop() // as at the end of its time
		s.watching = nil
	}
}

func (s *server) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

func (s *server) ListWithContext(context.Context, metav1.ListOptions) (runtime.Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests++
	if s.refusal != nil {
		return nil, s.refusal
	}
	return &corev1.ConfigMapList{
		ListMeta: metav1.ListMeta{ResourceVersion: "1"},
		Items:    []corev1.ConfigMap{{ObjectMeta: metav1.ObjectMeta{Namespace: "mesh", Name: "istio", ResourceVersion: "1"}}},
	}, nil
}

func (s *server) WatchWithContext(_ context.Context, options metav1.ListOptions) (watch.Interface, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests++
	if s.refusal != nil {
		return nil, s.refusal
	}
	if options.SendInitialEvents != nil {
		return nil, apierrors.NewBadRequest("this API server does not stream lists")
	}
	s.watching = watch.NewFake()
	return s.watching, nil
}

var forbidden = apierrors.NewForbidden(schema.GroupResource{Resource: "configmaps"}, "", errors.New("in the namespace \"mesh\""))

// start runs an informer in the bubble of a test.
func start(t *testing.T, s *server) toolscache.SharedIndexInformer {
	t.Helper()
	informer := newInformer(&toolscache.ListWatch{ListWithContextFunc: s.ListWithContext, WatchFuncWithContext: s.WatchWithContext},
		&corev1.ConfigMap{}, 0, toolscache.Indexers{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); informer.RunWithContext(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	return informer
}

// Without rights in a namespace the informer is empty and ready, and asks seldom. It fills once there are rights.
func TestRightsThatCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{refusal: forbidden}
		informer := start(t, s)
		time.Sleep(time.Second) // of the bubble's clock
		if !informer.HasSynced() || len(informer.GetStore().List()) != 0 {
			t.Fatalf("synced %t, with %d objects", informer.HasSynced(), len(informer.GetStore().List()))
		}
		asked := s.asked()
		time.Sleep(10 * retryInterval)
		if more := s.asked() - asked; more > 2*10 {
			t.Errorf("asked %d times in ten minutes", more)
		}
		s.answer(nil)
		time.Sleep(2 * retryInterval)
		if len(informer.GetStore().List()) != 1 {
			t.Errorf("holds %d objects, want 1", len(informer.GetStore().List()))
		}
	})
}

// Rights that are lost empty nothing.
func TestRightsThatGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{}
		informer := start(t, s)
		time.Sleep(time.Second)
		s.answer(forbidden)
		time.Sleep(10 * retryInterval)
		if len(informer.GetStore().List()) != 1 {
			t.Errorf("holds %d objects, want 1", len(informer.GetStore().List()))
		}
	})
}

// Other errors are no reason to begin without objects.
func TestOtherErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		informer := start(t, &server{refusal: apierrors.NewServiceUnavailable("starting")})
		time.Sleep(10 * retryInterval)
		if informer.HasSynced() {
			t.Error("it is ready without objects")
		}
	})
}

// What is not read per listed namespace needs its rights.
func TestOtherKinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{refusal: forbidden}
		informer := newInformer(&toolscache.ListWatch{ListWithContextFunc: s.ListWithContext, WatchFuncWithContext: s.WatchWithContext}, namespace(), 0, toolscache.Indexers{})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); informer.RunWithContext(ctx) }()
		time.Sleep(10 * retryInterval)
		if informer.HasSynced() {
			t.Error("the namespaces are taken for none")
		}
		cancel()
		<-ended
	})
}
