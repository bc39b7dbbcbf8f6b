// SPDX-License-Identifier: Apache-2.0

package clisetup

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/plugin"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/serviceaccount"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/vaultserver"
)

// virtualMesh is the guide's, or the safer one without csrPath.
func virtualMesh(server string, exported bool) string {
	text := `
apiVersion: networking.mesh.gloo.solo.io/v1
kind: VirtualMesh
metadata: {name: virtual-mesh, namespace: gloo-mesh}
spec:
  mtlsConfig:
    shared:
      intermediateCertificateAuthority:
        vault:
          caPath: pki/root/sign-intermediate
          csrPath: pki_int/intermediate/generate/exported
          server: ` + server + `
          kubernetesAuth: {role: istiod, audience: vault}
  meshes:
  - name: istiod-istio-system-` + clusterName + `
`
	if !exported {
		text = strings.Replace(text, "          csrPath: pki_int/intermediate/generate/exported\n", "", 1)
	}
	return text
}

// policy is that of the role istiod.
const policy = "istiod-agent-istiod"

// setup is a Vault with nothing but a root CA, and the plugin's flags for it.
type setup struct {
	vault    *vaultserver.Server
	pod      *agents.Pod
	dir      string
	reviewer []string
	secrets  []string
}

func start(t *testing.T, withRoot bool) *setup {
	t.Helper()
	ctx := t.Context()
	s := &setup{}
	var err error
	s.pod, s.dir = surroundings(t)
	s.vault, err = vaultserver.Start(ctx, vaultserver.Options{})
	must(t, err)
	t.Cleanup(func() { must(t, s.vault.Stop()) })
	t.Setenv("VAULT_ADDR", s.vault.Address)
	t.Setenv("VAULT_TOKEN", s.vault.RootToken)
	s.secrets = append(s.secrets, s.vault.RootToken, "PRIVATE KEY")
	if withRoot {
		root, err := vaultserver.FastRoot()
		must(t, err)
		must(t, s.vault.Client.Sys().MountWithContext(ctx, "pki", &api.MountInput{Type: "pki"}))
		_, err = s.vault.Client.Logical().WriteWithContext(ctx, "pki/config/ca", map[string]any{"pem_bundle": string(root.Key) + string(root.Certificate)})
		must(t, err)
	}
	must(t, client.IgnoreAlreadyExists(shared.Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "vault-server-binding"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:auth-delegator"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "vault", Name: "vault"}},
	})))
	clients, err := kubernetes.NewForConfig(shared.Plane.Config)
	must(t, err)
	token, err := serviceaccount.Token(ctx, clients, "vault", "vault")
	must(t, err)
	s.secrets = append(s.secrets, token)
	must(t, os.WriteFile(filepath.Join(s.dir, "reviewer"), []byte(token), 0o600))
	must(t, os.WriteFile(filepath.Join(s.dir, "ca.crt"), shared.Plane.Config.CAData, 0o600))
	host := shared.Plane.Config.Host
	if !strings.Contains(host, "://") {
		host = "https://" + host
	}
	s.reviewer = []string{"--kubernetes-host", host, "--kubernetes-ca-file", filepath.Join(s.dir, "ca.crt"), "--token-reviewer-jwt-file", filepath.Join(s.dir, "reviewer")}
	return s
}

// run runs the command vault and expects no secret in its output.
func (s *setup) run(t *testing.T, mesh string, arguments ...string) plugin.Result {
	t.Helper()
	r := run(t, mesh, append([]string{"vault", "-f", "-"}, arguments...)...)
	for _, secret := range s.secrets {
		if strings.Contains(r.Stdout+r.Stderr, secret) {
			t.Errorf("a secret is printed (%d characters long)", len(secret))
		}
	}
	return r
}

// issue gets a certificate by the agent's init container.
func (s *setup) issue(t *testing.T, exported bool) {
	t.Helper()
	certificate := s.pod.Certificate(s.vault.Address, func(vault, options map[string]any) {
		if !exported {
			delete(vault, "csrPath")
		}
		vault["kubernetesAuth"] = map[string]any{"role": "istiod", "audience": "vault"}
		options["rsaKeySizeBytes"] = int64(2048)
	})
	certificate.SetName("clisetup-" + strings.ToLower(certificate.GetName()))
	_, err := shared.ServerSideApply(t.Context(), certificate)
	must(t, err)
	t.Cleanup(func() { must(t, client.IgnoreNotFound(shared.Delete(context.Background(), certificate))) })
	s.pod.Env = []string{"ISTIOD_AGENT_TOKEN_FILE="}
	must(t, os.RemoveAll(s.pod.CACerts))
	must(t, os.Mkdir(s.pod.CACerts, 0o700))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	output, err := s.pod.Init(ctx)
	must(t, err)
	if strings.Contains(output, "NotTidied") {
		t.Errorf("a copy of the key stays in Vault:\n%s", output)
	}
}

