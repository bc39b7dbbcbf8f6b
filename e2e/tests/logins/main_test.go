// SPDX-License-Identifier: Apache-2.0

// Package logins tests each way in which the agent logs in to a real Vault, with a real API server beside it.
package logins

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/check"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istiodserver"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/vaultserver"
)

var must = check.Must

var shared *cluster.Cluster

func TestMain(m *testing.M) {
	_ = flag.Set("test.parallel", "8") // nearly all of the time is waiting, for the agent to try again
	cluster.Main(m, &shared, nil)
}

const (
	// policy is the name of the policy that lets the agent sign.
	policy = "istiod"
	// secretName is the Secret of istiod's namespace that the agent may read.
	secretName = "vault-login"
)

// setting is a Vault with a CA, and a Pod of istiod.
type setting struct {
	*agents.Pod
	vault   *vaultserver.Server
	mu      sync.Mutex
	secrets []string
	output  strings.Builder
}

// secretLike matches Vault's tokens, JWTs and keys.
var secretLike = regexp.MustCompile(`\bhv[sbr]\.|eyJ[A-Za-z0-9_-]{10}|PRIVATE KEY`)

// newSetting makes the test parallel.
func newSetting(t *testing.T) *setting {
	t.Helper()
	t.Parallel()
	return start(t)
}

// start starts a Vault. At the test's end no output may contain a secret.
func start(t *testing.T) *setting {
	t.Helper()
	ctx := t.Context()
	must(t, agents.Install(ctx, shared))
	vault, err := vaultserver.Start(ctx, vaultserver.Options{TLS: true})
	must(t, err)
	t.Cleanup(func() { must(t, vault.Stop()) })
	namespace := shared.Namespace(t, false)
	pod, err := agents.NewPod(ctx, shared, namespace, "istiod-0", istiodserver.TmpfsDir(t), t.TempDir())
	must(t, err)
	pod.Env = []string{"ISTIOD_AGENT_TOKEN_FILE="} // it requests a token for Vault by itself
	s := &setting{Pod: pod, vault: vault}
	must(t, vault.Client.Sys().MountWithContext(ctx, "pki", &api.MountInput{Type: "pki"}))
	s.write(t, "pki/root/generate/internal", map[string]any{"common_name": "my-org", "ttl": "8760h", "key_type": "ec", "key_bits": 256})
	must(t, vault.Client.Sys().PutPolicyWithContext(ctx, policy, `path "pki/root/sign-intermediate" { capabilities = ["update"] }`))
	s.allow(t)
	t.Cleanup(func() {
		if found := secretLike.FindString(s.output.String()); found != "" {
			t.Errorf("an output contains a secret: %.12s…", found)
		}
		for i, secret := range s.secrets {
			if strings.Contains(s.output.String(), secret) {
				t.Errorf("an output contains secret %d", i)
			}
		}
	})
	return s
}

// allow grants istiod's service account get on the Secret, as the chart's vaultSecrets does.
func (s *setting) allow(t *testing.T) {
	t.Helper()
	meta := metav1.ObjectMeta{Name: secretName, Namespace: s.Namespace}
	must(t, shared.Create(t.Context(), &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{secretName}, Verbs: []string{"get"}},
	}}))
	must(t, shared.Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: meta,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: secretName},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: s.Namespace, Name: agents.ServiceAccount}},
	}))
	s.keep(t, map[string]string{"other": "value"})
	config, err := clientcmd.BuildConfigFromFlags("", s.Kubeconfig)
	must(t, err)
	istiod, err := kubernetes.NewForConfig(config)
	must(t, err)
	cluster.Eventually(t, "istiod's service account may read the Secret", func() error {
		_, err := istiod.CoreV1().Secrets(s.Namespace).Get(t.Context(), secretName, metav1.GetOptions{})
		return err
	})
}

// keep replaces the Secret.
func (s *setting) keep(t *testing.T, values map[string]string) {
	t.Helper()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: secretName, Namespace: s.Namespace}, StringData: values}
	must(t, client.IgnoreNotFound(shared.Delete(t.Context(), secret.DeepCopy())))
	must(t, shared.Create(t.Context(), secret))
}

// know adds a secret that no output may contain.
func (s *setting) know(secret string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.secrets = append(s.secrets, secret)
	return secret
}

func (s *setting) wrote(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.output.WriteString(text)
}

