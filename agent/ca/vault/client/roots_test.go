// SPDX-License-Identifier: Apache-2.0

package client

import (
	"crypto/x509"
	"os"
	"os/exec"
	"testing"
)

// A process reads its system's roots once, so each case is put to one of its own, whose system has none.
func TestPublicRootsStandInWhereTheSystemHasNone(t *testing.T) {
	const variable = "VAULT_SERVER_OF_TEST"
	if server := os.Getenv(variable); server != "" {
		config := Config{Server: server, CAPath: "/v1/pki/root/sign-intermediate", Kubernetes: &KubernetesAuth{MountPath: "/v1/auth/kubernetes", Role: "istiod"}}
		if _, err := New(config); err != nil {
			t.Fatal(err)
		}
		if roots, err := x509.SystemCertPool(); err != nil || roots.Equal(x509.NewCertPool()) {
			t.Fatalf("no roots: %v", err)
		}
		return
	}
	for name, test := range map[string]struct {
		server string
		want   bool
	}{
		"over TLS":      {"https://vault.example.com", true},
		"in plain text": {"http://vault.example.com", false}, // nobody pays for what is not used
	} {
		t.Run(name, func(t *testing.T) {
			command := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestPublicRootsStandInWhereTheSystemHasNone$")
			command.Env = append(os.Environ(), variable+"="+test.server, "SSL_CERT_FILE=/dev/null", "SSL_CERT_DIR=/nonexistent")
			output, err := command.CombinedOutput()
			if (err == nil) != test.want {
				t.Errorf("want roots: %v, got %v\n%s", test.want, err, output)
			}
		})
	}
}
