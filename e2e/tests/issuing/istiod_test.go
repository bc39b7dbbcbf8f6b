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

// istiod stands in for istiod's TLS port from now on, which is all that a sidecar knows of it: what it serves is
// signed by the CA that is published at the time. A real istiod is in the tests of package renewal; one for each
// test here would take longer than all the rest.
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

// shake is over when the other side has seen the certificate.
func shake(connection net.Conn) {
	_ = connection.SetDeadline(time.Now().Add(10 * time.Second))
	_ = connection.(*tls.Conn).Handshake()
	_ = connection.Close()
}

// serving makes a certificate under the CA in a directory, followed by that CA's chain.
func serving(cacerts string) (*tls.Certificate, error) {
	// In the middle of a swap they do not belong together, and nothing is served.
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
