// SPDX-License-Identifier: Apache-2.0

// Package workload does what a mesh's workloads do: it gets certificates from istiods, and greets others by them.
package workload

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

// csrMethod is istiod's CSR API (istio.io/api security/v1alpha1/ca.proto), a unary call of gRPC over HTTP/2.
const csrMethod = "/istio.v1.auth.IstioCertificateService/CreateCertificate"

// Fields of IstioCertificateRequest and IstioCertificateResponse.
const (
	fieldCSR      protowire.Number = 1
	fieldValidity protowire.Number = 3
	fieldChain    protowire.Number = 1
)

// validity of the workload's certificate, which is used for a moment only.
const validity = 10 * time.Minute

// Workload is what a sidecar has: a certificate, and the roots that it trusts.
type Workload struct {
	certificate tls.Certificate
	roots       *x509.CertPool
}

// Obtain gets a workload's certificate from istiod as its sidecar does. dial reaches istiod's port 15012, which must
// serve a certificate of serverName that the roots (PEM) verify; token is one of the workload's service account.
func Obtain(ctx context.Context, dial func(context.Context) (net.Conn, error), serverName string, trusted []byte, token string) (*Workload, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, err
	}
	request := protowire.AppendTag(nil, fieldCSR, protowire.BytesType)
	request = protowire.AppendBytes(request, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	request = protowire.AppendTag(request, fieldValidity, protowire.VarintType)
	request = protowire.AppendVarint(request, uint64(validity/time.Second))

	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(trusted) {
		return nil, errors.New("ConfigMap istio-ca-root-cert holds no root to trust istiod by")
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	transport := &http.Transport{
		DialContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: serverName, MinVersion: tls.VersionTLS12},
		Protocols:       protocols,
	}
	defer transport.CloseIdleConnections()
	answer, err := call(ctx, transport, serverName, request, token)
	if err != nil {
		return nil, err
	}
	chain, err := decode(answer)
	if err != nil {
		return nil, err
	}
	return newWorkload(key, chain)
}

// call makes a unary call of gRPC (gRPC over HTTP/2, PROTOCOL-HTTP2.md).
func call(ctx context.Context, transport http.RoundTripper, host string, message []byte, token string) ([]byte, error) {
	const prefix = 5                                                        // not compressed, and the length
	frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))) //nolint:gosec // a CSR
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+host+csrMethod, bytes.NewReader(append(frame, message...)))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/grpc")
	request.Header.Set("TE", "trailers")
	request.Header.Set("Authorization", "Bearer "+token)
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	const most = 1 << 20
	body, err := io.ReadAll(io.LimitReader(answer.Body, most))
	if err != nil {
		return nil, err
	}
	status, said := answer.Trailer.Get("Grpc-Status"), answer.Trailer.Get("Grpc-Message")
	if status == "" { // an answer without a body has it among its headers
		status, said = answer.Header.Get("Grpc-Status"), answer.Header.Get("Grpc-Message")
	}
	if status != "0" {
		if text, err := url.PathUnescape(said); err == nil {
			said = text
		}
		return nil, fmt.Errorf("istiod answers %s, gRPC status %q: %s", answer.Status, status, said)
	}
	if len(body) < prefix || body[0] != 0 || int(binary.BigEndian.Uint32(body[1:])) != len(body)-prefix {
		return nil, errors.New("istiod's answer is not one message of gRPC")
	}
	return body[prefix:], nil
}

// decode reads IstioCertificateResponse.cert_chain.
func decode(message []byte) (chain []string, err error) {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return nil, errors.New("istiod's answer cannot be read")
		}
		message = message[n:]
		if number == fieldChain && kind == protowire.BytesType {
			value, n := protowire.ConsumeBytes(message)
			if n < 0 {
				return nil, errors.New("istiod's answer cannot be read")
			}
			chain, message = append(chain, string(value)), message[n:]
			continue
		}
		if n = protowire.ConsumeFieldValue(number, kind, message); n < 0 {
			return nil, errors.New("istiod's answer cannot be read")
		}
		message = message[n:]
	}
	if len(chain) < 2 {
		return nil, errors.New("istiod's answer holds no chain of certificates")
	}
	return chain, nil
}

// newWorkload takes the last element of a chain for what is to be trusted and the others for what is to be served
// (Istio security/pkg/server/ca/server.go, CreateCertificate).
func newWorkload(key *ecdsa.PrivateKey, chain []string) (*Workload, error) {
	w := &Workload{certificate: tls.Certificate{PrivateKey: key}, roots: x509.NewCertPool()}
	last := len(chain) - 1
	if !w.roots.AppendCertsFromPEM([]byte(chain[last])) {
		return nil, errors.New("istiod's answer ends without a root")
	}
	for _, each := range chain[:last] {
		certificates, err := pemcerts.Parse([]byte(each))
		if err != nil {
			return nil, fmt.Errorf("istiod's answer: %w", err)
		}
		for _, certificate := range certificates {
			w.certificate.Certificate = append(w.certificate.Certificate, certificate.Raw)
		}
	}
	return w, nil
}
