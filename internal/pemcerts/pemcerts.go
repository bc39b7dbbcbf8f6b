// SPDX-License-Identifier: Apache-2.0

// Package pemcerts reads certificates in PEM, several in one text.
package pemcerts

import (
	"bytes"
	"cmp"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/istiod-agent/istiod-agent/internal/bounded"
)

// maxRSABits is the largest RSA key whose signatures are verified: the limit of OpenSSL and BoringSSL
// (OPENSSL_RSA_MAX_MODULUS_BITS). Go has none for certificates, and the time for a signature grows with the square of it.
const maxRSABits = 16384

const (
	// maxDER is the most bytes of a certificate: one with a key of maxRSABits has five kilobytes. Names of a megabyte would
	// take seconds to print, and no proxy takes such a chain in a handshake (SSL_MAX_CERT_LIST_DEFAULT of OpenSSL and
	// BoringSSL: 100 KiB).
	maxDER = 16 << 10
	// maxSerial is the most bytes of a serial number, of 20 that RFC 5280 (4.1.2.2) allows.
	maxSerial = 32
	// MaxRoots is the most roots to trust, as in the CRD's status.
	MaxRoots = 100
)

// ParseOne parses one certificate (DER) of bounded size, with a key small enough to verify signatures with.
func ParseOne(der []byte) (*x509.Certificate, error) {
	if len(der) > maxDER {
		return nil, fmt.Errorf("a certificate in it is larger than %d bytes", maxDER)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("a certificate in it cannot be read (%s)", Unreadable(err))
	}
	if key, ok := certificate.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() > maxRSABits {
		return nil, fmt.Errorf("a certificate in it has an RSA key of %d bits, more than %d", key.N.BitLen(), maxRSABits)
	}
	if certificate.SerialNumber.BitLen() > 8*maxSerial {
		return nil, fmt.Errorf("a certificate in it has a serial number of more than %d bytes", maxSerial)
	}
	return certificate, nil
}

// maxReason is the most bytes of a reason of crypto/x509, which may quote a name.
const maxReason = 200

// Unreadable returns the cause from crypto/x509, which istiod uses too, in a printable form.
func Unreadable(err error) string { return bounded.Text(bounded.Plain(err.Error()), maxReason) }

// Parse returns the certificates of a text that contains nothing else, at least one.
func Parse(text []byte) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for len(bytes.TrimSpace(text)) > 0 {
		block, rest := pem.Decode(text)
		if block == nil || block.Type != "CERTIFICATE" {
			return nil, errors.New("it holds something that is not a certificate")
		}
		certificate, err := ParseOne(block.Bytes)
		if err != nil {
			return nil, err
		}
		all, text = append(all, certificate), rest
	}
	if len(all) == 0 {
		return nil, errors.New("it is empty")
	}
	return all, nil
}

// ParseRoots is Parse for root certificates: each a self-signed CA, none twice.
func ParseRoots(text []byte) ([]*x509.Certificate, error) {
	roots, err := Parse(text)
	if err != nil {
		return nil, err
	}
	if len(roots) > MaxRoots {
		return nil, fmt.Errorf("it holds %d certificates, more than %d", len(roots), MaxRoots)
	}
	for i, root := range roots {
		switch {
		case !root.IsCA || !SelfSigned(root):
			return nil, fmt.Errorf("certificate %d (%s) is not a root: a CA that has signed itself", i, root.Subject)
		case slices.ContainsFunc(roots[:i], root.Equal):
			return nil, fmt.Errorf("certificate %d (%s) is there twice", i, root.Subject)
		}
	}
	return roots, nil
}

// Encode returns the PEM text of certificates, in their order.
func Encode(certificates ...*x509.Certificate) []byte {
	var text []byte
	for _, certificate := range certificates {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})...)
	}
	return text
}

// SelfSigned reports whether a certificate is signed by its own key.
func SelfSigned(certificate *x509.Certificate) bool { return CheckSelfSigned(certificate) == nil }

// CheckSelfSigned returns why a certificate is not signed by its own key, nil if it is. A SHA-1 signature counts, which
// CheckSignatureFrom refuses: the signature of a trust anchor proves nothing, and Go, OpenSSL and BoringSSL do not
// verify it.
func CheckSelfSigned(certificate *x509.Certificate) error {
	if !bytes.Equal(certificate.RawIssuer, certificate.RawSubject) {
		return errors.New("it names another issuer")
	}
	err := certificate.CheckSignatureFrom(certificate)
	if _, insecure := errors.AsType[x509.InsecureAlgorithmError](err); insecure {
		return certificate.CheckSignature(certificate.SignatureAlgorithm, certificate.RawTBSCertificate, certificate.Signature)
	}
	return err
}

// Fingerprint is the SHA-256 of a certificate (DER) in hexadecimal.
func Fingerprint(certificate *x509.Certificate) string {
	return fmt.Sprintf("%x", sha256.Sum256(certificate.Raw))
}

// Fingerprints returns those of several certificates, in their order.
func Fingerprints(certificates []*x509.Certificate) []string {
	all := make([]string, len(certificates))
	for i, certificate := range certificates {
		all[i] = Fingerprint(certificate)
	}
	return all
}

const (
	// maxSubject is the most bytes of a subject in a name, which may have those of maxDER.
	maxSubject = 200
	// maxNames is the most names in one line.
	maxNames = 10
)

// Name describes a certificate for people: its subject, and enough of its fingerprint to distinguish it.
func Name(certificate *x509.Certificate) string {
	return fmt.Sprintf("%s (SHA-256 %.16s…)", Subject(certificate), Fingerprint(certificate))
}

// Subject returns the name in a certificate, of bounded length.
func Subject(certificate *x509.Certificate) string {
	return cmp.Or(bounded.Text(certificate.Subject.String(), maxSubject), "no name")
}

// Names returns those of several certificates, in one line. Above a limit, it counts the rest.
func Names(certificates []*x509.Certificate) string {
	var all []string
	for _, certificate := range certificates[:min(len(certificates), maxNames)] {
		all = append(all, Name(certificate))
	}
	text := strings.Join(all, ", ")
	if rest := len(certificates) - maxNames; rest > 0 {
		text += fmt.Sprintf(" and %d more", rest)
	}
	return text
}
