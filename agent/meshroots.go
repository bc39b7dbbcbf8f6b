// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"github.com/istiod-agent/istiod-agent/agent/ca"
	"github.com/istiod-agent/istiod-agent/agent/notices"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

const (
	// maxMeshRoots bounds the bytes of RootConfigMap, and maxMeshRootsNumber its certificates: each costs a signature check.
	maxMeshRoots       = 256 << 10
	maxMeshRootsNumber = 100
)

// pinned returns the roots that a certificate must lead to, nil where the specification restricts none.
func (a *Agent) pinned(ctx context.Context, roots *certificatesv1.TrustedRoots) ([]*x509.Certificate, error) {
	if roots == nil {
		return nil, nil
	}
	text, from := roots.PEM, "spec.agentCa.trustedRoots.pem"
	unavailable := func(err error) error {
		return &ca.Error{Reason: notices.RootsUnavailable, Cause: fmt.Errorf("%s: %w", from, err)}
	}
	if ref := roots.ConfigMapRef; ref != nil {
		from = "spec.agentCa.trustedRoots.configMapRef"
		if a.APIServer == nil {
			return nil, unavailable(errors.New("reading the ConfigMap needs an API server; run in a cluster or set --kubeconfig"))
		}
		var err error
		if text, err = a.APIServer.ConfigMapValue(ctx, a.Identity.Namespace, ref.Name, ref.Key, certificatesv1.MaxTrustedRootsPEM); err != nil {
			return nil, unavailable(err)
		}
		from += fmt.Sprintf(": ConfigMap %s/%s, key %s", a.Identity.Namespace, ref.Name, ref.Key)
	}
	parsed, err := certificatesv1.ParseTrustedRoots(text)
	if err != nil {
		return nil, unavailable(err)
	}
	return parsed, nil
}

// readMeshRoots returns the roots that the mesh trusts: those that an istiod of the namespace publishes.
func readMeshRoots(ctx context.Context, api APIServer, namespace string) ([]*x509.Certificate, error) {
	if api == nil {
		return nil, nil
	}
	text, err := api.ConfigMapValue(ctx, namespace, istio.RootConfigMap, istio.RootCertFile, maxMeshRoots)
	if err != nil {
		return nil, err
	}
	roots, err := pemcerts.Parse([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("ConfigMap %s/%s, key %s: %w", namespace, istio.RootConfigMap, istio.RootCertFile, err)
	}
	var found []*x509.Certificate
	for _, root := range roots[:min(len(roots), maxMeshRootsNumber)] {
		if root.IsCA && pemcerts.SelfSigned(root) && !slices.ContainsFunc(found, root.Equal) {
			found = append(found, root)
		}
	}
	return found, nil
}
