// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/istiod-agent/istiod-agent/internal/istio"
)

// summary is what the demo has shown. It has no secret.
type summary struct {
	// points is the number of points that were checked in the stored Deployment.
	points int
	// ca is istiod's CA after the renewal, root the root that the mesh publishes.
	ca, root *x509.Certificate
	// before and after are the serial numbers of istiod's CA, renewal the time from the request to the confirmation.
	before, after string
	renewal       time.Duration
	process       int
	// keyFile is the CA key's file, mode its permissions; searched is the number of bytes in etcd's files.
	keyFile  string
	mode     os.FileMode
	searched int64
}

// key requires that Vault keeps no key of an intermediate CA, and looks for istiod's CA keys, the current one and the one before, in
// etcd's files. The root's certificate, which is public
// and in a ConfigMap, must be found by the same search.
func (d *demo) key(ctx context.Context) (err error) {
	found, m := &d.summary, &d.mesh
	if found.root, err = certificate(m.root); err != nil {
		return err
	}
	content, err := os.ReadFile(filepath.Join(m.cacerts, istio.CACertFile))
	if err != nil {
		return err
	}
	if found.ca, err = certificate(content); err != nil {
		return err
	}
	found.keyFile = filepath.Join(m.cacerts, istio.CAKeyFile)
	file, err := os.Stat(found.keyFile)
	if err != nil {
		return err
	}
	found.mode = file.Mode().Perm()
	if len(m.keys) != 2 || bytes.Equal(m.keys[0], m.keys[1]) {
		return errors.New("the renewal has not changed the CA's key")
	}
	if err := d.steps.step("vault list pki_int/keys, which Vault keeps of the keys that it created", func() error {
		kept, err := m.vault.Client.Logical().ListWithContext(ctx, "pki_int/keys")
		if err == nil && kept != nil { // a list without entries is a 404, which the client returns as nil
			err = fmt.Errorf("Vault keeps keys in pki_int: %v", kept.Data["keys"]) //nolint:staticcheck // a name
		}
		return err
	}); err != nil {
		return err
	}
	return d.steps.step("look for the CA's key in etcd's files, before and after the renewal, and for the public root", func() error {
		for _, key := range m.keys {
			stored, searched, err := d.cluster.Plane.Stored(key)
			if err != nil {
				return err
			}
			if stored {
				return errors.New("a CA key is in etcd")
			}
			found.searched = searched
		}
		stored, _, err := d.cluster.Plane.Stored(m.root)
		if err == nil && !stored {
			err = errors.New("the search does not find what is in etcd")
		}
		return err
	})
}

func certificate(text []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("no certificate in PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}

// print prints the summary. With the commands that follow, it fits a terminal of 24 lines and 100 columns.
func (s *summary) print(to *steps) {
	to.title("Summary")
	for _, each := range [][2]string{
		{"injected", fmt.Sprintf("istiod's Deployment, as Helm applied it: %d of %d points hold", s.points, s.points)},
		{"root", fmt.Sprintf("%s, SHA-256 %s…, given to Vault, and in ConfigMap istio-ca-root-cert", s.root.Subject, fingerprint(s.root))},
		{"istiod's CA", fmt.Sprintf("%s, until %s", s.ca.URIs[0], s.ca.NotAfter.UTC().Format(time.DateOnly))},
		{"renewal", fmt.Sprintf("serial %s to %s in %.1f s; istiod is still process %d", short(s.before), short(s.after), s.renewal.Seconds(), s.process)},
		{"the CA's key", fmt.Sprintf("is in memory: %s (%#o, tmpfs)", s.keyFile, s.mode)},
		{"", "is not in Vault: it created the key, and pki_int/keys is empty"},
		{"", fmt.Sprintf("is not in etcd: not in %s bytes, neither as PEM or DER nor in base64;", grouped(s.searched))},
		{"", "the same search finds the root, which is public"},
	} {
		fmt.Printf("  %-14s%s\n", each[0], each[1])
	}
}

// fingerprint is the beginning of a certificate's, as `kubectl istiod-agent status` prints it.
func fingerprint(certificate *x509.Certificate) string {
	sum := sha256.Sum256(certificate.Raw)
	return hex.EncodeToString(sum[:6])
}

// short is the end of a serial number, as `kubectl istiod-agent status` prints it.
func short(serial string) string {
	const end = len("01:02:03:04")
	if len(serial) <= end {
		return serial
	}
	return "…" + serial[len(serial)-end:]
}

// grouped writes a number with a comma after each third digit.
func grouped(number int64) string {
	text := fmt.Sprint(number)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
