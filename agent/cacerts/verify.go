// SPDX-License-Identifier: Apache-2.0

package cacerts

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/istiod-agent/istiod-agent/internal/bounded"
)

// Reasons of a Refusal: keys of log lines, events and metrics.
//
//reasons:page refusal
const (
	// badPEM: Key or certificate cannot be read.
	//
	// Remedy: see that nothing between the CA and the agent changes the answer.
	badPEM = "BadPEM"
	// badKey: Key or certificate has another kind or size of key than requested. RSA keys in the chain need 2048 to
	// 16384 bits.
	//
	// Remedy: use a CA with such a key, or request another one (`rsaKeySizeBytes`, `ecKeyCurve`).
	badKey = "BadKey"
	// keyMismatch: Key and certificate do not belong together.
	//
	// Remedy: see that nothing between the CA and the agent changes the answer.
	keyMismatch = "KeyMismatch"
	// notACA: The certificate cannot sign.
	//
	// Remedy: `caPath` must be an endpoint that signs intermediates. An issuer of cert-manager must be one that signs
	// CAs.
	notACA = "NotACA"
	// badPathLength: The certificate could create further CAs.
	//
	// Remedy: `caPath` must be an endpoint that signs intermediates. With cert-manager, the [issuer's
	// CA](cert-manager.md#path-length) needs path length 1; otherwise, set `allowUnboundedPathLength`.
	badPathLength = "BadPathLength"
	// wrongNames: The certificate has another name than requested.
	//
	// Remedy: the CA must sign the names of the request unchanged.
	wrongNames = "WrongNames"
	// wrongOrganization: The certificate has another organization than requested.
	//
	// Remedy: the CA must sign the organization of the request unchanged, or set `orgName` to the CA's.
	wrongOrganization = "WrongOrganization"
	// wrongConstraints: [`permittedURIDomains`](ca-sources.md#name-constraints) is set, and the certificate has no
	// such name constraints, or broader ones.
	//
	// Remedy: use Vault 1.19 or later, or an issuer that signs name constraints, or remove the field.
	wrongConstraints = "WrongNameConstraints"
	// notValidNow: The certificate has expired, or is not valid yet.
	//
	// Remedy: check the clocks.
	notValidNow = "NotValidNow"
	// livesTooLong: The certificate is valid more than five minutes longer than requested.
	//
	// Remedy: check Vault's clock, and that nothing between overrides the TTL.
	livesTooLong = "LivesTooLong"
	// badChain: No valid path leads to a root: a signature on it does not verify, or a CA on it allows no CA below.
	// The message names the certificate.
	//
	// Remedy: correct the chain of the mount or issuer.
	badChain = "BadChain"
	// NoRoot: The chain ends before a self-signed root, and the signing mount does not know the root either. The
	// message names the missing issuer.
	//
	// Remedy: give the mount the whole chain, or add the root to
	// [`trustedRoots`](vault.md#roots-that-the-mount-does-not-know).
	NoRoot = "NoRoot"
	// RootNotTrusted: The chain is valid and leads to none of the roots in the annotation
	// `istiod-agent.io/trusted-roots`.
	//
	// Remedy: correct the annotation, or the mount and issuer in `caPath`: see [changing the
	// root](rotation.md#when-a-stage-waits).
	RootNotTrusted = "RootNotTrusted"
	// RootNotPinned: The chain is valid and leads to a root that is not in `trustedRoots`. The agent retries once an
	// hour, and at every change of the specification.
	//
	// Remedy: correct the mount and issuer in `caPath`, or add that root to `trustedRoots` if you trust it.
	RootNotPinned = "RootNotPinned"
	// unusable: Proxies would refuse the workload certificates below it. The agent signs one in memory and verifies it
	// for servers and clients.
	//
	// Remedy: check the extended key usages and name constraints of all certificates in the chain.
	unusable = "Unusable"
)

const (
	// skew is how far the CA's clock may be ahead of ours.
	skew = time.Minute
	// lifetimeAllowance is how much later than requested a certificate may end: the CA's clock differs.
	lifetimeAllowance = 5 * time.Minute
	// minRSABits is the least that NIST SP 800-131A allows, and that Envoy takes for a certificate of its own.
	minRSABits = 2048
	// maxDetail bounds the text about an answer, which may quote it.
	maxDetail = 1 << 10
)

// Refusal is an answer of a CA that must not be published.
type Refusal struct{ Reason, Detail string } //nolint:errname // RefusalError would be redundant

func (r *Refusal) Error() string { return "the certificate was refused and not published: " + r.Detail }

// ReasonKey returns Reason.
func (r *Refusal) ReasonKey() string { return r.Reason }

func refuse(reason, format string, args ...any) error {
	return &Refusal{Reason: reason, Detail: plain(fmt.Sprintf(format, args...))}
}

// plain returns a text as one printable line of bounded length: the CA chooses the names in certificates.
func plain(text string) string { return bounded.Text(bounded.Plain(text), maxDetail) }

