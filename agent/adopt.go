// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/x509"
	"fmt"

	"github.com/istiod-agent/istiod-agent/agent/cacerts"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/internal/istio"
)

// adopt takes over the CA that istiod has used so far, from the Secret that a specification names.
func (i *Issuer) adopt(ctx context.Context, name string, hosts []string, roots []*x509.Certificate) (*cacerts.Set, error) {
	if i.Cluster == nil {
		return nil, fmt.Errorf("metadata.annotations[%s]: the CA is in a Secret, and no API server is known; run in a cluster or set --kubeconfig", certificatesv1.CAFromSecretAnnotation)
	}
	secret, err := i.Cluster.Secret(ctx, i.Identity.Namespace, name)
	if err != nil {
		return nil, fmt.Errorf("taking over istiod's CA: %w", err)
	}
	for _, key := range []string{istio.CACertFile, istio.CAKeyFile} {
		if len(secret[key]) == 0 {
			return nil, fmt.Errorf("taking over istiod's CA: Secret %s/%s has no key %q", i.Identity.Namespace, name, key)
		}
	}
	if roots == nil {
		return nil, fmt.Errorf("taking over istiod's CA: metadata.annotations[%s] is absent; expected the roots to trust, that CA's among them", certificatesv1.TrustedRootsAnnotation)
	}
	return cacerts.Adopt(secret[istio.CAKeyFile], secret[istio.CACertFile], secret[istio.CertChainFile], roots, hosts, i.Now())
}
