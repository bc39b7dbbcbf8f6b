// SPDX-License-Identifier: Apache-2.0

// Package istiods handles stored istiods: it injects them when their namespace is labelled, reports outdated ones, and
// counts them by state. It runs on the leader only; admission does not need it.
package istiods

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"gomodules.xyz/jsonpatch/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/lru"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/controllers"
	"github.com/istiod-agent/istiod-agent/patches"
)

// restartedForAnnotation of a pod template holds the digest of the injection for which its Pods were last restarted.
// Writing it triggers the restart.
const restartedForAnnotation = "istiod-agent.io/restarted-for"

// Reasons that admission does not use, beside those of package patches.
//
//reasons:page istiods
const (
	// reasonMissing: State `missing`: istiod is in a labelled namespace and runs without the agent, or beside an agent
	// that it does not wait for. For example, volume `cacerts` is a Secret again, or the init container is gone. With
	// `target: pods`, an istiod without the Pods that it should have also counts, without an Event. Either
	// `injectExisting` is off or, with `target: pods`, the controller has already restarted it without success
	// ([Restarted](#restarted)).
	//
	// Remedy: restart it. An istiod in this state whose Event is [NoIstiodContainer](#noistiodcontainer) or
	// [CACertsElsewhere](#cacertselsewhere) cannot be injected: see there.
	//
	//	kubectl rollout restart -n istio-system deployment/istiod
	reasonMissing patches.Reason = "Missing"
	// reasonOutdated: State `outdated`: istiod gets its CA from the agent, but its injection is not current. Either
	// the configuration has changed since (another image, other options) and `rollout` is `manual`, or the injected
	// parts were changed while the webhook was down.
	//
	// Remedy: at a time that suits you, restart it:
	//
	//	kubectl rollout restart -n istio-system deployment/istiod
	reasonOutdated patches.Reason = "Outdated"
	// reasonRestarted: Only with `target: pods`: the controller replaces istiod's Pods, so that the new Pods are
	// injected. It does so once for each configuration (pod template annotation `istiod-agent.io/restarted-for`).
	//
	// Remedy: none. If Pods still lack the agent afterwards, the API server does not call the webhook for them: check
	// the webhook configuration.
	reasonRestarted patches.Reason = "Restarted"
)

// rolloutInterval is how often an unfinished rollout is checked, besides at each event of a Pod.
const rolloutInterval = 30 * time.Second

// Controller reconciles the istiod Deployments of opted-in namespaces.
type Controller struct {
	client   client.Client
	events   events.EventRecorder
	injector *patches.Injector
	// injectExisting and automatic permit restarts of istiod. Without both, the program writes no Deployment, and the chart
	// grants no right to.
	injectExisting, automatic bool
	// startedAt is when this program started.
	startedAt time.Time
	// reported and lacking are the last messages about each istiod.
	reported, lacking *lru.Cache
	// Lacking, if set, describes the rights that the agent lacks under a service account; empty when none.
	Lacking func(ctx context.Context, namespace, serviceAccount string) string
}

// New returns the reconciler.
func New(mgr ctrl.Manager, injector *patches.Injector, config *v1alpha1.InjectionConfiguration) *Controller {
	return &Controller{
		client:         mgr.GetClient(),
		events:         mgr.GetEventRecorder(controllers.Manager),
		injector:       injector,
		injectExisting: *config.InjectExisting,
		automatic:      config.Rollout == v1alpha1.RolloutAutomatic,
		startedAt:      time.Now(),
		reported:       lru.New(maxRemembered),
		lacking:        lru.New(maxRemembered),
	}
}

// SetupWithManager registers the controller on the leader, and its gauge.
func (r *Controller) SetupWithManager(mgr ctrl.Manager) error {
	inNamespace := controllers.PerNamespace(r.requestsForNamespace)
	b := ctrl.NewControllerManagedBy(mgr).
		Named("istiods").
		For(deployment(), builder.WithPredicates(controllers.Edited())).
		WatchesMetadata(&corev1.Namespace{}, inNamespace, builder.WithPredicates(predicate.LabelChangedPredicate{}))
	if r.injector.Target() == patches.Pod {
		b = b.Watches(pod(), inNamespace)
	}
	if err := b.Complete(r); err != nil {
		return err
	}
	return metrics.Registry.Register(&gauge{istiods: r, elected: mgr.Elected()})
}

// Reconcile implements reconcile.Reconciler.
func (r *Controller) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	istiod := deployment()
	if err := r.client.Get(ctx, request.NamespacedName, istiod); err != nil {
		if apierrors.IsNotFound(err) {
			r.reported.Remove(request.NamespacedName)
			r.lacking.Remove(request.NamespacedName)
		}
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	labelled, err := controllers.OptedIn(ctx, r.client, request.Namespace)
	if err != nil || !labelled {
		return reconcile.Result{}, err
	}
	found, err := r.inspect(ctx, istiod)
	if err != nil {
		return reconcile.Result{}, err
	}
	if found.waiting {
		return reconcile.Result{RequeueAfter: rolloutInterval}, nil
	}

	r.reportLacking(ctx, istiod, found)
	operations, report := r.decide(istiod, found)
	if len(operations) > 0 {
		if err := r.patch(ctx, istiod, operations); err != nil {
			if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
				return reconcile.Result{RequeueAfter: time.Second}, nil // it changed meanwhile
			}
			r.notify(ctx, istiod, corev1.EventTypeWarning, report.Reason, "could not change the Deployment, retrying: "+err.Error())
			return reconcile.Result{}, fmt.Errorf("patching Deployment %s: %w", request, err)
		}
	}
	kind := corev1.EventTypeNormal
	if len(operations) == 0 && (found.state == patches.StateMissing || found.state == patches.StateOutdated || len(report.Warnings) > 0) {
		kind = corev1.EventTypeWarning
	}
	if kind == corev1.EventTypeNormal && report.Reason == patches.AlreadyInjected && r.alreadyReported(istiod) {
		return reconcile.Result{}, nil
	}
	r.notify(ctx, istiod, kind, report.Reason, report.Message)
	return reconcile.Result{}, nil
}

