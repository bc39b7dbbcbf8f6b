// SPDX-License-Identifier: Apache-2.0

package clisetup

import (
	"bytes"
	"context"
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

	"github.com/istiod-agent/istiod-agent/e2e/agents"
	"github.com/istiod-agent/istiod-agent/e2e/plugin"
	"github.com/istiod-agent/istiod-agent/e2e/serviceaccount"
	"github.com/istiod-agent/istiod-agent/e2e/vaultserver"
)

// virtualMesh is the guide's; the safer one has no csrPath.
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

// setup is a Vault with a root CA and nothing else, and how the plugin is told about it.
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

// run runs `vault` and finds no secret in what it says.
func (s *setup) run(t *testing.T, mesh string, arguments ...string) plugin.Result {
	t.Helper()
	r := run(t, mesh, append([]string{"vault", "-f", "-"}, arguments...)...)
	for _, secret := range s.secrets {
		if strings.Contains(r.Stdout+r.Stderr, secret) {
			t.Errorf("a secret is said (%d characters long)", len(secret))
		}
	}
	return r
}

// issue has the agent's init container get a certificate.
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

// A Vault that holds a root CA alone gives istiod its certificate after --apply, in both ways; a second run changes nothing,
// and what has drifted is shown and put right.
func TestApply(t *testing.T) {
	s := start(t, true)
	for _, exported := range []bool{false, true} {
		mesh := virtualMesh(s.vault.Address, exported)
		s.run(t, mesh, append(s.reviewer, "--dry-run")...).Wants(t, 1, "policy istiod")
		s.run(t, mesh, append(s.reviewer, "--apply")...).Wants(t, 0, "auth/kubernetes/role/istiod: wrote the role")
		s.run(t, mesh, append(s.reviewer, "--apply")...).Wants(t, 0, "Nothing to do")
		s.run(t, mesh, append(s.reviewer, "--dry-run")...).Wants(t, 0, "Nothing to do")
		s.issue(t, exported)
		if !exported { // for which the second way takes nothing but its own
			must(t, s.vault.Client.Sys().DeletePolicyWithContext(t.Context(), "istiod"))
		}
	}
	ctx, mesh := t.Context(), virtualMesh(s.vault.Address, true)
	must(t, s.vault.Client.Sys().PutPolicyWithContext(ctx, "istiod", "path \"pki/*\" {\n  capabilities = [\"sudo\"]\n}\n"))
	_, err := s.vault.Client.Logical().WriteWithContext(ctx, "auth/kubernetes/role/istiod", map[string]any{"bound_service_account_names": "*", "token_ttl": "5m", "audience": "other"})
	must(t, err)
	s.run(t, mesh, "--dry-run").Wants(t, 1,
		"policy istiod: differs:", `- path "pki/*" {`, `+ path "pki/root/sign-intermediate" {`,
		"- bound_service_account_names *", "+ bound_service_account_names istiod", "- token_ttl 5m", "+ token_ttl 10m", "- audience other", "+ audience vault")
	s.run(t, mesh, "--apply").Wants(t, 0, "policy istiod: wrote the policy", "auth/kubernetes/role/istiod: wrote the role")
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
	must(t, s.vault.Client.Sys().DeletePolicyWithContext(ctx, "istiod"))
	s.run(t, mesh, "--dry-run", "-o=json").Wants(t, 1, `"kind": "missing"`, `"what": "policy istiod"`)
	s.run(t, mesh, "--apply", "-o=json").Parse(t, &answer)
	if !answer.Applied || len(answer.Differences) != 1 || answer.Differences[0].Done != "wrote the policy" {
		t.Errorf("got %+v", answer)
	}
	s.run(t, mesh, "-o=json").Wants(t, 2, "--output: expected together with --dry-run or --apply")
}

// A root CA is never made, and its lack is an error that says what to do.
func TestNoRootIsMade(t *testing.T) {
	s := start(t, false)
	mesh := virtualMesh(s.vault.Address, false)
	for range 2 {
		s.run(t, mesh, append(s.reviewer, "--apply")...).Wants(t, 2, "pki: yours to do:", "pki/root/generate/internal", "pki/config/ca")
	}
	issuers, err := s.vault.Client.Logical().ListWithContext(t.Context(), "pki/issuers")
	must(t, err)
	if issuers != nil {
		t.Errorf("there is a CA: %v", issuers.Data)
	}
	s.run(t, mesh, "--dry-run").Wants(t, 1, "pki: yours to do:")
}

// What cannot be done is said, with what to do about it.
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
	s.run(t, mesh, "--apply").Wants(t, 2, "this Vault runs in no Pod", "--skip-auth-config")
	s.run(t, "kind: VirtualMesh", "--apply").Wants(t, 2, "standard input")
	run(t, "", "vault").Wants(t, 2, "expected -f FILE or the NAME")
	run(t, "", "vault", "gone", "--kubeconfig", admin(t), "-n", "default").Wants(t, 2, "VirtualMesh default/gone", "is not there")
}

// The printed commands run as they are in a shell, twice, and leave nothing to do.
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
