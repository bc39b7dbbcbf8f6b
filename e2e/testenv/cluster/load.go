// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Load is the work of several workers, each of which repeats an admission.
type Load struct {
	cancel   context.CancelFunc
	workers  sync.WaitGroup
	mu       sync.Mutex
	admitted int
	failed   []error
}

// StartLoad keeps the webhook busy: each worker creates one istiod after the other (dry run) in a labelled namespace.
func (c *Cluster) StartLoad(t *testing.T, workers int, interval time.Duration) *Load {
	t.Helper()
	istiod := &appsv1.Deployment{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(Istiod(t, c.Namespace(t, true)).Object, istiod); err != nil {
		t.Fatal(err)
	}
	return Repeat(t, interval, slices.Repeat([]func(context.Context) error{
		func(ctx context.Context) error { return c.createInjected(ctx, istiod.DeepCopy()) },
	}, workers)...)
}

// Repeat starts a worker for each admission, which returns an error unless it was admitted and injected. The load ends with
// the test at the latest. The interval is the least time between two admissions of one worker.
func Repeat(t *testing.T, interval time.Duration, admissions ...func(context.Context) error) *Load {
	ctx, cancel := context.WithCancel(t.Context())
	l := &Load{cancel: cancel}
	for _, admit := range admissions {
		l.workers.Go(func() {
			tick := time.NewTicker(interval)
			defer tick.Stop()
			for ctx.Err() == nil {
				l.count(ctx, admit(ctx))
				select {
				case <-ctx.Done():
				case <-tick.C:
				}
			}
		})
	}
	t.Cleanup(func() { l.Stop() })
	return l
}

// Admitted returns the number of istiods injected so far.
func (l *Load) Admitted() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.admitted
}

// Stop ends the load and returns the errors of the istiods that were not admitted or not injected.
func (l *Load) Stop() (admitted int, failed []error) {
	l.cancel()
	l.workers.Wait()
	return l.admitted, l.failed
}

func (l *Load) count(ctx context.Context, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		l.admitted++
	case ctx.Err() == nil: // else it was cut off by Stop
		l.failed = append(l.failed, err)
	}
}

func (c *Cluster) createInjected(ctx context.Context, istiod *appsv1.Deployment) error {
	if err := c.Create(ctx, istiod, client.DryRunAll); err != nil {
		return err
	}
	for _, container := range istiod.Spec.Template.Spec.Containers {
		if container.Name == "istiod-agent" {
			return nil
		}
	}
	return errors.New("admitted without the agent")
}
