// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const exampleMesh = "istiod-istio-system-cluster-1"

// meshDefault is the public API's default.
const meshDefault = "MESH_DEFAULT"

// Validate returns every mistake in a VirtualMesh with defaults, each with its path and the expected value, and
// warnings about unsupported fields and about valid but unsafe or ineffective settings. Neither contains a token, a
// password or a key.
func (m *VirtualMesh) Validate() (warnings []string, errs field.ErrorList) {
	spec, path := &m.Spec, field.NewPath("spec")
	warnings = spec.NotActedOn()
	if errs := m.bounds(); len(errs) > 0 {
		return warnings, errs
	}
	errs = append(m.validateRotation(), validateMeshes(path.Child("meshes"), spec.Meshes)...)
	if len(spec.Meshes) == 0 {
		warnings = append(warnings, fmt.Sprintf("%s: is empty, so nothing is done; name the meshes, such as %s", path.Child("meshes"), exampleMesh))
	}
	path = path.Child("mtlsConfig")
	if spec.MTLSConfig == nil {
		return append(warnings, path.String()+": is absent, so nothing is done; specify how the meshes trust each other"), errs
	}
	trustWarnings, trustErrs := spec.MTLSConfig.validate(path)
	return append(warnings, trustWarnings...), append(errs, trustErrs...)
}

// NotActedOn returns the unsupported parts of the specification, each with its path and reason. FromObject reports
// those without a Go type.
func (s *VirtualMeshSpec) NotActedOn() []string {
	parts := federationNotActedOn(s.Federation)
	if s.GlobalAccessPolicy != "" && s.GlobalAccessPolicy != meshDefault {
		parts = append(parts, notActedOn("spec.globalAccessPolicy", "only trust is set up; write Istio's AuthorizationPolicies"))
	}
	if s.MTLSConfig == nil {
		return parts
	}
	if s.MTLSConfig.Limited != nil {
		parts = append(parts, notActedOn("spec.mtlsConfig.limited", "the one way in which meshes trust each other is spec.mtlsConfig.shared"))
	}
	if shared := s.MTLSConfig.Shared; shared != nil && shared.RootCertificateAuthority != nil {
		parts = append(parts, notActedOn("spec.mtlsConfig.shared.rootCertificateAuthority",
			"no root's key is held here; use intermediateCertificateAuthority, whose key stays with the CA"))
	}
	return parts
}

func notActedOn(path, why string) string { return path + ": is not acted on: " + why }

func validateMeshes(path *field.Path, meshes []MeshRef) field.ErrorList {
	var errs field.ErrorList
	seen := make(map[MeshRef]bool, len(meshes))
	for i, mesh := range meshes {
		name, namespace := path.Index(i).Child("name"), path.Index(i).Child("namespace")
		_, suffix, pattern := mesh.Pattern()
		switch problems := validation.IsDNS1123Subdomain(strings.Replace(mesh.Name, "*", "x", 1)); {
		case mesh.Name == "":
			errs = append(errs, field.Required(name, "expected the mesh's name, such as "+exampleMesh))
		case pattern && (len(problems) > 0 || !strings.HasPrefix(suffix, "-")):
			errs = append(errs, field.Invalid(name, mesh.Name, "expected one star, then -<istiod's namespace>-<cluster>, in lower case, such as *-istio-system-cluster-1"))
		case len(problems) > 0:
			errs = append(errs, field.Invalid(name, mesh.Name, "expected <istiod's Deployment>-<its namespace>-<cluster>, in lower case, such as "+exampleMesh))
		case seen[mesh]:
			errs = append(errs, field.Duplicate(path.Index(i), mesh.Name))
		}
		seen[mesh] = true
		if mesh.Namespace != "" {
			for _, problem := range validation.IsDNS1123Label(mesh.Namespace) {
				errs = append(errs, field.Invalid(namespace, mesh.Namespace, problem))
			}
		}
	}
	return errs
}

func (c *MTLSConfig) validate(path *field.Path) (warnings []string, errs field.ErrorList) {
	switch {
	case c.Shared != nil && c.Limited != nil:
		errs = append(errs, field.Forbidden(path.Child("limited"), "expected none together with shared: meshes trust each other in one way"))
	case c.Shared == nil && c.Limited == nil:
		errs = append(errs, field.Required(path.Child("shared"), "expected shared: the way in which the meshes trust each other"))
	}
	if c.Shared == nil {
		return nil, errs
	}
	if c.AutoRestartPods {
		defer func() {
			warnings = append(warnings, path.Child("autoRestartPods").String()+": a change of the root restarts istiod, gateways and workloads, "+
				"and restarted Pods and others do not trust each other meanwhile; do not use it in production")
		}()
	}
	warnings, sharedErrs := c.Shared.validate(path.Child("shared"))
	return warnings, append(errs, sharedErrs...)
}

// validate checks options only where certificates are requested with them.
func (s *SharedTrust) validate(path *field.Path) (warnings []string, errs field.ErrorList) {
	root, intermediate := s.RootCertificateAuthority, s.IntermediateCertificateAuthority
	if root != nil && root.Generated != nil && root.Secret != nil {
		errs = append(errs, field.Forbidden(path.Child("rootCertificateAuthority", "secret"), "expected none together with generated: there is one root"))
	}
	if root != nil && intermediate != nil {
		errs = append(errs, field.Forbidden(path.Child("rootCertificateAuthority"),
			"expected none together with intermediateCertificateAuthority: certificates come from one CA"))
	}
	path, options := path.Child("intermediateCertificateAuthority"), path.Child("intermediateCertOptions")
	if intermediate == nil {
		if root == nil {
			errs = append(errs, field.Required(path, "expected the CA that signs each mesh's intermediate CA certificate"))
		}
		return nil, errs
	}
	warnings, sourceErrs := intermediate.Validate(path)
	if s.IntermediateCertOptions != nil {
		errs = append(errs, s.IntermediateCertOptions.Validate(options)...)
		if len(s.IntermediateCertOptions.PermittedURIDomains) > 0 {
			warnings = append(warnings, options.Child("permittedURIDomains").String()+": ztunnel from Istio 1.29.3 rejects all certificates "+
				"below a CA with these name constraints; do not use them for a mesh in ambient mode")
		}
	}
	return warnings, append(errs, sourceErrs...)
}
