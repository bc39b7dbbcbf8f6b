// SPDX-License-Identifier: Apache-2.0

package docs_test

import (
	"reflect"
	"strings"
	"testing"
	"unicode"

	"sigs.k8s.io/yaml"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
)

const caSources = "ca-sources.md"

// sourceClaims names, for rows and sentences of the page by their first words, the tests that show them.
var sourceClaims = []struct{ claim, shownBy string }{
	{"| in etcd |", "e2e/tests/renewal.TestTwoHundredRenewals e2e/tests/sources.TestKilled"},
	{"| path length 0 |", "e2e/tests/sources.TestWrongAnswers/an_unlimited_path e2e/tests/certmanager.TestIssuing/an_issuer_that_limits_nothing"},
	{"| while it is down |", "e2e/tests/sources.TestFailures e2e/tests/issuing.TestRenewalRecovers"},
	{"| [name constraints](#name-constraints) |", "e2e/tests/renewal.TestNameConstraints e2e/tests/certmanager.TestIssuing/name_constraints_of_the_CSR e2e/tests/sources.TestNameConstraints"},
	{"| CA | yes |", "e2e/tests/certmanager.TestIssuing/an_issuer_that_limits_the_path_length"},
	{"| SelfSigned | no |", "e2e/tests/certmanager.TestIssuing/an_issuer_that_cannot_sign_it"},
	{"| `jwtAuth` |", "e2e/tests/logins.TestJWT"},
	{"| `appRoleAuth` |", "e2e/tests/logins.TestAppRole e2e/tests/logins.TestAppRoleWrapped"},
	{"| `certAuth` |", "e2e/tests/logins.TestCertificate"},
	{"| `tokenSecretRef` |", "e2e/tests/issuing.TestSecretTokenRenewal agent.TestKeepToken"},
	{"This is a step of [changing the root]", "e2e/tests/rotation.TestRotateIstiodRoot agent.TestTheCAOfUntilNowIsTakenOver"},
	{"List the trust domain of every mesh", "controllers/meshes.TestExcludedTrustDomain internal/uriconstraints.TestPermit"},
	{"| Go (istiod, proxyless gRPC) |", "e2e/tests/renewal.TestNameConstraints agent/cacerts.TestVerifyUnrequestedNameConstraints/its_parent,_as_a_host"},
	{"| older Vault, OpenBao |", "e2e/tests/sources.TestNameConstraints agent/cacerts.TestVerifyNameConstraints/none"},
	{"**Do not use it with ambient mode**", "api/networking/v1.TestEveryMistakeIsNamedWithItsPath/URI_domains cli/checkup.TestAmbient e2e/tests/clisetup.TestCheck/name_constraints_in_ambient_mode"},
	{"Envoy and ztunnel were read, not run.", "e2e/tests/renewal.TestNameConstraints/OpenSSL"},
	{"- The answer may have fewer domains", "agent/cacerts.TestVerifyNameConstraints/narrower agent/cacerts.TestVerifyNameConstraints/broader agent/cacerts.TestVerifyNameConstraints/the_issuer's"},
	{"- A policy of Vault with `allowed_parameters`", "e2e/tests/issuing.TestNameConstraintsPolicy cli/vaultside.TestWhatIsPrinted/limited"},
	{"- Constraints that were not requested are accepted", "agent/cacerts.TestVerifyUnrequestedNameConstraints"},
}

// What the page promises of the sources, tests show.
func TestSourceClaims(t *testing.T) {
	t.Parallel()
	sources, text := map[string]testSource{}, read(t, caSources).text
	for _, each := range sourceClaims {
		if strings.Count(text, "\n"+each.claim) != 1 {
			t.Errorf("%s: no line, or several, begin with %q", caSources, each.claim)
		}
		checkProof(t, sources, each.claim, each.shownBy)
	}
}

// Every source and every login of the API is on the page.
func TestEverySourceIsCompared(t *testing.T) {
	t.Parallel()
	text := read(t, caSources).text
	fields := 0
	for _, of := range []reflect.Type{reflect.TypeFor[certificatesv1.IntermediateCertificateAuthority](), reflect.TypeFor[certificatesv1.VaultCA]()} {
		for field := range of.Fields() {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if login := strings.HasSuffix(name, "Auth") || name == "tokenSecretRef"; !login && name != "certManager" {
				continue
			}
			fields++
			if !strings.Contains(text, name) {
				t.Errorf("%s does not name %s", caSources, name)
			}
		}
	}
	if fields < 3 {
		t.Errorf("only %d sources and logins were found", fields)
	}
}

// The VirtualMesh of the page is valid as it is written.
func TestNameConstraintsExample(t *testing.T) {
	t.Parallel()
	blocks := read(t, caSources).blocks("yaml")
	if len(blocks) != 1 {
		t.Fatalf("%d YAML blocks, want 1", len(blocks))
	}
	var object map[string]any
	if err := yaml.Unmarshal([]byte(blocks[0]), &object); err != nil {
		t.Fatal(err)
	}
	mesh, unknown, errs := networkingv1.FromObject(object)
	if len(unknown) > 0 || len(errs) > 0 {
		t.Fatalf("unknown fields %v, errors %v", unknown, errs)
	}
	mesh.Spec.SetDefaults()
	if _, errs := mesh.Validate(); len(errs) > 0 {
		t.Error(errs)
	}
	if domains := mesh.Spec.MTLSConfig.Shared.IntermediateCertOptions.PermittedURIDomains; len(domains) != 1 {
		t.Errorf("permits %q", domains)
	}
}

// Each source has a diagram of plain characters, which fits a page and is readable in every theme.
func TestDiagramsOfSources(t *testing.T) {
	t.Parallel()
	pictures := 0
	for block := range strings.SplitSeq(read(t, caSources).text, "\n```\n") {
		if !strings.HasPrefix(strings.TrimSpace(block), "istiod's Pod") && !strings.HasPrefix(strings.TrimSpace(block), "istio-system") {
			continue
		}
		pictures++
		for line := range strings.Lines(block) {
			line = strings.TrimRight(line, "\n")
			if len(line) > 84 || strings.ContainsFunc(line, func(r rune) bool { return r > unicode.MaxASCII || !unicode.IsPrint(r) }) {
				t.Errorf("a picture has the line %q", line)
			}
		}
	}
	if pictures != 3 {
		t.Errorf("%d pictures, want 3", pictures)
	}
}
