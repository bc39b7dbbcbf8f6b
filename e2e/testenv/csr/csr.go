// SPDX-License-Identifier: Apache-2.0

// Package csr gets a workload's certificate from istiod, as a sidecar does.
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

// Request says who asks which istiod.
type Request struct {
	// Address is host and port of what is port 15012 in istiod's Pod, and ServerName the name in its certificate.
	Address, ServerName string
	// Cluster is what istiod takes the workload's cluster to be called (its CLUSTER_ID).
	Cluster string
	// Token is one of the workload's service account, for the audience istio-ca.
	Token string
	// Root is what the workload trusts, in PEM: istiod is not asked unless its serving certificate verifies against it.
	Root []byte
	// TTL to ask for; istiod's default (24 hours) when zero.
	TTL time.Duration
}

// Workload is what a sidecar gets from istiod.
type Workload struct {
	Key *ecdsa.PrivateKey
	// Chain is istiod's answer, PEM as it came: the workload's certificate, those
	// of the CAs, the root. An element may hold more than one certificate.
	Chain []string
}

// Get asks istiod's CSR API for a certificate for a new key.
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

// Certificates are those of the chain, the workload's own first.
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

// Verify does what a peer does that trusts these roots (PEM) and no other: the
// chain must lead to one of them.
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

// TLSCertificate is the workload's certificate and key as crypto/tls takes them, with the CAs' certificates and without
// the root, which a peer has itself.
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
