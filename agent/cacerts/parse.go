// SPDX-License-Identifier: Apache-2.0

package cacerts

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"

	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

const (
	// maxChain bounds the certificates in an answer: each costs a signature check, here and in every proxy.
	maxChain = 16
	// maxKeyDER bounds a key: RSA of pemcerts.maxRSABits in PKCS #8. Parsing checks a key's numbers, which takes minutes for
	// one of a megabyte.
	maxKeyDER = 10 << 10
)

// parseKey accepts what istiod accepts: PKCS #1, SEC 1 and PKCS #8, RSA and EC. The first block must be the key, without
// OpenSSL's EC PARAMETERS before it.
func parseKey(text []byte) (crypto.Signer, error) {
	block, err := onlyBlock(text)
	if err != nil {
		return nil, refuse(badKey, "the key is not one block of PEM: %v", err)
	}
	defer clear(block.Bytes)
	if len(block.Bytes) > maxKeyDER {
		return nil, refuse(badKey, "the key is longer than %d bytes", maxKeyDER)
	}
	var key any
	switch block.Type {
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	default:
		return nil, refuse(badKey, "the key is PEM of another type than a private key")
	}
	if err != nil {
		return nil, refuse(badKey, "the key cannot be read")
	}
	switch key := key.(type) {
	case *rsa.PrivateKey:
		return key, nil
	case *ecdsa.PrivateKey:
		return key, nil
	default:
		return nil, refuse(badKey, "the key is neither RSA nor EC")
	}
}

func parseOne(what string, text []byte) (*x509.Certificate, error) {
	block, err := onlyBlock(text)
	if err != nil {
		return nil, refuse(badPEM, "its %s is not one block of PEM: %v", what, err)
	}
	if block.Type != "CERTIFICATE" {
		return nil, refuse(badPEM, "its %s is PEM of another type than a certificate", what)
	}
	certificate, err := pemcerts.ParseOne(block.Bytes)
	if err != nil {
		return nil, refuse(badPEM, "its %s cannot be used: %v; issue another certificate", what, err)
	}
	return certificate, nil
}

// onlyBlock returns the one PEM block that is the whole text.
func onlyBlock(text []byte) (*pem.Block, error) {
	if !bytes.HasPrefix(text, []byte("-----BEGIN ")) {
		return nil, fmt.Errorf("it does not start with one")
	}
	block, rest := pem.Decode(text)
	switch {
	case block == nil:
		return nil, fmt.Errorf("it is cut off or damaged")
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, fmt.Errorf("something follows it")
	case len(block.Headers) > 0:
		return nil, fmt.Errorf("it has headers")
	}
	// pem.Decode skips what it cannot read and returns a later block.
	if n := strings.Count(string(text), "-----BEGIN "); n != 1 {
		return nil, fmt.Errorf("it holds %d", n)
	}
	return block, nil
}

// parseIssuers returns the other certificates of an answer, without duplicates, in its order. It verifies one signature at most:
// that of the issuing CA.
func parseIssuers(answer Issued, certificate *x509.Certificate) ([]*x509.Certificate, error) {
	if len(answer.Chain) > maxChain {
		return nil, refuse(badChain, "its chain holds %d certificates, more than %d", len(answer.Chain), maxChain)
	}
	var issuers []*x509.Certificate
	for i, block := range answer.Chain {
		parsed, err := parseOne(fmt.Sprintf("certificate %d of the chain", i), block)
		if err != nil {
			return nil, err
		}
		// Vault's ca_chain starts with the certificate itself since 1.11.
		if !parsed.Equal(certificate) && !slices.ContainsFunc(issuers, parsed.Equal) {
			issuers = append(issuers, parsed)
		}
	}
	if len(answer.IssuingCA) == 0 {
		return issuers, nil
	}
	issuer, err := parseOne("issuing CA", answer.IssuingCA)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(issuers, issuer.Equal) {
		return issuers, nil
	}
	if err := certificate.CheckSignatureFrom(issuer); err != nil {
		return nil, refuse(badChain, "its issuing CA %s did not sign it: %v", issuer.Subject, err)
	}
	// Last: a configured chain (Vault's manual_chain) may lead elsewhere on purpose.
	return append(issuers, issuer), nil
}
