// SPDX-License-Identifier: Apache-2.0

package vaultside_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/cli/vaultside"
)

var update = flag.Bool("update", false, "accept what is printed as the golden files")

const guide = "../../config/samples/virtualmesh.yaml"

// localKey is the safer way of docs/vault.md.
const localKey = `
apiVersion: networking.mesh.gloo.solo.io/v1
kind: VirtualMesh
metadata: {name: virtual-mesh, namespace: istio-system}
spec:
  mtlsConfig:
    shared:
      intermediateCertOptions: {ttlDays: 90, ecKeyCurve: P-256}
      intermediateCertificateAuthority:
        vault:
          server: https://vault.vault:8200
          caPath: pki/root/sign-intermediate
          kubernetesAuth: {role: istiod, audience: vault}
  meshes:
  - name: istiod-istio-system-cluster-1
`

// limited has name constraints.
var limited = strings.Replace(localKey, "{ttlDays: 90, ", "{ttlDays: 90, permittedURIDomains: [cluster.local, .example.com], ", 1)

// hostile has in every place what a shell or a policy would act on.
const hostile = `
apiVersion: networking.mesh.gloo.solo.io/v1
kind: VirtualMesh
spec:
  mtlsConfig:
    shared:
      intermediateCertOptions: {orgName: 'a "b" $(c) \d'}
      intermediateCertificateAuthority:
        vault:
          server: https://$(id)
          caPath: p'k$(id)i/root/sign-intermediate
          namespace: a$(id)/b
          tokenSecretRef: {name: vault}
  meshes:
  - name: istiod-other-cluster-1
`

func TestWhatIsPrinted(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		mesh    *networkingv1.VirtualMesh
		options vaultside.Options
	}{
		"guide":     {read(t, guide, ""), vaultside.Options{}},
		"local-key": {read(t, "-", localKey), vaultside.Options{}},
		"outside": {read(t, "-", localKey), vaultside.Options{
			ServiceAccounts: []string{"istiod-canary", "istiod"}, TrustDomain: "example.com", Policy: "mesh", TokenTTL: time.Hour,
			Reviewer: vaultside.Reviewer{Host: "https://10.0.0.1:6443", CAFile: "ca.crt", TokenFile: "my reviewer.jwt"},
		}},
		"limited": {read(t, "-", limited), vaultside.Options{}},
		"hostile": {read(t, "-", hostile), vaultside.Options{}},
		"jwt":     {read(t, "-", strings.Replace(localKey, "kubernetesAuth", "jwtAuth", 1)), vaultside.Options{Keys: vaultside.Keys{PEM: []string{"-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----\n"}}}},
		"jwt-url": {read(t, "-", localKey), vaultside.Options{
			Auth: "jwt", ServiceAccounts: []string{"istiod-canary", "istiod"},
			Keys: vaultside.Keys{URL: "https://10.0.0.1:6443/openid/v1/jwks", CAFile: "my ca.crt", CA: "CA"},
		}},
		"approle": {read(t, "-", localKey), vaultside.Options{Auth: "approle", CIDRs: []string{"10.0.0.0/8"}}},
		"cert":    {read(t, "-", localKey), vaultside.Options{Auth: "cert", ClientCAFile: "clients ca.pem", ClientCA: "CA"}},
		"token":   {read(t, "-", localKey), vaultside.Options{Auth: "token"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			desired, err := vaultside.NewDesired(test.mesh, test.options)
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			if err := desired.Print(&got, name != "local-key"); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", name+".golden.sh")
			if *update {
				if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != string(want) {
				t.Errorf("%s is not what is printed (go test ./cli/vaultside -update accepts it):\n%s", file, &got)
			}
		})
	}
}

// The policies are those of docs/vault.md, word for word.
func TestThePoliciesAreThePages(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/vault.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, mesh := range []*networkingv1.VirtualMesh{read(t, guide, ""), read(t, "-", localKey)} {
		for _, policy := range want(t, mesh, vaultside.Options{}).Policies {
			_, rules, marked := strings.Cut(policy.Text, "\n")
			if !marked || !strings.Contains(string(page), " - <<EOF\n"+rules+"EOF\n") {
				t.Errorf("docs/vault.md has no such policy:\n%s", rules)
			}
		}
	}
}

