// SPDX-License-Identifier: Apache-2.0

package istiodserver

import (
	"context"
	"fmt"
	"time"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/csr"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/serviceaccount"
)

// CSROptions describe a workload's request.
type CSROptions struct {
	// Namespace and ServiceAccount of the workload are created if they do not exist.
	Namespace, ServiceAccount string
	// Root is the trust bundle, in PEM, that verifies istiod's serving certificate.
	Root []byte
	// TTL is the requested lifetime; istiod's default (24 hours) when zero.
	TTL time.Duration
}

// CSR requests a workload's certificate from istiod's CSR API, with a token of its service account.
func (s *Server) CSR(ctx context.Context, options CSROptions) (*csr.Workload, error) {
	if err := serviceaccount.Ensure(ctx, s.client, options.Namespace, options.ServiceAccount); err != nil {
		return nil, err
	}
	token, err := serviceaccount.Token(ctx, s.client, options.Namespace, options.ServiceAccount, "istio-ca")
	if err != nil {
		return nil, err
	}
	workload, err := csr.Get(ctx, csr.Request{
		Address: s.SecureAddress, ServerName: "istiod." + s.namespace + ".svc", Cluster: s.options.clusterID(),
		Token: token, Root: options.Root, TTL: options.TTL,
	})
	if err != nil {
		return nil, fmt.Errorf("requesting a certificate of %s/%s from istiod: %w", options.Namespace, options.ServiceAccount, err)
	}
	return workload, nil
}
