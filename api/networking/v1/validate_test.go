// SPDX-License-Identifier: Apache-2.0

package v1_test

import (
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
)

// valid has nothing to complain about; the tests below spoil it.
func valid() *networkingv1.VirtualMesh {
	return &networkingv1.VirtualMesh{Spec: networkingv1.VirtualMeshSpec{
		Meshes: []networkingv1.MeshRef{{Name: "istiod-istio-system-cluster-1", Namespace: "gloo-mesh"}},
		MTLSConfig: &networkingv1.MTLSConfig{Shared: &networkingv1.SharedTrust{
			IntermediateCertificateAuthority: &certificatesv1.IntermediateCertificateAuthority{Vault: &certificatesv1.VaultCA{
				Server:         "https://vault.vault:8200",
				CAPath:         "pki/root/sign-intermediate",
				KubernetesAuth: &certificatesv1.KubernetesAuth{Role: "istiod", Audience: "vault"},
			}},
		}},
	}}
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	mesh := valid()
	mesh.Spec.SetDefaults()
	options, auth := mesh.Spec.MTLSConfig.Shared.IntermediateCertOptions, mesh.Spec.IntermediateCA().Vault.KubernetesAuth
	if options.OrgName != "Istio" || *options.TTLDays != 365 || *options.RSAKeySizeBytes != 4096 || *options.SecretRotationGracePeriodRatio != 0.10 {
		t.Errorf("got the options %+v", options)
	}
	if auth.MountPath != "/v1/auth/kubernetes" || auth.SecretTokenKey != "token" || auth.MountedSAPath != "/var/run/secrets/kubernetes.io/serviceaccount" {
		t.Errorf("got the login %+v", auth)
	}

	for name, spoil := range map[string]func(*networkingv1.VirtualMeshSpec){
		"no trust":     func(s *networkingv1.VirtualMeshSpec) { s.MTLSConfig = nil },
		"no kind":      func(s *networkingv1.VirtualMeshSpec) { s.MTLSConfig.Shared = nil },
		"another CA":   func(s *networkingv1.VirtualMeshSpec) { s.MTLSConfig.Shared = &networkingv1.SharedTrust{} },
		"another kind": func(s *networkingv1.VirtualMeshSpec) { s.MTLSConfig = &networkingv1.MTLSConfig{Limited: set()} },
	} {
		mesh := valid()
		spoil(&mesh.Spec)
		before := mesh.DeepCopy()
		if mesh.Spec.SetDefaults(); !equality.Semantic.DeepEqual(before, mesh) {
			t.Errorf("%s: what is not acted on stays as it is, got %+v", name, mesh.Spec)
		}
	}
}

