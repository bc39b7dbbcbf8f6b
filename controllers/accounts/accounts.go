// SPDX-License-Identifier: Apache-2.0

// Package accounts grants the service accounts of injected istiods the rights of the agent. In each configured
// namespace it writes the subjects of the one RoleBinding that the chart creates. It never creates, deletes or rebinds
// a role, and needs only the right to patch that RoleBinding.
package accounts

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/controllers"
	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/patches"
)

const (
	// checkInterval is how often the subjects are checked, since RoleBindings are not watched; retryInterval is how
	// often a missing RoleBinding is looked up.
	checkInterval, retryInterval = 10 * time.Minute, time.Minute
	// maxAccounts is the number of subjects of a RoleBinding.
	maxAccounts = 100
)

// reconciler writes the subjects.
type reconciler struct {
	client client.Client
	live   client.Reader
	rights v1alpha1.AgentRights
	target patches.Kind
}

// Setup registers the controller on the leader, if namespaces are configured.
func Setup(mgr ctrl.Manager, rights v1alpha1.AgentRights, target patches.Kind) error {
	if len(rights.Namespaces) == 0 {
		return nil
	}
	c := &reconciler{client: mgr.GetClient(), live: mgr.GetAPIReader(), rights: rights, target: target}
	namespace := controllers.PerNamespace(func(_ context.Context, name string) []reconcile.Request {
		if !rights.Covers(name) {
			return nil
		}
		return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: name}}}
	})
	return ctrl.NewControllerManagedBy(mgr).
		Named("accounts").
		Watches(controllers.Untyped(controllers.DeploymentKind), namespace, builder.WithPredicates(controllers.Edited())).
		WatchesMetadata(&corev1.Namespace{}, namespace, builder.WithPredicates(predicate.LabelChangedPredicate{})).
		Complete(c)
}

// Reconcile implements reconcile.Reconciler. A request names a namespace.
func (c *reconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	accounts, err := c.accounts(ctx, request.Name)
	if err != nil {
		return reconcile.Result{}, err
	}
	key := types.NamespacedName{Namespace: request.Name, Name: c.rights.RoleBinding}
	var binding rbacv1.RoleBinding
	switch err := c.live.Get(ctx, key, &binding); {
	case apierrors.IsNotFound(err), apierrors.IsForbidden(err):
		if len(accounts) > 0 {
			logf.FromContext(ctx).Error(err, "RoleBinding of istiodSidecar.namespaces cannot be read: agents have no rights by it until the next upgrade of the chart creates it", "roleBinding", key)
		}
		return reconcile.Result{RequeueAfter: retryInterval}, nil
	case err != nil:
		return reconcile.Result{}, err
	}
	desired := subjects(request.Name, accounts)
	if slices.Equal(binding.Subjects, desired) {
		return reconcile.Result{RequeueAfter: checkInterval}, nil
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": binding.ResourceVersion}, "subjects": desired,
	})
	if err != nil {
		return reconcile.Result{}, err
	}
	if err := c.client.Patch(ctx, &binding, client.RawPatch(types.MergePatchType, patch)); err != nil {
		if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			return reconcile.Result{RequeueAfter: time.Second}, nil
		}
		return reconcile.Result{}, fmt.Errorf("patching the subjects of RoleBinding %s: %w", key, err)
	}
	logf.FromContext(ctx).Info("Wrote the subjects of the RoleBinding", "roleBinding", key, "serviceAccounts", accounts)
	return reconcile.Result{RequeueAfter: checkInterval}, nil
}

// accounts are the service accounts of the istiods of a namespace that are injected or still run the agent.
func (c *reconciler) accounts(ctx context.Context, namespace string) ([]string, error) {
	istiods, err := controllers.List(ctx, c.client, controllers.DeploymentKind, client.InNamespace(namespace))
	if err != nil {
		return nil, fmt.Errorf("listing istiods of namespace %s: %w", namespace, err)
	}
	var accounts []string
	for i := range istiods {
		istiod := &istiods[i]
		notSelected, err := controllers.NotSelected(ctx, c.client, istiod, c.target)
		if err != nil {
			return nil, err
		}
		account := istio.ServiceAccount(istiod)
		// Of a large one, the cache has no containers: it may have grown while its agent runs.
		if notSelected != "" && controllers.TooLarge(istiod) == "" && !hasAgent(istiod) || account == istio.DefaultServiceAccount {
			continue
		}
		accounts = append(accounts, account)
	}
	slices.Sort(accounts)
	accounts = slices.Compact(accounts)
	if more := len(accounts) - maxAccounts; more > 0 {
		logf.FromContext(ctx).Error(nil, "Too many service accounts of istiods: the last ones get no rights; list them in istiodSidecar.serviceAccounts", "namespace", namespace, "accounts", len(accounts), "limit", maxAccounts)
		accounts = accounts[:maxAccounts]
	}
	return accounts, nil
}

func subjects(namespace string, accounts []string) []rbacv1.Subject {
	subjects := make([]rbacv1.Subject, 0, len(accounts)) // [] instead of null
	for _, account := range accounts {
		subjects = append(subjects, rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Name: account, Namespace: namespace})
	}
	return subjects
}

// hasAgent reports whether a Deployment still runs the agent, which needs its rights until the end.
func hasAgent(istiod *unstructured.Unstructured) bool {
	for _, field := range []string{"initContainers", "containers"} {
		containers, _, _ := unstructured.NestedSlice(istiod.Object, "spec", "template", "spec", field)
		for _, container := range containers {
			if container, ok := container.(map[string]any); ok && container["name"] == patches.AgentContainer {
				return true
			}
		}
	}
	return false
}
