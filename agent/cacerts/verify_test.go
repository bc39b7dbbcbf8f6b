// SPDX-License-Identifier: Apache-2.0

package cacerts

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

const istiod = "spiffe://cluster.local/ns/istio-system/sa/istiod"

var now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// ca is a certificate with its key.
type ca struct {
	*x509.Certificate
	key *ecdsa.PrivateKey
}

func newKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// sign makes a certificate of a template for a key; no issuer means self-signed.
func sign(t testing.TB, template x509.Certificate, key *ecdsa.PrivateKey, issuer *ca) *ca {
	t.Helper()
	if issuer == nil {
		return &ca{certify(t, template, key.Public(), nil, key), key}
	}
	return &ca{certify(t, template, key.Public(), issuer.Certificate, issuer.key), key}
}

func authority(name string, pathLength int) x509.Certificate {
	return x509.Certificate{
		Subject: pkix.Name{Organization: []string{name}}, NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(9, 0, 0),
		BasicConstraintsValid: true, IsCA: true, MaxPathLen: pathLength, MaxPathLenZero: pathLength == 0, KeyUsage: x509.KeyUsageCertSign,
	}
}

// requestedCA is what Vault signs when all is well.
func requestedCA() x509.Certificate {
	host, _ := url.Parse(istiod)
	template := authority("Istio", 0)
	template.URIs = []*url.URL{host}
	template.NotBefore, template.NotAfter = now.Add(-30*time.Second), now.AddDate(0, 0, 32)
	return template
}

func certPEM(certificates ...*ca) (text []byte) {
	for _, each := range certificates {
		text = append(text, pemcerts.Encode(each.Certificate)...)
	}
	return text
}

func keyPEM(t testing.TB, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func requested() Request {
	return Request{Hosts: []string{istiod}, Organization: "Istio", Key: Key{"ec", 256}, TTL: 32 * 24 * time.Hour, Now: now}
}

// hierarchy is a root, an issuer below it, and istiod's CA below each.
type hierarchy struct{ root, issuer, signed, deep *ca }

func newHierarchy(t testing.TB) hierarchy {
	t.Helper()
	root := sign(t, authority("my-org", -1), newKey(t, elliptic.P256()), nil)
	issuer := sign(t, authority("middle", 1), newKey(t, elliptic.P256()), root)
	key := newKey(t, elliptic.P256())
	return hierarchy{root, issuer, sign(t, requestedCA(), key, root), sign(t, requestedCA(), key, issuer)}
}

func (h hierarchy) answer(t testing.TB) Issued {
	t.Helper()
	return Issued{
		Key: keyPEM(t, h.signed.key), Certificate: certPEM(h.signed), IssuingCA: certPEM(h.root),
		Chain: [][]byte{certPEM(h.signed), certPEM(h.root)},
	}
}

func TestEachShapeOfAGoodAnswerIsAccepted(t *testing.T) {
	h, other := newHierarchy(t), newHierarchy(t)
	sec1, err := x509.MarshalECPrivateKey(h.signed.key)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		change  func(*Issued)
		issuers int
	}{
		"of Vault since 1.11":      {func(*Issued) {}, 0},
		"of Vault before 1.11":     {func(a *Issued) { a.Chain = a.Chain[1:] }, 0},
		"without a chain":          {func(a *Issued) { a.Chain = nil }, 0},
		"without an issuing CA":    {func(a *Issued) { a.IssuingCA = nil }, 0},
		"with a key in SEC 1":      {func(a *Issued) { a.Key = pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1}) }, 0},
		"with another root beside": {func(a *Issued) { a.Chain = append(a.Chain, certPEM(other.root)) }, 0},
		"out of order": {func(a *Issued) {
			a.Certificate, a.IssuingCA = certPEM(h.deep), nil
			a.Chain = [][]byte{certPEM(h.root), certPEM(h.deep), certPEM(h.issuer)}
		}, 1},
		"with a certificate twice": {func(a *Issued) {
			a.Certificate, a.IssuingCA = certPEM(h.deep), certPEM(h.issuer)
			a.Chain = [][]byte{certPEM(h.deep), certPEM(h.issuer), certPEM(h.issuer), certPEM(h.root)}
		}, 1},
		"with an issuer in between": {func(a *Issued) {
			a.Certificate, a.IssuingCA = certPEM(h.deep), certPEM(h.issuer)
			a.Chain = [][]byte{certPEM(h.deep), certPEM(h.issuer), certPEM(h.root)}
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			answer := h.answer(t)
			test.change(&answer)
			set, err := Verify(answer, requested())
			if err != nil {
				t.Fatal(err)
			}
			if len(set.issuers) != test.issuers || len(set.roots) != 1 || !set.roots[0].Equal(h.root.Certificate) {
				t.Errorf("%d issuers, %d roots", len(set.issuers), len(set.roots))
			}
		})
	}
}

