// SPDX-License-Identifier: Apache-2.0

package cacerts

import (
	"crypto"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

// certify is sign for keys of any kind; no issuer means self-signed.
func certify(_ testing.TB, template x509.Certificate, public crypto.PublicKey, issuer *x509.Certificate, by crypto.Signer) *x509.Certificate {
	if issuer == nil {
		return testca.SelfSign(template, by).Certificate
	}
	return (&testca.Certificate{Certificate: issuer, Key: by}).SignPublic(template, public)
}

// under is a good answer whose root has another key or template.
func (h hierarchy) under(t testing.TB, template x509.Certificate, key crypto.Signer) Issued {
	t.Helper()
	root := certify(t, template, key.Public(), nil, key)
	certificate := certify(t, requestedCA(), h.signed.key.Public(), root, key)
	return Issued{Key: keyPEM(t, h.signed.key), Certificate: pemcerts.Encode(certificate), Chain: [][]byte{pemcerts.Encode(certificate), pemcerts.Encode(root)}}
}

// through is a good answer with an issuer of this template.
func (h hierarchy) through(t testing.TB, template x509.Certificate) Issued {
	t.Helper()
	issuer := sign(t, template, newKey(t, elliptic.P256()), h.root)
	certificate := sign(t, requestedCA(), h.signed.key, issuer)
	return Issued{Key: keyPEM(t, h.signed.key), Certificate: certPEM(certificate), Chain: [][]byte{certPEM(certificate), certPEM(issuer), certPEM(h.root)}}
}

// direct is a good answer with another certificate.
func (h hierarchy) direct(t testing.TB, change func(*x509.Certificate)) Issued {
	t.Helper()
	template := requestedCA()
	change(&template)
	certificate := sign(t, template, h.signed.key, h.root)
	return Issued{Key: keyPEM(t, h.signed.key), Certificate: certPEM(certificate), Chain: [][]byte{certPEM(certificate), certPEM(h.root)}}
}

func newRSA(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func refused(t *testing.T, answer Issued, reason string, says ...string) {
	t.Helper()
	set, err := Verify(answer, requested())
	refusal, ok := errors.AsType[*Refusal](err)
	if !ok || refusal.Reason != reason || set != nil {
		t.Fatalf("got %v, want %s", err, reason)
	}
	for _, word := range says {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q does not say %q", err, word)
		}
	}
}

// Each of these chains is valid in itself, and no proxy accepts what istiod signs below it.
func TestVerifyRefusesAnUnusableCA(t *testing.T) {
	h := newHierarchy(t)
	key := newKey(t, elliptic.P256())
	root := func(change func(*x509.Certificate)) Issued {
		template := authority("my-org", -1)
		change(&template)
		return h.under(t, template, key)
	}
	issuer := func(change func(*x509.Certificate)) Issued {
		template := authority("middle", 1)
		change(&template)
		return h.through(t, template)
	}
	for name, test := range map[string]struct {
		answer Issued
		says   string
	}{
		"a root for servers": {root(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), "certificates of clients"},
		"a root for clients": {root(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), "certificates of servers"},
		"an issuer for code": {issuer(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} }), "key usage"},
		"a CA for servers":   {h.direct(t, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), "certificates of clients"},
		"a CA for an unknown use": {h.direct(t, func(c *x509.Certificate) {
			c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 3, 6, 1, 4, 1, 311, 10, 3, 4}}
		}), "key usage"},
		"a CA for another trust domain": {h.direct(t, func(c *x509.Certificate) { c.PermittedURIDomains = []string{"other.domain"} }), "spiffe://cluster.local/"},
		"a CA without its trust domain": {h.direct(t, func(c *x509.Certificate) { c.ExcludedURIDomains = []string{"cluster.local"} }), "spiffe://cluster.local/"},
		"a CA for other DNS names":      {h.direct(t, func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"corp.example"} }), "istiod.istio-system.svc"},
		"a root for other DNS names":    {root(func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"corp.example"} }), "istiod.istio-system.svc"},
		"an issuer without services":    {issuer(func(c *x509.Certificate) { c.ExcludedDNSDomains = []string{"svc"} }), "istiod.istio-system.svc"},
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, test.answer, unusable, "proxies would not accept", test.says)
		})
	}
	t.Run("all uses named", func(t *testing.T) {
		answer := root(func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
			c.PermittedURIDomains, c.PermittedDNSDomains = []string{"cluster.local"}, []string{"svc"}
		})
		if _, err := Verify(answer, requested()); err != nil {
			t.Error(err)
		}
	})
}

