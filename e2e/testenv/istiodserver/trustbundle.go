// SPDX-License-Identifier: Apache-2.0

package istiodserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	meshv1alpha1 "istio.io/api/mesh/v1alpha1"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/serviceaccount"
)

// trustBundleType is the xDS type by which istiod sends its proxies the roots to trust (pilot/pkg/xds/pcds.go). Only an istiod
// with ISTIO_MULTIROOT_MESH sends it, and only to proxies that ask for it (PROXY_CONFIG_XDS_AGENT).
const trustBundleType = "type.googleapis.com/istio.mesh.v1alpha1.ProxyConfig"

// TrustBundle returns the roots, each in PEM, that istiod sends to a workload's proxy: its own, those in its MeshConfig, and
// those of the SPIFFE bundle endpoints in its MeshConfig.
func (s *Server) TrustBundle(ctx context.Context, options CSROptions) ([]string, error) {
	if err := serviceaccount.Ensure(ctx, s.client, options.Namespace, options.ServiceAccount); err != nil {
		return nil, err
	}
	token, err := serviceaccount.Token(ctx, s.client, options.Namespace, options.ServiceAccount, "istio-ca")
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(options.Root) {
		return nil, errors.New("no root to trust istiod by")
	}
	connection, err := grpc.NewClient(s.SecureAddress, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		RootCAs: roots, ServerName: "istiod." + s.namespace + ".svc", MinVersion: tls.VersionTLS12,
	})))
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token, "clusterid", s.options.clusterID())
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(connection).StreamAggregatedResources(ctx)
	if err != nil {
		return nil, err
	}
	// A node's ID is TYPE~IP~POD.NAMESPACE~DOMAIN (pilot/pkg/model, ParseServiceNodeWithMetadata).
	id := fmt.Sprintf("sidecar~192.0.2.10~%s.%s~%s.svc.cluster.local", options.ServiceAccount, options.Namespace, options.Namespace)
	if err := stream.Send(&discoveryv3.DiscoveryRequest{Node: &corev3.Node{Id: id}, TypeUrl: trustBundleType}); err != nil {
		return nil, err
	}
	answer, err := stream.Recv()
	if err != nil {
		return nil, fmt.Errorf("receiving the trust bundle of %s/%s from istiod: %w", options.Namespace, options.ServiceAccount, err)
	}
	var bundle []string
	for _, resource := range answer.Resources {
		var config meshv1alpha1.ProxyConfig
		if err := resource.UnmarshalTo(&config); err != nil {
			return nil, err
		}
		bundle = append(bundle, config.CaCertificatesPem...)
	}
	return bundle, nil
}
