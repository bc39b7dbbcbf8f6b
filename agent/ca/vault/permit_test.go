// SPDX-License-Identifier: Apache-2.0

package vault

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
		"a Secret of its own namespace":               {nil, func(v *vault) { v.TokenSecretRef = &certificatesv1.ObjectRef{Name: "a", Namespace: "istio-system"} }, ""},
		"a Secret of another namespace":               {nil, func(v *vault) { v.TokenSecretRef = &certificatesv1.ObjectRef{Name: "a", Namespace: "kube-system"} }, "spec.agentCa.vault.tokenSecretRef.namespace: Forbidden: expected none, or istiod's own namespace"},
		"a secret id of another namespace": {nil, func(v *vault) {
			v.KubernetesAuth, v.AppRoleAuth = nil, &certificatesv1.AppRoleAuth{SecretIDSecretRef: &certificatesv1.SecretKeyRef{Name: "a", Namespace: "kube-system"}}
		}, "spec.agentCa.vault.appRoleAuth.secretIdSecretRef.namespace: Forbidden"},
		"a client certificate of another": {nil, func(v *vault) {
			v.KubernetesAuth, v.CertAuth = nil, &certificatesv1.CertAuth{CertSecretRef: &certificatesv1.ObjectRef{Name: "a", Namespace: "kube-system"}}
		}, "spec.agentCa.vault.certAuth.certSecretRef.namespace: Forbidden"},
		"a CA of another": {nil, func(v *vault) { v.CASecretRef = &certificatesv1.SecretKeyRef{Name: "a", Namespace: "kube-system"} }, "spec.agentCa.vault.caSecretRef.namespace: Forbidden"},
		"a JWT of another": {nil, func(v *vault) {
			v.KubernetesAuth, v.JWTAuth = nil, &certificatesv1.JWTAuth{ServiceAccountRef: &certificatesv1.ObjectRef{Name: "a", Namespace: "kube-system"}}
		}, "spec.agentCa.vault.jwtAuth.serviceAccountRef.namespace: Forbidden"},
		"all of its own": {nil, func(v *vault) {
			v.KubernetesAuth, v.CASecretRef = nil, &certificatesv1.SecretKeyRef{Name: "a", Namespace: "istio-system"}
			v.AppRoleAuth = &certificatesv1.AppRoleAuth{SecretIDSecretRef: &certificatesv1.SecretKeyRef{Name: "a", Namespace: "istio-system"}}
		}, ""},
		"an account of another": {nil, func(v *vault) {
			v.KubernetesAuth.ServiceAccountRef = &certificatesv1.ObjectRef{Name: "a", Namespace: "kube-system"}
		}, "spec.agentCa.vault.kubernetesAuth.serviceAccountRef.namespace: Forbidden"},
		"an account of its own": {nil, func(v *vault) { v.KubernetesAuth.ServiceAccountRef = &certificatesv1.ObjectRef{Name: "a"} }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := &vault{Server: "https://vault:8200", CAPath: "pki/root/sign-intermediate", KubernetesAuth: &certificatesv1.KubernetesAuth{Role: "istiod"}}
			test.change(spec)
			permitted := options(nil)
			permitted.AllowedServers = test.allowed
			source, errs := New(permitted, spec)
			if err := errs.ToAggregate(); (test.problem == "") != (err == nil && source != nil) || (err != nil && (source != nil || !strings.Contains(err.Error(), test.problem))) {
				t.Errorf("want %q, got %v", test.problem, err)
			}
		})
	}
}