// write writes to Vault as its administrator, and returns the answer.
func (s *setting) write(t *testing.T, path string, data map[string]any) *api.Secret {
	t.Helper()
	answer, err := s.vault.Client.Logical().WriteWithContext(context.WithoutCancel(t.Context()), path, data)
	must(t, err)
	return answer
}

// enable enables an auth method. After failed logins, AppRole would lock the role id.
func (s *setting) enable(t *testing.T, path, kind string) {
	t.Helper()
	must(t, s.vault.Client.Sys().EnableAuthWithOptionsWithContext(t.Context(), path, &api.EnableAuthOptions{Type: kind}))
	if kind == "approle" {
		s.write(t, "sys/auth/"+path+"/tune", map[string]any{"user_lockout_config": map[string]any{"lockout_disable": true}})
	}
}

// specify writes the specification with a login.
func (s *setting) specify(t *testing.T, field string, login map[string]any, changes ...func(vault map[string]any)) {
	t.Helper()
	_, err := shared.ServerSideApply(t.Context(), s.Certificate(s.vault.Address, func(vault, options map[string]any) {
		delete(vault, "csrPath")
		delete(vault, "kubernetesAuth")
		vault["caBundle"] = base64.StdEncoding.EncodeToString(s.vault.CA)
		vault[field] = login
		options["ecKeyCurve"] = "P-256"
		for _, change := range changes {
			change(vault)
		}
	}))
	must(t, err)
}

// issues expects the init container to publish, as in a new Pod.
func (s *setting) issues(t *testing.T, arguments ...string) {
	t.Helper()
	must(t, s.Empty())
	output, err := s.Init(t.Context(), arguments...)
	s.wrote(output)
	must(t, err)
}

// refused expects the init container to fail with a reason and a text in its last line.
func (s *setting) refused(t *testing.T, reason, advice string, arguments ...string) {
	t.Helper()
	must(t, s.Empty())
	output, err := s.Init(t.Context(), append([]string{"--timeout", "2s"}, arguments...)...)
	s.wrote(output)
	if err == nil {
		t.Fatalf("want %s, and it succeeded", reason)
	}
	if !strings.Contains(output, "reason="+reason+"\n") && !strings.Contains(output, "reason="+reason+" ") {
		t.Errorf("want reason %s in:\n%s", reason, output)
	}
	if last := output[strings.LastIndex(strings.TrimSpace(output), "\n")+1:]; !strings.Contains(last, advice) {
		t.Errorf("want %q, the last line is: %s", advice, last)
	}
	entries, err := os.ReadDir(s.CACerts)
	must(t, err)
	if len(entries) > 0 {
		t.Errorf("%d files were published", len(entries))
	}
}

// subject is istiod's service account in a token.
func (s *setting) subject() string {
	return fmt.Sprintf("system:serviceaccount:%s:%s", s.Namespace, agents.ServiceAccount)
}

// sidecar starts a sidecar that ends with the test.
func (s *setting) sidecar(t *testing.T) *agents.Sidecar {
	t.Helper()
	sidecar, err := s.Sidecar(t.Context())
	must(t, err)
	t.Cleanup(func() {
		must(t, sidecar.Stop(10*time.Second))
		s.wrote(sidecar.Output())
		if t.Failed() {
			t.Log(sidecar.Output())
		}
	})
	return sidecar
}

// serial returns the serial number of istiod's CA certificate.
func (s *setting) serial(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.CACerts, "ca-cert.pem"))
	must(t, err)
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatal("istiod's CA certificate is not PEM")
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	return certificate.SerialNumber.String()
}

// published waits for istiod's files.
func (s *setting) published(t *testing.T) {
	t.Helper()
	cluster.Within(t, time.Minute, "the files are published", func() error {
		_, err := os.Stat(filepath.Join(s.CACerts, "ca-cert.pem"))
		return err
	})
}

// renews requests a renewal and waits for another certificate.
func (s *setting) renews(t *testing.T) {
	t.Helper()
	before := s.serial(t)
	must(t, agents.Renew(t.Context(), shared, s.Certificate(s.vault.Address, nil), rand.Text()))
	// Without an istiod, the agent waits a minute for the last certificate's confirmation.
	cluster.Within(t, 3*time.Minute, "the certificate is renewed", func() error {
		if now := s.serial(t); now == before {
			return fmt.Errorf("it is still %s", now)
		}
		return nil
	})
}
