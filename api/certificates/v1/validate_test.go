// SPDX-License-Identifier: Apache-2.0

package v1_test

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"testing"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

const istiod = "spiffe://cluster.local/ns/istio-system/sa/istiod"

// valid has nothing to complain about; the tests below spoil it.
func valid() *certificatesv1.IssuedCertificate {
	return &certificatesv1.IssuedCertificate{Spec: certificatesv1.IssuedCertificateSpec{
		Hosts: []string{istiod},
		AgentCA: &certificatesv1.IntermediateCertificateAuthority{Vault: &certificatesv1.VaultCA{
			Server:         "https://vault.vault:8200",
			CAPath:         "pki/root/sign-intermediate",
			KubernetesAuth: &certificatesv1.KubernetesAuth{Role: "istiod", Audience: "vault"},
		}},
	}}
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		spec  func(*certificatesv1.IssuedCertificateSpec)
		holds func(*certificatesv1.CertOptions, *certificatesv1.KubernetesAuth) bool
	}{
		"of an RSA key": {
			func(*certificatesv1.IssuedCertificateSpec) {},
			func(o *certificatesv1.CertOptions, a *certificatesv1.KubernetesAuth) bool {
				return o.OrgName == "Istio" && *o.TTLDays == 365 && *o.RSAKeySizeBytes == 4096 && o.ECKeyCurve == "" &&
					*o.SecretRotationGracePeriodRatio == 0.10 && a.MountPath == "/v1/auth/kubernetes" &&
					a.SecretTokenKey == "token" && a.MountedSAPath == "/var/run/secrets/kubernetes.io/serviceaccount"
			},
		},
		"of an elliptic curve key": {
			func(s *certificatesv1.IssuedCertificateSpec) {
				s.CertOptions = &certificatesv1.CertOptions{ECKeyCurve: certificatesv1.P256}
			},
			func(o *certificatesv1.CertOptions, _ *certificatesv1.KubernetesAuth) bool {
				return o.RSAKeySizeBytes == nil
			},
		},
		"the deprecated organization": {
			func(s *certificatesv1.IssuedCertificateSpec) { s.Org = "Acme" },
			func(o *certificatesv1.CertOptions, _ *certificatesv1.KubernetesAuth) bool { return o.OrgName == "Acme" },
		},
		"the organization goes before the deprecated one": {
			func(s *certificatesv1.IssuedCertificateSpec) {
				s.Org, s.CertOptions = "Acme", &certificatesv1.CertOptions{OrgName: "Example"}
			},
			func(o *certificatesv1.CertOptions, _ *certificatesv1.KubernetesAuth) bool {
				return o.OrgName == "Example"
			},
		},
		"a service account named, no token mounted": {
			func(s *certificatesv1.IssuedCertificateSpec) {
				s.AgentCA.Vault.KubernetesAuth.ServiceAccountRef = &certificatesv1.ObjectRef{Name: "a"}
			},
			func(_ *certificatesv1.CertOptions, a *certificatesv1.KubernetesAuth) bool {
				return a.MountedSAPath == ""
			},
		},
		"the key of roots in a ConfigMap": {
			func(s *certificatesv1.IssuedCertificateSpec) {
				s.AgentCA.TrustedRoots = &certificatesv1.TrustedRoots{ConfigMapRef: &certificatesv1.ConfigMapKeyRef{Name: "a"}}
			},
			func(*certificatesv1.CertOptions, *certificatesv1.KubernetesAuth) bool { return true },
		},
		"an explicit zero stays, to be refused": {
			func(s *certificatesv1.IssuedCertificateSpec) {
				s.CertOptions = &certificatesv1.CertOptions{TTLDays: new(uint32(0)), SecretRotationGracePeriodRatio: new(0.0)}
			},
			func(o *certificatesv1.CertOptions, _ *certificatesv1.KubernetesAuth) bool {
				return *o.TTLDays == 0 && *o.SecretRotationGracePeriodRatio == 0
			},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			certificate := valid()
			test.spec(&certificate.Spec)
			certificate.Spec.SetDefaults()
			if !test.holds(certificate.Spec.CertOptions, certificate.Spec.AgentCA.Vault.KubernetesAuth) {
				t.Errorf("got %+v, %+v", certificate.Spec.CertOptions, certificate.Spec.AgentCA.Vault.KubernetesAuth)
			}
			if roots := certificate.Spec.AgentCA.TrustedRoots; roots != nil && roots.ConfigMapRef.Key != "root-cert.pem" {
				t.Errorf("got %+v", roots.ConfigMapRef)
			}
		})
	}
}

