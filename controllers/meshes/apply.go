// SPDX-License-Identifier: Apache-2.0

package meshes

import (
	"context"
	"encoding/json"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/controllers"
)

// ensure makes an object, or makes it so, by server-side apply: what others write on it, such as the annotation that asks
// for a renewal, stays.
func (c *reconciler) apply(ctx context.Context, object client.Object, stored *unstructured.Unstructured) error {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		return err
	}
	delete(content, "status")
	desired := &unstructured.Unstructured{Object: content}
	key := client.ObjectKeyFromObject(object)
	switch err := c.client.Get(ctx, key, stored); {
	case apierrors.IsNotFound(err):
	case err != nil:
		return err
	case upToDate(stored, desired):
		return nil
	}
	if err := c.client.Apply(ctx, client.ApplyConfigurationFromUnstructured(desired), client.FieldOwner(controllers.Manager), client.ForceOwnership); err != nil {
		return fmt.Errorf("writing %s %s: %w", desired.GetKind(), key, err)
	}
	logf.FromContext(ctx).Info("Applied object of VirtualMesh", "kind", desired.GetKind(), "object", key)
	return nil
}

// upToDate says whether all that is wanted is there as it is wanted.
func upToDate(stored, desired *unstructured.Unstructured) bool {
	for key, value := range desired.GetLabels() {
		if stored.GetLabels()[key] != value {
			return false
		}
	}
	for key, value := range desired.GetAnnotations() {
		if stored.GetAnnotations()[key] != value {
			return false
		}
	}
	for _, key := range []string{certificatesv1.TrustedRootsAnnotation, certificatesv1.CAFromSecretAnnotation} {
		if stored.GetAnnotations()[key] != desired.GetAnnotations()[key] {
			return false
		}
	}
	a, errA := json.Marshal(stored.Object["spec"])
	b, errB := json.Marshal(desired.Object["spec"])
	return errA == nil && errB == nil && string(a) == string(b)
}

// prune deletes what was made for a VirtualMesh, but what is to be kept, and what another VirtualMesh names: that takes it
// over.
func (c *reconciler) prune(ctx context.Context, of types.NamespacedName, keep ...retention) error {
	for _, each := range keep {
		made, err := c.list(ctx, each.of, client.MatchingFields{byVirtualMesh: of.String()})
		if err != nil {
			return fmt.Errorf("listing %ss: %w", each.of.Kind, err)
		}
		for i := range made {
			key := client.ObjectKeyFromObject(&made[i])
			if made[i].GetDeletionTimestamp() != nil || each.keep(key) {
				continue
			}
			others, err := c.claimedByOther(ctx, key, of)
			if err != nil {
				return err
			}
			if others {
				continue
			}
			// Just what was read: another VirtualMesh may have taken it over since.
			exactly := client.Preconditions{UID: new(made[i].GetUID()), ResourceVersion: new(made[i].GetResourceVersion())}
			if err := c.client.Delete(ctx, made[i].DeepCopy(), exactly); client.IgnoreNotFound(err) != nil {
				return err
			}
			logf.FromContext(ctx).Info("Deleted object that no VirtualMesh needs; istiod keeps its current CA", "kind", made[i].GetKind(), "object", key)
		}
	}
	return nil
}

// retention says which objects of a kind are not deleted.
type retention struct {
	of   schema.GroupVersionKind
	keep func(types.NamespacedName) bool
}

// keepings are those of a plan.
func (p *meshPlan) retentions() []retention {
	planned, directives := map[types.NamespacedName]bool{}, map[types.NamespacedName]bool{}
	for _, certificate := range p.Certificates {
		planned[keyOf(certificate)] = true
	}
	for _, directive := range p.Directives {
		directives[client.ObjectKeyFromObject(directive)] = true
	}
	return []retention{
		{podBounceDirectiveKind, func(key types.NamespacedName) bool { return directives[key] || p.Retain[key.Name] && !planned[key] }},
		{issuedCertificateKind, func(key types.NamespacedName) bool { return p.Retain[key.Name] }},
	}
}
