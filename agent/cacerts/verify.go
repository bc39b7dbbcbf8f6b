// SPDX-License-Identifier: Apache-2.0

package cacerts

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

// Refusals: the keys of log lines, events and metrics.
const (
	BadPEM            = "BadPEM"
	BadKey            = "BadKey"
	KeyMismatch       = "KeyMismatch"
	NotACA            = "NotACA"
	BadPathLength     = "BadPathLength"
	WrongNames        = "WrongNames"
	WrongOrganization = "WrongOrganization"
	NotValidNow       = "NotValidNow"
	BadChain          = "BadChain"
	// NoRoot is a chain that is in order and ends before a self-signed certificate.
	NoRoot = "NoRoot"
	// RootNotTrusted is a chain that is in order and leads to a root that is not among those to be trusted.
	RootNotTrusted = "RootNotTrusted"
)

// skew is how far the CA's clock may be ahead of ours.
const skew = time.Minute

// Refusal is an answer that is not published.
type Refusal struct{ Reason, Detail string } //nolint:errname // RefusalError would say it twice

func (r *Refusal) Error() string { return "the certificate was refused and not published: " + r.Detail }

func refuse(reason, format string, args ...any) error {
	return &Refusal{Reason: reason, Detail: fmt.Sprintf(format, args...)}
}

// Issued is what a CA answered, PEM.
type Issued struct {
	Key, Certificate []byte
	// IssuingCA is the certificate of the direct issuer, where it is given apart from the chain.
	IssuingCA []byte
	// Chain is upwards from the certificate or from its issuer, one certificate each, each once.
	Chain [][]byte
}

// Key is a kind of key: "rsa" or "ec", and its bits.
type Key struct {
	Type string
	Bits int
}

// Wanted is what the certificate must be.
type Wanted struct {
	// Hosts are its URI names, in any order.
	Hosts        []string
	Organization string
	Key          Key
	Now          time.Time
}

// Set is what istiod gets: verified, and in the one form that is ever written.
type Set struct {
	Certificate *x509.Certificate
	// Issuers are those between the certificate and the root, upwards.
	Issuers []*x509.Certificate
	Roots   []*x509.Certificate
	// Note is kept beside the files for whoever published them; it is not istiod's.
	Note []byte

	key crypto.Signer
}

// Verify checks an answer as istiod should and does not (Istio security/pkg/pki/util/keycertbundle.go verifies
// key and chain alone; facts on what it accepts are in the tests), and refuses all that is not exactly what was
// wanted. Every error is a *Refusal.
func Verify(answer Issued, wanted Wanted) (*Set, error) {
	key, err := parseKey(answer.Key)
	if err != nil {
		return nil, err
	}
	certificate, err := parseOne("certificate", answer.Certificate)
	if err != nil {
		return nil, err
	}
	if err := wanted.checkKey(key); err != nil {
		return nil, err
	}
	if err := wanted.checkNames(certificate); err != nil {
		return nil, err
	}
	above, err := parseChain(answer, certificate)
	if err != nil {
		return nil, err
	}
	set := &Set{Certificate: certificate, key: key}
	if n := len(above); n > 0 && pemcerts.SelfSigned(above[n-1]) {
		set.Issuers, set.Roots = above[:n-1], above[n-1:]
	} else if err := linked(certificate, above); err != nil {
		return nil, err
	} else {
		return nil, refuse(NoRoot, "its chain of %d does not reach a self-signed root; give Vault's signing mount the whole chain, so that istiod's root is not a mere intermediate", len(above))
	}
	if certificate.MaxPathLen != 0 || !certificate.MaxPathLenZero {
		if err := set.verify(wanted.Now); err != nil { // what is worse is told first
			return nil, err
		}
		return nil, refuse(BadPathLength, "its path length is not 0: istiod signs workloads, and no further CAs")
	}
	if err := set.verify(wanted.Now); err != nil {
		return nil, err
	}
	return set, nil
}

