// SPDX-License-Identifier: Apache-2.0

package v1

import "cmp"

// What counts where nothing is written. The first four are what Gloo Mesh's
// translator writes for intermediate CAs, the others its API's own defaults.
const (
	DefaultOrgName        = "Istio"
	DefaultTTLDays        = 365
	DefaultRSAKeySizeBits = 4096
	DefaultRenewalRatio   = 0.10
	DefaultMountPath      = "/v1/auth/kubernetes"
	DefaultSecretTokenKey = "token"
	DefaultMountedSAPath  = "/var/run/secrets/kubernetes.io/serviceaccount"
	// DefaultRootsKey is the key of Istio's own ConfigMap of roots, istio-ca-root-cert.
	DefaultRootsKey = "root-cert.pem"
)

// MaxRenewalRatio is the largest secretRotationGracePeriodRatio. Renewals are spread over a tenth of a certificate's life besides:
// with more, a certificate would be due as soon as it is issued.
const MaxRenewalRatio = 0.9

// TokenRoot is the directory below which Kubernetes mounts service account tokens. The agent reads tokens from nowhere
// else, whatever a specification names.
const TokenRoot = "/var/run/secrets" //nolint:gosec // a directory

// SetDefaults fills in what is absent. What is there stays, even where Validate
// refuses it. Doing it twice changes nothing.
func (s *IssuedCertificateSpec) SetDefaults() {
	if s.CertOptions == nil {
		s.CertOptions = &CertOptions{}
	}
	s.CertOptions.SetDefaults(s.Org)
	if s.AgentCA != nil {
		s.AgentCA.SetDefaults()
	}
}

// SetDefaults fills in what is absent.
func (c *IntermediateCertificateAuthority) SetDefaults() {
	if c.Vault != nil {
		c.Vault.SetDefaults()
	}
	if c.TrustedRoots != nil && c.TrustedRoots.ConfigMapRef != nil {
		ref := c.TrustedRoots.ConfigMapRef
		ref.Key = cmp.Or(ref.Key, DefaultRootsKey)
	}
}

// SetDefaults fills in what is absent. An org that is not empty counts where the
// options name none.
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

// SetDefaults fills in what is absent.
func (v *VaultCA) SetDefaults() {
	if v.KubernetesAuth != nil {
		v.KubernetesAuth.setDefaults()
	}
}

func (a *KubernetesAuth) setDefaults() {
	a.MountPath = cmp.Or(a.MountPath, DefaultMountPath)
	a.SecretTokenKey = cmp.Or(a.SecretTokenKey, DefaultSecretTokenKey)
	if a.ServiceAccountRef == nil {
		a.MountedSAPath = cmp.Or(a.MountedSAPath, DefaultMountedSAPath)
	}
}
