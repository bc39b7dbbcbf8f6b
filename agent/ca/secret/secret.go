// SPDX-License-Identifier: Apache-2.0

// Package secret adopts the CA that istiod has used so far, with its key, from its Secret. It is for one step of a root change:
// istiod continues under its former CA while the new root becomes known. It asks no CA for anything.
package secret

import (
	"context"
	"encoding/pem"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/istiod-agent/istiod-agent/agent/ca"
	"github.com/istiod-agent/istiod-agent/agent/cacerts"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/internal/istio"
)

// Reader reads Secrets from the API server.
type Reader interface {
	Secret(ctx context.Context, namespace, name string) (map[string][]byte, error)
}

type source struct {
	reader          Reader
	namespace, name string
}

// New returns the source of the CA in a Secret. The reader is nil where there is no API server.
func New(reader Reader, namespace, name string) ca.Source {
	return &source{reader: reader, namespace: namespace, name: name}
}

// String implements ca.Source.
func (s *source) String() string { return fmt.Sprintf("Secret %s/%s", s.namespace, s.name) }

// Issue implements ca.Source. The answer is what the Secret contains, whatever the request.
func (s *source) Issue(ctx context.Context, _ ca.Request) (ca.Answer, error) {
	if s.reader == nil {
		return ca.Answer{}, fmt.Errorf("metadata.annotations[%s]: reading the CA's Secret needs an API server; run in a cluster or set --kubeconfig", certificatesv1.CAFromSecretAnnotation)
	}
	content, err := s.reader.Secret(ctx, s.namespace, s.name)
	if err != nil {
		return ca.Answer{}, fmt.Errorf("adopting istiod's CA: %w", err)
	}
	files := files{istio.CACertFile, istio.CAKeyFile, istio.CertChainFile}
	if len(content[corev1.TLSCertKey]) > 0 {
		files = tlsFiles
	}
	for _, key := range []string{files.certificate, files.key} {
		if len(content[key]) == 0 {
			return ca.Answer{}, fmt.Errorf("adopting istiod's CA: Secret %s/%s has no key %q", s.namespace, s.name, key)
		}
	}
	certificates := blocks(content[files.certificate], "CERTIFICATE")
	keys := blocks(content[files.key], "PRIVATE KEY")
	if len(certificates) == 0 || len(keys) != 1 {
		return ca.Answer{}, fmt.Errorf("adopting istiod's CA: Secret %s/%s: expected a certificate in %q and one unencrypted private key in %q, in PEM", s.namespace, s.name, files.certificate, files.key)
	}
	chain := append(certificates[1:], blocks(content[files.chain], "CERTIFICATE")...)
	return ca.Answer{Issued: cacerts.Issued{Key: keys[0], Certificate: certificates[0], Chain: chain}}, nil
}

// files are the keys of a Secret.
type files struct{ certificate, key, chain string }

// tlsFiles are what cert-manager writes. istiod reads them rather than its own names (Istio
// pilot/pkg/bootstrap/istio_ca.go, detectSigningCABundleAndCRL).
var tlsFiles = files{corev1.TLSCertKey, corev1.TLSPrivateKeyKey, "ca.crt"}

// blocks returns the PEM blocks whose type has the given end, each alone, without what surrounds them: OpenSSL's programs add a
// description, and istiod skips it too.
func blocks(text []byte, kind string) (found [][]byte) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return found
		}
		if strings.HasSuffix(block.Type, kind) {
			found = append(found, pem.EncodeToMemory(block))
		}
	}
}

// Conditions implements ca.Source.
func (s *source) Conditions() []metav1.Condition { return nil }
