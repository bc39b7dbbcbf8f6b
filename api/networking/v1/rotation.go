// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

// Annotations of a VirtualMesh by which a person has the root of trust change in stages. Not in the public API.
const (
	// RootRotationAnnotation says how far the change may go: a RootRotation.
	RootRotationAnnotation = "istiod-agent.io/root-rotation"
	// TrustedRootsAnnotation holds PEM certificates of all roots to trust meanwhile: the old ones first, the new one last.
	TrustedRootsAnnotation = certificatesv1.TrustedRootsAnnotation
	// RotateFromSecretAnnotation names the Secret, in each istiod's namespace, with the CA that istiod has used so far,
	// where that comes from no VirtualMesh: istio-ca-secret of a self-signed istiod, or cacerts.
	RotateFromSecretAnnotation = "istiod-agent.io/rotate-from-secret" //nolint:gosec // the name of an annotation
)

// RootRotation is how far a change of the root may go.
type RootRotation string

// The values of RootRotationAnnotation.
const (
	// RotateNone gives the change up, before istiods sign under the new root.
	RotateNone RootRotation = "none"
	// RotateTrustBoth goes as far as StageTrustBoth, and so on.
	RotateTrustBoth   RootRotation = "trust-both"
	RotateSignWithNew RootRotation = "sign-with-new"
	RotateDropOld     RootRotation = "drop-old"
)

// RootRotationStage is how far a change of the root is.
type RootRotationStage string

// The stages, in their order.
const (
	// StageTrustBoth has istiods sign with the CA that they have, and publish all roots as trusted.
	StageTrustBoth RootRotationStage = "TrustBoth"
	// StageSignWithNew has istiods sign under the new root, and publish all roots as trusted.
	StageSignWithNew RootRotationStage = "SignWithNew"
	// StageDropOld has istiods sign under the new root, and publish it alone.
	StageDropOld RootRotationStage = "DropOld"
)

// RootRotationStages are all stages in their order.
var RootRotationStages = []RootRotationStage{StageTrustBoth, StageSignWithNew, StageDropOld}

// RootRotationWords are the values that allow each of RootRotationStages.
var RootRotationWords = []RootRotation{RotateTrustBoth, RotateSignWithNew, RotateDropOld}

// RootRotationStatus is how far a change of the root is in this cluster.
type RootRotationStatus struct {
	// How far it is: TrustBoth (istiods sign with the CA that they have, and all roots are trusted), SignWithNew
	// (istiods sign under the new root, and all are trusted) or DropOld (the new root alone is trusted).
	//
	// +kubebuilder:validation:MaxLength=64
	Stage RootRotationStage `json:"stage,omitempty"`
	// Whether every replica of every istiod of this cluster was seen to have loaded what the stage asks for.
	// +optional
	Complete bool `json:"complete"`
	// SHA-256 of the new root certificate (DER) in hexadecimal.
	//
	// +kubebuilder:validation:MaxLength=128
	NewRoot string `json:"newRoot,omitempty"`
	// What is waited for, or what to do next.
	//
	// +kubebuilder:validation:MaxLength=32768
	Message string `json:"message,omitempty"`
}

// At is the stage, none where there is no change of the root.
func (s *RootRotationStatus) At() RootRotationStage {
	if s == nil {
		return ""
	}
	return s.Stage
}

// validateRotation finds the mistakes in the annotations that change the root.
func (m *VirtualMesh) validateRotation() field.ErrorList {
	path := field.NewPath("metadata", "annotations")
	word, given := m.Annotations[RootRotationAnnotation]
	if !given {
		return nil
	}
	var errs field.ErrorList
	switch RootRotation(word) {
	case RotateNone:
		return nil
	case RotateTrustBoth, RotateSignWithNew, RotateDropOld:
	default:
		errs = append(errs, field.NotSupported(path.Key(RootRotationAnnotation), word, []RootRotation{RotateTrustBoth, RotateSignWithNew, RotateDropOld, RotateNone}))
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

// Allowed is the number of stages that a word allows: 0 for none, or one that is unknown.
func (r RootRotation) Allowed() int {
	for i, word := range RootRotationWords {
		if r == word {
			return i + 1
		}
	}
	return 0
}

// Number is that of a stage, from 1; 0 for none.
func (s RootRotationStage) Number() int {
	for i, stage := range RootRotationStages {
		if s == stage {
			return i + 1
		}
	}
	return 0
}
