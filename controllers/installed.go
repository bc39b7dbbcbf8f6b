// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/manager"
)

// lookForCRDs is how often it is looked whether CRDs are there, while they are not.
const lookForCRDs = 10 * time.Second

// WhenInstalled has the manager, on the leader, set up what needs kinds that come from CRDs, once all of them are
// there: admission does not need them, and a cache of what the cluster does not know would keep the whole program from
// starting.
func WhenInstalled(mgr ctrl.Manager, kinds []schema.GroupVersionKind, setup func(context.Context) error) error {
	return mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
		log := mgr.GetLogger().WithName("crds")
		for said := false; ; said = true {
			missing, err := missing(mgr.GetRESTMapper(), kinds)
			if err == nil && missing == nil {
				return setup(ctx)
			}
			if err != nil {
				log.Error(err, "Failed to look up CRDs")
			} else if !said {
				log.Error(nil, "VirtualMeshes are ignored until their CRDs exist: set crds.install=true, or let Gloo Mesh install them", "missing", missing.GroupKind().String())
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(lookForCRDs):
			}
		}
	}))
}

// missing gives a kind that the cluster does not know.
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
