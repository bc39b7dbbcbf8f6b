// SPDX-License-Identifier: Apache-2.0

package cacerts

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
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
	LivesTooLong      = "LivesTooLong"
	BadChain          = "BadChain"
	// NoRoot is a chain that ends before a self-signed certificate.
	NoRoot = "NoRoot"
	// RootNotTrusted is a chain that is in order and leads to a root that is not among those to be trusted.
	RootNotTrusted = "RootNotTrusted"
	// RootNotPinned is a chain that is in order and leads to none of the roots that the specification names.
	RootNotPinned = "RootNotPinned"
	// Unusable is a CA whose workload certificates no proxy accepts.
	Unusable = "Unusable"
)

const (
	// skew is how far the CA's clock may be ahead of ours.
	skew = time.Minute
	// lifetimeAllowance is how much later than requested a certificate may end. CAs count its life from their own clock.
	lifetimeAllowance = 5 * time.Minute
	// minRSABits is the least that NIST SP 800-131A allows, and that Envoy takes for a certificate of its own.
	minRSABits = 2048
	// maxDetail bounds the text about an answer, parts of which come from that answer.
	maxDetail = 1 << 10
)

// Refusal is an answer that is not published.
type Refusal struct{ Reason, Detail string } //nolint:errname // RefusalError would say it twice

func (r *Refusal) Error() string { return "the certificate was refused and not published: " + r.Detail }

// ReasonKey returns Reason.
func (r *Refusal) ReasonKey() string { return r.Reason }

func refuse(reason, format string, args ...any) error {
	return &Refusal{Reason: reason, Detail: plain(fmt.Sprintf(format, args...))}
}

// plain makes one line of bounded length of a text: names in certificates are the CA's to choose, and are printed.
func plain(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
	if len(text) > maxDetail {
		text = strings.ToValidUTF8(text[:maxDetail], "") + "…"
	}
	return text
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
	// TTL is the longest time from Now that it may be valid.
	TTL time.Duration
	Now time.Time
	// Trusted and Published are the roots that istiod is to trust and that it trusts already, where known. A path to one
	// of both, to one of the former and to one of the latter are preferred, in this order. All other roots are
	// accepted: the caller decides whether they are published.
	Trusted, Published []*x509.Certificate
	// Pinned are the roots of which a path must lead to one; any when nil. As Trusted and Published, they complete an answer
	// that omits them.
	Pinned []*x509.Certificate
	// Preferred are roots that are preferred as the published ones are. They complete no answer that leads to no root
	// without them, since others than istiod's owner may have written them.
	Preferred []*x509.Certificate
}

// Set is the content of istiod's files: verified, and in the one form that is ever written. Only Verify, Adopt and
// Directory.Published make one, so that nothing else can be published.
type Set struct {
	certificate *x509.Certificate
	// issuers are those between the certificate and the root, upwards.
	issuers []*x509.Certificate
	roots   []*x509.Certificate
	// note is the publisher's own, kept beside istiod's files.
	note []byte
	// key is nil once the set is published: the file is the only copy then.
	key crypto.Signer
	// published are the digests of the files that were written for it, or that it was read from.
	published digests
}

// Certificate is the intermediate CA.
func (s *Set) Certificate() *x509.Certificate { return s.certificate }

// Note is what was published with the set.
func (s *Set) Note() []byte { return s.note }

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
	issuers, err := parseIssuers(answer, certificate)
	if err != nil {
		return nil, err
	}
	known := slices.Concat(wanted.Pinned, wanted.Trusted, wanted.Published)
	paths, err := findPaths(certificate, issuers, known)
	if err != nil {
		return nil, err
	}
	if len(wanted.Preferred) > 0 {
		if paths, err = findPaths(certificate, issuers, slices.Concat(known, wanted.Preferred)); err != nil {
			return nil, err
		}
	}
	if paths, err = wanted.pinned(paths); err != nil {
		return nil, err
	}
	slices.SortStableFunc(paths, func(a, b []*x509.Certificate) int {
		return wanted.rank(a[len(a)-1]) - wanted.rank(b[len(b)-1])
	})
	var refusal error
	for _, path := range paths {
		set := &Set{certificate: certificate, issuers: path[1:max(1, len(path)-1)], roots: path[len(path)-1:], key: key}
		err := set.verifyIssued(wanted)
		if err == nil {
			return set, nil
		}
		if refusal == nil {
			refusal = err
		}
	}
	return nil, refusal
}

// verifyIssued checks a set against the request.
func (s *Set) verifyIssued(wanted Wanted) error {
	certificate := s.certificate
	if err := s.verify(wanted.Now); err != nil { // what is worse is told first
		return err
	}
	if certificate.MaxPathLen != 0 || !certificate.MaxPathLenZero {
		return refuse(BadPathLength, "its path length is not 0: istiod signs workloads, and no further CAs")
	}
	if certificate.Equal(s.Root()) {
		return refuse(NoRoot, "it is signed by its own key, not by a CA")
	}
	if latest := wanted.Now.Add(wanted.TTL + lifetimeAllowance); certificate.NotAfter.After(latest) {
		return refuse(LivesTooLong, "it is valid until %s, and %s were requested, until %s; check the CA's clock, and that it does not ignore the requested ttl",
			utc(certificate.NotAfter), wanted.TTL, utc(wanted.Now.Add(wanted.TTL)))
	}
	return s.verifyUse(wanted.Hosts, wanted.Now)
}

