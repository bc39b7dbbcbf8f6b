// SPDX-License-Identifier: Apache-2.0

package v1

import "cmp"

// Defaults. The first four are those of Gloo Mesh's translator for intermediate CAs, the others those of its API.
const (
	DefaultOrgName        = "Istio"
	DefaultTTLDays        = 365
	DefaultRSAKeySizeBits = 4096
	DefaultRenewalRatio   = 0.10
	DefaultMountPath      = "/v1/auth/kubernetes"
	DefaultJWTMountPath   = "/v1/auth/jwt"
	DefaultAppRolePath    = "/v1/auth/approle"
	DefaultCertMountPath  = "/v1/auth/cert"
	DefaultSecretIDKey    = "secret-id"
	DefaultSecretTokenKey = "token"
	DefaultMountedSAPath  = "/var/run/secrets/kubernetes.io/serviceaccount"
	DefaultIssuerKind     = "Issuer"
	DefaultIssuerGroup    = "cert-manager.io"
	// DefaultRootsKey is the key of Istio's own ConfigMap istio-ca-root-cert.
	DefaultRootsKey = "root-cert.pem"
)

// MaxRenewalRatio is the maximum of secretRotationGracePeriodRatio. Renewals are spread over another tenth of the
// lifetime: with a larger ratio, a certificate would be due at once.
const MaxRenewalRatio = 0.9

// TokenRoot is the directory in which Kubernetes mounts service account tokens. The agent reads tokens from nowhere
// else, whatever a specification names.
const TokenRoot = "/var/run/secrets" //nolint:gosec // a directory

// CredentialRoot is the directory of the files that authenticate the agent and that a specification may name: secret ids,
// client certificates and their keys. Files elsewhere below TokenRoot belong to others.
const CredentialRoot = TokenRoot + "/istiod-agent.io"

// SetDefaults sets absent fields and keeps all others, even invalid ones. It is idempotent.
func (s *IssuedCertificateSpec) SetDefaults() {
	if s.CertOptions == nil {
		s.CertOptions = &CertOptions{}
	}
	s.CertOptions.SetDefaults(s.Org)
	if s.AgentCA != nil {
		s.AgentCA.SetDefaults()
	}
}

// SetDefaults sets absent fields.
func (c *IntermediateCertificateAuthority) SetDefaults() {
	if c.Vault != nil {
		c.Vault.SetDefaults()
	}
	if c.CertManager != nil && c.CertManager.IssuerRef != nil {
		ref := c.CertManager.IssuerRef
		ref.Kind, ref.Group = cmp.Or(ref.Kind, DefaultIssuerKind), cmp.Or(ref.Group, DefaultIssuerGroup)
	}
	if c.TrustedRoots != nil && c.TrustedRoots.ConfigMapRef != nil {
		ref := c.TrustedRoots.ConfigMapRef
		ref.Key = cmp.Or(ref.Key, DefaultRootsKey)
	}
}

// SetDefaults sets absent fields. A non-empty org is the default of the organization.
func (o *CertOptions) SetDefaults(org string) {
	o.OrgName = cmp.Or(o.OrgName, org, DefaultOrgName)
	if o.TTLDays == nil {
		o.TTLDays = new(uint32(DefaultTTLDays))
	}
	if o.RSAKeySizeBytes == nil && o.ECKeyCurve == "" {
		o.RSAKeySizeBytes = new(uint32(DefaultRSAKeySizeBits))
	}
	if o.SecretRotationGracePeriodRatio == nil {
		o.SecretRotationGracePeriodRatio = new(DefaultRenewalRatio)
	}
}

// SetDefaults sets absent fields.
func (v *VaultCA) SetDefaults() {
	if v.KubernetesAuth != nil {
		v.KubernetesAuth.setDefaults(DefaultMountPath)
	}
	if v.JWTAuth != nil {
		(*KubernetesAuth)(v.JWTAuth).setDefaults(DefaultJWTMountPath)
	}
	if auth := v.AppRoleAuth; auth != nil {
		auth.MountPath = cmp.Or(auth.MountPath, DefaultAppRolePath)
		if ref := auth.SecretIDSecretRef; ref != nil {
			ref.Key = cmp.Or(ref.Key, DefaultSecretIDKey)
		}
	}
	if v.CertAuth != nil {
		v.CertAuth.MountPath = cmp.Or(v.CertAuth.MountPath, DefaultCertMountPath)
	}
}

func (a *KubernetesAuth) setDefaults(mountPath string) {
	a.MountPath = cmp.Or(a.MountPath, mountPath)
	a.SecretTokenKey = cmp.Or(a.SecretTokenKey, DefaultSecretTokenKey)
	if a.ServiceAccountRef == nil {
		a.MountedSAPath = cmp.Or(a.MountedSAPath, DefaultMountedSAPath)
	}
}
