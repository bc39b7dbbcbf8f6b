// SPDX-License-Identifier: Apache-2.0

package client

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// hostile is an environment that Vault's own programs would obey; elsewhere is a server that must not be asked.
func hostile(t *testing.T, elsewhere string) {
	t.Helper()
	for name, value := range map[string]string{
		"VAULT_ADDR": elsewhere, "VAULT_AGENT_ADDR": elsewhere, "VAULT_PROXY_ADDR": elsewhere, "VAULT_HTTP_PROXY": elsewhere,
		"VAULT_TOKEN": "environment-token", "VAULT_NAMESPACE": "environment-namespace", "VAULT_HEADERS": `{"X-Environment":"yes"}`,
		"VAULT_SKIP_VERIFY": "true", "VAULT_TLS_SERVER_NAME": "environment.example", "VAULT_MAX_RETRIES": "9", "VAULT_RATE_LIMIT": "0.000001:1",
		"VAULT_CLIENT_TIMEOUT": "1", "VAULT_SRV_LOOKUP": "true", "VAULT_DISABLE_REDIRECTS": "true", "VAULT_WRAP_TTL": "5m", "VAULT_MFA": "environment",
	} {
		t.Setenv(name, value)
	}
}

func TestTheEnvironmentChangesNothing(t *testing.T) {
	plain := serve(t, good())
	all(t, login(t, configuration(plain.URL)))
	want := plain.received()

	server, elsewhere := serve(t, good()), serve(t, good())
	hostile(t, elsewhere.URL)
	all(t, login(t, configuration(server.URL)))
	got := server.received()
	if len(elsewhere.received()) > 0 {
		t.Errorf("%q went elsewhere", elsewhere.endpoints())
	}
	if len(got) != len(want) {
		t.Fatalf("%d calls, expected %d", len(got), len(want))
	}
	header := map[string]any{}
	for _, call := range want { // the calls between login and logout are made in any order
		header[call.endpoint] = call.header
	}
	for _, call := range got {
		if !reflect.DeepEqual(call.header, header[call.endpoint]) {
			t.Errorf("%s: header %v, expected %v", call.endpoint, call.header, header[call.endpoint])
		}
	}
}

func TestTheEnvironmentAddsNoRetries(t *testing.T) {
	for name, status := range map[string]int{"500": 500, "503": 503, "412": 412, "429": 429} {
		t.Run(name, func(t *testing.T) {
			server := serve(t, with(loginEndpoint, status, `{"errors":[]}`))
			hostile(t, server.URL)
			if err := try(t.Context(), configuration(server.URL), loginEndpoint); err == nil || len(server.received()) != 1 {
				t.Errorf("got %v after %q", err, server.endpoints())
			}
		})
	}
}

func TestTheEnvironmentDoesNotWeakenTLS(t *testing.T) {
	ca := newAuthority(t)
	seen := &fake{}
	server := start(t, seen.handler(good()).ServeHTTP, ca.of(t, "127.0.0.1", time.Hour))
	hostile(t, server.URL)
	t.Setenv("VAULT_CACERT_BYTES", string(ca.pem))
	expect(t, try(t.Context(), configuration(server.URL), loginEndpoint), TLS, "is not trusted")
	if len(seen.received()) > 0 {
		t.Errorf("%q arrived", seen.endpoints())
	}
	config := configuration(server.URL)
	config.CABundle = ca.pem
	all(t, login(t, config))
}

// What cannot be read makes Vault's client fail. The words then name the environment, not the server alone.
func TestAnEnvironmentThatCannotBeReadIsNamed(t *testing.T) {
	for name, value := range map[string]string{
		"VAULT_CACERT":      filepath.Join(t.TempDir(), "missing.pem"),
		"VAULT_CAPATH":      filepath.Join(t.TempDir(), "missing"),
		"VAULT_CLIENT_CERT": "missing.pem",
		"VAULT_SKIP_VERIFY": "perhaps",
		"VAULT_MAX_RETRIES": "many",
		"VAULT_HEADERS":     `{"X-Vault-Token":"environment-token"}`,
	} {
		t.Run(name, func(t *testing.T) {
			server := serve(t, good())
			t.Setenv(name, value)
			err := try(t.Context(), configuration(server.URL), loginEndpoint)
			if err == nil {
				return // it counted for nothing
			}
			expect(t, err, BadConfiguration, "environment variables VAULT_*")
			if strings.Contains(err.Error(), os.Getenv(name)) {
				t.Errorf("%v holds the value", err)
			}
		})
	}
}
