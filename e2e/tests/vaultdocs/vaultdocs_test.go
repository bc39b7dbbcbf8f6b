// SPDX-License-Identifier: Apache-2.0

package vaultdocs_test

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/vaultserver"
	"github.com/istiod-agent/istiod-agent/e2e/tests/vaultdocs"
)

const day = 24 * time.Hour

// Every command of the page works verbatim, and both ways lead to certificates for istiod.
func TestPage(t *testing.T) {
	root, err := built.Root()
	must(t, err)
	content, err := os.ReadFile(filepath.Join(root, "docs", "vault.md"))
	must(t, err)
	blocks, err := vaultdocs.Blocks(string(content))
	must(t, err)
	p := &page{blocks: blocks}
	must(t, agents.Install(t.Context(), shared))
	allowReview(t)
	plain, tls := p.start(t, vaultserver.Options{}), p.start(t, vaultserver.Options{TLS: true})

	health, err := plain.Client.Sys().HealthWithContext(t.Context())
	must(t, err)
	if !strings.Contains(string(content), "Vault "+health.Version+" ") {
		t.Errorf("the page does not say that it was tested with Vault %s", health.Version)
	}

	ways := map[string]func(*testing.T){
		"the guide's way": func(t *testing.T) { p.guide(t, plain) },
		"the safer way":   func(t *testing.T) { p.safer(t, tls) },
	}
	went := make(chan string, len(ways))
	t.Run("ways", func(t *testing.T) {
		for name, walk := range ways {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				walk(t)
				went <- name
			})
		}
	})
	if len(went) < len(ways) {
		return // one failed, or -run left it out
	}
	for _, name := range slices.Sorted(maps.Keys(blocks)) {
		if _, ran := p.ran.Load(name); !ran {
			t.Errorf("docs/vault.md, %s: no way of this test runs it", name)
		}
	}
	for line, reason := range exceptions {
		if !strings.Contains(string(content), "\n"+line+"\n") {
			t.Errorf("docs/vault.md has no %q any more (%s)", line, reason)
		}
	}
}

func (p *page) guide(t *testing.T, vault *vaultserver.Server) {
	w := newWay(t, p, vault, "istiod-service-account")
	w.run(t, "The root 1")
	w.run(t, "The login 1")
	w.run(t, "The login 3")
	w.run(t, "The login 4")
	w.run(t, "The policy 1")
	if got := w.login(t, "gen-int-ca-istio"); got != 32*day {
		t.Errorf("a login lives %s", got)
	}

	w.specify(t, "issuedcertificate.yaml", nil)
	arguments := []string{"--spec", filepath.Join(w.Dir, "issuedcertificate.yaml"), "--token-file", filepath.Join(w.Dir, "token")}
	young := time.Since(parse(t, filepath.Join(w.Dir, "root-cert.pem")).NotBefore) < backdated/2
	output := w.issue(t, 32*day, arguments...)
	if young && !strings.Contains(output, "notBefore before signer's notBefore") {
		t.Errorf("Vault signs with a root that is too young:\n%s", output)
	}
	w.run(t, "The root 3")
	w.issue(t, 365*day, arguments...)
	w.run(t, "Check 1")
	w.run(t, "Check 2")
}

func (p *page) safer(t *testing.T, vault *vaultserver.Server) {
	w := newWay(t, p, vault, "istiod", "vault")
	w.run(t, "The root 2")
	w.run(t, "The login 1")
	w.run(t, "The login 2")
	w.run(t, "The login 5")
	w.run(t, "The policy 2")
	if got := w.login(t, "istiod"); got != 10*time.Minute {
		t.Errorf("a login lives %s", got)
	}

	certificate := w.specify(t, "issuedcertificate-local-key.yaml", nil)
	_, err := shared.ServerSideApply(t.Context(), certificate)
	must(t, err)
	w.pod.Env = []string{"ISTIOD_AGENT_TOKEN_FILE="} // it requests one for Vault by itself
	output := w.issue(t, 90*day)
	if strings.Contains(output, "VaultRefused") || strings.Contains(output, "NotTidied") {
		t.Errorf("Vault makes difficulties, though its root dates itself back:\n%s", output)
	}
	w.run(t, "Check 1")

	w.run(t, "vault auth enable -path=kubernetes-east kubernetes")
	mounts, err := vault.Client.Sys().ListAuthWithContext(t.Context())
	must(t, err)
	if mount := mounts["kubernetes-east/"]; mount == nil || mount.Type != "kubernetes" {
		t.Errorf("the other cluster's login mount is %+v", mount)
	}

	w.run(t, "vault write pki/issuers/import/cert pem_bundle=@root-cert.pem")
	w.pin(t, certificate, "Roots that the mount does not know 1")
	w.issue(t, 90*day)

	// Vault makes the key all the same.
	before, err := vault.Client.Logical().ReadWithContext(t.Context(), "auth/kubernetes/role/istiod")
	must(t, err)
	w.run(t, "The policy 3")
	after, err := vault.Client.Logical().ReadWithContext(t.Context(), "auth/kubernetes/role/istiod")
	must(t, err)
	before.Data["token_policies"] = []any{"istiod-agent-istiod", "istiod-agent-istiod-exported"}
	if diff := cmp.Diff(before.Data, after.Data); diff != "" {
		t.Errorf("more than the role's policies has changed (-before +after):\n%s", diff)
	}
	certificate = w.specify(t, "issuedcertificate-local-key.yaml", func(vault map[string]any) {
		vault["csrPath"] = "pki_int/intermediate/generate/exported"
	})
	_, err = shared.ServerSideApply(t.Context(), certificate)
	must(t, err)
	if output := w.issue(t, 90*day); strings.Contains(output, "NotTidied") {
		t.Errorf("something is left in Vault:\n%s", output)
	}
	keys, err := vault.Client.Logical().ListWithContext(t.Context(), "pki_int/keys")
	must(t, err)
	if keys != nil {
		t.Errorf("Vault keeps keys: %v", keys.Data["keys"])
	}

	w.otherLogins(t)
}