// verify checks all that does not depend on what was asked for.
func (s *Set) verify(now time.Time) error {
	certificate := s.certificate
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
	chain := s.chain()
	if chain == nil {
		return refuse(BadChain, "its chain leads to none of the roots")
	}
	if err := linked(certificate, chain[1:]); err != nil {
		return err
	}
	for i, each := range chain {
		key, isRSA := each.PublicKey.(*rsa.PublicKey)
		switch {
		case isRSA && key.N.BitLen() < minRSABits:
			return refuse(BadKey, "certificate %d of its chain (%s) has an RSA key of %d bits, less than %d", i, each.Subject, key.N.BitLen(), minRSABits)
		case now.Before(each.NotBefore.Add(-skew)):
			return refuse(NotValidNow, "certificate %d of its chain (%s) is not valid before %s; check the clocks", i, each.Subject, utc(each.NotBefore))
		case !now.Before(each.NotAfter):
			return refuse(NotValidNow, "certificate %d of its chain (%s) expired at %s", i, each.Subject, utc(each.NotAfter))
		}
	}
	// crypto/x509 verifies what the checks above do not: name constraints, path lengths, critical extensions, weak hashes.
	roots, intermediates := pools(chain)
	if _, err := certificate.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: begun(chain, now), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}); err != nil {
		return refuse(BadChain, "its chain is not valid: %v", err)
	}
	return nil
}

// chain is the certificate, its issuers and its root, nil where it leads to none of the roots.
func (s *Set) chain() []*x509.Certificate {
	root := s.Root()
	if root == nil {
		return nil
	}
	chain := append([]*x509.Certificate{s.certificate}, s.issuers...)
	if !root.Equal(s.certificate) { // a CA that istiod made itself is its own root
		chain = append(chain, root)
	}
	return chain
}

// NotAfter is when the first of the certificate, its issuers and its root expires: no workload certificate below it is
// accepted after that.
func (s *Set) NotAfter() time.Time {
	end := s.certificate.NotAfter
	for _, each := range s.chain() {
		if each.NotAfter.Before(end) {
			end = each.NotAfter
		}
	}
	return end
}

// Issuer is the certificate above that expires first; a CA that is its own root is its own issuer.
func (s *Set) Issuer() *x509.Certificate {
	chain := s.chain()
	first := chain[len(chain)-1]
	for _, each := range chain[1:] {
		if each.NotAfter.Before(first.NotAfter) {
			first = each
		}
	}
	return first
}

// LimitedBy names the certificate above that expires first, where it cuts the certificate short: it expires no later than the
// certificate and before ttl, which was requested, is over. It is empty where none does. CAs before Vault 1.17, and OpenBao,
// sign past their own end; others shorten the certificate to it.
func (s *Set) LimitedBy(ttl time.Duration) string {
	first := s.Issuer()
	if first.NotAfter.After(s.certificate.NotAfter) || !first.NotAfter.Before(s.certificate.NotBefore.Add(ttl-lifetimeAllowance)) {
		return ""
	}
	return plain(fmt.Sprintf("%s, which ends at %s", first.Subject, utc(first.NotAfter)))
}

// pools are what a proxy verifies a certificate below this chain with: the root it trusts, and the rest, which is sent.
func pools(chain []*x509.Certificate) (roots, intermediates *x509.CertPool) {
	roots, intermediates = x509.NewCertPool(), x509.NewCertPool()
	last := len(chain) - 1
	roots.AddCert(chain[last])
	for _, each := range chain[:last] {
		intermediates.AddCert(each)
	}
	return roots, intermediates
}

// begun is now, or when all of a chain is valid where the CA's clock is ahead of ours (see skew).
func begun(chain []*x509.Certificate, now time.Time) time.Time {
	for _, each := range chain {
		if now.Before(each.NotBefore) {
			now = each.NotBefore
		}
	}
	return now
}

func utc(t time.Time) string { return t.UTC().Format(time.RFC3339) }

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

// SerialNumber is the certificate's, as Vault writes it: hexadecimal bytes with colons between.
func (s *Set) SerialNumber() string {
	var parts []string
	for _, b := range s.certificate.SerialNumber.Bytes() {
		parts = append(parts, hex.EncodeToString([]byte{b}))
	}
	return strings.Join(parts, ":")
}

// KeyKind is that of the certificate's key, for people: RSA 4096, EC P-256.
func (s *Set) KeyKind() string {
	switch public := s.certificate.PublicKey.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", public.N.BitLen())
	case *ecdsa.PublicKey:
		return "EC " + public.Curve.Params().Name
	default:
		return s.certificate.PublicKeyAlgorithm.String()
	}
}
