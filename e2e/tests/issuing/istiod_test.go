// SPDX-License-Identifier: Apache-2.0

package issuing

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/istiod-agent/istiod-agent/internal/testca"
)

// istiod serves istiod's TLS port with certificates signed by the published CA, which is all that a sidecar needs. Package
// renewal runs a real istiod; one for each test here would take longer than everything else.
func (s *setting) istiod(t *testing.T) {
	t.Helper()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return serving(s.CACerts) },
	})
	must(t, err)
	t.Cleanup(func() { must(t, listener.Close()) })
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go shake(connection)
		}
	}()
	s.IstiodAddress = listener.Addr().String()
}

// shake completes a handshake.
func shake(connection net.Conn) {
	_ = connection.SetDeadline(time.Now().Add(10 * time.Second))
	_ = connection.(*tls.Conn).Handshake()
	_ = connection.Close()
}

// serving returns a certificate signed by the CA in a directory, with that CA's chain.
func serving(cacerts string) (*tls.Certificate, error) {
	// During a swap they may not match. The handshake fails then.
	authority, err := tls.LoadX509KeyPair(filepath.Join(cacerts, "cert-chain.pem"), filepath.Join(cacerts, "ca-key.pem"))
	if err != nil {
		return nil, err
	}
	leaf := (&testca.Certificate{Certificate: authority.Leaf, Key: authority.PrivateKey.(crypto.Signer)}).Sign(x509.Certificate{
		Subject:   pkix.Name{CommonName: "istiod"},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"istiod"},
	}, nil)
	return &tls.Certificate{Certificate: append([][]byte{leaf.Raw}, authority.Certificate...), PrivateKey: leaf.Key}, nil
}
