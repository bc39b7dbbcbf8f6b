// SPDX-License-Identifier: Apache-2.0

package v1_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
)

// header starts every file that these tests write.
const header = "apiVersion: networking.mesh.gloo.solo.io/v1\nkind: VirtualMesh\n"

func TestOnlyAVirtualMeshDecodes(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		content string
		// want is each thing that must be said.
		want []string
	}{
		"an empty file":       {"", []string{"expected a YAML mapping that starts with apiVersion: networking.mesh.gloo.solo.io/v1 and kind: VirtualMesh"}},
		"two documents":       {header + "---\n" + header, []string{`expected one YAML document, found another below a line "---"`}},
		"a field given twice": {header + "spec: {}\nspec: {}\n", []string{`line 4: key "spec" already set in map`}},
		"too much":            {header + strings.Repeat("#", networkingv1.MaxFileSize), []string{"expected one VirtualMesh, of at most 1048576 bytes, found 10486"}},
		"something else": {"apiVersion: certificates.mesh.gloo.solo.io/v1\nkind: IssuedCertificate\n", []string{
			`apiVersion: Invalid value: "certificates.mesh.gloo.solo.io/v1": expected "networking.mesh.gloo.solo.io/v1"`,
			`kind: Invalid value: "IssuedCertificate": expected "VirtualMesh"`,
		}},
		"all misspelt fields and all misfits": {header + `
spec:
  meshes: [a, {name: 1}]
  mtlsConfig:
    autoRestartPod: true
    autoRestartPods: "true"
    shared:
      intermediateCertOptions: {ttlDays: 1.5, rsaKeySizeBits: 2048}
      intermediateCertificateAuthority: {vault: {CAPath: a, kubernetesAuth: {roles: []}}}
  globalAccessPolicies: ENABLED
`, []string{
			`9 mistakes:`,
			`spec.globalAccessPolicies: Forbidden: there is no such field`,
			`spec.meshes[0]: Invalid value: expected a mapping, found a string`,
			`spec.meshes[1].name: Invalid value: expected a string, found a number`,
			`spec.mtlsConfig.autoRestartPod: Forbidden: there is no such field`,
			`spec.mtlsConfig.autoRestartPods: Invalid value: expected true or false, found a string`,
			`spec.mtlsConfig.shared.intermediateCertOptions.rsaKeySizeBits: Forbidden: there is no such field`,
			`spec.mtlsConfig.shared.intermediateCertOptions.ttlDays: Invalid value: expected a whole number, found 1.5`,
			`spec.mtlsConfig.shared.intermediateCertificateAuthority.vault.CAPath: Forbidden: there is no such field`,
			`spec.mtlsConfig.shared.intermediateCertificateAuthority.vault.kubernetesAuth.roles: Forbidden: there is no such field`,
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := networkingv1.Decode([]byte(test.content))
			if err == nil {
				t.Fatal("want an error")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("want an error that says %s\ngot: %v", want, err)
				}
			}
		})
	}
}

func TestNoErrorQuotesASecretInTheWrongPlace(t *testing.T) {
	t.Parallel()
	const secret = "hvs.CAESIsecret"
	for name, vault := range map[string]string{
		"a token where its Secret is named": "tokenSecretRef: " + secret,
		"a token as its Secret's name":      "tokenSecretRef: {name: " + secret + "}",
		"a password in the address":         "server: 'https://root:" + secret + "@vault:8200'",
		"a token in a path":                 "caPath: 'pki/root/sign-intermediate?token=" + secret + "'",
		"PEM that is not in base64":         "caBundle: '-----BEGIN PRIVATE KEY----- " + secret + "'",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			content := header + "spec: {mtlsConfig: {shared: {intermediateCertificateAuthority: {vault: {" + vault + "}}}}}\n"
			mesh, err := networkingv1.Decode([]byte(content))
			if err == nil {
				mesh.Spec.SetDefaults()
				_, errs := mesh.Validate()
				err = errs.ToAggregate()
			}
			if err == nil || strings.Contains(err.Error(), secret) {
				t.Errorf("want an error that does not quote it, got: %v", err)
			}
			_, _, misfits := networkingv1.FromObject(tree(t, content))
			if misfits != nil && strings.Contains(misfits.ToAggregate().Error(), secret) {
				t.Errorf("this quotes it: %v", misfits)
			}
		})
	}
}

