// SPDX-License-Identifier: Apache-2.0

package v1_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/equality"
	"sigs.k8s.io/yaml"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// header starts every file that these tests write.
const header = "apiVersion: certificates.mesh.gloo.solo.io/v1\nkind: IssuedCertificate\n"

func TestOnlyAnIssuedCertificateDecodes(t *testing.T) {
	t.Parallel()
	const noMapping = "expected a YAML mapping that starts with apiVersion: certificates.mesh.gloo.solo.io/v1 and kind: IssuedCertificate"
	tests := map[string]struct {
		content string
		// want is each thing that must be said.
		want []string
	}{
		"an empty file":       {"", []string{noMapping}},
		"a list":              {"- spec\n", []string{noMapping}},
		"no YAML":             {"{", []string{"not YAML: "}},
		"two documents":       {header + "---\n" + header, []string{`expected one YAML document, found another below a line "---"`}},
		"a field given twice": {header + "spec: {}\nspec: {}\n", []string{`line 4: key "spec" already set in map`}},
		"too much":            {header + strings.Repeat("#", certificatesv1.MaxFileSize), []string{"expected one IssuedCertificate, of at most 1048576 bytes, found 10486"}},
		"nothing of what it is": {"spec: {}\n", []string{
			`apiVersion: Required value: expected "certificates.mesh.gloo.solo.io/v1"`,
			`kind: Required value: expected "IssuedCertificate"`,
		}},
		"something else, whose fields are not looked at": {"apiVersion: networking.mesh.gloo.solo.io/v1\nkind: VirtualMesh\nspec: {mtlsConfig: {}}\n", []string{
			`2 mistakes:`,
			`apiVersion: Invalid value: "networking.mesh.gloo.solo.io/v1": expected "certificates.mesh.gloo.solo.io/v1"`,
			`kind: Invalid value: "VirtualMesh": expected "IssuedCertificate"`,
		}},
		"a kind that is no text": {"apiVersion: certificates.mesh.gloo.solo.io/v1\nkind: [IssuedCertificate]\n", []string{`kind: Invalid value: ["IssuedCertificate"]: expected "IssuedCertificate"`}},
		"all misspelt fields and all misfits": {header + `
spec:
  hosts: [1, a]
  certOptions: {ttlDays: 1.5, rsaKeySizeBits: 2048, secretRotationGracePeriodRatio: some}
  agentCa: {vault: {CAPath: a, kubernetesAuth: {roles: []}}}
`, []string{
			`6 mistakes:`,
			`spec.agentCa.vault.CAPath: Forbidden: there is no such field`,
			`spec.agentCa.vault.kubernetesAuth.roles: Forbidden: there is no such field`,
			`spec.certOptions.rsaKeySizeBits: Forbidden: there is no such field`,
			`spec.certOptions.secretRotationGracePeriodRatio: Invalid value: expected a number, found a string`,
			`spec.certOptions.ttlDays: Invalid value: expected a whole number, found 1.5`,
			`spec.hosts[0]: Invalid value: expected a string, found a number`,
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := certificatesv1.Decode([]byte(test.content))
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
		"a token where its Secret is named":  "tokenSecretRef: " + secret,
		"a token as its Secret's name":       "tokenSecretRef: {name: " + secret + "}",
		"a token as its Secret's namespace":  "tokenSecretRef: {name: a, namespace: " + secret + "}",
		"a password in the address":          "server: 'https://root:" + secret + "@vault:8200'",
		"a password in a damaged address":    "server: 'https://root:" + secret + "@vau lt:8200'",
		"a token in the address":             "server: 'https://vault:8200/?token=" + secret + "'",
		"a token in a path":                  "caPath: 'pki/root/sign-intermediate?token=" + secret + "'",
		"PEM that is not in base64":          "caBundle: '-----BEGIN PRIVATE KEY----- " + secret + "'",
		"a key in place of the certificates": "caBundle: {key: " + secret + "}",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			certificate, err := certificatesv1.Decode([]byte(header + "spec: {agentCa: {vault: {" + vault + "}}}\n"))
			if err == nil {
				certificate.Spec.SetDefaults()
				_, errs := certificate.Validate()
				err = errs.ToAggregate()
			}
			if err == nil || strings.Contains(err.Error(), secret) {
				t.Errorf("want an error that does not quote it, got: %v", err)
			}
		})
	}
}

