// SPDX-License-Identifier: Apache-2.0

package clusters

import (
	"context"
	"encoding/json"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
)

// The resources of this project's kinds, as RBAC rules name them.
var (
	VirtualMeshes      = networkingv1.VirtualMeshes.GroupResource().String()
	IssuedCertificates = certificatesv1.IssuedCertificates.GroupResource().String()
)

// The kinds themselves. Their objects are read untyped, since another program may have written fields that do not decode.
var (
	VirtualMeshKind       = networkingv1.GroupVersion.WithKind(networkingv1.Kind)
	IssuedCertificateKind = certificatesv1.GroupVersion.WithKind(certificatesv1.Kind)
)

// Get reads an object of any kind.
func (c *Cluster) Get(ctx context.Context, kind schema.GroupVersionKind, key types.NamespacedName) (*unstructured.Unstructured, error) {
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(kind)
	return object, c.Client.Get(ctx, key, object)
}

// List reads the objects of any kind.
func (c *Cluster) List(ctx context.Context, kind schema.GroupVersionKind, options ...client.ListOption) ([]unstructured.Unstructured, error) {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
	err := c.Client.List(ctx, list, options...)
	return list.Items, err
}

// Annotate sets annotations of an object, and removes those whose value is nil.
func (c *Cluster) Annotate(ctx context.Context, kind schema.GroupVersionKind, key types.NamespacedName, annotations map[string]any, options ...client.PatchOption) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": annotations}})
	if err != nil {
		return err
	}
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(kind)
	object.SetNamespace(key.Namespace)
	object.SetName(key.Name)
	return c.Client.Patch(ctx, object, client.RawPatch(types.MergePatchType, patch), append(options, client.FieldOwner("kubectl-istiod_agent"))...)
}

// DecodeStatus decodes an object's status into a pointer to a struct, and reports whether it has this form.
func DecodeStatus(object *unstructured.Unstructured, status any) bool {
	stored, _, _ := unstructured.NestedMap(object.Object, "status")
	return runtime.DefaultUnstructuredConverter.FromUnstructured(stored, status) == nil
}

// IssuedCertificate decodes the fields that the commands read. Fields that do not decode stay empty.
func IssuedCertificate(object *unstructured.Unstructured) *certificatesv1.IssuedCertificate {
	certificate := &certificatesv1.IssuedCertificate{ObjectMeta: metav1.ObjectMeta{
		Name: object.GetName(), Namespace: object.GetNamespace(), CreationTimestamp: object.GetCreationTimestamp(),
	}}
	certificate.Spec.Hosts, _, _ = unstructured.NestedStringSlice(object.Object, "spec", "hosts")
	var ca certificatesv1.IntermediateCertificateAuthority
	if content, found, err := unstructured.NestedMap(object.Object, "spec", "agentCa"); err == nil && found && runtime.DefaultUnstructuredConverter.FromUnstructured(content, &ca) == nil {
		certificate.Spec.AgentCA = &ca
	}
	_ = DecodeStatus(object, &certificate.Status)
	return certificate
}