// After --apply a Vault with nothing but a root CA issues istiod's certificate, in both ways. A second run changes nothing. A
// run after a drift shows and repairs it.
func TestApply(t *testing.T) {
	s := start(t, true)
	for _, exported := range []bool{false, true} {
		mesh := virtualMesh(s.vault.Address, exported)
		s.run(t, mesh, append(s.reviewer, "--dry-run")...).Wants(t, 1, "policy istiod")
		s.run(t, mesh, append(s.reviewer, "--apply")...).Wants(t, 0, "auth/kubernetes/role/istiod: wrote the role")
		s.run(t, mesh, append(s.reviewer, "--apply")...).Wants(t, 0, "Nothing to do")
		s.run(t, mesh, append(s.reviewer, "--dry-run")...).Wants(t, 0, "Nothing to do",
			"Note: auth/kubernetes/config holds a token_reviewer_jwt: if it is the token of a Pod", "reviewer expires at")
		s.issue(t, exported)
	}
	ctx, mesh := t.Context(), virtualMesh(s.vault.Address, true)
	text, err := s.vault.Client.Sys().GetPolicyWithContext(ctx, policy)
	must(t, err)
	mark, _, _ := strings.Cut(text, "\n")
	must(t, s.vault.Client.Sys().PutPolicyWithContext(ctx, policy, mark+"\npath \"pki/*\" {\n  capabilities = [\"sudo\"]\n}\n"))
	_, err = s.vault.Client.Logical().WriteWithContext(ctx, "auth/kubernetes/role/istiod", map[string]any{"bound_service_account_names": "*", "token_ttl": "5m", "audience": "other"})
	must(t, err)
	s.run(t, mesh, "--dry-run").Wants(t, 1,
		"policy istiod-agent-istiod: differs:", `- path "pki/*" {`, `+ path "pki/root/sign-intermediate" {`,
		"- bound_service_account_names *", "+ bound_service_account_names istiod", "- token_ttl 5m", "+ token_ttl 10m", "- audience other", "+ audience vault")
	s.run(t, mesh, "--apply").Wants(t, 0, "policy istiod-agent-istiod: wrote the policy", "auth/kubernetes/role/istiod: wrote the role")
	s.run(t, mesh, "--dry-run").Wants(t, 0, "Nothing to do")
	s.issue(t, true)

	var answer struct {
		Vault       string
		Applied     bool
		Differences []struct{ Kind, What, Done string }
	}
	s.run(t, mesh, "--dry-run", "-o=yaml").Parse(t, &answer)
	if answer.Vault != s.vault.Address || answer.Applied || len(answer.Differences) != 0 {
		t.Errorf("got %+v", answer)
	}
	must(t, s.vault.Client.Sys().DeletePolicyWithContext(ctx, policy))
	s.run(t, mesh, "--dry-run", "-o=json").Wants(t, 1, `"kind": "missing"`, `"what": "policy istiod-agent-istiod"`)
	s.run(t, mesh, "--apply", "-o=json").Parse(t, &answer)
	if !answer.Applied || len(answer.Differences) != 1 || answer.Differences[0].Done != "wrote the policy" {
		t.Errorf("got %+v", answer)
	}
	s.run(t, mesh, "-o=json").Wants(t, 2, "--output requires --dry-run or --apply")
}

