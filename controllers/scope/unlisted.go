// SPDX-License-Identifier: Apache-2.0

package scope

import (
	"context"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/controllers"
)

var unlisted = prometheus.NewGaugeVec(prometheus.GaugeOpts{
	Name: "istiod_agent_namespaces_not_listed",
	Help: "Namespaces that have opted in and are not in rbac.namespaces: istiods are injected there, but the controllers ignore them. Only the leader reports.",
}, []string{"namespace"})

func init() { metrics.Registry.MustRegister(unlisted) }

// reporter reports labelled namespaces that are not listed.
type reporter struct {
	namespaces cache.Cache
	config     *v1alpha1.InjectionConfiguration
}

// Setup registers the reporter of labelled namespaces that are not listed, on the leader, if the configuration lists any.
func Setup(mgr ctrl.Manager, config *v1alpha1.InjectionConfiguration) error {
	if config.Everywhere() {
		return nil
	}
	others, err := labels.NewRequirement(corev1.LabelMetadataName, selection.NotIn, append([]string{metav1.NamespaceSystem}, config.Namespaces...))
	if err != nil {
		return fmt.Errorf("selecting the namespaces that are not listed: %w", err)
	}
	namespaces, err := cache.New(mgr.GetConfig(), cache.Options{
		HTTPClient: mgr.GetHTTPClient(), Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(),
		DefaultLabelSelector: controllers.NamespaceLabels.AsSelector().Add(*others),
		DefaultTransform:     cache.TransformStripManagedFields(),
	})
	if err != nil {
		return err
	}
	if err := mgr.Add(namespaces); err != nil {
		return err
	}
	r := &reporter{namespaces, config}
	watched, err := controller.New("unlisted", mgr, controller.Options{Reconciler: r})
	if err != nil {
		return err
	}
	return watched.Watch(source.Kind(namespaces, namespace(), &handler.TypedEnqueueRequestForObject[*metav1.PartialObjectMetadata]{}, selected))
}

const namespaceKind = "Namespace"

func namespace() *metav1.PartialObjectMetadata {
	return controllers.Metadata(corev1.SchemeGroupVersion.WithKind(namespaceKind))
}

// selected passes the namespaces that the cache's selector selects or no longer selects.
var selected = predicate.TypedFuncs[*metav1.PartialObjectMetadata]{
	UpdateFunc: func(event.TypedUpdateEvent[*metav1.PartialObjectMetadata]) bool { return false },
}

// Reconcile implements reconcile.Reconciler.
func (r *reporter) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	optedIn, err := controllers.OptedIn(ctx, r.namespaces, request.Name)
	switch {
	case err != nil:
		return reconcile.Result{}, err
	case !optedIn:
		unlisted.DeleteLabelValues(request.Name)
		return reconcile.Result{}, nil
	}
	unlisted.WithLabelValues(request.Name).Set(1)
	logf.FromContext(ctx).Error(nil, r.config.NotCovered(request.Name))
	return reconcile.Result{}, nil
}