// verify checks all that does not depend on what was asked for.
func (s *Set) verify(now time.Time) error {
	certificate := s.Certificate
	public, ok := s.key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(certificate.PublicKey) {
		return refuse(KeyMismatch, "the key is not the certificate's")
	}
	switch {
	case !certificate.BasicConstraintsValid || !certificate.IsCA:
		return refuse(NotACA, "it is not a CA certificate; the CA path must be one that signs intermediates")
	case certificate.KeyUsage&x509.KeyUsageCertSign == 0:
		return refuse(NotACA, "its key usage does not allow it to sign certificates")
	}
	root := s.Root()
	if root == nil {
		return refuse(BadChain, "its chain leads to none of the roots")
	}
	above := slices.Clone(s.Issuers)
	if !root.Equal(certificate) { // a CA that istiod made itself is its own root
		above = append(above, root)
	}
	if err := linked(certificate, above); err != nil {
		return err
	}
	for i, each := range slices.Concat([]*x509.Certificate{certificate}, above) {
		switch {
		case now.Before(each.NotBefore.Add(-skew)):
			return refuse(NotValidNow, "certificate %d of its chain (%s) is not valid before %s; check the clocks", i, each.Subject, each.NotBefore.UTC().Format(time.RFC3339))
		case !now.Before(each.NotAfter):
			return refuse(NotValidNow, "certificate %d of its chain (%s) expired at %s", i, each.Subject, each.NotAfter.UTC().Format(time.RFC3339))
		}
	}
	// The library's own look, for what the checks above do not know: name constraints, path lengths above us,
	// weak algorithms.
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root)
	for _, issuer := range s.Issuers {
		between.AddCert(issuer)
	}
	moment := now
	for _, each := range slices.Concat([]*x509.Certificate{certificate}, above) {
		if moment.Before(each.NotBefore) { // within the skew, as seen above
			moment = each.NotBefore
		}
	}
	if _, err := certificate.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: moment, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return refuse(BadChain, "its chain is not valid: %v", err)
	}
	return nil
}

// linked checks that each certificate is signed by the next, a CA.
func linked(certificate *x509.Certificate, above []*x509.Certificate) error {
	below := certificate
	for i, each := range above {
		if err := below.CheckSignatureFrom(each); err != nil {
			return refuse(BadChain, "certificate %d of its chain (%s) did not sign the one before it (%s): %v", i+1, each.Subject, below.Subject, err)
		}
		if each.MaxPathLen >= 0 && (each.MaxPathLen > 0 || each.MaxPathLenZero) && each.MaxPathLen <= i {
			return refuse(BadChain, "certificate %d of its chain (%s) allows no CA below it at this depth", i+1, each.Subject)
		}
		below = each
	}
	return nil
}

// parseChain gives what is above a certificate, upwards, as it was answered: nothing is put in order, and nothing left out.
func parseChain(answer Issued, certificate *x509.Certificate) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	for i, each := range answer.Chain {
		parsed, err := parseOne(fmt.Sprintf("certificate %d of the chain", i), each)
		if err != nil {
			return nil, err
		}
		if i == 0 && parsed.Equal(certificate) { // Vault's ca_chain begins with the certificate itself since 1.11
			continue
		}
		if slices.ContainsFunc(chain, parsed.Equal) {
			return nil, refuse(BadChain, "its chain holds %s twice", parsed.Subject)
		}
		if n := len(chain); n > 0 && pemcerts.SelfSigned(chain[n-1]) {
			return nil, refuse(BadChain, "its chain goes on with %s after the root %s", parsed.Subject, chain[n-1].Subject)
		}
		chain = append(chain, parsed)
	}
	if len(answer.IssuingCA) > 0 {
		issuer, err := parseOne("issuing CA", answer.IssuingCA)
		if err != nil {
			return nil, err
		}
		if len(chain) == 0 {
			return []*x509.Certificate{issuer}, nil
		}
		if !issuer.Equal(chain[0]) {
			return nil, refuse(BadChain, "its issuing CA %s is not the first of its chain, %s", issuer.Subject, chain[0].Subject)
		}
	}
	return chain, nil
}

