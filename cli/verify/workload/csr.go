// SPDX-License-Identifier: Apache-2.0

// Package workload acts as a workload of the mesh: it requests a certificate from istiod, and does TLS handshakes with it.
package workload

import (
	"bytes"
	"cmp"
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

	"github.com/istiod-agent/istiod-agent/internal/bounded"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

// csrMethod is istiod's CSR API (istio.io/api security/v1alpha1/ca.proto).
//
// The package writes this one unary call itself: google.golang.org/grpc v1.83 adds 10.9 MB to the plugin's 31.2 MB.
const csrMethod = "/istio.v1.auth.IstioCertificateService/CreateCertificate"

// Fields of IstioCertificateRequest and IstioCertificateResponse.
const (
	fieldCSR      protowire.Number = 1
	fieldValidity protowire.Number = 3
	fieldChain    protowire.Number = 1
)

// maxHeaders is the most bytes of the headers, and of the trailers, of istiod's response.
const maxHeaders = 64 << 10

// defaultLifetime of a workload's certificate, which serves a few handshakes.
const defaultLifetime = 10 * time.Minute

// Workload has a sidecar's credentials: a certificate, and the roots that it trusts.
type Workload struct {
	certificate tls.Certificate
	roots       *x509.CertPool
}

// Request names the istiod and the workload.
type Request struct {
	// Dial connects to istiod's port 15012, which must serve a certificate for ServerName that the Trusted roots (PEM) verify.
	Dial       func(context.Context) (net.Conn, error)
	ServerName string
	Trusted    []byte
	// Token is of the workload's service account, for the audience that istiod accepts.
	Token string
	// Lifetime of the certificate; 10 minutes when zero.
	Lifetime time.Duration
}

// Certificate returns the workload's certificate and key, with the CAs' certificates and without the root.
func (w *Workload) Certificate() tls.Certificate { return w.certificate }

// Roots returns the roots that the workload trusts.
func (w *Workload) Roots() *x509.CertPool { return w.roots }

// Obtain requests a workload's certificate from istiod, as its sidecar does.
func Obtain(ctx context.Context, of Request) (*Workload, error) {
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
	request = protowire.AppendVarint(request, uint64(cmp.Or(of.Lifetime, defaultLifetime)/time.Second)) //nolint:gosec // positive

	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(of.Trusted) {
		return nil, errors.New("ConfigMap istio-ca-root-cert holds no root to verify istiod with")
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	transport := &http.Transport{
		DialContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return of.Dial(ctx) },
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: of.ServerName, MinVersion: tls.VersionTLS12},
		Protocols:       protocols, MaxResponseHeaderBytes: maxHeaders,
	}
	defer transport.CloseIdleConnections()
	response, err := call(ctx, transport, of.ServerName, request, of.Token)
	if err != nil {
		return nil, err
	}
	chain, err := decode(response)
	if err != nil {
		return nil, err
	}
	return newWorkload(key, chain)
}

// call sends a unary gRPC request (PROTOCOL-HTTP2.md of github.com/grpc/grpc).
func call(ctx context.Context, transport http.RoundTripper, host string, payload []byte, token string) ([]byte, error) {
	const prefix = 5                                                        // a compression flag, and the length
	frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(payload))) //nolint:gosec // a CSR
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+host+csrMethod, bytes.NewReader(append(frame, payload...)))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/grpc")
	request.Header.Set("TE", "trailers")
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	const maxBody = 1 << 20
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
	if err != nil {
		return nil, err
	}
	status, message := response.Trailer.Get("Grpc-Status"), response.Trailer.Get("Grpc-Message")
	if status == "" { // a response without a body has them as headers
		status, message = response.Header.Get("Grpc-Status"), response.Header.Get("Grpc-Message")
	}
	if status != "0" {
		if text, err := url.PathUnescape(message); err == nil {
			message = text
		}
		return nil, errors.New(bounded.Message(fmt.Sprintf("istiod returned %s, gRPC status %q: %s", response.Status, status, message)))
	}
	if len(body) < prefix || body[0] != 0 || int(binary.BigEndian.Uint32(body[1:])) != len(body)-prefix {
		return nil, errors.New("istiod's response is not one gRPC message")
	}
	return body[prefix:], nil
}

// decode reads IstioCertificateResponse.cert_chain.
func decode(message []byte) (chain []string, err error) {
	for len(message) > 0 {
		number, kind, size := protowire.ConsumeField(message)
		if size < 0 {
			return nil, errors.New("istiod's response is not an IstioCertificateResponse")
		}
		if number == fieldChain && kind == protowire.BytesType {
			_, _, tag := protowire.ConsumeTag(message)
			value, _ := protowire.ConsumeBytes(message[tag:size])
			chain = append(chain, string(value))
		}
		message = message[size:]
	}
	if len(chain) < 2 {
		return nil, errors.New("istiod's response holds no certificate chain")
	}
	return chain, nil
}

// newWorkload trusts the last element of a chain and serves the others (Istio security/pkg/server/ca/server.go, CreateCertificate).
func newWorkload(key *ecdsa.PrivateKey, chain []string) (*Workload, error) {
	w := &Workload{certificate: tls.Certificate{PrivateKey: key}, roots: x509.NewCertPool()}
	last := len(chain) - 1
	if !w.roots.AppendCertsFromPEM([]byte(chain[last])) {
		return nil, errors.New("istiod's response ends without a root")
	}
	for _, text := range chain[:last] {
		certificates, err := pemcerts.Parse([]byte(text))
		if err != nil {
			return nil, fmt.Errorf("istiod's response: %w", err)
		}
		for _, certificate := range certificates {
			w.certificate.Certificate = append(w.certificate.Certificate, certificate.Raw)
		}
	}
	return w, nil
}
