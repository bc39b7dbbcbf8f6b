// SPDX-License-Identifier: Apache-2.0

package configurations

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cert-manager/cert-manager/pkg/server/tls/authority"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/util/cert"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/injected"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

// With a user's own certificate in a Secret the webhook serves the files, also after they change.
func TestCertificateFromSecret(t *testing.T) {
	dir := t.TempDir()
	roots := writeCertificate(t, dir)
	installed(t, webhookserver.Options{
		Values: helm.Values{"servingCertificate": helm.Values{
			"source": "secret",
			"secret": helm.Values{"name": "anything"},
		}},
		Configuration: map[string]any{"server": map[string]any{"servingCertificate": map[string]any{"directory": dir}}},
	})
	if err := setCABundle(t, roots); err != nil {
		t.Fatal(err)
	}
	wantAdmission(t)

	first := served(t)
	roots = append(roots, writeCertificate(t, dir)...)
	if err := setCABundle(t, roots); err != nil {
		t.Fatal(err)
	}
	cluster.Eventually(t, "the changed file is served", func() error {
		if served(t).Equal(first) {
			return errors.New("still the first")
		}
		return nil
	})
	wantAdmission(t)
}

// An upgrade of the chart keeps the caBundle.
func TestUpgradeKeepsCABundle(t *testing.T) {
	installed(t, webhookserver.Options{})
	before := caBundle(t)
	for name, release := range map[string]helm.Release{
		"server-side": webhookserver.Release,
		"client-side": {Name: webhookserver.Release.Name, Namespace: webhookserver.Release.Namespace, ClientSide: true},
	} {
		t.Run(name, func(t *testing.T) {
			values := helm.Values{"commonLabels": helm.Values{"upgraded": name}, "webhookConfiguration": helm.Values{"timeoutSeconds": 7}}
			if err := shared.Webhook.Upgrade(t.Context(), release, values); err != nil {
				t.Fatal(err)
			}
			if after := caBundle(t); len(after) == 0 || string(after) != string(before) {
				t.Errorf("the caBundle went from %d to %d bytes", len(before), len(after))
			}
			wantAdmission(t)
		})
	}
}

// The webhook adopts the CA of cert-manager's authority, which earlier versions used, and the other way round: neither an
// upgrade nor a rollback changes the CA.
func TestCATakeover(t *testing.T) {
	installed(t, webhookserver.Options{})
	key := client.ObjectKey{Namespace: webhookserver.Release.Namespace, Name: "istiod-agent-webhook-ca"}
	stored := func() (secret corev1.Secret, ca *x509.Certificate) {
		if err := shared.Get(t.Context(), key, &secret); err != nil {
			t.Fatal(err)
		}
		all, err := cert.ParseCertsPEM(secret.Data["ca.crt"])
		if err != nil {
			t.Fatal(err)
		}
		return secret, all[0]
	}
	// theirs runs until it signs.
	theirs := func() (leaf *x509.Certificate) {
		ca := &authority.DynamicAuthority{
			SecretNamespace: key.Namespace, SecretName: key.Name, CommonName: key.Name, RESTConfig: shared.Plane.Config,
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- ca.Run(ctx) }()
		private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		cluster.Eventually(t, "cert-manager's authority signs", func() (err error) {
			leaf, err = ca.Sign(&x509.Certificate{PublicKey: private.Public()})
			return err
		})
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		return leaf
	}

	before, ca := stored()
	if err := theirs().CheckSignatureFrom(ca); err != nil {
		t.Error("theirs does not sign with ours:", err)
	}
	if after, _ := stored(); after.ResourceVersion != before.ResourceVersion {
		t.Error("theirs has replaced ours")
	}

	if err := shared.Webhook.Remove(shared.Webhook.Replicas[0]); err != nil {
		t.Fatal(err)
	}
	if err := shared.Delete(t.Context(), &before); err != nil {
		t.Fatal(err)
	}
	theirs()
	before, ca = stored()
	if _, err := shared.Webhook.Scale(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := served(t).CheckSignatureFrom(ca); err != nil {
		t.Error("ours does not sign with theirs:", err)
	}
	if after, _ := stored(); after.ResourceVersion != before.ResourceVersion {
		t.Error("ours has replaced theirs")
	}
	wantAdmission(t)
}

// wantAdmission creates an istiod, which must be injected.
func wantAdmission(t *testing.T) {
	t.Helper()
	istiod := cluster.Istiod(t, shared.Namespace(t, true))
	stored := shared.MustApply(t, istiod)
	wantInjected(t, shared.Without(t, istiod), stored, injected.Default(shared.Webhook.AgentImage()))
}

// writeCertificate replaces the webhook's files by a new self-signed certificate, and returns its CA.
func writeCertificate(t *testing.T, dir string) []byte {
	t.Helper()
	crt, key, err := cert.GenerateSelfSignedCertKeyWithOptions(cert.SelfSignedCertKeyOptions{Host: "localhost", MaxAge: 24 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"tls.crt": crt, "tls.key": key} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return crt
}

func served(t *testing.T) *x509.Certificate {
	t.Helper()
	dialer := &tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} // which one it is, is the question
	connection, err := dialer.DialContext(t.Context(), "tcp", shared.Webhook.Replicas[0].Address())
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	return connection.(*tls.Conn).ConnectionState().PeerCertificates[0]
}

func webhookConfiguration(t *testing.T) *admissionregistrationv1.MutatingWebhookConfiguration {
	t.Helper()
	var configuration admissionregistrationv1.MutatingWebhookConfiguration
	if err := shared.Get(t.Context(), client.ObjectKey{Name: webhookserver.Release.Name}, &configuration); err != nil {
		t.Fatal(err)
	}
	return &configuration
}

func caBundle(t *testing.T) []byte {
	t.Helper()
	return webhookConfiguration(t).Webhooks[0].ClientConfig.CABundle
}

func setCABundle(t *testing.T, bundle []byte) error {
	t.Helper()
	configuration := webhookConfiguration(t)
	for i := range configuration.Webhooks {
		configuration.Webhooks[i].ClientConfig.CABundle = bundle
	}
	return shared.Update(t.Context(), configuration)
}