func TestDifferences(t *testing.T) {
	t.Parallel()
	const policy = "istiod-agent-istiod"
	unmarked := func(f *vaultside.Observed) { _, f.Policies[policy], _ = strings.Cut(f.Policies[policy], "\n") }
	reviewer := vaultside.Reviewer{Host: "https://10.0.0.1:6443", CAFile: "ca.crt", CA: "CA", TokenFile: "jwt", Token: "secret"}
	for name, test := range map[string]struct {
		options vaultside.Options
		without bool // an audience
		change  func(f *vaultside.Observed)
		// want are the differences, each with its lines but those that stay the same.
		want []string
		err  string
	}{
		"all as it shall be": {change: func(*vaultside.Observed) {}},
		"nothing there": {change: func(f *vaultside.Observed) { *f = vaultside.Observed{} }, want: []string{
			"0 auth/kubernetes: + auth method of type kubernetes",
			"0 auth/kubernetes/config: + kubernetes_host https://kubernetes.default.svc",
			"0 pki: + secrets engine of type pki",
			"1 pki: + max_lease_ttl 2160h",
			"2 pki: it has no CA to sign with",
			"0 policy istiod-agent-istiod: + # Made by kubectl istiod-agent vault for auth/kubernetes/role/istiod, + path \"pki/root/sign-intermediate\" {",
			"0 auth/kubernetes/role/istiod: + bound_service_account_names istiod",
		}},
		"a login of another kind": {change: func(f *vaultside.Observed) { f.AuthType = "jwt" }, err: "auth/kubernetes is of type jwt"},
		"another kind of engine":  {change: func(f *vaultside.Observed) { f.Mounts["pki"] = vaultside.ObservedMount{Type: "kv"} }, err: "pki is of type kv"},
		"a short lease":           {change: func(f *vaultside.Observed) { f.Mounts["pki"] = vaultside.ObservedMount{"pki", 768 * time.Hour, true} }, want: []string{"1 pki: - max_lease_ttl 768h, + max_lease_ttl 2160h"}},
		"a longer lease stays":    {change: func(f *vaultside.Observed) { f.Mounts["pki"] = vaultside.ObservedMount{"pki", 87600 * time.Hour, true} }},
		"no CA": {change: func(f *vaultside.Observed) {
			f.Mounts["pki"] = vaultside.ObservedMount{"pki", 87600 * time.Hour, false}
		}, want: []string{"2 pki: it has no CA to sign with"}},
		"another API server stays":  {change: func(f *vaultside.Observed) { f.Config["kubernetes_host"] = "https://other" }},
		"another API server is set": {options: vaultside.Options{Reviewer: reviewer}, change: func(*vaultside.Observed) {}, want: []string{"1! auth/kubernetes/config: - kubernetes_host https://kubernetes.default.svc, + kubernetes_host https://10.0.0.1:6443, + kubernetes_ca_cert of ca.crt, + token_reviewer_jwt of jwt"}},
		"that is set already": {options: vaultside.Options{Reviewer: reviewer}, change: func(f *vaultside.Observed) {
			f.Config = map[string]any{"kubernetes_host": reviewer.Host, "kubernetes_ca_cert": "CA\n", "token_reviewer_jwt_set": true}
		}},
		"a reviewer's token would be lost": {options: vaultside.Options{Reviewer: vaultside.Reviewer{Host: reviewer.Host}}, change: func(f *vaultside.Observed) { f.Config["token_reviewer_jwt_set"] = true }, err: "would lose"},
		"nothing there, and skipped":       {options: vaultside.Options{SkipAuthConfig: true}, change: func(f *vaultside.Observed) { f.Config = nil }},
		"a broader policy": {change: func(f *vaultside.Observed) {
			f.Policies[policy] = strings.Replace(f.Policies[policy], `["update"]`, `["update", "sudo"]`, 1)
		}, want: []string{`1 policy istiod-agent-istiod: -   capabilities        = ["update", "sudo"], +   capabilities        = ["update"]`}},
		"another service account":    {change: func(f *vaultside.Observed) { f.Role["bound_service_account_names"] = []any{"istiod", "default"} }, want: []string{"1 auth/kubernetes/role/istiod: - bound_service_account_names default,istiod, + bound_service_account_names istiod"}},
		"a long login":               {change: func(f *vaultside.Observed) { f.Role["token_ttl"] = json.Number("8640000") }, want: []string{"1 auth/kubernetes/role/istiod: - token_ttl 2400h, + token_ttl 10m"}},
		"another audience":           {change: func(f *vaultside.Observed) { f.Role["audience"] = "" }, want: []string{"1 auth/kubernetes/role/istiod: - audience , + audience vault"}},
		"more namespaces":            {change: func(f *vaultside.Observed) { f.Role["bound_service_account_namespace_selector"] = "{}" }, want: []string{"1 auth/kubernetes/role/istiod: - bound_service_account_namespace_selector {}"}},
		"made by hand, and the same": {change: unmarked},
		"a policy made by hand": {
			change: func(f *vaultside.Observed) { f.Policies[policy] = "path \"a\" {}" },
			want:   []string{"1! policy istiod-agent-istiod: - path \"a\" {}, + # Made by"},
		},
		"a policy of another role": {change: func(f *vaultside.Observed) {
			f.Policies[policy] = strings.NewReplacer("role/istiod", "role/other", "Istio", "Other").Replace(f.Policies[policy])
		}, want: []string{"1! policy istiod-agent-istiod: "}},
		"a role made by hand": {change: func(f *vaultside.Observed) {
			f.Role["token_policies"], f.Policies = []any{"app"}, map[string]string{"app": "path \"a\" {}"}
		}, want: []string{"0 policy istiod-agent-istiod: ", "1! auth/kubernetes/role/istiod: - token_policies app, + token_policies " + policy}},
		"a role with more policies": {change: func(f *vaultside.Observed) {
			f.Role["token_policies"] = []any{policy, "app"}
		}, want: []string{"1! auth/kubernetes/role/istiod: - token_policies app,istiod-agent-istiod"}},
		"a role without policies":           {change: func(f *vaultside.Observed) { f.Role["token_policies"] = []any{} }, want: []string{"1! auth/kubernetes/role/istiod: "}},
		"a role whose policy is not marked": {change: func(f *vaultside.Observed) { unmarked(f); f.Role["token_ttl"] = json.Number("60") }, want: []string{"1! auth/kubernetes/role/istiod: - token_ttl 1m"}},
		"no audience wanted":                {without: true, change: func(*vaultside.Observed) {}, want: []string{"1 auth/kubernetes/role/istiod: - audience vault"}},
		"order does not count":              {options: vaultside.Options{Namespaces: []string{"b", "a"}, TrustDomain: "x"}, change: func(f *vaultside.Observed) { f.Role["bound_service_account_namespaces"] = []any{"b", "a"} }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := localKey
			if test.without {
				text = strings.Replace(text, ", audience: vault", "", 1)
			}
			desired := want(t, read(t, "-", text), test.options)
			observed := &vaultside.Observed{
				AuthType: "kubernetes", Config: map[string]any{"kubernetes_host": "https://kubernetes.default.svc", "token_reviewer_jwt_set": false},
				Role: map[string]any{
					"bound_service_account_names": []any{"istiod"}, "bound_service_account_namespaces": []any{"istio-system"},
					"audience": "vault", "token_policies": []any{policy}, "token_ttl": json.Number("600"), "token_max_ttl": json.Number("600"), "token_type": "default",
				},
				Mounts:   map[string]vaultside.ObservedMount{"pki": {Type: "pki", MaxLease: 2160 * time.Hour, HasCA: true}},
				Policies: map[string]string{policy: desired.Policies[0].Text},
			}
			test.change(observed)
			differences, err := desired.Differences(observed)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, difference := range differences {
				var lines []string
				for _, line := range difference.Lines {
					if !strings.HasPrefix(line, " ") {
						lines = append(lines, line)
					}
				}
				force := map[bool]string{true: "!"}[difference.NeedsForce]
				got = append(got, string('0'+rune(difference.Kind))+force+" "+difference.What+": "+strings.Join(lines, ", "))
			}
			if len(got) != len(test.want) {
				t.Fatalf("got\n%s", strings.Join(got, "\n"))
			}
			for i := range got {
				if !strings.HasPrefix(got[i], test.want[i]) {
					t.Errorf("got  %s\nwant %s", got[i], test.want[i])
				}
				if strings.Contains(got[i], "secret") && !strings.Contains(got[i], "secrets") {
					t.Errorf("a token is shown: %s", got[i])
				}
			}
		})
	}
}

