// SPDX-License-Identifier: Apache-2.0

// Package csr requests a workload's certificate from istiod, as a sidecar does.
package csr

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	securityv1alpha1 "istio.io/api/security/v1alpha1"
)

// Request names the workload and the istiod.
type Request struct {
	// Address is the host and port of istiod's port 15012, and ServerName the name in its certificate.
	Address, ServerName string
	// Cluster is the name of the workload's cluster in istiod (CLUSTER_ID).
	Cluster string
	// Token of the workload's service account, for the audience istio-ca.
	Token string
	// Root is the trust bundle, in PEM, that verifies istiod's serving certificate.
	Root []byte
	// TTL is the requested lifetime; istiod's default (24 hours) when zero.
	TTL time.Duration
}

// Workload is a workload's key and istiod's answer.
type Workload struct {
	Key *ecdsa.PrivateKey
	// Chain is istiod's answer in PEM: the workload's certificate, the CAs', the root. An element may hold more than one.
	Chain []string
}

// Get makes a key and requests a certificate for it from istiod's CSR API.
func Get(ctx context.Context, request Request) (*Workload, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(request.Root) {
		return nil, errors.New("no root to trust istiod by")
	}
	connection, err := grpc.NewClient(request.Address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		RootCAs: roots, ServerName: request.ServerName, MinVersion: tls.VersionTLS12,
	})))
	if err != nil {
		return nil, err
	}
	defer connection.Close()

	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+request.Token, "clusterid", request.Cluster)
	answer, err := securityv1alpha1.NewIstioCertificateServiceClient(connection).CreateCertificate(ctx, &securityv1alpha1.IstioCertificateRequest{
		Csr:              string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})),
		ValidityDuration: int64(request.TTL.Seconds()),
	})
	if err != nil {
		return nil, err
	}
	return &Workload{Key: key, Chain: answer.CertChain}, nil
}

// Certificates returns the certificates of the chain, the workload's first.
func (w *Workload) Certificates() ([]*x509.Certificate, error) {
	var certificates []*x509.Certificate
	rest := []byte(strings.Join(w.Chain, ""))
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certificates = append(certificates, certificate)
	}
	if len(certificates) == 0 || strings.TrimSpace(string(rest)) != "" {
		return nil, errors.New("istiod's answer is not PEM certificates and nothing else")
	}
	return certificates, nil
}

// Verify verifies the chain as a peer that trusts these roots (PEM) does.
func (w *Workload) Verify(root []byte) error {
	certificates, err := w.Certificates()
	if err != nil {
		return err
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(root)
	for _, certificate := range certificates[1:] {
		intermediates.AddCert(certificate)
	}
	_, err = certificates[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	return err
}

// TLSCertificate returns the workload's certificate and key for crypto/tls, with the CAs' certificates and without the root.
func (w *Workload) TLSCertificate() (tls.Certificate, error) {
	certificates, err := w.Certificates()
	if err != nil {
		return tls.Certificate{}, err
	}
	certificate := tls.Certificate{PrivateKey: w.Key, Leaf: certificates[0]}
	for _, each := range certificates {
		if each.CheckSignatureFrom(each) != nil {
			certificate.Certificate = append(certificate.Certificate, each.Raw)
		}
	}
	return certificate, nil
}
