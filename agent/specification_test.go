// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

var me = Identity{Pod: "istiod-0", Namespace: "istio-system", ServiceAccount: "istiod"}

func TestMineIsWhatNamesNamespaceAndServiceAccount(t *testing.T) {
	for host, want := range map[string]bool{
		"spiffe://cluster.local/ns/istio-system/sa/istiod":        true,
		"spiffe://another.example/ns/istio-system/sa/istiod":      true,
		"spiffe://cluster.local/ns/istio-system/sa/istiod-canary": false,
		"spiffe://cluster.local/ns/istio-system-2/sa/istiod":      false,
		"spiffe://cluster.local/x/ns/istio-system/sa/istiod":      false,
		"https://cluster.local/ns/istio-system/sa/istiod":         false,
		"": false,
	} {
		c := &certificatesv1.IssuedCertificate{Spec: certificatesv1.IssuedCertificateSpec{Hosts: []string{"spiffe://x/ns/a/sa/b", host}}}
		if got, _ := me.Choose([]*certificatesv1.IssuedCertificate{c}); (got == c) != want {
			t.Errorf("%q: got %v", host, got)
		}
	}
}

func TestOfSeveralTheOldestCounts(t *testing.T) {
	made := func(name string, age time.Duration, host string) *certificatesv1.IssuedCertificate {
		return &certificatesv1.IssuedCertificate{
			ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(begin.Add(-age))},
			Spec:       certificatesv1.IssuedCertificateSpec{Hosts: []string{host}},
		}
	}
	const mine, other = "spiffe://x/ns/istio-system/sa/istiod", "spiffe://x/ns/istio-system/sa/other"
	deleted := made("deleted", 5*time.Hour, mine)
	deleted.DeletionTimestamp = &metav1.Time{Time: begin}
	for name, test := range map[string]struct {
		all         []*certificatesv1.IssuedCertificate
		want, warns string
	}{
		"none":                {nil, "", ""},
		"only others'":        {[]*certificatesv1.IssuedCertificate{made("a", 0, other)}, "", ""},
		"one":                 {[]*certificatesv1.IssuedCertificate{made("a", 9*time.Hour, other), made("b", 0, mine)}, "b", ""},
		"two":                 {[]*certificatesv1.IssuedCertificate{made("a", 1*time.Hour, mine), made("b", 2*time.Hour, mine)}, "b", `ignores "a"`},
		"two of the same age": {[]*certificatesv1.IssuedCertificate{made("b", 0, mine), made("a", 0, mine)}, "a", `ignores "b"`},
		"one and one deleted": {[]*certificatesv1.IssuedCertificate{deleted, made("b", 0, mine)}, "b", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, warning := me.Choose(test.all)
			if (got == nil) != (test.want == "") || got != nil && got.Name != test.want {
				t.Errorf("got %v, want %q", got, test.want)
			}
			if (warning == "") != (test.warns == "") || !strings.Contains(warning, test.warns) {
				t.Errorf("got warning %q, want %q in it", warning, test.warns)
			}
		})
	}
}

var begin = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

const specification = `apiVersion: certificates.mesh.gloo.solo.io/v1
kind: IssuedCertificate
spec:
  hosts: [spiffe://cluster.local/ns/istio-system/sa/istiod]
  agentCa:
    vault: {server: "https://vault:8200", caPath: pki/root/sign-intermediate, kubernetesAuth: {role: istiod, audience: vault}}
`

func TestASpecificationFileIsReadAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "spec.yaml")
	f := &File{Path: path, Identity: me}
	var problem *SpecificationError
	if _, _, err := f.Current(); !errors.As(err, &problem) || !problem.Missing {
		t.Errorf("without a file: %v", err)
	}
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(specification)
	first, warnings, err := f.Current()
	if err != nil || len(warnings) > 0 {
		t.Fatalf("%v, warnings %q", err, warnings)
	}
	again, _, _ := f.Current()
	if digest(first) != digest(again) {
		t.Error("an unchanged file has another digest")
	}
	write(strings.Replace(specification, "role: istiod", "role: other", 1))
	if changed, _, err := f.Current(); err != nil || digest(first) == digest(changed) {
		t.Errorf("a changed role has the same digest (%v)", err)
	}
	write(strings.Replace(specification, "sa/istiod", "sa/other", 1))
	if _, warnings, err := f.Current(); err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], me.Host()) {
		t.Errorf("another's: %v, warnings %q", err, warnings)
	}
	write(strings.Replace(specification, "https://vault:8200", "vault", 1))
	if _, _, err := f.Current(); err == nil || !strings.Contains(err.Error(), "spec.agentCa.vault.server") {
		t.Errorf("a bad server: %v", err)
	}
}

func TestWhatACertificateDoesNotDependOnChangesNoDigest(t *testing.T) {
	decoded, err := certificatesv1.Decode([]byte(specification))
	if err != nil {
		t.Fatal(err)
	}
	a, _, err := prepare(decoded)
	if err != nil {
		t.Fatal(err)
	}
	b := a.DeepCopy()
	b.Spec.PodBounceDirective = &certificatesv1.ObjectRef{Name: "x"}
	b.Annotations = map[string]string{"x": "y"}
	if digest(a) != digest(b) {
		t.Error("it has changed")
	}
}

// A --spec that is a named pipe, or has no end, neither hangs the agent nor fills its memory.
func TestSpecificationIsARegularFile(t *testing.T) {
	pipe, large := filepath.Join(t.TempDir(), "pipe"), filepath.Join(t.TempDir(), "large")
	if err := errors.Join(syscall.Mkfifo(pipe, 0o600), os.WriteFile(large, nil, 0o600), os.Truncate(large, 1<<40)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{pipe: "expected a regular file", large: "expected at most"} {
		f := &File{Path: path, Identity: me}
		var problem *SpecificationError
		if _, _, err := f.Current(); !errors.As(err, &problem) || problem.Missing || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", filepath.Base(path), err, want)
		}
	}
}

// A ratio that was stored before it had its bound counts as the bound; in a file it is refused.
func TestAStoredRatioIsBounded(t *testing.T) {
	for _, test := range []struct {
		ratio        float64
		stored, file bool // accepted
		warning      bool
	}{
		{0.9, true, true, false},
		{0.91, true, false, true},
		{0.99999, true, false, true},
		{1, false, false, false},
		{-1, false, false, false},
	} {
		certificate := named("mine", 1)
		certificate.Spec.CertOptions.SecretRotationGracePeriodRatio = &test.ratio
		_, _, err := prepare(certificate)
		if (err == nil) != test.file || err != nil && !strings.Contains(err.Error(), "spec.certOptions.secretRotationGracePeriodRatio: Invalid value: ") {
			t.Errorf("%v in a file: %v", test.ratio, err)
		}
		stored, warnings, err := PrepareStored(certificate)
		if (err == nil) != test.stored {
			t.Errorf("%v stored: %v", test.ratio, err)
		}
		if err != nil {
			continue
		}
		if digest(stored) != digest(certificate) {
			t.Errorf("%v: the digest is another", test.ratio)
		}
		told := slices.ContainsFunc(warnings, func(w string) bool {
			return strings.HasPrefix(w, "spec.certOptions.secretRotationGracePeriodRatio: ")
		})
		if told != test.warning {
			t.Errorf("%v: warnings %q", test.ratio, warnings)
		}
		a, specifications, _ := newAgent(t)
		specifications.certificate = stored
		a.observe(time.Now())
		if specification, _ := a.state.Specified(); specification.Ratio != min(test.ratio, 0.9) {
			t.Errorf("%v counts as %v", test.ratio, specification.Ratio)
		}
	}
}
