// SPDX-License-Identifier: Apache-2.0

// Package restarts replaces the Pods of a mesh after a change of the root of trust, as a PodBounceDirective requests: a
// proxy trusts the root that it started with. istiod comes first, then gateways, then workloads, a few at a time, each when
// its namespace publishes the new root. Every step is written to the status of the directive before it is taken, so that no
// step is repeated after a crash.
//
// It restarts by a rollout of the Pods' owner, or by eviction. It never deletes a Pod, and never restarts one for a renewal
// under the same root.
package restarts

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/controllers"
	"github.com/istiod-agent/istiod-agent/internal/bounded"
	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

const (
	// maxConcurrent is the number of workloads that restart at a time. If all of them fail to become ready, the rollout
	// stops: the others would fail too.
	maxConcurrent = 5
	// pollInterval is how often a rollout is checked. Pods and workloads are not watched: rollouts are years apart, and
	// a cache would hold every Pod of the mesh.
	pollInterval = 3 * time.Second
	// rightsInterval is how often missing rights are checked again.
	rightsInterval = 30 * time.Second
)

// byDirective is the index of IssuedCertificates by their PodBounceDirective.
const byDirective = "podBounceDirective"

type reconciler struct {
	client client.Client
	live   client.Reader
	events events.EventRecorder
	rights *Rights
	now    func() time.Time
	// namespaces are those of the Pods that restart; empty for all.
	namespaces []string
}

// Setup registers the controller on the leader. The CRDs of PodBounceDirective and IssuedCertificate must exist. With
// namespaces, only Pods in them restart.
func Setup(ctx context.Context, mgr ctrl.Manager, rights *Rights, namespaces []string) error {
	c := &reconciler{
		client: mgr.GetClient(), live: mgr.GetAPIReader(), events: mgr.GetEventRecorder(controllers.Manager),
		rights: rights, now: time.Now, namespaces: namespaces,
	}
	err := mgr.GetFieldIndexer().IndexField(ctx, untyped(certificatesv1.Kind), byDirective, func(object client.Object) []string {
		key := directiveOf(object.(*unstructured.Unstructured)) //nolint:forcetypeassert // the indexed kind
		if key.Name == "" {
			return nil
		}
		return []string{key.String()}
	})
	if err != nil {
		return fmt.Errorf("indexing IssuedCertificates: %w", err)
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named("restarts").
		For(untyped(certificatesv1.PodBounceDirectiveKind)).
		Watches(untyped(certificatesv1.Kind), handler.EnqueueRequestsFromMapFunc(func(_ context.Context, object client.Object) []reconcile.Request {
			key := directiveOf(object.(*unstructured.Unstructured)) //nolint:forcetypeassert // the watched kind
			if key.Name == "" {
				return nil
			}
			return []reconcile.Request{{NamespacedName: key}}
		})).
		Complete(c)
}

func untyped(kind string) *unstructured.Unstructured {
	return controllers.Untyped(certificatesv1.GroupVersion.WithKind(kind))
}

// directiveOf is the PodBounceDirective of an IssuedCertificate; empty for one in another namespace: otherwise a user
// who can write IssuedCertificates in one namespace could restart other meshes.
func directiveOf(certificate *unstructured.Unstructured) types.NamespacedName {
	name, _, _ := unstructured.NestedString(certificate.Object, "spec", "podBounceDirective", "name")
	namespace, _, _ := unstructured.NestedString(certificate.Object, "spec", "podBounceDirective", "namespace")
	if namespace != "" && namespace != certificate.GetNamespace() {
		return types.NamespacedName{}
	}
	return types.NamespacedName{Namespace: certificate.GetNamespace(), Name: name}
}

// Reconcile implements reconcile.Reconciler.
func (c *reconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	object := untyped(certificatesv1.PodBounceDirectiveKind)
	if err := c.client.Get(ctx, request.NamespacedName, object); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	var directive certificatesv1.PodBounceDirective
	if object.GetDeletionTimestamp() != nil {
		return reconcile.Result{}, nil
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &directive); err != nil {
		logf.FromContext(ctx).Error(err, "PodBounceDirective is ignored: its fields have other types than in this release's CRD")
		return reconcile.Result{}, nil
	}
	if sets := len(directive.Spec.PodsToBounce); sets > certificatesv1.MaxPodSets {
		logf.FromContext(ctx).Error(nil, "PodBounceDirective is ignored: it has too many sets of Pods", "sets", sets, "limit", certificatesv1.MaxPodSets)
		return reconcile.Result{}, nil
	}
	mesh, err := c.mesh(ctx, request.NamespacedName)
	if err != nil || len(mesh.certificates) == 0 {
		return reconcile.Result{}, err
	}
	now := readRoots(mesh.replicas(), mesh.staged())
	var published []string
	if len(directive.Status.Roots) == 0 {
		if published, err = c.publishedRoots(ctx, mesh.namespaces()); err != nil {
			return reconcile.Result{}, err
		}
	}
	status := observeRoots(*directive.Status.DeepCopy(), now, published, metav1.NewTime(c.now()))
	var again time.Duration
	if status.State == certificatesv1.Restarting {
		again = pollInterval
		r := &rollout{reconciler: c, directive: object, mesh: mesh, roots: now, sets: podSetsOf(&directive), status: &status, gates: map[string]gate{}}
		switch lacking, err := c.rights.Lacking(ctx); {
		case err != nil:
			return reconcile.Result{}, err
		case lacking != "":
			status.Message, again = lacking, rightsInterval
		default:
			if err := r.advance(ctx); err != nil {
				return reconcile.Result{}, err
			}
		}
	}
	status.Message = bounded.Text(status.Message, certificatesv1.MaxStatusText) // it contains names that Pods report
	err = c.writeStatus(ctx, object, directive.Status, status)
	switch {
	case errors.Is(err, errDropped):
		c.event(ctx, object, nil, corev1.EventTypeWarning, reasonStatusDropped, err.Error())
		return reconcile.Result{}, nil
	case apierrors.IsConflict(err):
		return reconcile.Result{RequeueAfter: time.Second}, nil // decide again by the newer status
	case err != nil:
		return reconcile.Result{}, err
	}
	return reconcile.Result{RequeueAfter: again}, nil
}

// publishedRoots are the roots that the namespaces of istiod publish; empty before the first.
func (c *reconciler) publishedRoots(ctx context.Context, namespaces []string) ([]string, error) {
	var all []string
	for _, namespace := range namespaces {
		configMap, err := c.configMap(ctx, types.NamespacedName{Namespace: namespace, Name: istio.RootConfigMap})
		if err != nil {
			return nil, err
		}
		if configMap == nil {
			continue
		}
		if roots, err := pemcerts.Parse([]byte(configMap.Data[istio.RootCertFile])); err == nil {
			all = append(all, pemcerts.Fingerprints(roots)...)
		}
	}
	return all, nil
}
