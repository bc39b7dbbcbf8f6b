// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

// Annotations of a VirtualMesh for a root change in stages. Not in the public API.
const (
	// RootRotationAnnotation is the last stage that the root change may reach: a RootRotation.
	RootRotationAnnotation = "istiod-agent.io/root-rotation"
	// TrustedRootsAnnotation holds the PEM certificates of all roots to trust during the change: the old ones first,
	// the new one last.
	TrustedRootsAnnotation = certificatesv1.TrustedRootsAnnotation
	// RotateFromSecretAnnotation names the Secret, in the namespace of each istiod, with istiod's previous CA, unless a
	// VirtualMesh provides that: istio-ca-secret of a self-signed istiod, or cacerts.
	RotateFromSecretAnnotation = "istiod-agent.io/rotate-from-secret" //nolint:gosec // the name of an annotation
)

// RootRotation is a value of RootRotationAnnotation.
type RootRotation string

// The values of RootRotationAnnotation.
const (
	// RotateNone cancels the change before istiods sign under the new root.
	RotateNone RootRotation = "none"
	// RotateTrustBoth allows StageTrustBoth, and so on.
	RotateTrustBoth   RootRotation = "trust-both"
	RotateSignWithNew RootRotation = "sign-with-new"
	RotateDropOld     RootRotation = "drop-old"
)

// RootRotationStage is a stage of a root change.
type RootRotationStage string

// The stages, in order.
const (
	// StageTrustBoth: istiods sign with their previous CA and publish all roots.
	StageTrustBoth RootRotationStage = "TrustBoth"
	// StageSignWithNew: istiods sign under the new root and publish all roots.
	StageSignWithNew RootRotationStage = "SignWithNew"
	// StageDropOld: istiods sign under the new root and publish it alone.
	StageDropOld RootRotationStage = "DropOld"
)

// RootRotationStages are all stages in order.
var RootRotationStages = []RootRotationStage{StageTrustBoth, StageSignWithNew, StageDropOld}

// RootRotationWords are the values that allow each of RootRotationStages.
var RootRotationWords = []RootRotation{RotateTrustBoth, RotateSignWithNew, RotateDropOld}

// RootRotationStatus is the progress of a root change in this cluster.
type RootRotationStatus struct {
	// The stage: TrustBoth (istiods sign with their previous CA and publish all roots), SignWithNew (they sign under
	// the new root and publish all roots) or DropOld (they publish the new root alone).
	// +kubebuilder:validation:MaxLength=64
	Stage RootRotationStage `json:"stage,omitempty"`
	// Whether every replica of every istiod of this cluster is confirmed to use the files of the stage.
	// +optional
	Complete bool `json:"complete"`
	// SHA-256 of the new root certificate (DER) in hexadecimal.
	// +kubebuilder:validation:MaxLength=128
	NewRoot string `json:"newRoot,omitempty"`
	// What the stage waits for, or what to do next.
	// +kubebuilder:validation:MaxLength=32768
	Message string `json:"message,omitempty"`
}

// At is the stage; empty without a root change.
func (s *RootRotationStatus) At() RootRotationStage {
	if s == nil {
		return ""
	}
	return s.Stage
}

// validateRotation validates the annotations of a root change.
func (m *VirtualMesh) validateRotation() field.ErrorList {
	path := field.NewPath("metadata", "annotations")
	value, given := m.Annotations[RootRotationAnnotation]
	if !given || RootRotation(value) == RotateNone {
		return nil
	}
	var errs field.ErrorList
	if RootRotation(value).Allowed() == 0 {
		errs = append(errs, field.NotSupported(path.Key(RootRotationAnnotation), value, append(slices.Clone(RootRotationWords), RotateNone)))
	}
	const expected = "expected PEM certificates of the roots to trust, the old ones first and the new one last"
	text, roots := m.Annotations[TrustedRootsAnnotation], path.Key(TrustedRootsAnnotation)
	switch parsed, err := pemcerts.ParseRoots([]byte(text)); {
	case strings.TrimSpace(text) == "":
		errs = append(errs, field.Required(roots, expected))
	case err != nil:
		errs = append(errs, field.Invalid(roots, field.OmitValueType{}, expected+": "+err.Error()))
	case len(parsed) < 2:
		errs = append(errs, field.Invalid(roots, field.OmitValueType{}, fmt.Sprintf("%s; found %d", expected, len(parsed))))
	}
	if secret, given := m.Annotations[RotateFromSecretAnnotation]; given {
		if problems := validation.IsDNS1123Subdomain(secret); len(problems) > 0 {
			errs = append(errs, field.Invalid(path.Key(RotateFromSecretAnnotation), secret, "expected the name of a Secret in istiod's namespace, such as istio-ca-secret"))
		}
	}
	return errs
}

// Allowed is the number of stages that a value allows: 0 for none and for an unknown value.
func (r RootRotation) Allowed() int {
	return slices.Index(RootRotationWords, r) + 1
}

// Number is the number of a stage, from 1; 0 for none.
func (s RootRotationStage) Number() int {
	return slices.Index(RootRotationStages, s) + 1
}