// A path length of 0 is the certificate's own, or follows from that of an issuer; more is accepted only when asked for.
func TestVerifyRequiresPathLength(t *testing.T) {
	h := newHierarchy(t)
	unlimited := requestedCA()
	unlimited.MaxPathLen, unlimited.MaxPathLenZero = -1, false
	middle := authority("middle", 1)
	renamed := middle
	renamed.Subject = unlimited.Subject
	wide := sign(t, authority("wide", 2), newKey(t, elliptic.P256()), h.root)
	narrow := sign(t, authority("narrow", -1), newKey(t, elliptic.P256()), wide)
	limitedRoot := sign(t, authority("limited", 1), newKey(t, elliptic.P256()), nil)
	for name, test := range map[string]struct {
		template x509.Certificate
		above    []*ca // the issuer first
		forced   bool
	}{
		"its own":                     {requestedCA(), []*ca{h.root}, true},
		"none":                        {unlimited, []*ca{h.root}, false},
		"its issuer's":                {unlimited, []*ca{h.issuer, h.root}, true},
		"an issuer's of more":         {unlimited, []*ca{wide, h.root}, false},
		"that of an issuer above":     {unlimited, []*ca{narrow, wide, h.root}, true},
		"the root's, which few read":  {unlimited, []*ca{limitedRoot}, false},
		"an issuer's of its own name": {unlimited, []*ca{sign(t, renamed, newKey(t, elliptic.P256()), h.root), h.root}, false},
	} {
		t.Run(name, func(t *testing.T) {
			certificate := sign(t, test.template, h.signed.key, test.above[0])
			answer := Issued{Key: keyPEM(t, h.signed.key), Certificate: certPEM(certificate)}
			for _, issuer := range test.above {
				answer.Chain = append(answer.Chain, certPEM(issuer))
			}
			if test.forced {
				set, err := Verify(answer, requested())
				if err != nil || !set.SignsNoCAs() {
					t.Errorf("got %v", err)
				}
				return
			}
			refused(t, answer, badPathLength, "its path length is not 0")
			request := requested()
			request.AnyPathLength = true
			if set, err := Verify(answer, request); err != nil || set.SignsNoCAs() {
				t.Errorf("allowed: got %v", err)
			}
		})
	}
}

