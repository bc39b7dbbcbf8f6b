// SPDX-License-Identifier: Apache-2.0

package cacerts

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

// The files of a set: istiod's (Istio pilot/pkg/bootstrap/istio_ca.go, detectSigningCABundleAndCRL), and our note.
const (
	keyFile   = istio.CAKeyFile
	certFile  = istio.CACertFile
	chainFile = istio.CertChainFile
	rootFile  = istio.RootCertFile
	noteFile  = "note"
)

// names are istiod's files in the order in which their links are created: the key first, since istiod starts without any file
// (with a root of its own), but never with a part of them.
var names = []string{keyFile, certFile, chainFile, rootFile}

// file is the content of one and its mode.
type file struct {
	content []byte
	mode    os.FileMode
}

// digests are the SHA-256 of istiod's files, by name.
type digests map[string][sha256.Size]byte

// files returns the files of a set with its key (PEM). They are canonical, so that root-cert.pem changes only with the roots:
// istiod refuses to reload when a byte of it differs.
func (s *Set) files(key []byte) map[string]file {
	return map[string]file{
		keyFile:  {key, 0o600},
		certFile: {pemcerts.Encode(s.certificate), 0o644},
		// istiod sends this after each workload's certificate: the signer first, then upwards, without the root.
		chainFile: {pemcerts.Encode(append([]*x509.Certificate{s.certificate}, s.issuers...)...), 0o644},
		// istiod copies these bytes to the ConfigMap istio-ca-root-cert. Without the last newline, as Vault returns it, they are
		// what jq -r prints of that.
		rootFile: {bytes.TrimSuffix(pemcerts.Encode(s.roots...), []byte("\n")), 0o644},
		noteFile: {s.note, 0o600},
	}
}

func digestsOf(files map[string]file) digests {
	all := digests{}
	for _, name := range names {
		all[name] = sha256.Sum256(files[name].content)
	}
	return all
}

func encodeKey(key crypto.Signer) ([]byte, error) {
	block := pem.Block{}
	switch key := key.(type) {
	case *rsa.PrivateKey:
		block = pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}
	case *ecdsa.PrivateKey:
		der, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			return nil, errors.New("the CA key cannot be encoded")
		}
		block = pem.Block{Type: "EC PRIVATE KEY", Bytes: der}
	default:
		return nil, errors.New("the CA key is neither RSA nor EC")
	}
	defer clear(block.Bytes)
	return pem.EncodeToMemory(&block), nil
}

// read reads a set as istiod would, by the names in a directory. It does not verify it.
func read(dir string) (*Set, error) {
	content, read := map[string][]byte{}, digests{}
	defer func() { clear(content[keyFile]) }()
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(dir, name)) //nolint:gosec // a constant name in the published directory
		if err != nil {
			return nil, err
		}
		content[name], read[name] = text, sha256.Sum256(text)
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
		return nil, fmt.Errorf("%s does not start with the certificate in %s", chainFile, certFile)
	}
	roots, err := pemcerts.Parse(content[rootFile])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", rootFile, err)
	}
	set := &Set{certificate: certificate, issuers: chain[1:], roots: roots, key: key, published: read}
	if set.Root() == nil {
		return nil, fmt.Errorf("%s does not contain the certificate's root", rootFile)
	}
	return set, nil
}