// As Gloo Mesh leaves it behind, in a cluster whose CRD checked nothing.
func TestWhatAnAPIServerHasIsReadAsFarAsItFits(t *testing.T) {
	t.Parallel()
	object := tree(t, header+`
metadata:
  name: virtual-mesh
  generation: 2
  clusterName: ""
  creationTimestamp: "2026-01-02T03:04:05Z"
  managedFields: [{manager: kubectl, fieldsV1: {"f:spec": {"f:meshes": {}}}}]
spec:
  mtlsConfig: {autoRestartPods: "yes", autoRestartPod: true, shared: {intermediateCertificateAuthority: {vault: {server: "https://vault:8200"}}}}
  federation: {selectors: [{}], anything: 1}
  meshes: [{name: a, namespace: b}, 1]
  quota: {}
status:
  observedGeneration: "2"
  meshes: {a.b.: {state: 1}}
`)
	before := runtime.DeepCopyJSON(object)
	mesh, warnings, errs := networkingv1.FromObject(object)
	if !equality.Semantic.DeepEqual(before, object) {
		t.Errorf("what was read has changed: %v", object)
	}
	if mesh.Name != "virtual-mesh" || mesh.Generation != 2 || mesh.Spec.Meshes[0] != (networkingv1.MeshRef{Name: "a", Namespace: "b"}) ||
		mesh.Spec.IntermediateCA().Vault.Server != "https://vault:8200" || mesh.Spec.Federation == nil {
		t.Errorf("got %+v", mesh)
	}
	if !equality.Semantic.DeepEqual(mesh.Status, networkingv1.VirtualMeshStatus{}) {
		t.Errorf("the status is not read, got %+v", mesh.Status)
	}
	wantAll(t, warnings,
		"spec.mtlsConfig.autoRestartPod: is not acted on: there is no such field; it may be misspelt",
		"spec.quota: is not acted on: there is no such field")
	wantAll(t, said(errs),
		"spec.meshes[1]: Invalid value: expected a mapping, found a number",
		"spec.mtlsConfig.autoRestartPods: Invalid value: expected true or false, found a string")
}

func TestSamplesAreValid(t *testing.T) {
	t.Parallel()
	wantWarnings := map[string][]string{"virtualmesh.yaml": {
		"spec.mtlsConfig.shared.intermediateCertificateAuthority.vault.server: http:// is not encrypted: anyone who can read the network between istiod and Vault reads the login token and, because csrPath is set, istiod's CA key",
		"spec.mtlsConfig.shared.intermediateCertificateAuthority.vault.kubernetesAuth.audience: is not set",
		"spec.mtlsConfig.autoRestartPods: a change of the root restarts istiod, gateways and workloads, and restarted Pods and others do not trust each other meanwhile; do not use it in production",
	}, "virtualmesh-cert-manager.yaml": nil, "virtualmesh-vault.yaml": nil}
	found := samples(t)
	if want := slices.Sorted(maps.Keys(wantWarnings)); !slices.Equal(want, slices.Sorted(maps.Keys(found))) {
		t.Errorf("want the samples %q, found %d", want, len(found))
	}
	for name, content := range found {
		mesh := decode(t, content)
		mesh.Spec.SetDefaults()
		warnings, errs := mesh.Validate()
		wantAll(t, said(errs))
		wantAll(t, warnings, wantWarnings[name]...)

		same, unknown, errs := networkingv1.FromObject(tree(t, content))
		same.Spec.SetDefaults()
		if len(unknown) > 0 || len(errs) > 0 || !equality.Semantic.DeepEqual(mesh, same) {
			t.Errorf("%s: read from the API server it is another: %+v, %q, %v", name, same, unknown, errs)
		}
	}
}

