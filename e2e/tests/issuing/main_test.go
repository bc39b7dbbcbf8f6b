// SPDX-License-Identifier: Apache-2.0

// Package issuing tests how the agent gets a certificate from a real Vault, in every state that a Vault can be in. A real
// API server reviews the logins.
package issuing

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/check"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istiodserver"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/vaultserver"
)

var must = check.Must

var shared *cluster.Cluster

func TestMain(m *testing.M) {
	// Nearly all of the time is waiting, for the agent to try again, whatever the number of processors; the flag of
	// go test counts, when it is given.
	_ = flag.Set("test.parallel", "8")
	cluster.Main(m, &shared, nil)
}

// setting is a Vault set up by the guide, and a Pod that may log in.
type setting struct {
	*agents.Pod
	vault *vaultserver.Server
	root  *vaultserver.Root
	// server is what the specification has for Vault's address: a proxy's, where there is one.
	server string
	leaks  *leaks
}

// newSetting makes the test parallel. At its end no output may hold a secret.
func newSetting(t *testing.T, options vaultserver.Options) *setting {
	t.Helper()
	t.Parallel()
	ctx := t.Context()
	must(t, agents.Install(ctx, shared))
	vault, err := vaultserver.Start(ctx, options)
	must(t, err)
	t.Cleanup(func() { must(t, vault.Stop()) })
	namespace := shared.Namespace(t, false)
	root, err := vault.Guide(ctx, vaultserver.GuideOptions{
		Cluster: shared.Plane.Config, ServiceAccount: agents.ServiceAccount, Namespace: namespace, Root: vaultserver.FastRoot,
	})
	must(t, err)
	pod, err := agents.NewPod(ctx, shared, namespace, "istiod-0", istiodserver.TmpfsDir(t), t.TempDir())
	must(t, err)
	s := &setting{Pod: pod, vault: vault, root: root, server: vault.Address, leaks: &leaks{}}
	t.Cleanup(func() { s.noSecrets(t) })
	return s
}

// specify writes the specification: an EC key that the agent makes, unless change says otherwise.
func (s *setting) specify(t *testing.T, change func(vault map[string]any)) {
	t.Helper()
	_, err := shared.ServerSideApply(t.Context(), s.Certificate(s.server, func(vault, options map[string]any) {
		delete(vault, "csrPath")
		options["ecKeyCurve"] = "P-256"
		if change != nil {
			change(vault)
		}
	}))
	must(t, err)
}

// issues expects the init container to publish; refused expects a failure with a reason and a text.
func (s *setting) issues(t *testing.T, arguments ...string) string {
	t.Helper()
	output, err := s.Init(t.Context(), arguments...)
	must(t, err)
	return output
}

func (s *setting) refused(t *testing.T, reason, advice string) {
	t.Helper()
	s.refusedWith(t, nil, reason, advice)
}

// refusedWith is refused with flags for the agent.
func (s *setting) refusedWith(t *testing.T, arguments []string, reason, advice string) {
	t.Helper()
	output, err := s.Init(t.Context(), append([]string{"--timeout", "2s"}, arguments...)...)
	if err == nil {
		t.Fatalf("want %s, and it succeeded", reason)
	}
	if !strings.Contains(output, "reason="+reason) {
		t.Errorf("want %s and %q in:\n%s", reason, advice, output)
	}
	last := output[strings.LastIndex(strings.TrimSpace(output), "\n")+1:]
	if !strings.HasPrefix(last, "istiod-agent: no certificates for istiod: ") || !strings.Contains(last, advice) {
		t.Errorf("the last words: %s", last)
	}
	entries, err := os.ReadDir(s.CACerts)
	must(t, err)
	if len(entries) > 0 {
		t.Errorf("%d files were published", len(entries))
	}
	token, err := os.ReadFile(s.TokenFile)
	must(t, err)
	if strings.Contains(output, "hvs.") || strings.Contains(output, string(token[len(token)/2:len(token)/2+16])) || strings.Contains(output, "PRIVATE KEY") {
		t.Error("there is a secret in what it wrote")
	}
}

func (s *setting) policy(t *testing.T, name, rules string) {
	t.Helper()
	must(t, s.vault.Client.Sys().PutPolicyWithContext(t.Context(), name, rules))
}

func (s *setting) write(t *testing.T, path string, data map[string]any) {
	t.Helper()
	_, err := s.vault.Client.Logical().WriteWithContext(context.WithoutCancel(t.Context()), path, data)
	must(t, err)
}

func contains(text, part string) error {
	if !strings.Contains(text, part) {
		return fmt.Errorf("want %q in:\n%s", part, text)
	}
	return nil
}