func TestVerifyRefusesNamesOfEveryOtherType(t *testing.T) {
	h := newHierarchy(t)
	uri := asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: uriTag, Bytes: []byte(istiod)}
	answer := func(names ...asn1.RawValue) Issued {
		value, err := asn1.Marshal(names)
		if err != nil {
			t.Fatal(err)
		}
		return h.direct(t, func(c *x509.Certificate) {
			c.URIs = nil
			c.ExtraExtensions = []pkix.Extension{{Id: subjectAltName, Value: value}}
		})
	}
	if _, err := Verify(answer(uri), requested()); err != nil {
		t.Fatalf("the URI alone: %v", err)
	}
	for tag, kind := range append(slices.Clone(nameTypes), "an unknown type (9)") {
		if tag == uriTag {
			continue
		}
		t.Run(kind, func(t *testing.T) {
			other := asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, Bytes: []byte("name")}
			switch tag {
			case 0, 3, 4, 5: // of several parts
				other.IsCompound, other.Bytes = true, []byte{asn1.TagSequence | 0x20, 0}
			case 7:
				other.Bytes = []byte{10, 0, 0, 1}
			case 8:
				other.Bytes = []byte{42, 3, 4}
			}
			refused(t, answer(uri, other), wrongNames, kind)
			refused(t, answer(other), wrongNames, kind)
		})
	}
	t.Run("a name of another class", func(t *testing.T) {
		refused(t, answer(uri, asn1.RawValue{Class: asn1.ClassUniversal, Tag: asn1.TagUTF8String, Bytes: []byte("name")}), wrongNames, "unknown type")
	})
	t.Run("the URI twice", func(t *testing.T) { refused(t, answer(uri, uri), wrongNames) })
	t.Run("none", func(t *testing.T) { refused(t, answer(), wrongNames) })
}

func TestVerifyBoundsTheLife(t *testing.T) {
	h := newHierarchy(t)
	latest := now.Add(requested().TTL + lifetimeAllowance)
	if _, err := Verify(h.direct(t, func(c *x509.Certificate) { c.NotAfter = latest }), requested()); err != nil {
		t.Errorf("within the allowance: %v", err)
	}
	refused(t, h.direct(t, func(c *x509.Certificate) { c.NotAfter = latest.Add(time.Second) }), livesTooLong, "768h0m0s were requested")
}

// OpenBao signs beyond its signer's end; what counts is when the chain is valid no more.
func TestNotAfterIsTheLeastOfTheChain(t *testing.T) {
	h := newHierarchy(t)
	soon := now.AddDate(0, 0, 20)
	root, issuer := authority("my-org", -1), authority("middle", 1)
	root.NotAfter, issuer.NotAfter = soon, soon
	for name, answer := range map[string]Issued{
		"the root ends first":    h.under(t, root, newKey(t, elliptic.P256())),
		"an issuer ends first":   h.through(t, issuer),
		"the certificate itself": h.direct(t, func(c *x509.Certificate) { c.NotAfter = soon }),
	} {
		t.Run(name, func(t *testing.T) {
			set, err := Verify(answer, requested())
			if err != nil || !set.NotAfter().Equal(soon) {
				t.Errorf("got %v, want %s", err, soon)
			}
		})
	}
}

func TestVerifyBoundsTheKeys(t *testing.T) {
	h := newHierarchy(t)
	t.Setenv("GODEBUG", "rsa1024min=0") // Go makes no such keys otherwise
	small := newRSA(t, 1024)
	root := authority("my-org", -1)
	t.Run("a root of 1024 bits", func(t *testing.T) { refused(t, h.under(t, root, small), badKey, "1024 bits, less than 2048") })
	t.Run("an issuer of 1024 bits", func(t *testing.T) {
		issuer := certify(t, authority("middle", 1), small.Public(), h.root.Certificate, h.root.key)
		certificate := certify(t, requestedCA(), h.signed.key.Public(), issuer, small)
		refused(t, Issued{Key: keyPEM(t, h.signed.key), Certificate: pemcerts.Encode(certificate), Chain: [][]byte{pemcerts.Encode(issuer), certPEM(h.root)}}, badKey, "1024 bits, less than 2048")
	})
	t.Run("a root of 2048 bits", func(t *testing.T) {
		if set, err := Verify(h.under(t, root, newRSA(t, 2048)), requested()); err != nil || len(set.Warnings()) > 0 {
			t.Error(err)
		}
	})

	// A signature under a larger one would take seconds; a still larger one makes the certificate too large.
	huge := &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 1<<15), E: 1<<31 - 1}
	t.Run("a huge issuer", func(t *testing.T) {
		answer := h.answer(t)
		answer.Chain = [][]byte{answer.Certificate, pemcerts.Encode(certify(t, authority("huge", 1), huge, h.root.Certificate, h.root.key)), certPEM(h.root)}
		refused(t, answer, badPEM, "32769 bits")
	})
	t.Run("a huge root", func(t *testing.T) {
		itself := authority("huge", -1)
		answer := h.answer(t)
		answer.Chain = [][]byte{answer.Certificate, pemcerts.Encode(certify(t, itself, huge, &itself, h.root.key))}
		refused(t, answer, badPEM, "32769 bits")
	})
	t.Run("a huge key", func(t *testing.T) {
		answer := h.answer(t)
		answer.Key = pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: make([]byte, maxKeyDER+1)})
		refused(t, answer, badKey, "longer than")
	})
	t.Run("many certificates", func(t *testing.T) {
		answer := h.answer(t)
		for len(answer.Chain) <= maxChain {
			answer.Chain = append(answer.Chain, certPEM(h.root))
		}
		refused(t, answer, badChain, "17 certificates")
	})
}

