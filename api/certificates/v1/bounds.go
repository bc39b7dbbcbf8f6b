// SPDX-License-Identifier: Apache-2.0

package v1

import "k8s.io/apimachinery/pkg/util/validation/field"

// The limits of the CRDs, which Gloo Mesh's CRDs lack. They are checked first, so that the cost of an object does not
// depend on its author.
const (
	maxHosts = 100
	maxName  = 253 // of a Kubernetes object
	maxKind  = 63  // of a CustomResourceDefinition
	maxPath  = 1024
	maxURL   = 2048
	// MaxCABundle is in bytes, about a hundred certificates. In base64 it is the CRD's 350000 characters.
	MaxCABundle = 256 << 10
	// MaxTrustedRoots and MaxTrustedRootsPEM limit spec.agentCa.trustedRoots, in certificates and bytes.
	MaxTrustedRoots    = 20
	MaxTrustedRootsPEM = 64 << 10
	// maxURIDomains is the number of constraints in a certificate, maxURIDomain the length of a domain and the dot before it.
	maxURIDomains = 20
	maxURIDomain  = 254
	// maxText limits texts whose own limit has another message.
	maxText = 1024

	// MaxPodSets is the number of sets in a PodBounceDirective.
	MaxPodSets = 100
	// MaxStatusText is the length, in bytes, of a message that the project writes to a status.
	MaxStatusText = 4096
)

// bounds collects exceeded limits.
type bounds struct{ errs field.ErrorList }

func (b *bounds) text(path *field.Path, value string, limit int) {
	if len(value) > limit {
		b.errs = append(b.errs, field.TooLong(path, nil, limit))
	}
}

func (b *bounds) ref(path *field.Path, ref *ObjectRef) {
	if ref != nil {
		b.text(path.Child("name"), ref.Name, maxName)
		b.text(path.Child("namespace"), ref.Namespace, maxName)
	}
}

func (s *IssuedCertificateSpec) bounds(path *field.Path) field.ErrorList {
	var b bounds
	if len(s.Hosts) > maxHosts {
		b.errs = append(b.errs, field.TooMany(path.Child("hosts"), len(s.Hosts), maxHosts))
	}
	b.text(path.Child("org"), s.Org, maxText)
	b.ref(path.Child("signingCertificateSecret"), s.SigningCertificateSecret)
	b.ref(path.Child("issuedCertificateSecret"), s.IssuedCertificateSecret)
	b.ref(path.Child("podBounceDirective"), s.PodBounceDirective)
	if s.CertOptions != nil {
		b.errs = append(b.errs, s.CertOptions.bounds(path.Child("certOptions"))...)
	}
	if s.AgentCA != nil {
		b.errs = append(b.errs, s.AgentCA.Vault.bounds(path.Child("agentCa", "vault"))...)
		b.errs = append(b.errs, s.AgentCA.CertManager.bounds(path.Child("agentCa", "certManager"))...)
		b.errs = append(b.errs, s.AgentCA.TrustedRoots.bounds(path.Child("agentCa", "trustedRoots"))...)
	}
	return b.errs
}

func (r *TrustedRoots) bounds(path *field.Path) field.ErrorList {
	if r == nil {
		return nil
	}
	var b bounds
	b.text(path.Child("pem"), r.PEM, MaxTrustedRootsPEM)
	if ref, at := r.ConfigMapRef, path.Child("configMapRef"); ref != nil {
		b.ref(at, &ObjectRef{Name: ref.Name, Namespace: ref.Namespace})
		b.text(at.Child("key"), ref.Key, maxName)
	}
	return b.errs
}

func (o *CertOptions) bounds(path *field.Path) field.ErrorList {
	var b bounds
	b.text(path.Child("orgName"), o.OrgName, maxText)
	b.text(path.Child("ecKeyCurve"), string(o.ECKeyCurve), maxText)
	domains := path.Child("permittedURIDomains")
	if len(o.PermittedURIDomains) > maxURIDomains {
		b.errs = append(b.errs, field.TooMany(domains, len(o.PermittedURIDomains), maxURIDomains))
		return b.errs
	}
	for i, domain := range o.PermittedURIDomains {
		b.text(domains.Index(i), domain, maxURIDomain)
	}
	return b.errs
}

func (c *CertManagerCA) bounds(path *field.Path) field.ErrorList {
	if c == nil || c.IssuerRef == nil {
		return nil
	}
	var b bounds
	at := path.Child("issuerRef")
	b.text(at.Child("name"), c.IssuerRef.Name, maxName)
	b.text(at.Child("kind"), c.IssuerRef.Kind, maxKind)
	b.text(at.Child("group"), c.IssuerRef.Group, maxName)
	return b.errs
}

func (v *VaultCA) bounds(path *field.Path) field.ErrorList {
	if v == nil {
		return nil
	}
	var b bounds
	b.text(path.Child("server"), v.Server, maxURL)
	b.text(path.Child("caPath"), v.CAPath, maxPath)
	b.text(path.Child("csrPath"), v.CSRPath, maxPath)
	b.text(path.Child("namespace"), v.Namespace, maxPath)
	if len(v.CABundle) > MaxCABundle {
		b.errs = append(b.errs, field.TooLong(path.Child("caBundle"), nil, MaxCABundle))
	}
	b.keyRef(path.Child("caSecretRef"), v.CASecretRef)
	b.text(path.Child("caLocalPath"), v.CALocalPath, maxPath)
	b.ref(path.Child("tokenSecretRef"), v.TokenSecretRef)
	b.serviceAccount(path.Child("kubernetesAuth"), v.KubernetesAuth)
	b.serviceAccount(path.Child("jwtAuth"), (*KubernetesAuth)(v.JWTAuth))
	if auth, at := v.AppRoleAuth, path.Child("appRoleAuth"); auth != nil {
		b.text(at.Child("mountPath"), auth.MountPath, maxPath)
		b.text(at.Child("roleId"), auth.RoleID, maxText)
		b.keyRef(at.Child("secretIdSecretRef"), auth.SecretIDSecretRef)
		b.text(at.Child("secretIdLocalPath"), auth.SecretIDLocalPath, maxPath)
	}
	if auth, at := v.CertAuth, path.Child("certAuth"); auth != nil {
		b.text(at.Child("mountPath"), auth.MountPath, maxPath)
		b.text(at.Child("role"), auth.Role, maxText)
		b.ref(at.Child("certSecretRef"), auth.CertSecretRef)
		b.text(at.Child("certLocalPath"), auth.CertLocalPath, maxPath)
	}
	return b.errs
}

func (b *bounds) keyRef(path *field.Path, ref *SecretKeyRef) {
	if ref != nil {
		b.ref(path, ref.object())
		b.text(path.Child("key"), ref.Key, maxName)
	}
}

// serviceAccount is for a login as a service account.
func (b *bounds) serviceAccount(at *field.Path, auth *KubernetesAuth) {
	if auth == nil {
		return
	}
	b.text(at.Child("mountPath"), auth.MountPath, maxPath)
	b.text(at.Child("role"), auth.Role, maxText)
	b.text(at.Child("secretTokenKey"), auth.SecretTokenKey, maxName)
	b.text(at.Child("mountedSaPath"), auth.MountedSAPath, maxPath)
	b.text(at.Child("audience"), auth.Audience, maxText)
	b.ref(at.Child("serviceAccountRef"), auth.ServiceAccountRef)
}
