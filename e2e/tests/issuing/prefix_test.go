// SPDX-License-Identifier: Apache-2.0

package issuing

import (
	"strings"
	"testing"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/faultproxy"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/vaultserver"
)

// A gateway may serve Vault below a path prefix. All requests use it, and the list of allowed servers includes it.
func TestPrefix(t *testing.T) {
	s := newSetting(t, vaultserver.Options{})
	proxy := s.proxy(t)
	gateway := proxy.Address
	proxy.Spoil("", 0, faultproxy.Below("/teams/vault"))
	s.server = gateway + "/teams/vault/"
	s.specify(t, exported)
	s.refusedWith(t, []string{"--allowed-servers", gateway}, "InvalidSpecification", "spec.agentCa.vault.server: Forbidden")
	if calls := proxy.Calls(); len(calls) > 0 {
		t.Errorf("sent to a server that is not allowed: %q", calls)
	}
	output := s.issues(t, "--allowed-servers", gateway+"/teams/vault")
	if strings.Contains(output, "NotTidied") || strings.Contains(output, "failures=") {
		t.Errorf("something failed:\n%s", output)
	}
	for _, path := range []string{loginPath, generatePath, signPath, revokePath} {
		if proxy.Count(path) != 1 {
			t.Errorf("%d calls of %s", proxy.Count(path), path)
		}
	}
	for _, call := range proxy.Calls() {
		if !strings.HasPrefix(call, "/teams/vault/v1/") {
			t.Errorf("a call beside the prefix: %s", call)
		}
	}
}
