// SPDX-License-Identifier: Apache-2.0

package istiodserver

import (
	"context"
	"fmt"
	"time"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/csr"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/serviceaccount"
)

// CSROptions say who asks istiod for a certificate.
type CSROptions struct {
	// Namespace and ServiceAccount of the workload; both are made when missing.
	Namespace, ServiceAccount string
	// Root is what the workload trusts, in PEM: istiod is not asked unless its
	// serving certificate verifies against it.
	Root []byte
	// TTL to ask for; istiod's default (24 hours) when zero.
	TTL time.Duration
}

// CSR gets a workload's certificate as a sidecar does: through istiod's CSR API,
// with a token of the workload's service account.
func (s *Server) CSR(ctx context.Context, options CSROptions) (*csr.Workload, error) {
	if err := serviceaccount.Ensure(ctx, s.client, options.Namespace, options.ServiceAccount); err != nil {
		return nil, err
	}
	token, err := serviceaccount.Token(ctx, s.client, options.Namespace, options.ServiceAccount, "istio-ca")
	if err != nil {
		return nil, err
	}
	workload, err := csr.Get(ctx, csr.Request{
		Address: s.SecureAddress, ServerName: "istiod." + s.namespace + ".svc", Cluster: clusterID,
		Token: token, Root: options.Root, TTL: options.TTL,
	})
	if err != nil {
		return nil, fmt.Errorf("asking istiod for a certificate of %s/%s: %w", options.Namespace, options.ServiceAccount, err)
	}
	return workload, nil
}