// alreadyReported reports whether the state injected needs no Event: it was just recorded, or older than this program, which
// would otherwise write an Event for each istiod at every start.
func (r *Controller) alreadyReported(istiod *unstructured.Unstructured) bool {
	last, reported := r.reported.Get(client.ObjectKeyFromObject(istiod))
	if !reported {
		return istiod.GetCreationTimestamp().Time.Before(r.startedAt)
	}
	message, _ := last.(string)
	return strings.HasPrefix(message, string(patches.Injected)+": ")
}

// decide returns the changes of the Deployment, for most none, and the report.
func (r *Controller) decide(istiod *unstructured.Unstructured, found inspection) ([]jsonpatch.Operation, patches.Report) {
	report := found.result.Report
	allowed := r.injectExisting
	command := "kubectl rollout restart -n " + istiod.GetNamespace() + " deployment/" + istiod.GetName()
	switch found.state {
	case patches.StateMissing:
		if report.Denied() {
			return nil, report
		}
		report = patches.Report{Reason: reasonMissing, Message: "istiod runs without the agent; it is injected at its next change, or by: " + command}
	case patches.StateOutdated:
		allowed = r.automatic
		report = patches.Report{Reason: reasonOutdated, Message: "istiod runs with the agent of an earlier configuration; it is updated at its next change, or by: " + command}
	case patches.StateSkipped:
		if r.injector.Target() != patches.Deployment || len(found.result.Operations) == 0 {
			return nil, report
		}
		// An opt-out while the webhook was down; or an istiod whose CA was turned off before this version, which removes the agent
		// from it. That one runs, and an upgrade restarts no istiod by default.
		because, allowed := "istiod has opted out and", r.injectExisting || r.automatic // else the program has no right to patch
		if report.Reason == patches.NoBuiltInCA {
			because, allowed = "istiod's CA is off, and istiod", r.automatic
		}
		if !allowed {
			remains := because + " still runs the agent; it is removed at its next change, or by: " + command
			return nil, patches.Report{Reason: report.Reason, Message: remains, Warnings: []string{remains}}
		}
		return found.result.Operations, report
	case patches.StateInjected:
		return nil, report
	}

	if !allowed {
		return nil, report
	}
	if r.injector.Target() == patches.Deployment {
		return found.result.Operations, found.result.Report
	}
	if found.restartedFor == r.injector.Digest() {
		return nil, report // a second restart would not help either
	}
	return restart(istiod, r.injector.Digest()), patches.Report{Reason: reasonRestarted, Message: "istiod's Pods are replaced so that the new ones are injected"}
}

// restart writes the annotation that makes the Deployment controller replace the Pods, as `kubectl rollout restart` does.
func restart(istiod *unstructured.Unstructured, digest string) []jsonpatch.Operation {
	annotations, _, _ := unstructured.NestedMap(istiod.Object, "spec", "template", "metadata", "annotations")
	if annotations == nil {
		return []jsonpatch.Operation{jsonpatch.NewOperation("add", "/spec/template/metadata/annotations", map[string]string{restartedForAnnotation: digest})}
	}
	return []jsonpatch.Operation{jsonpatch.NewOperation("add", "/spec/template/metadata/annotations/istiod-agent.io~1restarted-for", digest)}
}

// patch applies operations to exactly the version of the Deployment that they were made for.
func (r *Controller) patch(ctx context.Context, istiod *unstructured.Unstructured, operations []jsonpatch.Operation) error {
	version := jsonpatch.NewOperation("replace", "/metadata/resourceVersion", istiod.GetResourceVersion())
	raw, err := json.Marshal(append([]jsonpatch.Operation{version}, operations...))
	if err != nil {
		return err
	}
	return r.client.Patch(ctx, istiod, client.RawPatch(types.JSONPatchType, raw), client.FieldOwner(controllers.Manager))
}

// requestsForNamespace requests every istiod of a namespace.
func (r *Controller) requestsForNamespace(ctx context.Context, namespace string) []reconcile.Request {
	istiods, err := controllers.List(ctx, r.client, controllers.DeploymentKind, client.InNamespace(namespace))
	if err != nil {
		logf.FromContext(ctx).Error(err, "Failed to list istiods", "namespace", namespace)
		return nil
	}
	return controllers.Requests(istiods)
}

// notify records a message about an istiod, once while it stays the same.
func (r *Controller) notify(ctx context.Context, istiod *unstructured.Unstructured, kind string, reason patches.Reason, message string) {
	if !changed(r.reported, client.ObjectKeyFromObject(istiod), string(reason)+": "+message) {
		return
	}
	controllers.Record(ctx, r.events, controllers.Event{Object: istiod, Type: kind, Reason: string(reason), Action: "Inject", Message: message})
}
