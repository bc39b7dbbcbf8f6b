// SPDX-License-Identifier: Apache-2.0

package servingcert

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
)

// Time is synctest's: it passes at once where all would wait.
func TestFilesReload(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := newCA(t, "a", start, start.Add(year))
	first, second, third := ca.leaf(t, start.Add(time.Hour)), ca.leaf(t, start.Add(2*time.Hour)), ca.leaf(t, start.Add(3*time.Hour))

	synctest.Test(t, func(t *testing.T) {
		server := v1alpha1.Server{ServingCertificate: v1alpha1.ServingCertificate{Source: v1alpha1.CertificateSecret, Directory: dir}}
		source := New(server, nil)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- source.Start(ctx) }()
		look := func() {
			<-time.After(11 * time.Second) // the library looks every ten
			synctest.Wait()
		}

		synctest.Wait()
		if source.Ready() == nil {
			t.Error("ready without files")
		}
		if got := notAfter(t, source); got != 0 {
			t.Errorf("without files the gauge is %v", got)
		}
		writePair(t, dir, first)
		look()
		wantServed(t, "the files are there", source, first)
		writePair(t, dir, second)
		look()
		wantServed(t, "they have changed", source, second)
		if got := notAfter(t, source); got != float64(second.Leaf.NotAfter.Unix()) {
			t.Errorf("the gauge is %v", got)
		}

		for _, breakIt := range []func(){
			func() { write(t, filepath.Join(dir, "tls.crt"), []byte("half a cert")) },
			func() { writePair(t, dir, third); write(t, filepath.Join(dir, "tls.key"), keyPEM(t, first)) },
			func() {
				if err := os.Remove(filepath.Join(dir, "tls.key")); err != nil {
					t.Fatal(err)
				}
			},
		} {
			breakIt()
			for range 20 { // more often than the library's own patience
				look()
			}
			wantServed(t, "they are broken", source, second)
		}
		writePair(t, dir, third)
		look()
		wantServed(t, "they are whole again", source, third)
		stop()
		if err := <-ended; err != nil {
			t.Errorf("ended with %v", err)
		}
	})
}

func wantServed(t *testing.T, what string, source Source, want *tls.Certificate) {
	t.Helper()
	got, err := source.GetCertificate(nil)
	if err != nil || !got.Leaf.Equal(want.Leaf) {
		t.Errorf("%s: serves another certificate (%v)", what, err)
	}
	if err := source.Ready(); err != nil {
		t.Errorf("%s: not ready: %v", what, err)
	}
}

func notAfter(t *testing.T, source Source) float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(NotAfter(source))
	families, err := registry.Gather()
	if err != nil || len(families) != 1 || families[0].GetName() != "istiod_agent_webhook_serving_certificate_not_after_seconds" {
		t.Fatalf("gathered %v (%v)", families, err)
	}
	return families[0].GetMetric()[0].GetGauge().GetValue()
}

func writePair(t *testing.T, dir string, pair *tls.Certificate) {
	t.Helper()
	write(t, filepath.Join(dir, "tls.crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Leaf.Raw}))
	write(t, filepath.Join(dir, "tls.key"), keyPEM(t, pair))
}

func keyPEM(t *testing.T, pair *tls.Certificate) []byte {
	t.Helper()
	raw, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}

func write(t *testing.T, file string, content []byte) {
	t.Helper()
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
}