// The command shows what another program has configured, and overwrites it only with --force.
func TestApplyKeepsOthers(t *testing.T) {
	s := start(t, true)
	ctx, sys := t.Context(), s.vault.Client.Sys()
	role := func(name, policies string) {
		t.Helper()
		_, err := s.vault.Client.Logical().WriteWithContext(ctx, "auth/kubernetes/role/"+name, map[string]any{
			"bound_service_account_names": "app", "bound_service_account_namespaces": "app", "token_policies": policies,
		})
		must(t, err)
	}
	state := func() string {
		t.Helper()
		var all strings.Builder
		names, err := sys.ListPoliciesWithContext(ctx)
		must(t, err)
		for _, name := range names {
			text, err := sys.GetPolicyWithContext(ctx, name)
			must(t, err)
			all.WriteString(name + ": " + text + "\n")
		}
		for _, path := range []string{"auth/kubernetes/config", "auth/kubernetes/role/default", "auth/kubernetes/role/app", "auth/kubernetes/role/gen-int-ca-istio"} {
			answer, err := s.vault.Client.Logical().ReadWithContext(ctx, path)
			must(t, err)
			if answer != nil {
				_, _ = fmt.Fprintln(&all, path, answer.Data)
			}
		}
		return all.String()
	}
	mesh := func(role string) string {
		return strings.Replace(virtualMesh(s.vault.Address, false), "role: istiod,", "role: "+role+",", 1)
	}

	// A role of the name of a built-in policy leaves that policy alone.
	builtIn, err := sys.GetPolicyWithContext(ctx, "default")
	must(t, err)
	s.run(t, mesh("Default"), append(s.reviewer, "--apply")...).Wants(t, 0, "policy istiod-agent-default: wrote the policy")
	if now, err := sys.GetPolicyWithContext(ctx, "default"); err != nil || now != builtIn {
		t.Errorf("Vault's policy default is another: %v", err)
	}
	for _, name := range []string{"default", "root", "Default", "response-wrapping"} {
		s.run(t, mesh("istiod"), append(s.reviewer, "--apply", "--force", "--policy", name)...).Wants(t, 2, "not a built-in policy of Vault")
	}

	// A role and a policy of somebody's, the guide's among them.
	role("app", "app")
	role("gen-int-ca-istio", "gen-int-ca-istio")
	must(t, sys.PutPolicyWithContext(ctx, "app", "path \"app/*\" {\n  capabilities = [\"read\"]\n}\n"))
	for _, test := range []struct {
		role  string
		flags []string
		wants []string
	}{
		{"app", nil, []string{"auth/kubernetes/role/app: differs, and was not written by this command:", "- token_policies app"}},
		{"gen-int-ca-istio", nil, []string{"auth/kubernetes/role/gen-int-ca-istio: differs, and was not written by this command:"}},
		{"new", []string{"--policy", "app"}, []string{"policy app: differs, and was not written by this command:", `- path "app/*" {`}},
		{"new", []string{"--kubernetes-host", "https://127.0.0.1:1", "--token-reviewer-jwt-file", filepath.Join(s.dir, "reviewer")}, []string{"auth/kubernetes/config: differs, and was not written by this command:", "+ kubernetes_host https://127.0.0.1:1"}},
	} {
		before := state()
		s.run(t, mesh(test.role), append(test.flags, "--apply")...).Wants(t, 2, append(test.wants, "nothing was changed", "--force")...)
		if now := state(); now != before {
			t.Errorf("role %s %q: something was changed:\n%s\nbefore:\n%s", test.role, test.flags, now, before)
		}
		s.run(t, mesh(test.role), append(test.flags, "--dry-run")...).Wants(t, 1, test.wants...)
	}
	var answer struct {
		Applied     bool
		Differences []struct {
			What       string
			NeedsForce bool
		}
	}
	r := s.run(t, mesh("app"), "--apply", "-o", "json")
	r.Wants(t, 2, "nothing was changed")
	must(t, json.Unmarshal([]byte(r.Stdout), &answer))
	if answer.Applied || len(answer.Differences) != 2 || answer.Differences[0].NeedsForce || !answer.Differences[1].NeedsForce {
		t.Errorf("got %+v", answer)
	}
	s.run(t, mesh("app"), "--apply", "--force").Wants(t, 0, "policy istiod-agent-app: wrote the policy", "auth/kubernetes/role/app: wrote the role")
	s.run(t, mesh("app"), "--apply").Wants(t, 0, "Nothing to do")
	// What it has made, it changes without --force.
	s.run(t, mesh("app"), "--apply", "--token-ttl", "5m").Wants(t, 0, "auth/kubernetes/role/app: wrote the role")
	s.run(t, mesh("app"), "--force").Wants(t, 2, "--force requires --apply")
}

