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

// apply creates or updates an object by server-side apply. Fields of other managers stay, such as the annotation that
// requests a renewal.
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

// upToDate reports whether the stored object has all desired labels, annotations and the desired spec.
func upToDate(stored, desired *unstructured.Unstructured) bool {
	differs := func(stored, desired map[string]string) bool {
		for key, value := range desired {
			if stored[key] != value {
				return true
			}
		}
		return false
	}
	if differs(stored.GetLabels(), desired.GetLabels()) || differs(stored.GetAnnotations(), desired.GetAnnotations()) {
		return false
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

// prune deletes the objects that were applied for a VirtualMesh, except those to retain and those that another
// VirtualMesh claims and takes over.
func (c *reconciler) prune(ctx context.Context, mesh types.NamespacedName, rules ...retention) error {
	for _, rule := range rules {
		stored, err := c.list(ctx, rule.kind, client.MatchingFields{byVirtualMesh: mesh.String()})
		if err != nil {
			return fmt.Errorf("listing %ss: %w", rule.kind.Kind, err)
		}
		for i := range stored {
			key := client.ObjectKeyFromObject(&stored[i])
			if stored[i].GetDeletionTimestamp() != nil || rule.retain(key) {
				continue
			}
			claimed, err := c.claimedByOther(ctx, key, mesh)
			if err != nil {
				return err
			}
			if claimed {
				continue
			}
			// Only the version that was read: another VirtualMesh may have taken it over since.
			precondition := client.Preconditions{UID: new(stored[i].GetUID()), ResourceVersion: new(stored[i].GetResourceVersion())}
			if err := c.client.Delete(ctx, stored[i].DeepCopy(), precondition); client.IgnoreNotFound(err) != nil {
				return err
			}
			logf.FromContext(ctx).Info("Deleted object that no VirtualMesh needs; istiod keeps its current CA", "kind", stored[i].GetKind(), "object", key)
		}
	}
	return nil
}

// retention decides which objects of a kind are not deleted.
type retention struct {
	kind   schema.GroupVersionKind
	retain func(types.NamespacedName) bool
}

// retentions are the rules of a plan.
func (p *meshPlan) retentions() []retention {
	planned, directives := map[types.NamespacedName]bool{}, map[types.NamespacedName]bool{}
	for _, certificate := range p.Certificates {
		planned[client.ObjectKeyFromObject(certificate)] = true
	}
	for _, directive := range p.Directives {
		directives[client.ObjectKeyFromObject(directive)] = true
	}
	return []retention{
		{podBounceDirectiveKind, func(key types.NamespacedName) bool { return directives[key] || p.Retain[key.Name] && !planned[key] }},
		{issuedCertificateKind, func(key types.NamespacedName) bool { return p.Retain[key.Name] }},
	}
}