func (w Wanted) checkKey(key crypto.Signer) error {
	var got Key
	switch public := key.Public().(type) {
	case *rsa.PublicKey:
		got = Key{"rsa", public.N.BitLen()}
	case *ecdsa.PublicKey:
		got = Key{"ec", public.Curve.Params().BitSize}
	}
	if got != w.Key {
		return refuse(BadKey, "its key is %s of %d bits, and %s of %d was asked for", got.Type, got.Bits, w.Key.Type, w.Key.Bits)
	}
	return nil
}

func (w Wanted) checkNames(certificate *x509.Certificate) error {
	var names []string
	for _, uri := range certificate.URIs {
		names = append(names, uri.String())
	}
	want := slices.Clone(w.Hosts)
	slices.Sort(names)
	slices.Sort(want)
	if !slices.Equal(names, want) || len(certificate.DNSNames)+len(certificate.IPAddresses)+len(certificate.EmailAddresses) > 0 {
		return refuse(WrongNames, "its names are URIs %q, DNS %q, %d addresses and %d e-mails; expected the URIs %q alone",
			names, certificate.DNSNames, len(certificate.IPAddresses), len(certificate.EmailAddresses), want)
	}
	if got := certificate.Subject.Organization; len(got) != 1 || got[0] != w.Organization {
		return refuse(WrongOrganization, "its organization is %q; expected %q", got, w.Organization)
	}
	return nil
}

// parseKey takes what istiod takes (PKCS #1, SEC 1, PKCS #8; the first block must be the key, so none of
// OpenSSL's EC PARAMETERS before it), of the kinds that istiod signs with.
func parseKey(text []byte) (crypto.Signer, error) {
	block, err := onlyBlock(text)
	if err != nil {
		return nil, refuse(BadKey, "the key is not one block of PEM: %v", err)
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
		return nil, refuse(BadKey, "the key is PEM of another type than a private key")
	}
	if err != nil {
		return nil, refuse(BadKey, "the key cannot be read")
	}
	switch key := key.(type) {
	case *rsa.PrivateKey:
		return key, nil
	case *ecdsa.PrivateKey:
		return key, nil
	default:
		return nil, refuse(BadKey, "the key is neither RSA nor EC")
	}
}

func parseOne(what string, text []byte) (*x509.Certificate, error) {
	block, err := onlyBlock(text)
	if err != nil {
		return nil, refuse(BadPEM, "its %s is not one block of PEM: %v", what, err)
	}
	if block.Type != "CERTIFICATE" {
		return nil, refuse(BadPEM, "its %s is PEM of another type than a certificate", what)
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, refuse(BadPEM, "its %s cannot be read", what)
	}
	return certificate, nil
}

// onlyBlock gives the one block of a text that holds nothing else.
func onlyBlock(text []byte) (*pem.Block, error) {
	if !bytes.HasPrefix(text, []byte("-----BEGIN ")) {
		return nil, fmt.Errorf("it does not begin with one")
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
	// pem.Decode passes over what it cannot read and takes a later block.
	if n := strings.Count(string(text), "-----BEGIN "); n != 1 {
		return nil, fmt.Errorf("it holds %d", n)
	}
	return block, nil
}

// SerialNumber is the certificate's, as Vault writes it: hexadecimal bytes with colons between.
func (s *Set) SerialNumber() string {
	var parts []string
	for _, b := range s.Certificate.SerialNumber.Bytes() {
		parts = append(parts, hex.EncodeToString([]byte{b}))
	}
	return strings.Join(parts, ":")
}

// KeyKind is that of the certificate's key, for people: RSA 4096, EC P-256.
func (s *Set) KeyKind() string {
	switch public := s.Certificate.PublicKey.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", public.N.BitLen())
	case *ecdsa.PublicKey:
		return "EC " + public.Curve.Params().Name
	default:
		return s.Certificate.PublicKeyAlgorithm.String()
	}
}
