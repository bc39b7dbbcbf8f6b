// SPDX-License-Identifier: Apache-2.0

package proxyless

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net"
	"os"
	"strings"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/tls/certprovider"
	"google.golang.org/grpc/xds/bootstrap"

	"github.com/istiod-agent/istiod-agent/internal/traffic"
)

// Register makes gRPC use the identity where the bootstrap names traffic.CredentialsType: to istiod and to other workloads.
// It must be called once, before the first use of xDS.
func (i *Identity) Register() {
	bootstrap.RegisterChannelCredentials(channel{i})
	certprovider.Register(provider{i})
}

// channel builds the credentials of the connection to istiod.
type channel struct{ identity *Identity }

func (c channel) Name() string { return traffic.CredentialsType }

func (c channel) Build(json.RawMessage) (credentials.Bundle, func(), error) {
	return bundle(c), func() {}, nil
}

type bundle struct{ identity *Identity }

func (b bundle) TransportCredentials() credentials.TransportCredentials {
	return toIstiod{credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12}), b.identity}
}

func (b bundle) PerRPCCredentials() credentials.PerRPCCredentials {
	return token(b.identity.options.TokenFile)
}

func (bundle) NewWithMode(string) (credentials.Bundle, error) { return nil, errors.ErrUnsupported }

// token authenticates the workload to istiod. Istio's agent does so by its token too, and not by its certificate: istiod
// verifies client certificates by the roots of its start (Istio pilot/pkg/bootstrap/server.go, initSecureDiscoveryService).
type token string

func (t token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	text, err := os.ReadFile(string(t))
	if err != nil {
		return nil, err
	}
	return map[string]string{"authorization": "Bearer " + strings.TrimSpace(string(text))}, nil
}

func (token) RequireTransportSecurity() bool { return true }

// toIstiod does TLS with istiod, verified by the published roots at the time of the handshake.
type toIstiod struct {
	credentials.TransportCredentials
	identity *Identity
}

func (t toIstiod) ClientHandshake(ctx context.Context, _ string, connection net.Conn) (net.Conn, credentials.AuthInfo, error) {
	published, err := os.ReadFile(t.identity.options.RootFile)
	if err != nil {
		return nil, nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(published)
	name := t.identity.options.ServerName
	return credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: name, MinVersion: tls.VersionTLS12}).ClientHandshake(ctx, name, connection)
}

func (t toIstiod) Clone() credentials.TransportCredentials {
	return toIstiod{t.TransportCredentials.Clone(), t.identity}
}

// provider gives xDS credentials the workload's certificate and roots at the time of each handshake.
type provider struct{ identity *Identity }

func (p provider) Name() string { return traffic.CredentialsType }

func (p provider) ParseConfig(any) (*certprovider.BuildableConfig, error) {
	return certprovider.NewBuildableConfig(p.Name(), nil, func(certprovider.BuildOptions) certprovider.Provider { return p }), nil
}

func (p provider) KeyMaterial(context.Context) (*certprovider.KeyMaterial, error) {
	found, err := p.identity.current()
	if err != nil {
		return nil, err
	}
	return &certprovider.KeyMaterial{Certs: []tls.Certificate{found.Certificate()}, Roots: found.Roots()}, nil
}

func (p provider) Close() {}

// errPlaintext is what a side returns whose istiod sends no mutual TLS for the service.
var errPlaintext = errors.New("istiod sends no mutual TLS for the service (DestinationRule ISTIO_MUTUAL, PeerAuthentication STRICT)")

// refusePlaintext are the credentials that xDS falls back to without mutual TLS.
type refusePlaintext struct{}

func (refusePlaintext) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errPlaintext
}

func (refusePlaintext) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errPlaintext
}

func (refusePlaintext) Info() credentials.ProtocolInfo { return credentials.ProtocolInfo{} }

func (refusePlaintext) Clone() credentials.TransportCredentials { return refusePlaintext{} }

func (refusePlaintext) OverrideServerName(string) error { return errors.ErrUnsupported }
