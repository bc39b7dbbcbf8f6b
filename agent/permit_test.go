// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"strings"
	"testing"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

func TestPermit(t *testing.T) {
	t.Parallel()
	type vault = certificatesv1.VaultCA
	server := func(address string) func(*vault) { return func(v *vault) { v.Server = address } }
	allowed := []string{"https://vault.example.com", "https://[fd00::1]:8200", "https://gateway.example.com/vault"}
	for name, test := range map[string]struct {
		allowed []string
		change  func(*vault)
		problem string
	}{
		"any server":         {nil, server("https://anything.example.org:1"), ""},
		"the allowed server": {allowed, server("https://vault.example.com"), ""},
		"with its port":      {allowed, server("https://Vault.Example.com:443/"), ""},
		"an address of IPv6": {allowed, server("https://[FD00::1]:8200"), ""},
		"another host":       {allowed, server("https://evil.example.com"), "spec.agentCa.vault.server: Forbidden: expected one of the allowed servers"},
		"another port":       {allowed, server("https://vault.example.com:8200"), "spec.agentCa.vault.server: Forbidden"},
		"without encryption": {allowed, server("http://vault.example.com"), "spec.agentCa.vault.server: Forbidden"},
		"a host below it":    {allowed, server("https://vault.example.com.evil.example.com"), "spec.agentCa.vault.server: Forbidden"},
		"a user of its name": {allowed, server("https://vault.example.com@evil.example.com"), "spec.agentCa.vault.server: Forbidden"},
		"a backslash":        {allowed, server(`https://evil.example.com\@vault.example.com`), "spec.agentCa.vault.server: Forbidden"},
		"a letter that becomes another in lower case": {[]string{"https://vault.istio.example"}, server("https://vault.İstio.example"), "spec.agentCa.vault.server: Forbidden"},
		"the allowed prefix":                          {allowed, server("https://gateway.example.com/vault"), ""},
		"the prefix with a slash":                     {allowed, server("https://gateway.example.com:443/vault/"), ""},
		"a server without its prefix":                 {allowed, server("https://gateway.example.com"), "spec.agentCa.vault.server: Forbidden"},
		"another prefix":                              {allowed, server("https://gateway.example.com/vault2"), "spec.agentCa.vault.server: Forbidden"},
		"a prefix below":                              {allowed, server("https://gateway.example.com/vault/evil"), "spec.agentCa.vault.server: Forbidden"},
		"a prefix in capitals":                        {allowed, server("https://gateway.example.com/Vault"), "spec.agentCa.vault.server: Forbidden"},
		"a prefix of another server":                  {allowed, server("https://vault.example.com/vault"), "spec.agentCa.vault.server: Forbidden"},
		"a prefix that climbs":                        {allowed, server("https://gateway.example.com/evil/../vault"), "spec.agentCa.vault.server: Forbidden"},
		"a prefix that climbs, escaped":               {allowed, server("https://gateway.example.com/vault/%2e%2e/evil"), "spec.agentCa.vault.server: Forbidden"},
		"an escaped prefix":                           {allowed, server("https://gateway.example.com/%76ault"), "spec.agentCa.vault.server: Forbidden"},
		"a prefix after two slashes":                  {allowed, server("https://gateway.example.com//vault"), "spec.agentCa.vault.server: Forbidden"},
		"a prefix with two slashes":                   {allowed, server("https://gateway.example.com/vault//"), "spec.agentCa.vault.server: Forbidden"},
		"a prefix with a query":                       {allowed, server("https://gateway.example.com/vault?a"), "spec.agentCa.vault.server: Forbidden"},
		"a prefix with a fragment":                    {allowed, server("https://gateway.example.com/vault#a"), "spec.agentCa.vault.server: Forbidden"},
		"a prefix as a user's name":                   {allowed, server("https://gateway.example.com/vault@evil.example.com"), "spec.agentCa.vault.server: Forbidden"},
		"nothing":                                     {allowed, server(""), "spec.agentCa.vault.server: Forbidden"},
		"a Secret of its own namespace":               {nil, func(v *vault) { v.TokenSecretRef = &certificatesv1.ObjectRef{Name: "a", Namespace: me.Namespace} }, ""},
		"a Secret of another namespace":               {nil, func(v *vault) { v.TokenSecretRef = &certificatesv1.ObjectRef{Name: "a", Namespace: "kube-system"} }, "spec.agentCa.vault.tokenSecretRef.namespace: Forbidden: expected none, or istiod's own namespace"},
		"an account of another": {nil, func(v *vault) {
			v.KubernetesAuth.ServiceAccountRef = &certificatesv1.ObjectRef{Name: "a", Namespace: "kube-system"}
		}, "spec.agentCa.vault.kubernetesAuth.serviceAccountRef.namespace: Forbidden"},
		"an account of its own": {nil, func(v *vault) { v.KubernetesAuth.ServiceAccountRef = &certificatesv1.ObjectRef{Name: "a"} }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			certificate := named("mine", 1)
			test.change(certificate.Spec.AgentCA.Vault)
			err := (&Issuer{Identity: me, AllowedServers: test.allowed}).permit(certificate)
			if (test.problem == "") != (err == nil) || (err != nil && !strings.Contains(err.Error(), test.problem)) {
				t.Errorf("want %q, got %v", test.problem, err)
			}
		})
	}
}

func TestPermitRoots(t *testing.T) {
	t.Parallel()
	for namespace, problem := range map[string]string{"": "", me.Namespace: "", "kube-system": "spec.agentCa.trustedRoots.configMapRef.namespace: Forbidden: expected none, or istiod's own namespace"} {
		certificate := named("mine", 1)
		certificate.Spec.AgentCA.TrustedRoots = &certificatesv1.TrustedRoots{ConfigMapRef: &certificatesv1.ConfigMapKeyRef{Name: "roots", Namespace: namespace}}
		err := (&Issuer{Identity: me}).permit(certificate)
		if (problem == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), problem) {
			t.Errorf("%q: want %q, got %v", namespace, problem, err)
		}
	}
}

// A specification that is not permitted leaves the one before it in force.
func TestASpecificationThatIsNotPermittedIsNotActedOn(t *testing.T) {
	t.Parallel()
	a, specifications, reporter := newAgent(t)
	a.Source.(*Issuer).AllowedServers = []string{"https://vault:8200"}
	specifications.certificate = named("mine", 1)
	a.observe(a.started)
	hostile := named("mine", 2)
	hostile.Spec.AgentCA.Vault.Server = "https://evil:8200"
	specifications.certificate = hostile
	a.observe(a.started)
	a.report()
	if a.desired.Spec.AgentCA.Vault.Server != "https://vault:8200" {
		t.Errorf("acts on server %s", a.desired.Spec.AgentCA.Vault.Server)
	}
	if !strings.Contains(reporter.status.Error, "injection.agent.allowedServers") {
		t.Errorf("status: %s", reporter.status.Error)
	}
}
