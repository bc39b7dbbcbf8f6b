// SPDX-License-Identifier: Apache-2.0

package cacerts

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

// The files that istiod reads (Istio pilot/pkg/bootstrap/istio_ca.go, detectSigningCABundleAndCRL).
const (
	keyFile   = "ca-key.pem"
	certFile  = "ca-cert.pem"
	chainFile = "cert-chain.pem"
	rootFile  = "root-cert.pem"
	noteFile  = "note"
)

// names are istiod's files in the order in which their links are made: the key first, since istiod starts
// without any file (and makes a root of its own), but never with a part of them.
var names = []string{keyFile, certFile, chainFile, rootFile}

// file is the content of one and its mode.
type file struct {
	content []byte
	mode    os.FileMode
}

// files gives what is written for a set. It is canonical: the same set gives the same bytes, so root-cert.pem
// changes only with the roots (istiod refuses a reload when a byte of it differs).
func (s *Set) files() (map[string]file, error) {
	key, err := s.keyPEM()
	if err != nil {
		return nil, err
	}
	return map[string]file{
		keyFile:  {key, 0o600},
		certFile: {encode(s.Certificate), 0o644},
		// istiod sends this after each workload's certificate: the signer first, then upwards, without the root.
		chainFile: {encode(append([]*x509.Certificate{s.Certificate}, s.Issuers...)...), 0o644},
		// istiod publishes these bytes as they are, in the ConfigMap istio-ca-root-cert. Without the last newline, as Vault
		// answers, the guide's last step (jq -r, which writes one, and diff) finds no difference.
		rootFile: {bytes.TrimSuffix(encode(s.Roots...), []byte("\n")), 0o644},
		noteFile: {s.Note, 0o600},
	}, nil
}

func (s *Set) keyPEM() ([]byte, error) {
	switch key := s.key.(type) {
	case *rsa.PrivateKey:
		return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}), nil
	case *ecdsa.PrivateKey:
		der, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			return nil, errors.New("the CA key cannot be encoded")
		}
		return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
	default:
		return nil, errors.New("the CA key is neither RSA nor EC")
	}
}

func encode(certificates ...*x509.Certificate) []byte {
	var text bytes.Buffer
	for _, each := range certificates {
		_ = pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: each.Raw}) // a buffer takes everything
	}
	return text.Bytes()
}

// read reads a set back as istiod would, by names in a directory, and checks that it is one.
func read(dir string) (*Set, error) {
	content := map[string][]byte{}
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(dir, name)) //nolint:gosec // a constant name in the published directory
		if err != nil {
			return nil, err
		}
		content[name] = text
	}
	key, err := parseKey(content[keyFile])
	if err != nil {
		return nil, err
	}
	certificate, err := parseOne("certificate", content[certFile])
	if err != nil {
		return nil, err
	}
	chain, err := pemcerts.Parse(content[chainFile])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", chainFile, err)
	}
	if !chain[0].Equal(certificate) {
		return nil, fmt.Errorf("%s does not begin with the certificate of %s", chainFile, certFile)
	}
	roots, err := pemcerts.Parse(content[rootFile])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", rootFile, err)
	}
	set := &Set{Certificate: certificate, Issuers: chain[1:], Roots: roots, key: key}
	if set.Root() == nil {
		return nil, fmt.Errorf("%s holds no root that the certificate leads to", rootFile)
	}
	return set, nil
}
