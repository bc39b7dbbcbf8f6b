// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/manager"
)

// crdInterval is how often missing CRDs are looked up.
const crdInterval = 10 * time.Second

// WhenInstalled runs setup on the leader once all CRDs exist: admission does not need them, and a cache of an unknown
// kind would stop the whole program. A missing one
// is reported once.
func WhenInstalled(mgr ctrl.Manager, kinds []schema.GroupVersionKind, report func(log logr.Logger, missing schema.GroupKind), setup func(context.Context) error) error {
	return mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
		log := mgr.GetLogger().WithName("crds")
		for reported := false; ; reported = true {
			missing, err := missing(mgr.GetRESTMapper(), kinds)
			if err == nil && missing == nil {
				return setup(ctx)
			}
			if err != nil {
				log.Error(err, "Failed to look up CRDs")
			} else if !reported {
				report(log, missing.GroupKind())
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(crdInterval):
			}
		}
	}))
}

// missing returns a kind that the API server does not know; nil when it knows all.
func missing(mapper meta.RESTMapper, kinds []schema.GroupVersionKind) (*schema.GroupVersionKind, error) {
	for _, kind := range kinds {
		if _, err := mapper.RESTMapping(kind.GroupKind(), kind.Version); meta.IsNoMatchError(err) {
			return &kind, nil
		} else if err != nil {
			return nil, err
		}
	}
	return nil, nil
}
