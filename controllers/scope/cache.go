// SPDX-License-Identifier: Apache-2.0

// Package scope limits the controllers to the namespaces in which the program has rights (namespaces in its
// configuration): to a cache of these namespaces alone, and to a report of the others that are labelled. It never asks
// for an object in another namespace.
package scope

import (
	"context"
	"strings"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
)

// NewCache returns the constructor of a manager's cache: of controller-runtime's own without namespaces in the
// configuration, else of a cache that lists and watches in these namespaces alone, and VirtualMeshes in theirs.
func NewCache(config *v1alpha1.InjectionConfiguration) cache.NewCacheFunc {
	if config.Everywhere() {
		return cache.New
	}
	return func(cluster *rest.Config, options cache.Options) (cache.Cache, error) {
		options.NewInformer = newInformer
		meshes := options
		// Options.ByObject cannot name a kind whose CRD may be installed later.
		meshes.ByObject, meshes.DefaultNamespaces = nil, namespaces(config.VirtualMesh.Namespaces)
		options.DefaultNamespaces = namespaces(config.Namespaces)
		others, err := cache.New(cluster, options)
		if err != nil {
			return nil, err
		}
		limited := &limitedCache{Cache: others, config: config}
		limited.meshes, err = cache.New(cluster, meshes)
		return limited, err
	}
}

func namespaces(names []string) map[string]cache.Config {
	configs := map[string]cache.Config{}
	for _, name := range names {
		configs[name] = cache.Config{}
	}
	return configs
}

// limitedCache has no objects in other namespaces. Their names come from labels, annotations and status fields that users
// write: controller-runtime's cache answers them with an error that never ends.
type limitedCache struct {
	cache.Cache
	meshes cache.Cache // of VirtualMeshes
	config *v1alpha1.InjectionConfiguration
}

// cacheOf returns the cache of a kind.
func (c *limitedCache) cacheOf(kind schema.GroupVersionKind) cache.Cache {
	if isVirtualMesh(kind) {
		return c.meshes
	}
	return c.Cache
}

// isVirtualMesh also reports the kind of a list. VirtualMeshes are untyped, so that each object names its kind.
func isVirtualMesh(kind schema.GroupVersionKind) bool {
	return kind.Group == networkingv1.GroupVersion.Group && strings.TrimSuffix(kind.Kind, "List") == networkingv1.Kind
}

func kindOf(object runtime.Object) schema.GroupVersionKind {
	return object.GetObjectKind().GroupVersionKind()
}

// covers reports whether the cache holds the objects of a kind in a namespace; "" stands for all, and for kinds without
// namespaces.
func (c *limitedCache) covers(object runtime.Object, namespace string) bool {
	switch object.(type) {
	case *corev1.Secret, *corev1.SecretList: // in the program's own namespace
		return true
	}
	if isVirtualMesh(kindOf(object)) {
		return namespace == "" || c.config.VirtualMesh.Allows(namespace)
	}
	return namespace == "" || c.config.Covers(namespace)
}

// Get implements client.Reader.
func (c *limitedCache) Get(ctx context.Context, key client.ObjectKey, object client.Object, options ...client.GetOption) error {
	if !c.covers(object, key.Namespace) {
		return apierrors.NewNotFound(schema.GroupResource{Group: kindOf(object).Group, Resource: strings.ToLower(kindOf(object).Kind)}, key.Name)
	}
	return c.cacheOf(kindOf(object)).Get(ctx, key, object, options...)
}

// List implements client.Reader.
func (c *limitedCache) List(ctx context.Context, list client.ObjectList, options ...client.ListOption) error {
	applied := (&client.ListOptions{}).ApplyOptions(options)
	if !c.covers(list, applied.Namespace) {
		return nil // the list is empty
	}
	return c.cacheOf(kindOf(list)).List(ctx, list, options...)
}

// GetInformer implements cache.Informers.
func (c *limitedCache) GetInformer(ctx context.Context, object client.Object, options ...cache.InformerGetOption) (cache.Informer, error) {
	return c.cacheOf(kindOf(object)).GetInformer(ctx, object, options...)
}

// GetInformerForKind implements cache.Informers.
func (c *limitedCache) GetInformerForKind(ctx context.Context, kind schema.GroupVersionKind, options ...cache.InformerGetOption) (cache.Informer, error) {
	return c.cacheOf(kind).GetInformerForKind(ctx, kind, options...)
}

// RemoveInformer implements cache.Informers.
func (c *limitedCache) RemoveInformer(ctx context.Context, object client.Object) error {
	return c.cacheOf(kindOf(object)).RemoveInformer(ctx, object)
}

// IndexField implements client.FieldIndexer.
func (c *limitedCache) IndexField(ctx context.Context, object client.Object, field string, extract client.IndexerFunc) error {
	return c.cacheOf(kindOf(object)).IndexField(ctx, object, field, extract)
}

// Start implements cache.Informers.
func (c *limitedCache) Start(ctx context.Context) error {
	running, ctx := errgroup.WithContext(ctx)
	running.Go(func() error { return c.Cache.Start(ctx) })
	running.Go(func() error { return c.meshes.Start(ctx) })
	return running.Wait()
}

// WaitForCacheSync implements cache.Informers.
func (c *limitedCache) WaitForCacheSync(ctx context.Context) bool {
	return c.Cache.WaitForCacheSync(ctx) && c.meshes.WaitForCacheSync(ctx)
}
