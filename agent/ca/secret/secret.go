// SPDX-License-Identifier: Apache-2.0

// Package secret adopts the CA that istiod has used so far, with its key, from its Secret. It is for one step of a root change:
// istiod continues under its former CA while the new root becomes known. It asks no CA for anything.
package secret

import (
	"context"
	"fmt"

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
	for _, key := range []string{istio.CACertFile, istio.CAKeyFile} {
		if len(content[key]) == 0 {
			return ca.Answer{}, fmt.Errorf("adopting istiod's CA: Secret %s/%s has no key %q", s.namespace, s.name, key)
		}
	}
	answer := ca.Answer{Issued: cacerts.Issued{Key: content[istio.CAKeyFile], Certificate: content[istio.CACertFile]}}
	if chain := content[istio.CertChainFile]; len(chain) > 0 {
		answer.Issued.Chain = [][]byte{chain}
	}
	return answer, nil
}

// Conditions implements ca.Source.
func (s *source) Conditions() []metav1.Condition { return nil }