// Issued is the answer of a CA, PEM.
type Issued struct {
	Key, Certificate []byte
	// IssuingCA is the certificate of the direct issuer, if the answer contains it separately from the chain.
	IssuingCA []byte
	// Chain is upwards from the certificate or from its issuer, one certificate each, without duplicates.
	Chain [][]byte
}

// Key is a type of key, "rsa" or "ec", and its bits.
type Key struct {
	Type string
	Bits int
}

// Request is what the certificate must match.
type Request struct {
	// Hosts are its URI names in any order.
	Hosts        []string
	Organization string
	Key          Key
	// TTL bounds its validity from Now.
	TTL time.Duration
	Now time.Time
	// AnyPathLength accepts a certificate that may sign further CAs.
	AnyPathLength bool
	// PermittedURIDomains are the name constraints for URIs that the certificate or one of its issuers must have, these or
	// some of these; any or none when empty.
	PermittedURIDomains []string
	// Trusted and Published are the roots that istiod will trust and trusts already, where known. A path to one of both, of
	// the former and of the latter is preferred, in this order. Other roots are accepted: the caller decides about them.
	Trusted, Published []*x509.Certificate
	// Pinned are the roots that a path must lead to; any when nil. Like Trusted and Published, they complete an answer that
	// omits them.
	Pinned []*x509.Certificate
	// Preferred are roots that rank like Published. They do not complete an answer that leads to no root: others than istiod's
	// owner may have written them.
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

// Verify checks an answer more strictly than istiod does (Istio security/pkg/pki/util/keycertbundle.go verifies key and chain
// alone) and refuses whatever does not match the request exactly. Every error is a *Refusal.
func Verify(answer Issued, request Request) (*Set, error) {
	key, err := parseKey(answer.Key)
	if err != nil {
		return nil, err
	}
	certificate, err := parseOne("certificate", answer.Certificate)
	if err != nil {
		return nil, err
	}
	if err := request.checkKey(key); err != nil {
		return nil, err
	}
	if err := request.checkNames(certificate); err != nil {
		return nil, err
	}
	issuers, err := parseIssuers(answer, certificate)
	if err != nil {
		return nil, err
	}
	known := slices.Concat(request.Pinned, request.Trusted, request.Published)
	paths, err := findPaths(certificate, issuers, known)
	if err != nil {
		return nil, err
	}
	if len(request.Preferred) > 0 {
		if paths, err = findPaths(certificate, issuers, slices.Concat(known, request.Preferred)); err != nil {
			return nil, err
		}
	}
	if paths, err = request.pinned(paths); err != nil {
		return nil, err
	}
	slices.SortStableFunc(paths, func(a, b []*x509.Certificate) int {
		return request.rank(a[len(a)-1]) - request.rank(b[len(b)-1])
	})
	var refusal error
	for _, path := range paths {
		set := &Set{certificate: certificate, issuers: path[1:max(1, len(path)-1)], roots: path[len(path)-1:], key: key}
		err := set.verifyIssued(request)
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
func (s *Set) verifyIssued(request Request) error {
	certificate := s.certificate
	if err := s.verify(request.Now); err != nil { // the more serious first
		return err
	}
	if !request.AnyPathLength && !s.SignsNoCAs() {
		return refuse(badPathLength, "its path length is not 0, and that of no issuer above it limits it to that: istiod signs workloads, and no further CAs")
	}
	if certificate.Equal(s.Root()) {
		return refuse(NoRoot, "it is self-signed, not signed by a CA")
	}
	if err := s.verifyConstraints(request.PermittedURIDomains); err != nil {
		return err
	}
	if latest := request.Now.Add(request.TTL + lifetimeAllowance); certificate.NotAfter.After(latest) {
		return refuse(livesTooLong, "it is valid until %s, and %s were requested, until %s; check the CA's clock, and whether it ignores the requested ttl",
			utc(certificate.NotAfter), request.TTL, utc(request.Now.Add(request.TTL)))
	}
	return s.verifyUse(request.Hosts, request.Now)
}

// verify checks what does not depend on a request.
func (s *Set) verify(now time.Time) error {
	certificate := s.certificate
	public, ok := s.key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(certificate.PublicKey) {
		return refuse(keyMismatch, "the key is not the certificate's")
	}
	switch {
	case !certificate.BasicConstraintsValid || !certificate.IsCA:
		return refuse(notACA, "it is not a CA certificate; the CA path must be one that signs intermediates")
	case certificate.KeyUsage&x509.KeyUsageCertSign == 0:
		return refuse(notACA, "its key usage does not allow it to sign certificates")
	}
	chain := s.chain()
	if chain == nil {
		return refuse(badChain, "its chain leads to none of the roots")
	}
	if err := linked(certificate, chain[1:]); err != nil {
		return err
	}
	for i, certificate := range chain {
		key, isRSA := certificate.PublicKey.(*rsa.PublicKey)
		switch {
		case isRSA && key.N.BitLen() < minRSABits:
			return refuse(badKey, "certificate %d of its chain (%s) has an RSA key of %d bits, less than %d", i, certificate.Subject, key.N.BitLen(), minRSABits)
		case now.Before(certificate.NotBefore.Add(-skew)):
			return refuse(notValidNow, "certificate %d of its chain (%s) is not valid before %s; check the clocks", i, certificate.Subject, utc(certificate.NotBefore))
		case !now.Before(certificate.NotAfter):
			return refuse(notValidNow, "certificate %d of its chain (%s) expired at %s", i, certificate.Subject, utc(certificate.NotAfter))
		}
	}
	// crypto/x509 verifies the rest: name constraints, path lengths, critical extensions, weak hashes.
	roots, intermediates := pools(chain)
	if _, err := certificate.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: begun(chain, now), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}); err != nil {
		return refuse(badChain, "its chain is not valid: %v", err)
	}
	return nil
}

// chain returns the certificate, its issuers and its root, or nil where it leads to none of the roots.
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

// SignsNoCAs reports whether every verifier rejects a CA below the certificate: its own path length is 0, or that of an issuer
// allows no more (RFC 5280, 6.1.4). The root's does not count: it is a trust anchor, whose path length not all verifiers read
// (RFC 5280, 6.1; rustls, and so ztunnel, keeps name and key alone).
func (s *Set) SignsNoCAs() bool {
	below := 0 // the CAs of another name than their issuer's, which alone count
	for _, certificate := range append([]*x509.Certificate{s.certificate}, s.issuers...) {
		limited := certificate.MaxPathLen > 0 || certificate.MaxPathLen == 0 && certificate.MaxPathLenZero
		if limited && certificate.MaxPathLen <= below {
			return true
		}
		if !bytes.Equal(certificate.RawSubject, certificate.RawIssuer) {
			below++
		}
	}
	return false
}

// NotAfter returns when the first certificate of the chain expires: no workload certificate is accepted after that.
func (s *Set) NotAfter() time.Time {
	return firstToExpire(append(s.chain(), s.certificate)).NotAfter
}

// Issuer returns the first to expire of the certificates above. A CA that is its own root is its own issuer.
func (s *Set) Issuer() *x509.Certificate {
	chain := s.chain()
	return firstToExpire(slices.Concat(chain[len(chain)-1:], chain[1:])) // the root, where none ends before it
}

func firstToExpire(certificates []*x509.Certificate) *x509.Certificate {
	return slices.MinFunc(certificates, func(a, b *x509.Certificate) int { return a.NotAfter.Compare(b.NotAfter) })
}

// LimitedBy names the certificate above that expires first, where that is no later than the certificate and before the
// requested ttl ends, and is empty otherwise. CAs before Vault 1.17, and OpenBao, sign past their own end; others shorten the
// certificate to it.
func (s *Set) LimitedBy(ttl time.Duration) string {
	first := s.Issuer()
	if first.NotAfter.After(s.certificate.NotAfter) || !first.NotAfter.Before(s.certificate.NotBefore.Add(ttl-lifetimeAllowance)) {
		return ""
	}
	return plain(fmt.Sprintf("%s, which ends at %s", first.Subject, utc(first.NotAfter)))
}

// pools returns what a proxy uses to verify a certificate below this chain: the root that it trusts, and the rest.
func pools(chain []*x509.Certificate) (roots, intermediates *x509.CertPool) {
	roots, intermediates = x509.NewCertPool(), x509.NewCertPool()
	last := len(chain) - 1
	roots.AddCert(chain[last])
	for _, certificate := range chain[:last] {
		intermediates.AddCert(certificate)
	}
	return roots, intermediates
}

// begun returns now, or when all of a chain is valid where the CA's clock is ahead (see skew).
func begun(chain []*x509.Certificate, now time.Time) time.Time {
	for _, certificate := range chain {
		if now.Before(certificate.NotBefore) {
			now = certificate.NotBefore
		}
	}
	return now
}

func utc(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func (r Request) checkKey(key crypto.Signer) error {
	var got Key
	switch public := key.Public().(type) {
	case *rsa.PublicKey:
		got = Key{"rsa", public.N.BitLen()}
	case *ecdsa.PublicKey:
		got = Key{"ec", public.Curve.Params().BitSize}
	}
	if got != r.Key {
		return refuse(badKey, "its key is %s of %d bits; expected %s of %d", got.Type, got.Bits, r.Key.Type, r.Key.Bits)
	}
	return nil
}

// SerialNumber returns the certificate's serial number as Vault writes it, in hexadecimal bytes separated by colons.
func (s *Set) SerialNumber() string {
	return strings.ReplaceAll(fmt.Sprintf("% x", s.certificate.SerialNumber.Bytes()), " ", ":")
}

// KeyKind returns the type of the certificate's key for people: RSA 4096, EC P-256.
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