// The role requires the audience of the agents' tokens: none, as in the guide, or the VirtualMesh's.
func TestAudience(t *testing.T) {
	s := start(t, true)
	guide := strings.Replace(virtualMesh(s.vault.Address, false), ", audience: vault", "", 1)
	audience := func() string {
		t.Helper()
		answer, err := s.vault.Client.Logical().ReadWithContext(t.Context(), "auth/kubernetes/role/istiod")
		must(t, err)
		audience, _ := answer.Data["audience"].(string) // absent where there is none
		return audience
	}
	s.run(t, virtualMesh(s.vault.Address, false), append(s.reviewer, "--apply")...).Wants(t, 0)
	if got := audience(); got != "vault" {
		t.Errorf("the role's audience is %q", got)
	}
	s.run(t, guide, "--apply").Wants(t, 0, "Note: ", "audience: vault below kubernetesAuth in the VirtualMesh, and audience=vault in the role", "- audience vault")
	if got := audience(); got != "" {
		t.Errorf("the role's audience is %q, and the agents' tokens have none", got)
	}
	s.run(t, guide, "--dry-run").Wants(t, 0, "Nothing to do")
}

// The command never creates a root CA. Its absence is an error with the remedy.
func TestMissingRoot(t *testing.T) {
	s := start(t, false)
	mesh := virtualMesh(s.vault.Address, false)
	for range 2 {
		s.run(t, mesh, append(s.reviewer, "--apply")...).Wants(t, 2, "pki: manual step:", "pki/root/generate/internal", "pki/config/ca")
	}
	issuers, err := s.vault.Client.Logical().ListWithContext(t.Context(), "pki/issuers")
	must(t, err)
	if issuers != nil {
		t.Errorf("there is a CA: %v", issuers.Data)
	}
	s.run(t, mesh, "--dry-run").Wants(t, 1, "pki: manual step:")
}

// Errors hold the remedy.
func TestVaultMistakes(t *testing.T) {
	s := start(t, true)
	mesh := virtualMesh(s.vault.Address, false)
	limited, err := s.vault.Client.Auth().Token().CreateWithContext(t.Context(), &api.TokenCreateRequest{Policies: []string{"default"}})
	must(t, err)
	t.Setenv("VAULT_TOKEN", limited.Auth.ClientToken)
	s.run(t, mesh, "--dry-run").Wants(t, 2, "permission denied", `path "sys/auth"`)
	t.Setenv("VAULT_TOKEN", "")
	s.run(t, mesh, "--dry-run").Wants(t, 2, "VAULT_TOKEN is not set")
	t.Setenv("VAULT_TOKEN", s.vault.RootToken)
	t.Setenv("VAULT_ADDR", "http://127.0.0.1:1")
	s.run(t, mesh, "--apply").Wants(t, 2, "http://127.0.0.1:1", "check the address")
	t.Setenv("VAULT_ADDR", s.vault.Address)
	s.run(t, mesh, "--apply").Wants(t, 2, "this Vault does not run in a Pod", "--skip-auth-config")
	s.run(t, "kind: VirtualMesh", "--apply").Wants(t, 2, "standard input")
	run(t, "", "vault").Wants(t, 2, "expected -f FILE or the NAME")
	run(t, "", "vault", "gone", "--kubeconfig", admin(t), "-n", "default").Wants(t, 2, "VirtualMesh default/gone", "does not exist")
}

// The printed commands run verbatim in a shell, twice, and complete the set-up.
func TestPrintedCommands(t *testing.T) {
	s := start(t, true)
	program, err := os.Executable()
	must(t, err)
	must(t, os.Symlink(program, filepath.Join(s.dir, "vault")))
	mesh := virtualMesh(s.vault.Address, true)
	printed := s.run(t, mesh, s.reviewer...)
	printed.Wants(t, 0)
	for range 2 {
		command := exec.CommandContext(t.Context(), "sh", "-eu")
		command.Stdin = strings.NewReader(printed.Stdout)
		command.Env = append(os.Environ(), asVault+"=1", "PATH="+s.dir+":"+os.Getenv("PATH"))
		var output bytes.Buffer
		command.Stdout, command.Stderr = &output, &output
		if err := command.Run(); err != nil {
			t.Fatalf("%v\n%s\n%s", err, &output, printed.Stdout)
		}
	}
	s.run(t, mesh, append(s.reviewer, "--dry-run")...).Wants(t, 0, "Nothing to do")
	s.issue(t, true)
}
