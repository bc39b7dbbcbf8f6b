// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	"context"
	"fmt"
	"net/http"
	"reflect"

	"github.com/go-logr/logr"
	admissionv1 "k8s.io/api/admission/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/internal/bounded"
	"github.com/istiod-agent/istiod-agent/patches"
)

// VirtualMeshPath is the path of reviews of VirtualMeshes.
const VirtualMeshPath = "/validate-networking-mesh-gloo-solo-io-v1-virtualmesh"

// The reasons of responses about VirtualMeshes.
//
//reasons:page virtualmesh
const (
	// validVirtualMesh: Allowed, unchanged: a valid [VirtualMesh](virtual-mesh.md). Fields that the controller does
	// not act on cause warnings.
	//
	// Remedy: none.
	validVirtualMesh patches.Reason = "ValidVirtualMesh"
	// invalidVirtualMesh: Denied: an invalid `VirtualMesh`. The message lists every mistake with its field.
	//
	// Remedy: correct the fields. The [API reference](api.md#virtualmeshspec) and `kubectl explain virtualmesh.spec`
	// describe them.
	invalidVirtualMesh patches.Reason = "InvalidVirtualMesh"
	// unchangedSpecification: Allowed, unchanged: a change of a `VirtualMesh`'s labels, annotations or finalizers.
	//
	// Remedy: none.
	unchangedSpecification patches.Reason = "UnchangedSpecification"
	// namespaceNotAllowed: Allowed, unchanged, with a warning; also a reason of the condition `Ready`. The
	// `VirtualMesh` is in a namespace whose `VirtualMesh`es [do not count](virtual-mesh.md#which-virtualmeshes-count).
	// It may be for another program, such as Gloo Mesh.
	//
	// Remedy: if it is for istiod-agent, create it in one of the namespaces in the message, or add its namespace to
	// the chart's value `virtualMesh.namespaces`.
	namespaceNotAllowed patches.Reason = "NamespaceNotAllowed"
)

// virtualMeshes answers admission reviews of VirtualMeshes. It refuses an invalid one with the path of every mistake, warns
// about fields that have no effect, and changes nothing.
type virtualMeshes struct {
	recorder
	config v1alpha1.VirtualMesh
}

func newVirtualMeshes(config v1alpha1.VirtualMesh, log logr.Logger) *virtualMeshes {
	return &virtualMeshes{recorder: newRecorder(networkingv1.Kind, log), config: config}
}

// Handle implements admission.Handler.
func (v *virtualMeshes) Handle(_ context.Context, req admission.Request) admission.Response {
	if size := max(len(req.Object.Raw), len(req.OldObject.Raw)); size > maxObject {
		return v.record(req, failed, patches.Malformed, admission.Errored(http.StatusRequestEntityTooLarge, fmt.Errorf("the VirtualMesh is larger than %d bytes, the maximum that an API server stores", maxObject)))
	}
	var object, old map[string]any
	if err := json.Unmarshal(req.Object.Raw, &object); err != nil {
		return v.record(req, failed, patches.Malformed, admission.Errored(http.StatusBadRequest, err))
	}
	if req.Operation == admissionv1.Update && json.Unmarshal(req.OldObject.Raw, &old) == nil && reflect.DeepEqual(reviewedParts(old), reviewedParts(object)) {
		return v.record(req, allowed, unchangedSpecification, admission.Allowed("the specification does not change"))
	}
	if !v.config.Allows(req.Namespace) {
		response := admission.Allowed("")
		response.Warnings = []string{"istiod-agent: " + string(namespaceNotAllowed) + ": " + v.config.NotAllowed(req.Namespace)}
		return v.record(req, allowed, namespaceNotAllowed, response)
	}
	mesh, unknown, errs := networkingv1.FromObject(object)
	mesh.Spec.SetDefaults()
	warnings, validationErrs := mesh.Validate()
	if errs = append(errs, validationErrs...); len(errs) > 0 {
		errs = truncateErrors(errs)
		response := admission.Denied("")
		response.Result = &apierrors.NewInvalid(networkingv1.GroupVersion.WithKind(networkingv1.Kind).GroupKind(), bounded.Text(mesh.Name, maxName), errs).ErrStatus
		return v.record(req, denied, invalidVirtualMesh, response)
	}
	response := admission.Allowed("")
	for _, warning := range bounded.List(append(warnings, unknown...), maxWarnings) {
		response.Warnings = append(response.Warnings, "istiod-agent: "+warning)
	}
	return v.record(req, allowed, validVirtualMesh, response)
}

const (
	maxName = 253
	// maxObject is the most bytes of an object: etcd takes no larger request by default.
	maxObject = 3 << 19
	// maxMistakes is the most that one answer lists.
	maxMistakes = 20
)

// truncateErrors bounds the number and the length of mistakes.
func truncateErrors(errs field.ErrorList) field.ErrorList {
	truncated := make(field.ErrorList, 0, min(len(errs), maxMistakes+1))
	for i, err := range errs {
		if i == maxMistakes {
			return append(truncated, field.TooMany(nil, len(errs), maxMistakes))
		}
		cut := *err
		cut.Field, cut.Detail = bounded.Text(err.Field, maxName), bounded.Message(err.Detail)
		if value, ok := err.BadValue.(string); ok {
			cut.BadValue = bounded.Text(value, maxName)
		}
		truncated = append(truncated, &cut)
	}
	return truncated
}

// reviewedParts returns the parts of a VirtualMesh that the controller uses.
func reviewedParts(object map[string]any) []any {
	all := []any{object["spec"]}
	for _, annotation := range []string{networkingv1.RootRotationAnnotation, networkingv1.TrustedRootsAnnotation, networkingv1.RotateFromSecretAnnotation} {
		value, _, _ := unstructured.NestedString(object, "metadata", "annotations", annotation)
		all = append(all, value)
	}
	return all
}