func TestWhatAnAPIServerGivesDecodes(t *testing.T) {
	t.Parallel()
	// As `kubectl get -o yaml` writes it, with a status of another program's.
	got := decode(t, header+`
metadata:
  name: istiod
  generation: 2
  creationTimestamp: "2026-01-02T03:04:05Z"
  managedFields: [{manager: kubectl, fieldsV1: {"f:spec": {"f:hosts": {}}}}]
spec:
  hosts: [spiffe://cluster.local/ns/istio-system/sa/istiod]
status:
  observedGeneration: "2"
  whatever: true
`)
	if got.Name != "istiod" || got.Generation != 2 || len(got.Spec.Hosts) != 1 {
		t.Errorf("got %+v", got)
	}
	if !equality.Semantic.DeepEqual(got.Status, certificatesv1.IssuedCertificateStatus{}) {
		t.Errorf("a file's status is not read, got %+v", got.Status)
	}
}

func TestSamplesAreValid(t *testing.T) {
	t.Parallel()
	wantWarnings := map[string]int{"issuedcertificate.yaml": 2, "issuedcertificate-local-key.yaml": 0}
	for name, content := range samples(t) {
		certificate := decode(t, content)
		certificate.Spec.SetDefaults()
		warnings, errs := certificate.Validate()
		if len(errs) > 0 {
			t.Errorf("%s: %v", name, errs.ToAggregate())
		}
		want, ok := wantWarnings[name]
		if !ok || len(warnings) != want {
			t.Errorf("%s: want %d warnings (known: %v), got %q", name, want, ok, warnings)
		}
		delete(wantWarnings, name)
	}
	for name := range wantWarnings {
		t.Errorf("there is no sample %s", name)
	}
}

// FuzzDecode takes anything: never a panic, and what is valid has all that an
// agent needs.
func FuzzDecode(f *testing.F) {
	for _, content := range samples(f) {
		f.Add([]byte(content))
	}
	f.Add([]byte(header + "spec: {hosts: [a], certOptions: {ttlDays: 0, ecKeyCurve: P-384, orgName: 'a,b'}, agentCa: {vault: {caBundle: YWI=, server: 'https://[::1]:8200', tokenSecretRef: {name: a}, caPath: /v1/pki/issuer/default/sign-intermediate}}}"))
	f.Add([]byte(header + "spec: {glooMeshCa: {}, signingCertificateSecret: {}, org: a, agentCa: {vault: {kubernetesAuth: {serviceAccountRef: {name: a}, mountedSaPath: /a, audience: b}}}}"))
	f.Fuzz(func(t *testing.T, content []byte) {
		certificate, err := certificatesv1.Decode(content)
		if err != nil {
			return
		}
		certificate.Validate() // without defaults it may say anything
		certificate.Spec.SetDefaults()
		once := certificate.DeepCopy()
		certificate.Spec.SetDefaults()
		if !equality.Semantic.DeepEqual(once, certificate) {
			t.Error("defaults filled in twice differ")
		}
		if _, errs := certificate.Validate(); len(errs) > 0 {
			return
		}
		options, vault := certificate.Spec.CertOptions, certificate.Spec.AgentCA.Vault
		if len(certificate.Spec.Hosts) == 0 || options.OrgName == "" || *options.TTLDays == 0 ||
			(options.RSAKeySizeBytes == nil) == (options.ECKeyCurve == "") ||
			*options.SecretRotationGracePeriodRatio <= 0 ||
			vault.Server == "" || vault.CAPath == "" ||
			(vault.TokenSecretRef == nil) == (vault.KubernetesAuth == nil) {
			t.Errorf("valid, but not whole: %+v", certificate.Spec)
		}
		if auth := vault.KubernetesAuth; auth != nil && (auth.Role == "" || auth.MountPath == "" ||
			(auth.ServiceAccountRef == nil) == (auth.MountedSAPath == "")) {
			t.Errorf("valid, but not whole: %+v", auth)
		}
		// What was understood can be written down and read again.
		written, err := yaml.Marshal(certificate)
		if err != nil {
			t.Fatal(err)
		}
		if again := decode(t, string(written)); !equality.Semantic.DeepEqual(again, certificate) {
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
		if strings.Contains(string(content), "\nkind: "+certificatesv1.Kind+"\n") {
			found[filepath.Base(file)] = string(content)
		}
	}
	return found
}

func decode(t testing.TB, content string) *certificatesv1.IssuedCertificate {
	t.Helper()
	decoded, err := certificatesv1.Decode([]byte(content))
	if err != nil {
		t.Fatalf("%v\n%s", err, content)
	}
	return decoded
}