// The largest RSA key in PKCS #8 that may be in use is still parsed.
func TestMaxKeyDER(t *testing.T) {
	number := func(bits uint) *big.Int { return new(big.Int).Lsh(big.NewInt(1), bits-1) }
	text, err := asn1.Marshal(struct {
		Version                int
		N, E, D, P, Q, X, Y, Z *big.Int
	}{0, number(16384), number(31), number(16384), number(8192), number(8192), number(8192), number(8192), number(8192)})
	if err != nil {
		t.Fatal(err)
	}
	if size := len(text) + 40; size > maxKeyDER {
		t.Errorf("it takes %d bytes", size)
	}
}

func TestWarningsOfEd25519(t *testing.T) {
	h := newHierarchy(t)
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	set, err := Verify(h.under(t, authority("my-org", -1), key), requested())
	if err != nil {
		t.Fatal(err)
	}
	if warnings := set.Warnings(); len(warnings) != 1 || !strings.Contains(warnings[0], "O=my-org") || !strings.Contains(warnings[0], "Ed25519") {
		t.Errorf("got %q", warnings)
	}
	set, err = Verify(h.answer(t), requested())
	if err != nil || len(set.Warnings()) > 0 {
		t.Errorf("got %v", err)
	}
}

// Parts of a message are the answer's: they must not fill a log or move a terminal's cursor.
func TestRefusalsAreShortAndPlain(t *testing.T) {
	h := newHierarchy(t)
	for name, answer := range map[string]Issued{
		"long":     h.direct(t, func(c *x509.Certificate) { c.Subject.Organization = []string{strings.Repeat("é", 1<<16)} }),
		"escapes":  h.through(t, func() x509.Certificate { a := authority("a\x1b[2J\nb\u202ec", 0); return a }()),
		"many":     h.direct(t, func(c *x509.Certificate) { c.DNSNames = slices.Repeat([]string{"a.example"}, 1<<12) }),
		"long URI": h.direct(t, func(c *x509.Certificate) { c.URIs[0].Path = "/" + strings.Repeat("a", 1<<16) }),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Verify(answer, requested())
			if err == nil {
				t.Fatal("it was accepted")
			}
			text := err.Error()
			if len(text) > maxDetail+100 || !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("%d bytes: %q", len(text), text[:min(len(text), 300)])
			}
		})
	}
}

func TestAdoptVerifiesAsMuch(t *testing.T) {
	h := newHierarchy(t)
	adopt := func(answer Issued, root *x509.Certificate) error {
		_, err := Adopt(Issued{Key: answer.Key, Certificate: answer.Certificate, Chain: answer.Chain}, []*x509.Certificate{root}, []string{istiod}, now)
		return err
	}
	if err := adopt(h.answer(t), h.root.Certificate); err != nil {
		t.Fatal(err)
	}
	own := authority("cluster.local", -1) // as istiod makes it
	itself := sign(t, own, h.signed.key, nil)
	if err := adopt(Issued{Key: keyPEM(t, h.signed.key), Certificate: certPEM(itself)}, itself.Certificate); err != nil {
		t.Errorf("a CA that istiod made itself: %v", err)
	}
	many := h.answer(t)
	many.Chain = slices.Repeat([][]byte{certPEM(h.root)}, maxChain+1)
	for name, test := range map[string]struct {
		answer Issued
		reason string
	}{
		"for servers alone": {h.direct(t, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), unusable},
		"another domain":    {h.direct(t, func(c *x509.Certificate) { c.PermittedURIDomains = []string{"other.domain"} }), unusable},
		"many certificates": {many, badChain},
	} {
		t.Run(name, func(t *testing.T) {
			if refusal, ok := errors.AsType[*Refusal](adopt(test.answer, h.root.Certificate)); !ok || refusal.Reason != test.reason {
				t.Errorf("got %v, want %s", refusal, test.reason)
			}
		})
	}
}

func BenchmarkVerify(b *testing.B) {
	h := newHierarchy(b)
	large := newRSA(b, 4096)
	root := certify(b, authority("my-org", -1), large.Public(), nil, large)
	key := newRSA(b, 4096)
	certificate := certify(b, requestedCA(), key.Public(), root, large)
	text := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	rsaWanted := requested()
	rsaWanted.Key = Key{"rsa", 4096}
	for name, test := range map[string]struct {
		answer  Issued
		request Request
	}{
		"P-256":    {h.answer(b), requested()},
		"RSA-4096": {Issued{Key: text, Certificate: pemcerts.Encode(certificate), Chain: [][]byte{pemcerts.Encode(root)}}, rsaWanted},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := Verify(test.answer, test.request); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
