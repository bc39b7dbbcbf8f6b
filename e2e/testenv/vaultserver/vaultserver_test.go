// SPDX-License-Identifier: Apache-2.0

package vaultserver_test

import (
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"k8s.io/client-go/kubernetes"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/serviceaccount"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/vaultserver"
)

var shared *cluster.Cluster

func TestMain(m *testing.M) { cluster.Main(m, &shared, nil) }

// A Vault that was set up by the guide gives an intermediate CA to a real
// service account, whose token the API server reviews, and to no other.
func TestGuide(t *testing.T) {
	ctx := t.Context()
	vault := start(t, vaultserver.Options{})
	root, err := vault.Guide(ctx, vaultserver.GuideOptions{
		Cluster: shared.Plane.Config, ServiceAccount: "istiod", Root: vaultserver.FastRoot,
	})
	if err != nil {
		t.Fatal(err)
	}

	if _, err := login(t, vault, "default"); err == nil || !strings.Contains(err.Error(), "service account name not authorized") {
		t.Errorf("a service account that the role does not name: %v", err)
	}
	istiod, err := login(t, vault, "istiod")
	if err != nil {
		t.Fatal(err)
	}
	request := map[string]any{
		"common_name": "Istio", "uri_sans": "spiffe://cluster.local/ns/istio-system/sa/istiod", "key_type": "rsa", "key_bits": "2048",
	}
	generated, err := istiod.Logical().WriteWithContext(ctx, "pki_int/intermediate/generate/exported", request)
	if err != nil {
		t.Fatal(err)
	}
	request["csr"] = generated.Data["csr"]
	signed, err := istiod.Logical().WriteWithContext(ctx, "pki/root/sign-intermediate", request)
	if err != nil {
		t.Fatal(err)
	}
	if err := parse(t, []byte(signed.Data["certificate"].(string))).CheckSignatureFrom(parse(t, root.Certificate)); err != nil {
		t.Error(err)
	}
}

// With storage, Vault has its data after a crash once it is unsealed.
func TestStorage(t *testing.T) {
	ctx := t.Context()
	vault := start(t, vaultserver.Options{Storage: true, TLS: true})
	if !strings.HasPrefix(vault.Address, "https://") {
		t.Errorf("the address is %s", vault.Address)
	}
	if err := vault.Client.Sys().PutPolicyWithContext(ctx, "kept", `path "a" { capabilities = ["read"] }`); err != nil {
		t.Fatal(err)
	}
	if err := vault.Seal(ctx); err != nil {
		t.Fatal(err)
	}
	if err := vault.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := vault.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := vault.Client.Sys().GetPolicyWithContext(ctx, "kept"); err == nil || !strings.Contains(err.Error(), "sealed") {
		t.Errorf("a read while Vault is sealed: %v", err)
	}
	if err := vault.Unseal(ctx); err != nil {
		t.Fatal(err)
	}
	if kept, err := vault.Client.Sys().GetPolicyWithContext(ctx, "kept"); err != nil || kept == "" {
		t.Errorf("after the restart: %q, %v", kept, err)
	}
}

func start(t *testing.T, options vaultserver.Options) *vaultserver.Server {
	t.Helper()
	begin := time.Now()
	vault, err := vaultserver.Start(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("Vault was ready after %s", time.Since(begin).Round(time.Millisecond))
	t.Cleanup(func() {
		if err := vault.Stop(); err != nil {
			t.Error(err)
		}
	})
	return vault
}

// login logs in as a service account of istio-system and returns a client with Vault's token.
func login(t *testing.T, vault *vaultserver.Server, account string) (*api.Client, error) {
	t.Helper()
	ctx := t.Context()
	inCluster, err := kubernetes.NewForConfig(shared.Plane.Config)
	if err != nil {
		t.Fatal(err)
	}
	if err := serviceaccount.Ensure(ctx, inCluster, "istio-system", account); err != nil {
		t.Fatal(err)
	}
	token, err := serviceaccount.Token(ctx, inCluster, "istio-system", account)
	if err != nil {
		t.Fatal(err)
	}
	client, err := vault.NewClient("")
	if err != nil {
		t.Fatal(err)
	}
	answer, err := client.Logical().WriteWithContext(ctx, "auth/kubernetes/login", map[string]any{"role": vaultserver.Role, "jwt": token})
	if err != nil {
		return nil, err
	}
	client.SetToken(answer.Auth.ClientToken)
	return client, nil
}

func parse(t *testing.T, certificate []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(certificate)
	if block == nil {
		t.Fatalf("no PEM: %q", certificate)
	}
	parsed, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}