func TestEveryMistakeIsNamedWithItsPath(t *testing.T) {
	t.Parallel()
	type (
		spec   = networkingv1.VirtualMeshSpec
		shared = networkingv1.SharedTrust
		vault  = certificatesv1.VaultCA
		opts   = certificatesv1.CertOptions
		root   = networkingv1.RootCertificateAuthority

		authority   = certificatesv1.IntermediateCertificateAuthority
		certManager = certificatesv1.CertManagerCA
	)
	of := func(change func(*vault)) func(*spec) {
		return func(s *spec) { change(s.MTLSConfig.Shared.IntermediateCertificateAuthority.Vault) }
	}
	trust := func(change func(*shared)) func(*spec) { return func(s *spec) { change(s.MTLSConfig.Shared) } }
	issuer := func(ref certificatesv1.IssuerRef) func(*spec) {
		return trust(func(s *shared) {
			*s.IntermediateCertificateAuthority = authority{CertManager: &certManager{IssuerRef: &ref}}
		})
	}
	options := func(o opts) func(*spec) { return trust(func(s *shared) { s.IntermediateCertOptions = &o }) }
	meshes := func(names ...string) func(*spec) {
		return func(s *spec) {
			s.Meshes = nil
			for _, name := range names {
				s.Meshes = append(s.Meshes, networkingv1.MeshRef{Name: name, Namespace: "gloo-mesh"})
			}
		}
	}

	const (
		m  = "spec.mtlsConfig."
		s  = m + "shared."
		ca = s + "intermediateCertificateAuthority"
		v  = ca + ".vault."
		o  = s + "intermediateCertOptions."
	)
	tests := map[string]struct {
		spoil func(*spec)
		// want is the beginnings of what must be said, one mistake each; nothing else may be.
		want []string
		// warned is the same for warnings.
		warned []string
	}{
		"nothing":          {func(*spec) {}, nil, nil},
		"no specification": {func(s *spec) { *s = spec{} }, nil, []string{"spec.meshes: is empty", "spec.mtlsConfig: is absent, so nothing is done"}},
		"restarts":         {func(s *spec) { s.MTLSConfig.AutoRestartPods = true }, nil, []string{"spec.mtlsConfig.autoRestartPods: a change of the root restarts istiod"}},
		"no meshes":        {meshes(), nil, []string{"spec.meshes: is empty, so nothing is done"}},
		"meshes of a name": {meshes("a", "b", "a"), []string{`spec.meshes[2]: Duplicate value: "a"`}, nil},
		"meshes unnamed":   {meshes("", "a", ""), []string{"spec.meshes[0].name: Required value", "spec.meshes[2].name: Required value"}, nil},
		"meshes misnamed":  {meshes("istiod/istio-system", "Istiod"), []string{`spec.meshes[0].name: Invalid value: "istiod/istio-system": expected <istiod's Deployment>`, `spec.meshes[1].name: Invalid value: "Istiod": `}, nil},
		"patterns":         {meshes("*-istio-system-cluster-1", "istiod-*-istio-system-cluster-1", "istiod.1*-a-b"), nil, nil},
		"patterns misnamed": {
			meshes("*", "**-a-b", "*-a-*", "istiod-a-*", "*istiod-a-b", "*-A-b", "-*-a-b", "*-"),
			[]string{
				"spec.meshes[0].name: Invalid value: \"*\": expected one star, then -<istiod's namespace>-<cluster>",
				"spec.meshes[1].name: ", "spec.meshes[2].name: ", "spec.meshes[3].name: ", "spec.meshes[4].name: ",
				"spec.meshes[5].name: ", "spec.meshes[6].name: ", "spec.meshes[7].name: ",
			},
			nil,
		},
		"a misnamed place":  {func(s *spec) { s.Meshes[0].Namespace = "gloo.mesh" }, []string{`spec.meshes[0].namespace: Invalid value: "gloo.mesh": `}, nil},
		"a mesh of nowhere": {func(s *spec) { s.Meshes[0].Namespace = "" }, nil, nil},

		"no kind of trust":   {func(s *spec) { s.MTLSConfig.Shared = nil }, []string{m + "shared: Required value: expected shared"}, nil},
		"two kinds of trust": {func(s *spec) { s.MTLSConfig.Limited = set() }, []string{m + "limited: Forbidden: expected none together with shared"}, []string{m + "limited: is not acted on"}},
		"limited trust":      {func(s *spec) { s.MTLSConfig.Shared, s.MTLSConfig.Limited = nil, set() }, nil, []string{m + "limited: is not acted on"}},

		"no CA":   {trust(func(s *shared) { s.IntermediateCertificateAuthority = nil }), []string{ca + ": Required value: expected the CA"}, nil},
		"two CAs": {trust(func(s *shared) { s.RootCertificateAuthority = &root{Generated: set()} }), []string{s + "rootCertificateAuthority: Forbidden: expected none together with intermediateCertificateAuthority"}, []string{s + "rootCertificateAuthority: is not acted on"}},
		"a root, with options": {trust(func(s *shared) {
			*s = shared{RootCertificateAuthority: &root{Secret: set()}, IntermediateCertOptions: &opts{RSAKeySizeBytes: new(uint32(8192))}}
		}), nil, []string{s + "rootCertificateAuthority: is not acted on"}},
		"two roots":         {trust(func(s *shared) { *s = shared{RootCertificateAuthority: &root{Secret: set(), Generated: set()}} }), []string{s + "rootCertificateAuthority.secret: Forbidden: expected none together with generated"}, []string{s + "rootCertificateAuthority: "}},
		"a CA that is none": {trust(func(s *shared) { s.IntermediateCertificateAuthority.Vault = nil }), []string{ca + ": Required value: expected the CA that signs the certificate: vault or certManager"}, nil},

		"cert-manager":                       {issuer(certificatesv1.IssuerRef{Name: "mesh"}), nil, nil},
		"cert-manager without an issuer":     {trust(func(s *shared) { *s.IntermediateCertificateAuthority = authority{CertManager: &certManager{}} }), []string{ca + ".certManager.issuerRef: Required value"}, nil},
		"cert-manager with a nameless one":   {issuer(certificatesv1.IssuerRef{}), []string{ca + ".certManager.issuerRef.name: Required value"}, nil},
		"cert-manager with an unknown kind":  {issuer(certificatesv1.IssuerRef{Name: "mesh", Kind: "Vault"}), []string{ca + `.certManager.issuerRef.kind: Unsupported value: "Vault"`}, nil},
		"cert-manager with an external kind": {issuer(certificatesv1.IssuerRef{Name: "mesh", Kind: "Vault", Group: "issuers.example.com"}), nil, nil},
		"cert-manager with roots of noise": {trust(func(s *shared) {
			*s.IntermediateCertificateAuthority = authority{CertManager: &certManager{IssuerRef: &certificatesv1.IssuerRef{Name: "mesh"}}, TrustedRoots: &certificatesv1.TrustedRoots{PEM: "a"}}
		}), []string{ca + ".trustedRoots.pem: Invalid value: cannot be used"}, nil},
		"cert-manager without a limit": {trust(func(s *shared) {
			*s.IntermediateCertificateAuthority = authority{CertManager: &certManager{IssuerRef: &certificatesv1.IssuerRef{Name: "mesh"}, AllowUnboundedPathLength: true}}
		}), nil, []string{ca + ".certManager.allowUnboundedPathLength: istiod's certificate may then sign further CAs"}},
		"Vault and cert-manager": {trust(func(s *shared) {
			s.IntermediateCertificateAuthority.CertManager = &certManager{IssuerRef: &certificatesv1.IssuerRef{Name: "mesh"}}
		}), []string{ca + ".certManager: Forbidden: expected none together with vault"}, nil},

		"numbers that are zero": {options(opts{TTLDays: new(uint32(0)), RSAKeySizeBytes: new(uint32(0)), SecretRotationGracePeriodRatio: new(0.0)}), []string{o + "ttlDays: Invalid value: 0", o + "rsaKeySizeBytes: Invalid value: 0", o + "secretRotationGracePeriodRatio: Invalid value: 0"}, nil},
		"numbers too large":     {options(opts{TTLDays: new(uint32(36501)), RSAKeySizeBytes: new(uint32(8192)), SecretRotationGracePeriodRatio: new(0.91)}), []string{o + "ttlDays: ", o + "rsaKeySizeBytes: ", o + "secretRotationGracePeriodRatio: "}, nil},
		"two kinds of key":      {options(opts{RSAKeySizeBytes: new(uint32(2048)), ECKeyCurve: certificatesv1.P256}), []string{o + "rsaKeySizeBytes: Forbidden: "}, nil},
		"URI domains":           {options(opts{PermittedURIDomains: []string{"cluster.local", ".example.com"}}), nil, []string{o + "permittedURIDomains: ztunnel from Istio 1.29.3 rejects all certificates"}},
		"URI domains with a *":  {options(opts{PermittedURIDomains: []string{"*.example.com"}}), []string{o + `permittedURIDomains[0]: Invalid value: "*.example.com": expected a trust domain`}, []string{o + "permittedURIDomains: "}},
		"an unknown curve":      {options(opts{ECKeyCurve: "P-521"}), []string{o + "ecKeyCurve: Unsupported value: "}, nil},
		"organizations":         {options(opts{OrgName: "Acme, Inc."}), []string{o + `orgName: Invalid value: "Acme, Inc.": expected no comma`}, nil},

		"nothing of Vault":   {trust(func(s *shared) { *s.IntermediateCertificateAuthority.Vault = vault{} }), []string{v + "server: Required value", v + "caPath: Required value", v + "kubernetesAuth: Required value"}, nil},
		"no role":            {of(func(v *vault) { v.KubernetesAuth.Role = "" }), []string{v + "kubernetesAuth.role: Required value"}, nil},
		"two ways to log in": {of(func(v *vault) { v.TokenSecretRef = &certificatesv1.ObjectRef{Name: "a"} }), []string{v + "tokenSecretRef: Forbidden: expected none together with kubernetesAuth"}, nil},
		"two sources of the token": {of(func(v *vault) {
			v.KubernetesAuth.ServiceAccountRef, v.KubernetesAuth.MountedSAPath = &certificatesv1.ObjectRef{Name: "a"}, "/a"
		}), []string{v + "kubernetesAuth.mountedSaPath: Forbidden: "}, nil},
		"a Secret unnamed":         {of(func(v *vault) { v.KubernetesAuth, v.TokenSecretRef = nil, &certificatesv1.ObjectRef{} }), []string{v + "tokenSecretRef.name: Required value"}, nil},
		"no scheme":                {of(func(v *vault) { v.Server = "vault.vault:8200" }), []string{v + "server: Invalid value: does not start with https://"}, nil},
		"no encryption":            {of(func(v *vault) { v.Server = "http://vault.vault:8200" }), nil, []string{v + "server: http:// is not encrypted"}},
		"a path that signs leaves": {of(func(v *vault) { v.CAPath = "pki/sign/my-role" }), []string{v + `caPath: Invalid value: "pki/sign/my-role": signs leaf certificates`}, nil},
		"a key that stays":         {of(func(v *vault) { v.CSRPath = "pki_int/intermediate/generate/internal" }), []string{v + "csrPath: Invalid value: "}, nil},
		"certificates of none":     {of(func(v *vault) { v.CABundle = []byte("vault") }), []string{v + "caBundle: Invalid value: contains no certificate"}, nil},

		"roots of noise": {trust(func(s *shared) {
			s.IntermediateCertificateAuthority.TrustedRoots = &certificatesv1.TrustedRoots{PEM: "my-org"}
		}), []string{ca + ".trustedRoots.pem: Invalid value: cannot be used"}, nil},
		"roots in a ConfigMap": {trust(func(s *shared) {
			s.IntermediateCertificateAuthority.TrustedRoots = &certificatesv1.TrustedRoots{ConfigMapRef: &certificatesv1.ConfigMapKeyRef{Name: "a"}}
		}), nil, nil},
		"federation":             {func(s *spec) { s.Federation = set() }, nil, []string{"spec.federation: is not acted on: "}},
		"an access policy":       {func(s *spec) { s.GlobalAccessPolicy = "ENABLED" }, nil, []string{"spec.globalAccessPolicy: is not acted on: "}},
		"the mesh's own default": {func(s *spec) { s.GlobalAccessPolicy = "MESH_DEFAULT" }, nil, nil},

		"mistakes all over": {func(s *spec) {
			meshes("")(s)
			s.Federation, s.MTLSConfig.Limited = set(), set()
			s.MTLSConfig.Shared.IntermediateCertOptions = &opts{TTLDays: new(uint32(0))}
			s.IntermediateCA().Vault.Server = "http://vault/v1"
		}, []string{
			"spec.meshes[0].name: ", m + "limited: Forbidden", o + "ttlDays: ", v + "server: Invalid value: contains a path",
		}, []string{"spec.federation: ", m + "limited: ", v + "server: http://"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mesh := valid()
			test.spoil(&mesh.Spec)
			mesh.Spec.SetDefaults()
			warnings, errs := mesh.Validate()
			wantAll(t, said(errs), test.want...)
			wantAll(t, warnings, test.warned...)
		})
	}
}

func TestTypesAreKnownToASchemeThatTheyAreAddedTo(t *testing.T) {
	t.Parallel()
	scheme := runtime.NewScheme()
	if err := networkingv1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	if err := certificatesv1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	for _, object := range []runtime.Object{
		&networkingv1.VirtualMesh{}, &networkingv1.VirtualMeshList{},
		&certificatesv1.IssuedCertificate{}, &certificatesv1.IssuedCertificateList{},
		&certificatesv1.PodBounceDirective{}, &certificatesv1.PodBounceDirectiveList{},
	} {
		if _, _, err := scheme.ObjectKinds(object); err != nil {
			t.Error(err)
		}
	}
}

func TestMeshesAreCalledAsInThePublicStatus(t *testing.T) {
	t.Parallel()
	if key := (&networkingv1.MeshRef{Name: "a", Namespace: "b"}).Key(); key != "a.b." {
		t.Errorf("want a.b., got %s", key)
	}
}

// set is a part that is there, with nothing in it.
func set() *runtime.RawExtension { return &runtime.RawExtension{Raw: []byte("{}")} }

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