func TestEachWrongAnswerIsRefused(t *testing.T) {
	h := newHierarchy(t)
	other := newHierarchy(t)
	ecParameters := pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6, 8, 42, 134, 72, 206, 61, 3, 1, 7}})
	// signed makes an answer whose certificate differs from what was request.
	signed := func(change func(*x509.Certificate)) func(*Issued) {
		return func(a *Issued) {
			template := requestedCA()
			change(&template)
			certificate := sign(t, template, h.signed.key, h.root)
			a.Certificate, a.Chain = certPEM(certificate), [][]byte{certPEM(certificate), certPEM(h.root)}
		}
	}
	below := func(issuer *ca) func(*Issued) {
		return func(a *Issued) {
			certificate := sign(t, requestedCA(), h.signed.key, issuer)
			a.Certificate, a.IssuingCA = certPEM(certificate), certPEM(issuer)
			a.Chain = [][]byte{certPEM(certificate), certPEM(issuer), certPEM(h.root)}
		}
	}
	expired := authority("old root", -1)
	expired.NotAfter = now.Add(-time.Hour)
	oldRoot := sign(t, expired, newKey(t, elliptic.P256()), nil)
	leafCA := authority("not a CA", -1)
	leafCA.IsCA, leafCA.MaxPathLen, leafCA.KeyUsage = false, 0, x509.KeyUsageDigitalSignature
	for name, test := range map[string]struct {
		change func(*Issued)
		want   string
	}{
		"another key":                  {func(a *Issued) { a.Key = keyPEM(t, other.signed.key) }, keyMismatch},
		"a key of another kind":        {func(a *Issued) { a.Key = keyPEM(t, newKey(t, elliptic.P384())) }, badKey},
		"no key":                       {func(a *Issued) { a.Key = nil }, badKey},
		"EC PARAMETERS before the key": {func(a *Issued) { a.Key = append(bytes.Clone(ecParameters), a.Key...) }, badKey},
		"something after the key":      {func(a *Issued) { a.Key = append(a.Key, ecParameters...) }, badKey},
		"a certificate for a key":      {func(a *Issued) { a.Key = a.Certificate }, badKey},
		"a truncated key":              {func(a *Issued) { a.Key = a.Key[:len(a.Key)/2] }, badKey},
		"not a CA":                     {signed(func(c *x509.Certificate) { c.IsCA, c.MaxPathLenZero = false, false }), notACA},
		"no basic constraints":         {signed(func(c *x509.Certificate) { c.BasicConstraintsValid = false }), notACA},
		"a CA that may not sign":       {signed(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }), notACA},
		"no path length":               {signed(func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = -1, false }), badPathLength},
		"path length 1":                {signed(func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 1, false }), badPathLength},
		"another name":                 {signed(func(c *x509.Certificate) { c.URIs[0].Path = "/ns/istio-system/sa/other" }), wrongNames},
		"no name":                      {signed(func(c *x509.Certificate) { c.URIs = nil }), wrongNames},
		"a name too many":              {signed(func(c *x509.Certificate) { c.URIs = append(c.URIs, &url.URL{Scheme: "spiffe", Host: "x", Path: "/y"}) }), wrongNames},
		"a DNS name beside":            {signed(func(c *x509.Certificate) { c.DNSNames = []string{"Istio"} }), wrongNames},
		"another organization":         {signed(func(c *x509.Certificate) { c.Subject.Organization = []string{"other"} }), wrongOrganization},
		"expired":                      {signed(func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) }), notValidNow},
		"not valid yet":                {signed(func(c *x509.Certificate) { c.NotBefore = now.Add(skew + time.Second) }), notValidNow},
		"an expired root": {func(a *Issued) {
			certificate := sign(t, requestedCA(), h.signed.key, oldRoot)
			a.Certificate, a.IssuingCA, a.Chain = certPEM(certificate), certPEM(oldRoot), nil
		}, notValidNow},
		"a truncated certificate":        {func(a *Issued) { a.Certificate = a.Certificate[:len(a.Certificate)/2] }, badPEM},
		"something before a certificate": {func(a *Issued) { a.Certificate = append([]byte("subject: x\n"), a.Certificate...) }, badPEM},
		"two certificates for one":       {func(a *Issued) { a.Certificate = append(a.Certificate, a.IssuingCA...) }, badPEM},
		"no self-signed root":            {func(a *Issued) { a.Certificate, a.IssuingCA, a.Chain = certPEM(h.deep), certPEM(h.issuer), nil }, NoRoot},
		"no chain at all":                {func(a *Issued) { a.IssuingCA, a.Chain = nil, nil }, NoRoot},
		"another root in its place":      {func(a *Issued) { a.IssuingCA, a.Chain = certPEM(other.root), [][]byte{certPEM(other.root)} }, badChain},
		"another issuing CA":             {func(a *Issued) { a.IssuingCA = certPEM(other.root) }, badChain},
		"an issuer that allows no CA":    {below(sign(t, authority("narrow", 0), newKey(t, elliptic.P256()), h.root)), badChain},
		"an issuer that is no CA":        {below(sign(t, leafCA, newKey(t, elliptic.P256()), h.root)), badChain},
	} {
		t.Run(name, func(t *testing.T) {
			answer := h.answer(t)
			test.change(&answer)
			set, err := Verify(answer, requested())
			var refusal *Refusal
			if !errors.As(err, &refusal) || refusal.Reason != test.want {
				t.Fatalf("got %v, want %s", err, test.want)
			}
			if set != nil {
				t.Error("there is a set to publish")
			}
			body := strings.ReplaceAll(string(answer.Key), "\n", "")
			for i := 40; i+16 < len(body)-40; i += 16 {
				if strings.Contains(err.Error(), body[i:i+16]) {
					t.Errorf("a part of the key is in the error: %v", err)
				}
			}
		})
	}
}

func FuzzVerify(f *testing.F) {
	h := newHierarchy(f)
	good := h.answer(f)
	f.Add(good.Key, good.Certificate, good.IssuingCA, certPEM(h.signed), certPEM(h.root))
	f.Add(good.Key[:50], good.Certificate, []byte{}, certPEM(h.root), certPEM(h.root))
	f.Add(good.Certificate, good.Key, good.Key, []byte("-----BEGIN CERTIFICATE-----\n"), []byte("x"))
	f.Fuzz(func(t *testing.T, key, certificate, issuing, first, second []byte) {
		set, err := Verify(Issued{Key: key, Certificate: certificate, IssuingCA: issuing, Chain: [][]byte{first, second}}, requested())
		if err != nil {
			if _, ok := errors.AsType[*Refusal](err); !ok {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		d, err := Open(t.TempDir(), true)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Publish(set, nil); err != nil {
			t.Fatal(err)
		}
		if again, err := d.Published(now); err != nil || !again.Trust().Equal(set.Trust()) || again.SerialNumber() != set.SerialNumber() {
			t.Fatalf("what was accepted and published is not read back: %v", err)
		}
	})
}