func TestWithoutAnythingEverythingIsAskedFor(t *testing.T) {
	t.Parallel()
	certificate := &certificatesv1.IssuedCertificate{}
	certificate.Spec.SetDefaults()
	_, errs := certificate.Validate()
	wantAll(t, said(errs), "spec.hosts: Required value", "spec.agentCa: Required value")

	certificate.Spec.AgentCA = &certificatesv1.IntermediateCertificateAuthority{Vault: &certificatesv1.VaultCA{}}
	_, errs = certificate.Validate()
	wantAll(t, said(errs), "spec.hosts: Required value", "spec.agentCa.vault.server: Required value",
		"spec.agentCa.vault.caPath: Required value", "spec.agentCa.vault.kubernetesAuth: Required value")
}

func TestEveryMistakeIsNamedWithItsPath(t *testing.T) {
	t.Parallel()
	type (
		spec  = certificatesv1.IssuedCertificateSpec
		opts  = certificatesv1.CertOptions
		vault = certificatesv1.VaultCA
		auth  = certificatesv1.KubernetesAuth
		ref   = certificatesv1.ObjectRef
	)
	type (
		source    = certificatesv1.IntermediateCertificateAuthority
		issuerRef = certificatesv1.IssuerRef
	)
	issuer := func(ref issuerRef) func(*spec) {
		return func(s *spec) { s.AgentCA = &source{CertManager: &certificatesv1.CertManagerCA{IssuerRef: &ref}} }
	}
	const m = "spec.agentCa.certManager.issuerRef"
	certificate, key := certificatePEM(t)
	damaged := strings.Replace(certificate, "-----END", "----END", 1)
	of := func(change func(*vault)) func(*spec) { return func(s *spec) { change(s.AgentCA.Vault) } }
	login := func(a auth) func(*spec) {
		a.Audience = cmp.Or(a.Audience, "vault") // else there is a warning
		return func(s *spec) { s.AgentCA.Vault.KubernetesAuth = &a }
	}
	server := func(address string) func(*spec) { return of(func(v *vault) { v.Server = address }) }
	caPath := func(path string) func(*spec) { return of(func(v *vault) { v.CAPath = path }) }
	csrPath := func(path string) func(*spec) { return of(func(v *vault) { v.CSRPath = path }) }
	bundle := func(text string) func(*spec) { return of(func(v *vault) { v.CABundle = []byte(text) }) }
	options := func(o opts) func(*spec) { return func(s *spec) { s.CertOptions = &o } }
	hosts := func(h ...string) func(*spec) { return func(s *spec) { s.Hosts = h } }
	type (
		trusted   = certificatesv1.TrustedRoots
		configMap = certificatesv1.ConfigMapKeyRef
	)
	roots := func(t trusted) func(*spec) { return func(s *spec) { s.AgentCA.TrustedRoots = &t } }
	inline := func(text string) func(*spec) { return roots(trusted{PEM: text}) }
	root, root2, endless := rootPEM(t), rootPEM(t), strings.Repeat("a", 1<<20)

	const (
		v             = "spec.agentCa.vault."
		k             = v + "kubernetesAuth."
		o             = "spec.certOptions."
		r             = "spec.agentCa.trustedRoots."
		notSPIFFE     = "expected a SPIFFE ID of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>"
		notCAPath     = "expected <mount>/root/sign-intermediate or"
		notCSRPath    = "expected <mount>/intermediate/generate/exported or"
		neverLeaves   = "the key would never leave Vault"
		notMountPath  = "expected /v1/auth/<mount>"
		damagedBlocks = v + "caBundle: Invalid value: 1 of "
	)
	tests := map[string]struct {
		spoil func(*spec)
		// want is the beginnings of what must be said, one mistake each; nothing else may be.
		want []string
	}{
		"nothing": {func(*spec) {}, nil},

		"hosts": {hosts(istiod, "spiffe://td.example_1/ns/a/sa/b.c", istiod, "", "cluster.local/ns/a/sa/b", "spiffe://TD/ns/a/sa/b",
			"spiffe://td/ns//sa/b", "spiffe://td/ns/a/sa/b/c", "spiffe://td/ns/a/sa/B", "spiffe://td:1/ns/a/sa/b", "spiffe://td/ns/a/sa/b?c", "spiffe://td/ns/a/sa/b\n"), []string{
			`spec.hosts[2]: Duplicate value: "` + istiod + `"`,
			`spec.hosts[3]: Invalid value: "": ` + notSPIFFE, `spec.hosts[4]: Invalid value: "cluster.local/ns/a/sa/b": ` + notSPIFFE,
			`spec.hosts[5]: Invalid value: `, `spec.hosts[6]: Invalid value: `, `spec.hosts[7]: Invalid value: `, `spec.hosts[8]: Invalid value: `,
			`spec.hosts[9]: Invalid value: `, `spec.hosts[10]: Invalid value: `, `spec.hosts[11]: Invalid value: `,
		}},
		"the longest trust domain": {hosts("spiffe://" + strings.Repeat("t", 255) + "/ns/a/sa/b"), nil},
		"a longer one":             {hosts("spiffe://" + strings.Repeat("t", 256) + "/ns/a/sa/b"), []string{"spec.hosts[0]: Invalid value: "}},
		"an endless host":          {hosts("spiffe://td/ns/a/sa/" + strings.Repeat("b", 2048)), []string{"spec.hosts[0]: Too long: "}},

		"another CA besides": {func(s *spec) {
			s.GlooMeshCA, s.SigningCertificateSecret = &certificatesv1.GlooMeshCA{}, &ref{Name: "a"}
		}, []string{
			"spec.glooMeshCa: Forbidden: expected none: the CA is the one in agentCa",
			"spec.signingCertificateSecret: Forbidden: expected none",
		}},
		"another CA instead": {func(s *spec) { s.GlooMeshCA, s.AgentCA = &certificatesv1.GlooMeshCA{}, nil }, []string{
			"spec.glooMeshCa: Forbidden: ", "spec.agentCa: Required value: expected the CA that signs the certificate: vault or certManager",
		}},
		"a CA that is none":      {func(s *spec) { s.AgentCA.Vault = nil }, []string{"spec.agentCa: Required value"}},
		"a Secret to store it":   {func(s *spec) { s.IssuedCertificateSecret = &ref{Name: "a"} }, []string{"spec.issuedCertificateSecret: Forbidden: expected none: the agent keeps"}},
		"pods to restart":        {func(s *spec) { s.PodBounceDirective = &ref{Name: "a"} }, nil},
		"numbers that are zero":  {options(opts{TTLDays: new(uint32(0)), RSAKeySizeBytes: new(uint32(0)), SecretRotationGracePeriodRatio: new(0.0)}), []string{o + "ttlDays: Invalid value: 0: expected 1 to 36500 days", o + "rsaKeySizeBytes: Invalid value: 0: expected 2048, 3072 or 4096", o + "secretRotationGracePeriodRatio: Invalid value: 0: expected more than 0 and at most 0.9"}},
		"numbers too large":      {options(opts{TTLDays: new(uint32(36501)), RSAKeySizeBytes: new(uint32(1<<29 + 256)), SecretRotationGracePeriodRatio: new(0.91)}), []string{o + "ttlDays: ", o + "rsaKeySizeBytes: ", o + "secretRotationGracePeriodRatio: "}},
		"numbers at their edges": {options(opts{TTLDays: new(uint32(36500)), RSAKeySizeBytes: new(uint32(2048)), SecretRotationGracePeriodRatio: new(0.9)}), nil},
		"a key size in bytes":    {options(opts{RSAKeySizeBytes: new(uint32(512))}), []string{o + "rsaKeySizeBytes: Invalid value: 512: expected 2048, 3072 or 4096: in spite of the field's name these are bits, so that 512 bytes are written 4096"}},
		"two kinds of key":       {options(opts{RSAKeySizeBytes: new(uint32(2048)), ECKeyCurve: certificatesv1.P256}), []string{o + "rsaKeySizeBytes: Forbidden: expected none together with ecKeyCurve"}},
		"an unknown curve":       {options(opts{ECKeyCurve: "P-521"}), []string{o + `ecKeyCurve: Unsupported value: "P-521": supported values: "P-256", "P-384"`}},
		"URI domains":            {options(opts{PermittedURIDomains: []string{"cluster.local", ".example.com", "a_b-1.c", "127.example"}}), nil},
		"URI domains that are none": {options(opts{PermittedURIDomains: []string{"cluster.local", "", ".", "a..b", "a.", "..a", "*.a", "A.b", "a,b", "spiffe://a", "a/b", "a:1", "a\nb", "bücher.example", "10.0.0.1", ".10.0.0.1", "::1", "cluster.local"}}), append(
			uriDomainErrors(o, 1, 17), o+`permittedURIDomains[17]: Duplicate value: "cluster.local"`)},
		"URI domains without the trust domain": {options(opts{PermittedURIDomains: []string{"local", ".cluster.local", "cluster.localhost"}}), []string{
			o + `permittedURIDomains: Invalid value: ["local",".cluster.local","cluster.localhost"]: expected also cluster.local, the trust domain of an istiod`,
		}},
		"URI domains of two trust domains": {func(s *spec) {
			s.Hosts = []string{istiod, "spiffe://a.example.com/ns/a/sa/b", "spiffe://a.example.com/ns/c/sa/d"}
			s.CertOptions = &opts{PermittedURIDomains: []string{"cluster.local"}}
		}, []string{o + `permittedURIDomains: Invalid value: ["cluster.local"]: expected also a.example.com`}},
		"the longest URI domain":       {options(opts{PermittedURIDomains: []string{"cluster.local", "." + strings.Repeat("a.", 126) + "b"}}), nil},
		"a longer URI domain":          {options(opts{PermittedURIDomains: []string{"cluster.local", "." + strings.Repeat("a.", 126) + "bb"}}), []string{o + "permittedURIDomains[1]: Too long"}},
		"endless URI domains":          {options(opts{PermittedURIDomains: make([]string, 21)}), []string{o + "permittedURIDomains: Too many: 21"}},
		"organizations":                {options(opts{OrgName: "Acme, Inc."}), []string{o + `orgName: Invalid value: "Acme, Inc.": expected no comma`}},
		"an organization of two lines": {options(opts{OrgName: "a\nb"}), []string{o + "orgName: Invalid value: "}},
		"an organization too long":     {options(opts{OrgName: strings.Repeat("ä", 65)}), []string{o + "orgName: Invalid value: "}},
		"an organization just right":   {options(opts{OrgName: strings.Repeat("ä", 64)}), nil},
		"the deprecated organization":  {func(s *spec) { s.Org = " " }, []string{`spec.org: Invalid value: " ": expected printable characters`}},

		"no scheme":              {server("vault.vault:8200"), []string{v + "server: Invalid value: does not start with https://; expected https://<host>[:<port>]"}},
		"an address of digits":   {server("10.0.0.1:8200"), []string{v + "server: Invalid value: is not a URL"}},
		"another scheme":         {server("unix:///vault.sock"), []string{v + "server: Invalid value: does not start with https://"}},
		"no slashes":             {server("https:vault"), []string{v + "server: Invalid value: has no host"}},
		"no host":                {server("https://:8200"), []string{v + "server: Invalid value: has no host"}},
		"a user":                 {server("https://root@vault"), []string{v + "server: Invalid value: contains a user name"}},
		"a query":                {server("https://vault?"), []string{v + "server: Invalid value: contains a query"}},
		"a fragment":             {server("https://vault#a"), []string{v + "server: Invalid value: contains a query or a fragment"}},
		"Vault's own path":       {server("https://vault/v1"), []string{v + "server: Invalid value: contains a path"}},
		"Vault's path behind":    {server("https://gateway/vault/v1/"), []string{v + "server: Invalid value: contains a path"}},
		"Vault's page":           {server("https://vault/ui/"), []string{v + "server: Invalid value: contains a path"}},
		"a prefix":               {server("https://gateway/vault"), nil},
		"a prefix with a slash":  {server("https://gateway:443/teams/mesh-1/vault_2.0~x/"), nil},
		"dots in a prefix":       {server("https://gateway/a/../vault"), []string{v + "server: Invalid value: contains a path"}},
		"a dot in a prefix":      {server("https://gateway/./vault"), []string{v + "server: Invalid value: contains a path"}},
		"escapes in a prefix":    {server("https://gateway/%2e%2e/vault"), []string{v + "server: Invalid value: contains a path"}},
		"an escaped letter":      {server("https://gateway/%76ault"), []string{v + "server: Invalid value: contains a path"}},
		"two slashes":            {server("https://gateway//vault"), []string{v + "server: Invalid value: contains a path"}},
		"two slashes at the end": {server("https://gateway/vault//"), []string{v + "server: Invalid value: contains a path"}},
		"a backslash":            {server(`https://gateway/a\vault`), []string{v + "server: Invalid value: contains a path"}},
		"a parameter":            {server("https://gateway/vault;a"), []string{v + "server: Invalid value: contains a path"}},
		"a space in a prefix":    {server("https://gateway/va ult"), []string{v + "server: Invalid value: contains a path"}},
		"a letter of another":    {server("https://gateway/vaült"), []string{v + "server: Invalid value: contains a path"}},
		"a query behind":         {server("https://gateway/vault?a"), []string{v + "server: Invalid value: contains a query"}},
		"a prefix too long":      {server("https://gateway/" + strings.Repeat("a", 2048)), []string{v + "server: "}},
		"no port after a colon":  {server("https://vault:"), []string{v + "server: Invalid value: has no port"}},
		"a port too large":       {server("https://vault:65536"), []string{v + "server: Invalid value: has no port"}},
		"a port of letters":      {server("https://vault:a"), []string{v + "server: Invalid value: is not a URL"}},
		"a space":                {server("https://vau lt"), []string{v + "server: Invalid value: is not a URL"}},
		"a slash at the end":     {server("https://vault:8200/"), nil},
		"an IPv6 address":        {server("https://[fd00::1]:8200"), nil},
		"capitals in the scheme": {server("HTTPS://vault"), nil},

		"certificates with comments":   {bundle("# Vault's CA\n" + certificate + "\n# Its next one\n" + certificate), nil},
		"certificates that are none":   {bundle("vault"), []string{v + "caBundle: Invalid value: contains no certificate; expected PEM certificates"}},
		"a key among the certificates": {bundle(certificate + key), []string{v + "caBundle: Invalid value: block 2 is a private key"}},
		"a key alone":                  {bundle(key), []string{v + "caBundle: Invalid value: block 1 is a private key"}},
		"something else in PEM":        {bundle("-----BEGIN PUBLIC KEY-----\nYWI=\n-----END PUBLIC KEY-----\n"), []string{v + "caBundle: Invalid value: block 1 is not a CERTIFICATE"}},
		"a certificate of noise":       {bundle("-----BEGIN CERTIFICATE-----\nYWI=\n-----END CERTIFICATE-----\n"), []string{v + "caBundle: Invalid value: block 1 is damaged"}},
		"a damaged certificate":        {bundle(damaged), []string{damagedBlocks + "1"}},
		"a damaged second certificate": {bundle(certificate + damaged), []string{damagedBlocks + "2"}},
		"a damaged first certificate":  {bundle(damaged + certificate), []string{damagedBlocks + "2"}},

		"a CA path of a nested mount":  {caPath("/v1/eu/pki/issuer/next/sign-intermediate"), nil},
		"a CA path with a slash":       {caPath("/pki/root/sign-intermediate"), nil},
		"a CA path without a mount":    {caPath("/v1/root/sign-intermediate"), []string{v + `caPath: Invalid value: "/v1/root/sign-intermediate": ` + notCAPath}},
		"a CA path without an issuer":  {caPath("pki/issuer/sign-intermediate"), []string{v + "caPath: Invalid value: "}},
		"a CA path that climbs":        {caPath("pki/../sys/root/sign-intermediate"), []string{v + "caPath: Invalid value: "}},
		"a CA path with an empty part": {caPath("pki//root/sign-intermediate"), []string{v + "caPath: Invalid value: "}},
		"a CA path that is escaped":    {caPath("pki%2f/root/sign-intermediate"), []string{v + "caPath: Invalid value: "}},
		"a CA path with a query":       {caPath("pki/root/sign-intermediate?a=b"), []string{v + "caPath: Invalid value: " + notCAPath}},
		"a path that signs leaves":     {caPath("pki/sign/my-role"), []string{v + `caPath: Invalid value: "pki/sign/my-role": signs leaf certificates, and istiod needs a CA; ` + notCAPath}},
		"a path that issues leaves":    {caPath("pki/issuer/default/issue/my-role"), []string{v + `caPath: Invalid value: "pki/issuer/default/issue/my-role": signs leaf`}},

		"a CSR path":                 {csrPath("/v1/pki_int/intermediate/generate/exported"), nil},
		"the other CSR path":         {csrPath("pki_int/issuers/generate/intermediate/exported"), nil},
		"a key that stays in Vault":  {csrPath("pki_int/intermediate/generate/internal"), []string{v + `csrPath: Invalid value: "pki_int/intermediate/generate/internal": ` + neverLeaves}},
		"a CSR path without a mount": {csrPath("intermediate/generate/exported"), []string{v + "csrPath: Invalid value: \"intermediate/generate/exported\": " + notCSRPath}},
		"a CSR path that is another": {csrPath("pki_int/root/generate/exported"), []string{v + "csrPath: Invalid value: \"pki_int/root/generate/exported\": " + notCSRPath}},

		"a Vault namespace":             {of(func(v *vault) { v.Namespace = "admin/mesh/" }), nil},
		"a Vault namespace of a space":  {of(func(v *vault) { v.Namespace = "a b" }), []string{v + `namespace: Invalid value: "a b": expected a Vault namespace`}},
		"a Vault namespace that climbs": {of(func(v *vault) { v.Namespace = "admin/.." }), []string{v + "namespace: Invalid value: "}},

		"a token":            {of(func(v *vault) { v.KubernetesAuth, v.TokenSecretRef = nil, &ref{Name: "a", Namespace: "b"} }), nil},
		"no way to log in":   {of(func(v *vault) { v.KubernetesAuth = nil }), []string{v + "kubernetesAuth: Required value: expected a way to log in to Vault"}},
		"two ways to log in": {of(func(v *vault) { v.TokenSecretRef = &ref{Name: "a"} }), []string{v + "tokenSecretRef: Forbidden: expected none together with kubernetesAuth"}},
		"a Secret unnamed":   {of(func(v *vault) { v.KubernetesAuth, v.TokenSecretRef = nil, &ref{} }), []string{v + "tokenSecretRef.name: Required value"}},
		"a Secret misnamed":  {of(func(v *vault) { v.KubernetesAuth, v.TokenSecretRef = nil, &ref{Name: "A", Namespace: "b.c"} }), []string{v + "tokenSecretRef.name: Invalid value: ", v + "tokenSecretRef.namespace: Invalid value: "}},

		"no role":                      {login(auth{}), []string{k + "role: Required value"}},
		"a role with a slash":          {login(auth{Role: "a/b"}), []string{k + `role: Invalid value: "a/b": expected letters`}},
		"a mount":                      {login(auth{Role: "a", MountPath: "auth/eu/kubernetes"}), nil},
		"a mount alone":                {login(auth{Role: "a", MountPath: "kubernetes"}), []string{k + `mountPath: Invalid value: "kubernetes": ` + notMountPath}},
		"a mount with the endpoint":    {login(auth{Role: "a", MountPath: "/v1/auth/kubernetes/login"}), []string{k + "mountPath: Invalid value: "}},
		"a mount that climbs":          {login(auth{Role: "a", MountPath: "/v1/auth/../sys"}), []string{k + "mountPath: Invalid value: "}},
		"a token file in a folder":     {login(auth{Role: "a", SecretTokenKey: "../token"}), []string{k + `secretTokenKey: Invalid value: "../token": expected the name of a file`}},
		"a token file that is none":    {login(auth{Role: "a", SecretTokenKey: ".."}), []string{k + `secretTokenKey: Invalid value: "..": expected the name of a file`}},
		"a service account":            {login(auth{Role: "a", ServiceAccountRef: &ref{Name: "b"}, Audience: "vault"}), nil},
		"a service account unnamed":    {login(auth{Role: "a", ServiceAccountRef: &ref{Namespace: "b"}}), []string{k + "serviceAccountRef.name: Required value"}},
		"two sources of the token":     {login(auth{Role: "a", ServiceAccountRef: &ref{Name: "b"}, MountedSAPath: "/c"}), []string{k + "mountedSaPath: Forbidden: expected none together with serviceAccountRef"}},
		"a folder from somewhere":      {login(auth{Role: "a", MountedSAPath: "secrets"}), []string{k + `mountedSaPath: Invalid value: "secrets": expected the absolute path`}},
		"a folder that climbs":         {login(auth{Role: "a", MountedSAPath: "/a/../b"}), []string{k + "mountedSaPath: Invalid value: "}},
		"a folder of tokens":           {login(auth{Role: "a", MountedSAPath: "/var/run/secrets/vault/"}), nil},
		"the CA's folder":              {login(auth{Role: "a", MountedSAPath: "/etc/cacerts", SecretTokenKey: "ca-key.pem"}), []string{k + `mountedSaPath: Invalid value: "/etc/cacerts": expected the absolute path of a directory below /var/run/secrets`}},
		"the CA's folder, climbing":    {login(auth{Role: "a", MountedSAPath: "/var/run/secrets/../../../etc/cacerts"}), []string{k + "mountedSaPath: Invalid value: "}},
		"a process's folder":           {login(auth{Role: "a", MountedSAPath: "/proc/self", SecretTokenKey: "environ"}), []string{k + "mountedSaPath: Invalid value: "}},
		"a folder of a like name":      {login(auth{Role: "a", MountedSAPath: "/var/run/secrets-of-others"}), []string{k + "mountedSaPath: Invalid value: "}},
		"the folder of all tokens":     {login(auth{Role: "a", MountedSAPath: "/var/run/secrets"}), []string{k + "mountedSaPath: Invalid value: "}},
		"an audience that is a URL":    {login(auth{Role: "a", Audience: "https://vault.example.com"}), nil},
		"an audience of several words": {login(auth{Role: "a", Audience: "vault istio-ca"}), []string{k + `audience: Invalid value: "vault istio-ca": expected a name`}},

		"roots":                          {inline(root + root2), nil},
		"roots from nowhere":             {roots(trusted{}), []string{r + "pem: Required value: expected pem or configMapRef"}},
		"roots from two places":          {roots(trusted{PEM: root, ConfigMapRef: &configMap{Name: "a"}}), []string{r + "pem: Forbidden: expected none together with configMapRef"}},
		"roots in a ConfigMap":           {roots(trusted{ConfigMapRef: &configMap{Name: "a", Namespace: "b", Key: "ca.crt"}}), nil},
		"roots in a ConfigMap of no key": {roots(trusted{ConfigMapRef: &configMap{Name: "a"}}), nil},
		"roots in a ConfigMap unnamed":   {roots(trusted{ConfigMapRef: &configMap{}}), []string{r + "configMapRef.name: Required value"}},
		"roots in a ConfigMap misnamed":  {roots(trusted{ConfigMapRef: &configMap{Name: "A", Namespace: "b.c", Key: "../d"}}), []string{r + "configMapRef.name: Invalid value: ", r + "configMapRef.namespace: Invalid value: ", r + "configMapRef.key: Invalid value: expected a ConfigMap's key"}},
		"an endless ConfigMap's name":    {roots(trusted{ConfigMapRef: &configMap{Name: endless, Namespace: endless, Key: endless}}), []string{r + "configMapRef.name: Too long", r + "configMapRef.namespace: Too long", r + "configMapRef.key: Too long"}},
		"a root twice":                   {inline(root + root), []string{r + "pem: Invalid value: cannot be used, certificate 1 "}},
		"a root that is no CA":           {inline(certificate), []string{r + "pem: Invalid value: cannot be used, certificate 0 ("}},
		"a root's key":                   {inline(root + key), []string{r + "pem: Invalid value: holds a private key: remove and replace the key"}},
		"a root that is none":            {inline("my-org"), []string{r + "pem: Invalid value: cannot be used, it holds something that is not a certificate"}},
		"a root that is damaged":         {inline(strings.Replace(root, "-----END", "----END", 1)), []string{r + "pem: Invalid value: cannot be used"}},
		"a thousand small roots":         {inline(strings.Repeat("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", 1000)), []string{r + "pem: Invalid value: contains 1000 certificates, more than 20"}},
		"a thousand roots":               {inline(strings.Repeat(root, 1000)), []string{r + "pem: Too long: "}},
		"endless roots":                  {inline(root + strings.Repeat(" ", 1<<20)), []string{r + "pem: Too long: "}},

		"an issuer":                      {issuer(issuerRef{Name: "istio-ca"}), nil},
		"an issuer of the whole cluster": {issuer(issuerRef{Name: "istio-ca", Kind: "ClusterIssuer"}), nil},
		"an external issuer":             {issuer(issuerRef{Name: "istio-ca", Kind: "AWSPCAClusterIssuer", Group: "awspca.cert-manager.io"}), nil},
		"no issuer":                      {func(s *spec) { s.AgentCA = &source{CertManager: &certificatesv1.CertManagerCA{}} }, []string{m + ": Required value"}},
		"an issuer without a name":       {issuer(issuerRef{}), []string{m + ".name: Required value"}},
		"an issuer with a path as name":  {issuer(issuerRef{Name: "../a"}), []string{m + ".name: Invalid value: "}},
		"an unknown kind of issuer":      {issuer(issuerRef{Name: "a", Kind: "Secret"}), []string{m + `.kind: Unsupported value: "Secret": supported values: "Issuer", "ClusterIssuer"`}},
		"a kind that is none":            {issuer(issuerRef{Name: "a", Kind: "a/b\n", Group: "example.com"}), []string{m + ".kind: Invalid value: expected a kind"}},
		"a group that is none":           {issuer(issuerRef{Name: "a", Kind: "B", Group: "https://example.com"}), []string{m + ".group: Invalid value: expected an API group"}},
		"an endless issuer":              {issuer(issuerRef{Name: endless, Kind: endless, Group: endless}), []string{m + ".name: Too long", m + ".kind: Too long", m + ".group: Too long"}},
		"two CAs":                        {func(s *spec) { s.AgentCA.CertManager = &certificatesv1.CertManagerCA{IssuerRef: &issuerRef{Name: "a"}} }, []string{"spec.agentCa.certManager: Forbidden: expected none together with vault"}},

		"mistakes all over": {func(s *spec) {
			s.Hosts, s.AgentCA.Vault.Server, s.AgentCA.Vault.KubernetesAuth.Role = nil, "vault", ""
			s.CertOptions = &opts{TTLDays: new(uint32(0))}
		}, []string{"spec.hosts: Required value", o + "ttlDays: ", v + "server: ", k + "role: Required value"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			certificate := valid()
			test.spoil(&certificate.Spec)
			certificate.Spec.SetDefaults()
			warnings, errs := certificate.Validate()
			wantAll(t, said(errs), test.want...)
			wantAll(t, warnings)
		})
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	pemText, _ := certificatePEM(t)
	tests := map[string]struct {
		change func(*certificatesv1.VaultCA)
		want   []string
	}{
		"http": {
			func(v *certificatesv1.VaultCA) { v.Server = "http://vault.vault:8200" },
			[]string{"spec.agentCa.vault.server: http:// is not encrypted: anyone who can read the network between istiod and Vault reads the login token; use https://"},
		},
		"http, and the key is Vault's": {
			func(v *certificatesv1.VaultCA) {
				v.Server, v.CSRPath = "http://vault.vault:8200", "pki_int/intermediate/generate/exported"
			},
			[]string{"spec.agentCa.vault.server: http:// is not encrypted: anyone who can read the network between istiod and Vault reads the login token and, because csrPath is set, istiod's CA key (the root's key stays in Vault); use https://"},
		},
		"http with certificates": {
			func(v *certificatesv1.VaultCA) {
				v.Server, v.CABundle = "HTTP://vault.vault:8200", []byte(pemText)
			},
			[]string{"spec.agentCa.vault.server: ", "spec.agentCa.vault.caBundle: is not used"},
		},
		"no audience": {
			func(v *certificatesv1.VaultCA) { v.KubernetesAuth.Audience = "" },
			[]string{"spec.agentCa.vault.kubernetesAuth.audience: is not set, so the agent sends a token that the API server accepts too"},
		},
		"an audience for a mounted token": {
			func(v *certificatesv1.VaultCA) { v.KubernetesAuth.MountedSAPath = "/var/run/secrets/vault" },
			nil,
		},
		"a token of Vault's own": {
			func(v *certificatesv1.VaultCA) {
				v.KubernetesAuth, v.TokenSecretRef = nil, &certificatesv1.ObjectRef{Name: "vault-token"}
			},
			nil,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			certificate := valid()
			test.change(certificate.Spec.AgentCA.Vault)
			certificate.Spec.SetDefaults()
			warnings, errs := certificate.Validate()
			wantAll(t, said(errs))
			wantAll(t, warnings, test.want...)
		})
	}
}