// An AppRole's name is in no VirtualMesh: what Vault has under the assumed one says nothing.
func TestAssumedRole(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		login, flag string
		assumed     []string
	}{
		"a role id":          {"appRoleAuth: {roleId: a, secretIdSecretRef: {name: a}}", "", []string{"policy istiod-agent-approle-istiod", "auth/approle/role/istiod"}},
		"a role id and name": {"appRoleAuth: {roleId: a, secretIdSecretRef: {name: a}}", "mesh", nil},
		"any role":           {"certAuth: {certSecretRef: {name: a}}", "", []string{"policy istiod-agent-cert-istiod", "auth/cert/certs/istiod"}},
		"a role":             {"jwtAuth: {role: istiod, audience: vault}", "", nil},
	} {
		mesh := read(t, "-", strings.Replace(localKey, "kubernetesAuth: {role: istiod, audience: vault}", test.login, 1))
		desired := want(t, mesh, vaultside.Options{SkipAuthConfig: true, Role: test.flag})
		differences, err := desired.Differences(&vaultside.Observed{})
		if err != nil {
			t.Fatal(err)
		}
		var assumed []string
		for _, difference := range differences {
			if desired.OfAssumedRole(difference) {
				assumed = append(assumed, difference.What)
			}
		}
		if strings.Join(assumed, ", ") != strings.Join(test.assumed, ", ") {
			t.Errorf("%s: %q", name, assumed)
		}
	}
}

