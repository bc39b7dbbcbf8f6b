// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"fmt"
	"net/url"
	"strings"
	"unicode"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validateLogin requires one login. server is nil where it is not valid.
func (v *VaultCA) validateLogin(path *field.Path, server *url.URL) (warnings []string, errs field.ErrorList) {
	names := []string{"kubernetesAuth", "jwtAuth", "appRoleAuth", "certAuth", "tokenSecretRef"}
	set := []bool{v.KubernetesAuth != nil, v.JWTAuth != nil, v.AppRoleAuth != nil, v.CertAuth != nil, v.TokenSecretRef != nil}
	first := ""
	for i, name := range names {
		switch {
		case !set[i]:
		case first == "":
			first = name
		default:
			errs = append(errs, field.Forbidden(path.Child(name), "expected none together with "+first+": there is one way to log in"))
		}
	}
	if first == "" {
		errs = append(errs, field.Required(path.Child("kubernetesAuth"), "expected a way to log in to Vault: kubernetesAuth, jwtAuth, appRoleAuth, certAuth or tokenSecretRef"))
	}
	errs = append(errs, v.TokenSecretRef.validate(path.Child("tokenSecretRef"))...)
	if v.KubernetesAuth != nil {
		authWarnings, authErrs := v.KubernetesAuth.validate(path.Child("kubernetesAuth"))
		warnings, errs = append(warnings, authWarnings...), append(errs, authErrs...)
	}
	if v.JWTAuth != nil {
		errs = append(errs, v.JWTAuth.validate(path.Child("jwtAuth"))...)
	}
	if v.AppRoleAuth != nil {
		errs = append(errs, v.AppRoleAuth.validate(path.Child("appRoleAuth"))...)
	}
	if v.CertAuth != nil {
		errs = append(errs, v.CertAuth.validate(path.Child("certAuth"))...)
		if server != nil && server.Scheme == "http" {
			errs = append(errs, field.Forbidden(path.Child("certAuth"), "expected none with an http:// server: a client certificate needs TLS; use https://"))
		}
	}
	return warnings, errs
}

func (a *KubernetesAuth) validate(path *field.Path) (warnings []string, errs field.ErrorList) {
	errs = a.validateCommon(path, "Kubernetes", DefaultMountPath)
	if a.Audience == "" {
		warnings = append(warnings, fmt.Sprintf("%s: is not set, so the agent sends a token that the API server accepts too: the server that receives it can act as istiod's service account until the token expires. "+
			"To end that, set audience: vault here and audience=vault in Vault's role", path.Child("audience")))
	}
	return warnings, errs
}

func (a *JWTAuth) validate(path *field.Path) field.ErrorList {
	errs := (*KubernetesAuth)(a).validateCommon(path, "JWT", DefaultJWTMountPath)
	if a.Audience == "" {
		errs = append(errs, field.Required(path.Child("audience"), "expected the audience that Vault's role requires (bound_audiences), such as vault"))
	}
	return errs
}

// validateCommon is for both logins as a service account.
func (a *KubernetesAuth) validateCommon(path *field.Path, method, mountPath string) field.ErrorList {
	errs := validateMount(path, a.MountPath, mountPath)
	if a.Role == "" {
		errs = append(errs, field.Required(path.Child("role"), "expected the name of a role of Vault's "+method+" auth method"))
	} else {
		errs = append(errs, validateRole(path, a.Role)...)
	}
	if problems := validation.IsConfigMapKey(a.SecretTokenKey); len(problems) > 0 {
		errs = append(errs, field.Invalid(path.Child("secretTokenKey"), a.SecretTokenKey, "expected the name of a file: "+strings.Join(problems, "; ")))
	}
	errs = append(errs, a.ServiceAccountRef.validate(path.Child("serviceAccountRef"))...)

	mounted := path.Child("mountedSaPath")
	switch {
	case a.ServiceAccountRef != nil && a.MountedSAPath != "":
		errs = append(errs, field.Forbidden(mounted, "expected none together with serviceAccountRef: the token comes from one place"))
	case a.ServiceAccountRef == nil && !below(TokenRoot, a.MountedSAPath):
		errs = append(errs, field.Invalid(mounted, a.MountedSAPath, "expected the absolute path of a directory below "+TokenRoot+", such as "+DefaultMountedSAPath))
	}
	if strings.ContainsFunc(a.Audience, unicode.IsSpace) || !printable(a.Audience) {
		errs = append(errs, field.Invalid(path.Child("audience"), a.Audience, "expected a name or a URL without spaces, such as vault"))
	}
	return errs
}

