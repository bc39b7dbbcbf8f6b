// SPDX-License-Identifier: Apache-2.0

package istiodserver_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istiodserver"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

var shared *cluster.Cluster

func TestMain(m *testing.M) { cluster.Main(m, &shared, nil) }

// A real istiod takes its CA from a folder, publishes the CA's root in every
// namespace, and signs for workloads, also after a crash.
func TestServer(t *testing.T) {
	ctx := t.Context()
	dir := istiodserver.TmpfsDir(t)
	root := writeCA(t, dir)
	begin := time.Now()
	istiod, err := istiodserver.Start(ctx, istiodserver.Options{Plane: shared.Plane, CACerts: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := istiod.Stop(); err != nil {
			t.Error(err)
		}
	})
	t.Logf("istiod was ready after %s", time.Since(begin).Round(time.Millisecond))

	namespace := shared.Namespace(t, false)
	wantPublished(t, istiod, namespace, root)

	asWorkload := istiodserver.CSROptions{Namespace: namespace, ServiceAccount: "default", Root: root}
	wantSigned(t, istiod, asWorkload)
	asWorkload.Root = writeCA(t, t.TempDir())
	if _, err := istiod.CSR(ctx, asWorkload); err == nil || !strings.Contains(err.Error(), "certificate signed by unknown authority") {
		t.Errorf("a workload that trusts another root: %v", err)
	}
	metrics, err := istiod.Metrics(ctx)
	if err != nil || !strings.Contains(metrics, "\ncitadel_server_cert_chain_expiry_timestamp") {
		t.Errorf("the metrics do not hold the expiry of the CA: %v", err)
	}

	if err := istiod.Kill(); err != nil {
		t.Fatal(err)
	}
	begin = time.Now()
	if err := istiod.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("istiod was ready again after %s", time.Since(begin).Round(time.Millisecond))
	asWorkload.Root = root
	wantSigned(t, istiod, asWorkload)
	wantPublished(t, istiod, shared.Namespace(t, false), root)
}

// istiod ends if a file of the CA is missing, and the error holds its reason.
func TestStartFails(t *testing.T) {
	dir := istiodserver.TmpfsDir(t)
	writeCA(t, dir)
	if err := os.Remove(filepath.Join(dir, "root-cert.pem")); err != nil {
		t.Fatal(err)
	}
	istiod, err := istiodserver.Start(t.Context(), istiodserver.Options{Plane: shared.Plane, CACerts: dir, Pod: "istiod-1"})
	if err == nil {
		t.Fatal("istiod started without a root", istiod.Stop())
	}
	if !strings.Contains(err.Error(), "incomplete signing CA bundle") {
		t.Error(err)
	}
}

func wantPublished(t *testing.T, istiod *istiodserver.Server, namespace string, root []byte) {
	t.Helper()
	begin := time.Now()
	cluster.Within(t, time.Minute, "the root is published", func() error {
		published, err := istiod.PublishedRoot(t.Context(), namespace)
		if err == nil && !bytes.Equal(published, root) {
			err = errors.New("istiod has published another root")
		}
		return err
	})
	t.Logf("the root was published %s later", time.Since(begin).Round(time.Millisecond))
}

func wantSigned(t *testing.T, istiod *istiodserver.Server, options istiodserver.CSROptions) {
	t.Helper()
	workload, err := istiod.CSR(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	if err := workload.Verify(options.Root); err != nil {
		t.Error(err)
	}
	certificates, err := workload.Certificates()
	if err != nil {
		t.Fatal(err)
	}
	identity := "spiffe://cluster.local/ns/" + options.Namespace + "/sa/" + options.ServiceAccount
	if uris := certificates[0].URIs; len(uris) != 1 || uris[0].String() != identity {
		t.Errorf("the workload is %v, want %s", uris, identity)
	}
}

// writeCA writes the four files of an intermediate CA and returns its root.
func writeCA(t *testing.T, dir string) (root []byte) {
	t.Helper()
	template := testca.Authority("my-org")
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().AddDate(0, 1, 0)
	signer := testca.SelfSign(template, nil)
	template.Subject.CommonName = "intermediate"
	intermediate := signer.Sign(template, nil)
	root = signer.PEM()
	for name, content := range map[string][]byte{
		"ca-key.pem":     intermediate.KeyPEM(),
		"ca-cert.pem":    intermediate.PEM(),
		"cert-chain.pem": intermediate.PEM(),
		"root-cert.pem":  root,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}