// What a policy or a shell would take for more than a name is refused.
func TestMistakes(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"root", "default", "Default", "response-wrapping", "control-group", "a/b", "..", "a b", "-a", "a\nb"} {
		if _, err := vaultside.NewDesired(read(t, "-", localKey), vaultside.Options{Policy: name}); err == nil || !strings.Contains(err.Error(), "--policy") {
			t.Errorf("--policy %q: %v", name, err)
		}
	}
	for name, options := range map[string]vaultside.Options{
		"--service-account":  {ServiceAccounts: []string{"*"}},
		"--istiod-namespace": {Namespaces: []string{"a b"}},
		"--trust-domain":     {TrustDomain: "a/b"},
		"--policy":           {Policy: "root"},
		"--audience":         {Audience: "a b"},
		"--token-ttl":        {TokenTTL: time.Second},
		"--auth":             {Auth: "ldap"},
		"--role":             {Role: "other"},
		"--role ":            {Auth: "approle", Role: "a/b"},
		"--bound-cidr":       {CIDRs: []string{"all"}},
		"--secret-id-ttl":    {SecretIDTTL: time.Second},
		"--jwks-url":         {Keys: vaultside.Keys{URL: "https://user:password@a"}},
		"--jwks-file":        {Auth: "jwt"},
		"--client-ca-file":   {Auth: "cert"},
	} {
		if _, err := vaultside.NewDesired(read(t, "-", localKey), options); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	pattern := strings.Replace(localKey, "ttlDays: 90", "orgName: '*'", 1)
	if _, err := vaultside.NewDesired(read(t, "-", pattern), vaultside.Options{}); err == nil || !strings.Contains(err.Error(), "orgName") {
		t.Errorf("a pattern: %v", err)
	}
}