func (a *AppRoleAuth) validate(path *field.Path) field.ErrorList {
	errs := validateMount(path, a.MountPath, DefaultAppRolePath)
	switch {
	case a.RoleID == "":
		errs = append(errs, field.Required(path.Child("roleId"), "expected the role id: vault read auth/approle/role/<role>/role-id"))
	case !printable(a.RoleID) || strings.ContainsFunc(a.RoleID, unicode.IsSpace):
		errs = append(errs, field.Invalid(path.Child("roleId"), field.OmitValueType{}, "expected printable characters without spaces"))
	}
	return append(errs, oneSource(path, "secret id",
		source{"secretIdSecretRef", a.SecretIDSecretRef != nil, a.SecretIDSecretRef.validate},
		source{"secretIdLocalPath", a.SecretIDLocalPath != "", credential(a.SecretIDLocalPath, "file", "approle/secret-id")})...)
}

func (a *CertAuth) validate(path *field.Path) field.ErrorList {
	errs := validateMount(path, a.MountPath, DefaultCertMountPath)
	if a.Role != "" {
		errs = append(errs, validateRole(path, a.Role)...)
	}
	return append(errs, oneSource(path, "client certificate",
		source{"certSecretRef", a.CertSecretRef != nil, a.CertSecretRef.validate},
		source{"certLocalPath", a.CertLocalPath != "", credential(a.CertLocalPath, "directory", "cert")})...)
}

// source is a field that a value can come from.
type source struct {
	field    string
	set      bool
	validate func(*field.Path) field.ErrorList
}

// oneSource requires one of two sources.
func oneSource(path *field.Path, what string, a, b source) field.ErrorList {
	switch {
	case a.set && b.set:
		return field.ErrorList{field.Forbidden(path.Child(b.field), fmt.Sprintf("expected none together with %s: the %s comes from one place", a.field, what))}
	case b.set:
		return b.validate(path.Child(b.field))
	case a.set:
		return a.validate(path.Child(a.field))
	}
	return field.ErrorList{field.Required(path.Child(a.field), fmt.Sprintf("expected %s or %s: the source of the %s", a.field, b.field, what))}
}

// credential validates a path below CredentialRoot.
func credential(value, kind, example string) func(*field.Path) field.ErrorList {
	return func(path *field.Path) field.ErrorList {
		if below(CredentialRoot, value) {
			return nil
		}
		return field.ErrorList{field.Invalid(path, quotable(value), fmt.Sprintf("expected the absolute path of a %s below %s, such as %s/%s", kind, CredentialRoot, CredentialRoot, example))}
	}
}

func validateMount(path *field.Path, mountPath, example string) field.ErrorList {
	if bare := endpoint(mountPath); !segments(bare) || !authMount.MatchString(bare) || strings.HasSuffix(bare, "/login") {
		return field.ErrorList{field.Invalid(path.Child("mountPath"), quotable(mountPath), "expected /v1/auth/<mount>, such as "+example+", without /login")}
	}
	return nil
}

func validateRole(path *field.Path, role string) field.ErrorList {
	if !roleName.MatchString(role) {
		return field.ErrorList{field.Invalid(path.Child("role"), role, "expected letters, digits, - . and _, as in every role of Vault's")}
	}
	return nil
}

// validate requires a name, and a key of a Secret where there is one. It quotes neither.
func (r *SecretKeyRef) validate(path *field.Path) field.ErrorList {
	errs := r.object().validate(path)
	if r.Key != "" {
		for _, problem := range validation.IsConfigMapKey(r.Key) {
			errs = append(errs, field.Invalid(path.Child("key"), field.OmitValueType{}, problem))
		}
	}
	return errs
}

// object returns the Secret.
func (r *SecretKeyRef) object() *ObjectRef { return &ObjectRef{Name: r.Name, Namespace: r.Namespace} }

// Reference is a reference of a specification to a Secret or service account.
// +kubebuilder:object:generate=false
type Reference struct {
	Path      *field.Path
	Namespace string
}

// References returns all references of a CA, whose position is path.
func (v *VaultCA) References(path *field.Path) (all []Reference) {
	object := func(ref *ObjectRef, names ...string) {
		if ref != nil {
			all = append(all, Reference{path.Child(names[0], names[1:]...), ref.Namespace})
		}
	}
	key := func(ref *SecretKeyRef, names ...string) {
		if ref != nil {
			object(ref.object(), names...)
		}
	}
	object(v.TokenSecretRef, "tokenSecretRef")
	key(v.CASecretRef, "caSecretRef")
	if v.KubernetesAuth != nil {
		object(v.KubernetesAuth.ServiceAccountRef, "kubernetesAuth", "serviceAccountRef")
	}
	if v.JWTAuth != nil {
		object(v.JWTAuth.ServiceAccountRef, "jwtAuth", "serviceAccountRef")
	}
	if v.AppRoleAuth != nil {
		key(v.AppRoleAuth.SecretIDSecretRef, "appRoleAuth", "secretIdSecretRef")
	}
	if v.CertAuth != nil {
		object(v.CertAuth.CertSecretRef, "certAuth", "certSecretRef")
	}
	return all
}