// FuzzDecode takes anything: never a panic, and what is valid and is to be acted
// on has all that an IssuedCertificate needs.
func FuzzDecode(f *testing.F) {
	for _, content := range samples(f) {
		f.Add([]byte(content))
	}
	f.Add([]byte(header + "spec: {meshes: [{}], globalAccessPolicy: ENABLED, federation: {permissive: {}}, mtlsConfig: {limited: {}, shared: {rootCertificateAuthority: {generated: {ttlDays: 1}, secret: {}}}}}"))
	f.Add([]byte(header + "spec: {mtlsConfig: {shared: {intermediateCertOptions: {ecKeyCurve: P-256, secretRotationGracePeriodRatio: 0}, intermediateCertificateAuthority: {vault: {tokenSecretRef: {name: a}}}}}}"))
	f.Add([]byte(header + "spec: {mtlsConfig: {shared: {intermediateCertificateAuthority: {certManager: {issuerRef: {name: a}}, vault: {server: b}}}}}"))
	f.Fuzz(func(t *testing.T, content []byte) {
		mesh, err := networkingv1.Decode(content)
		if err != nil {
			return
		}
		mesh.Validate() // without defaults it may say anything
		mesh.Spec.SetDefaults()
		once := mesh.DeepCopy()
		mesh.Spec.SetDefaults()
		if !equality.Semantic.DeepEqual(once, mesh) {
			t.Error("defaults filled in twice differ")
		}
		if _, errs := mesh.Validate(); len(errs) > 0 {
			return
		}
		if ca := mesh.Spec.IntermediateCA(); ca != nil {
			options, vault := mesh.Spec.MTLSConfig.Shared.IntermediateCertOptions, ca.Vault
			if options.OrgName == "" || *options.TTLDays == 0 || (options.RSAKeySizeBytes == nil) == (options.ECKeyCurve == "") ||
				*options.SecretRotationGracePeriodRatio <= 0 || (vault == nil) == (ca.CertManager == nil) {
				t.Errorf("valid, but not whole: %+v, %+v", options, ca)
			}
			if vault != nil && (vault.Server == "" || vault.CAPath == "" || (vault.TokenSecretRef == nil) == (vault.KubernetesAuth == nil)) {
				t.Errorf("valid, but not whole: %+v", vault)
			}
			if issuer := ca.CertManager; issuer != nil && (issuer.IssuerRef == nil || issuer.IssuerRef.Name == "" || issuer.IssuerRef.Kind == "" || issuer.IssuerRef.Group == "") {
				t.Errorf("valid, but not whole: %+v", issuer)
			}
		}
		// What was understood can be written down and read again.
		written, err := yaml.Marshal(mesh)
		if err != nil {
			t.Fatal(err)
		}
		if again := decode(t, string(written)); !equality.Semantic.DeepEqual(again.Spec.Meshes, mesh.Spec.Meshes) ||
			!equality.Semantic.DeepEqual(again.Spec.IntermediateCA(), mesh.Spec.IntermediateCA()) {
			t.Errorf("written and read again it is another:\n%s", written)
		}
	})
}

// samples gives those of config/samples that are of this kind, by file name.
func samples(t testing.TB) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "..", "..", "config", "samples", "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(content), "\nkind: "+networkingv1.Kind+"\n") {
			found[filepath.Base(file)] = string(content)
		}
	}
	return found
}

func decode(t testing.TB, content string) *networkingv1.VirtualMesh {
	t.Helper()
	decoded, err := networkingv1.Decode([]byte(content))
	if err != nil {
		t.Fatalf("%v\n%s", err, content)
	}
	return decoded
}

// tree is an object as a client without Go types has it.
func tree(t testing.TB, content string) map[string]any {
	t.Helper()
	asJSON, err := yaml.YAMLToJSON([]byte(content))
	if err != nil {
		t.Fatal(err)
	}
	var object map[string]any
	if err := json.Unmarshal(asJSON, &object); err != nil {
		t.Fatal(err)
	}
	return object
}