func read(t *testing.T, file, content string) *networkingv1.VirtualMesh {
	t.Helper()
	mesh, err := vaultside.ReadFile(file, strings.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	return mesh
}

func want(t *testing.T, mesh *networkingv1.VirtualMesh, options vaultside.Options) *vaultside.Desired {
	t.Helper()
	desired, err := vaultside.NewDesired(mesh, options)
	if err != nil {
		t.Fatal(err)
	}
	return desired
}

// A role of any name leads to no policy of Vault's own, whatever its case.
func TestDerivedNames(t *testing.T) {
	t.Parallel()
	for _, role := range []string{"default", "Default", "ROOT", "root", "response-wrapping", "gen-int-ca-istio", "a.b_c"} {
		mesh := read(t, "-", strings.Replace(localKey, "role: istiod,", "role: "+role+",", 1))
		for _, policy := range want(t, mesh, vaultside.Options{}).Policies {
			if desired := "istiod-agent-" + strings.ToLower(role); policy.Name != desired {
				t.Errorf("role %s: got %q, want %q", role, policy.Name, desired)
			}
		}
	}
}

// The role's audience is that of the agents' tokens, or a note says what to change.
func TestAudience(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ mesh, flag, audience, note string }{
		"as the VirtualMesh":    {"vault", "", "vault", ""},
		"the same by flag":      {"vault", "vault", "vault", ""},
		"none, as in the guide": {"", "", "", "audience: vault below kubernetesAuth in the VirtualMesh, and audience=vault in the role"},
		"by flag alone":         {"", "vault", "vault", "until the VirtualMesh has the line audience: vault"},
		"another one by flag":   {"vault", "other", "other", "until the VirtualMesh has the line audience: other"},
	} {
		text := strings.Replace(localKey, ", audience: vault", "", 1)
		if test.mesh != "" {
			text = strings.Replace(localKey, "audience: vault", "audience: "+test.mesh, 1)
		}
		desired := want(t, read(t, "-", text), vaultside.Options{Audience: test.flag})
		notes := strings.Join(desired.Notes, "\n")
		if desired.Auth.Role.Audience != test.audience || !strings.Contains(notes, test.note) || test.note == "" && strings.Contains(notes, "audience") {
			t.Errorf("%s: got %q, notes %s", name, desired.Auth.Role.Audience, notes)
		}
	}
}

// What is printed is what it looks like, and a comment stays one.
func TestPrintHidesNothing(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a\u202eb", "a\x1b[2Kb", "a\u200bb"} {
		desired := &vaultside.Desired{Server: "https://vault", Mounts: []vaultside.Mount{{Path: name}}}
		var out bytes.Buffer
		if err := desired.Print(&out, true); err == nil || out.Len() > 0 {
			t.Errorf("%q is printed: %s", name, &out)
		}
	}
	desired := &vaultside.Desired{Server: "https://vault", Notes: []string{"a\nrm -r /"}}
	var out bytes.Buffer
	if err := desired.Print(&out, true); err != nil || !strings.Contains(out.String(), "\n# rm -r /\n") {
		t.Errorf("%v: %s", err, &out)
	}
}

// No key and no token is on a command line.
func TestNoSecretOnACommandLine(t *testing.T) {
	t.Parallel()
	desired := want(t, read(t, "-", localKey), vaultside.Options{Reviewer: vaultside.Reviewer{TokenFile: "my reviewer.jwt"}})
	var out bytes.Buffer
	if err := desired.Print(&out, true); err != nil || strings.Contains(out.String(), "$(cat") || !strings.Contains(out.String(), "pem_bundle=-\n") || !strings.Contains(out.String(), "token_reviewer_jwt=-\n") {
		t.Errorf("%v: %s", err, &out)
	}
}

// A VirtualMesh with another CA is told apart from one without any.
func TestCertManager(t *testing.T) {
	t.Parallel()
	mesh := read(t, "../../config/samples/virtualmesh-cert-manager.yaml", "")
	const want = "vault is missing: this VirtualMesh does not use Vault, but cert-manager's ClusterIssuer mesh, and needs nothing in Vault"
	if _, err := vaultside.NewDesired(mesh, vaultside.Options{}); err == nil || !strings.Contains(err.Error(), want) {
		t.Error(err)
	}
	if _, err := vaultside.Connect(mesh, true, time.Second); err == nil || !strings.Contains(err.Error(), want) {
		t.Error(err)
	}
	file := vaultside.MeshFlags{Filename: "../../config/samples/virtualmesh-cert-manager.yaml"}
	if _, err := file.VaultRoot(t.Context(), nil, time.Second, nil); err == nil || !strings.Contains(err.Error(), "give the root in a file, by --root or --new-root") {
		t.Error(err)
	}
}
