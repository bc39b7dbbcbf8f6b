// SPDX-License-Identifier: Apache-2.0

package certmanager_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/cert"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/manifest"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

// The chart's two Certificates, which are called as their Secrets are.
const (
	leaf = "istiod-agent-webhook-tls"
	ca   = "istiod-agent-webhook-root-ca"
)

// cert-manager issues the CA and the serving certificate, and cainjector fills in the caBundle. No admission fails during
// either renewal, and an upgrade of the chart keeps the caBundle.
func TestServingCertificateFromCertManager(t *testing.T) {
	startCertManager(t)
	source := map[string]any{"source": "cert-manager"}
	install(t, leaf, source)
	for _, name := range []string{ca, leaf} {
		cluster.Eventually(t, name+" is issued", func() error { return ready(t, name) })
	}
	wantServedAndTrusted(t)
	wantAdmission(t)

	load := shared.StartLoad(t, 2, 50*time.Millisecond)
	t.Run("renewal of the serving certificate", func(t *testing.T) {
		before := mustGetSecret(t, leaf)
		renew(t, leaf)
		after := mustGetSecret(t, leaf)
		if bytes.Equal(before.Data["tls.crt"], after.Data["tls.crt"]) || bytes.Equal(before.Data["tls.key"], after.Data["tls.key"]) {
			t.Error("a renewed certificate has a new key")
		}
		wantServedAndTrusted(t)
	})
	t.Run("renewal of the CA", func(t *testing.T) {
		before := mustGetSecret(t, ca)
		renew(t, ca)
		after := mustGetSecret(t, ca)
		if bytes.Equal(before.Data["tls.crt"], after.Data["tls.crt"]) || !bytes.Equal(before.Data["tls.key"], after.Data["tls.key"]) {
			t.Error("a renewed CA keeps its key, which has signed what is served")
		}
		renew(t, leaf)
		if issuer := mustGetSecret(t, leaf).Data["ca.crt"]; !bytes.Equal(issuer, after.Data["tls.crt"]) {
			t.Error("the new serving certificate does not name the new CA")
		}
		wantServedAndTrusted(t)
	})
	t.Run("upgrade of the chart", func(t *testing.T) {
		values := map[string]any{"servingCertificate": source, "webhookConfiguration": map[string]any{"timeoutSeconds": 7}}
		if err := shared.Webhook.Upgrade(t.Context(), webhookserver.Release, values); err != nil {
			t.Fatal(err)
		}
		if err := trusts(t, mustGetSecret(t, leaf).Data["ca.crt"]); err != nil {
			t.Error(err)
		}
	})
	admitted, failed := load.Stop()
	t.Logf("%d admissions", admitted)
	if admitted == 0 || len(failed) > 0 {
		t.Errorf("%d admissions failed, of %d: %v", len(failed), admitted+len(failed), failed)
	}
	wantAdmission(t)
}

// Changes of the source to cert-manager, to a Secret and back, by Helm 4 and Helm 3, do not conflict with the previous writer
// of the caBundle.
func TestSourceChanges(t *testing.T) {
	startCertManager(t)
	for name, clientSide := range map[string]bool{"Helm 4": false, "Helm 3": true} {
		t.Run(name, func(t *testing.T) {
			release := webhookserver.Release
			release.ClientSide = clientSide
			install(t, leaf, map[string]any{"source": "self-managed"})
			change := func(source string, secret map[string]any) {
				t.Helper()
				values := map[string]any{"servingCertificate": map[string]any{"source": source, "secret": secret}}
				if err := shared.Webhook.Upgrade(t.Context(), release, values); err != nil {
					t.Fatalf("to %s: %v", source, err)
				}
				if source != "self-managed" {
					cluster.Eventually(t, "there is a certificate", func() error { _, err := getSecret(t, leaf); return err })
				}
				if err := shared.Webhook.Roll(t.Context()); err != nil {
					t.Fatalf("to %s: %v", source, err)
				}
				if source != "self-managed" {
					wantServedAndTrusted(t)
				}
				wantAdmission(t)
			}
			none := map[string]any{}
			change("cert-manager", none)
			change("self-managed", none)
			change("cert-manager", none)
			change("secret", map[string]any{"name": leaf, "caBundle": string(mustGetSecret(t, leaf).Data["ca.crt"])})
			change("cert-manager", none)
		})
	}
}

// With a user's own certificate, cainjector copies the CA from its Secret.
func TestCAFromSecret(t *testing.T) {
	const name = "webhook-tls"
	startCertManager(t)
	createSecret(t, name)
	install(t, name, map[string]any{"source": "secret", "secret": map[string]any{"name": name, "injectCAFromSecret": true}})
	stored := mustGetSecret(t, name)
	cluster.Eventually(t, "cainjector has copied the CA", func() error { return trusts(t, stored.Data["ca.crt"]) })
	wantAdmission(t)
}

// wantServedAndTrusted waits until the webhook serves the Secret's certificate and the API server trusts its CA.
func wantServedAndTrusted(t *testing.T) {
	t.Helper()
	stored := mustGetSecret(t, leaf)
	cluster.Eventually(t, "cainjector has filled in the CA", func() error { return trusts(t, stored.Data["ca.crt"]) })
	cluster.Eventually(t, "the webhook serves the certificate", func() error { return serves(t, stored.Data["tls.crt"]) })
}

func mustGetSecret(t *testing.T, name string) *corev1.Secret {
	t.Helper()
	secret, err := getSecret(t, name)
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

// The API server accepts the suite's manifest with strict field validation.
func TestManifest(t *testing.T) {
	root, err := built.Root()
	if err != nil {
		t.Fatal(err)
	}
	stream, err := os.ReadFile(filepath.Join(root, "e2e", "suite", "manifests", "cert-manager.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	objects, err := manifest.Parse(stream)
	if err != nil {
		t.Fatal(err)
	}
	strict := client.WithFieldValidation(shared.Client, metav1.FieldValidationStrict)
	for _, object := range objects {
		if err := strict.Create(t.Context(), object); err != nil && !apierrors.IsAlreadyExists(err) {
			t.Error(err)
		}
	}
}

// createSecret creates a Secret with a self-signed certificate that cainjector may copy.
func createSecret(t *testing.T, name string) {
	t.Helper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: webhookserver.Release.Namespace}}
	if err := shared.Create(t.Context(), namespace); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	crt, key, err := cert.GenerateSelfSignedCertKeyWithOptions(cert.SelfSignedCertKeyOptions{Host: "localhost", MaxAge: 24 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace.Name, Name: name,
			Annotations: map[string]string{"cert-manager.io/allow-direct-injection": "true"},
		},
		Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{"tls.crt": crt, "tls.key": key, "ca.crt": crt},
	}
	if err := shared.Create(t.Context(), secret); err != nil {
		t.Fatal(fmt.Errorf("creating %s: %w", name, err))
	}
}