// wantAll wants exactly these, each the beginning of one thing that was said.
func wantAll(t *testing.T, said []string, want ...string) {
	t.Helper()
	for _, beginning := range want {
		if !slices.ContainsFunc(said, func(s string) bool { return strings.HasPrefix(s, beginning) }) {
			t.Errorf("nothing begins with %s", beginning)
		}
	}
	if len(said) != len(want) || t.Failed() {
		t.Errorf("want %d, got %d:\n%s", len(want), len(said), strings.Join(said, "\n"))
	}
}

func said[E error](errs []E) []string {
	var all []string
	for _, err := range errs {
		all = append(all, err.Error())
	}
	return all
}

// certificatePEM gives a certificate and its key.
func certificatePEM(*testing.T) (certificate, key string) {
	made := testca.SelfSign(x509.Certificate{}, nil)
	return string(made.PEM()), string(made.KeyPEM())
}

// rootPEM is a CA that has signed itself.
func rootPEM(*testing.T) string { return string(testca.Root("my-org").PEM()) }

// uriDomainErrors are the beginnings of the errors about domains that are none.
func uriDomainErrors(options string, from, to int) (all []string) {
	for i := from; i < to; i++ {
		all = append(all, fmt.Sprintf("%spermittedURIDomains[%d]: Invalid value: ", options, i))
	}
	return all
}
