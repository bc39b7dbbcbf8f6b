// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istiod-agent/istiod-agent/internal/testca"
)

var update = flag.Bool("update", false, "write the golden file")

var domain = spiffeid.RequireTrustDomainFromString("mesh.example")

// in returns what an istiod publishes.
func in(namespace, version string, roots ...*testca.Certificate) published {
	var text []byte
	for _, root := range roots {
		text = append(text, root.PEM()...)
	}
	return published{namespace, version, string(text)}
}

// The bytes that clients get, of an EC and an RSA root.
func TestDocumentGolden(t *testing.T) {
	t.Parallel()
	roots, err := os.ReadFile(filepath.Join("testdata", "roots.pem"))
	if err != nil {
		t.Fatal(err)
	}
	d, err := newDocument([]published{{"istio-system", "4711", string(roots)}})
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := json.Indent(&got, d.json, "", "  "); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("testdata", "bundle.json")
	if *update {
		if err := os.WriteFile(file, got.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, got.Bytes()) {
		t.Errorf("it differs from %s; -update accepts it:\n%s", file, got.String())
	}
}

func TestDocument(t *testing.T) {
	t.Parallel()
	one, two, three := testca.Root("one"), testca.Root("two"), testca.Root("three")
	expired := testca.Authority("expired")
	expired.NotBefore, expired.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	ended := testca.SelfSign(expired, nil)
	rsaRoot := testca.SelfSign(testca.Authority("rsa"), must(rsa.GenerateKey(rand.Reader, 2048)))
	for name, test := range map[string]struct {
		sources  []published
		roots    []*testca.Certificate
		sequence uint64
	}{
		"one root":                  {[]published{in("a", "7", one)}, []*testca.Certificate{one}, 7},
		"an RSA root":               {[]published{in("a", "7", rsaRoot)}, []*testca.Certificate{rsaRoot}, 7},
		"both roots of a change":    {[]published{in("a", "8", one, two)}, []*testca.Certificate{one, two}, 8},
		"two namespaces":            {[]published{in("a", "8", one), in("b", "12", one)}, []*testca.Certificate{one}, 12},
		"one namespace is ahead":    {[]published{in("a", "9", one), in("b", "8", two, one)}, []*testca.Certificate{one, two}, 9},
		"each shares another root":  {[]published{in("a", "1", one), in("b", "2", one, two), in("c", "3", two, three)}, []*testca.Certificate{one, two, three}, 3},
		"an ended root stays":       {[]published{in("a", "7", ended, one)}, []*testca.Certificate{ended, one}, 7},
		"an unknown version":        {[]published{in("a", "7", one), in("b", "x7", one)}, []*testca.Certificate{one}, 0},
		"the largest version":       {[]published{in("a", "18446744073709551615", one)}, []*testca.Certificate{one}, 1<<64 - 1},
		"a version beyond 64 bits":  {[]published{in("a", "18446744073709551616", one)}, []*testca.Certificate{one}, 0},
		"blank lines between roots": {[]published{{"a", "7", "\n" + string(one.PEM()) + "\n\n" + string(two.PEM())}}, []*testca.Certificate{one, two}, 7},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, err := newDocument(test.sources)
			if err != nil {
				t.Fatal(err)
			}
			bundle, err := spiffebundle.Parse(domain, d.json)
			if err != nil {
				t.Fatal(err)
			}
			if len(bundle.X509Authorities()) != len(test.roots) || len(bundle.JWTAuthorities()) != 0 {
				t.Errorf("%d X.509 and %d JWT authorities", len(bundle.X509Authorities()), len(bundle.JWTAuthorities()))
			}
			for _, root := range test.roots {
				if !bundle.HasX509Authority(root.Certificate) {
					t.Errorf("%s is missing", root.Subject)
				}
			}
			if sequence, set := bundle.SequenceNumber(); sequence != test.sequence || set != (test.sequence != 0) {
				t.Errorf("sequence %d, want %d", sequence, test.sequence)
			}
			if hint, _ := bundle.RefreshHint(); hint != 5*time.Minute {
				t.Errorf("refresh hint %s", hint)
			}
		})
	}
}

// The replicas agree, whatever the order in which their configuration names the namespaces.
func TestDocumentIsDeterministic(t *testing.T) {
	t.Parallel()
	one, two := testca.Root("one"), testca.Root("two")
	first, err := newDocument([]published{in("a", "1", one, two), in("b", "2", two)})
	second, failed := newDocument([]published{in("b", "2", two), in("a", "1", two, one)})
	if err != nil || failed != nil {
		t.Fatal(err, failed)
	}
	if first.etag != second.etag || !bytes.Equal(first.json, second.json) {
		t.Errorf("%s differs from %s", first.json, second.json)
	}
}

// What istiod does not publish is refused as a whole, in a message of bounded length that a terminal can show.
func TestDocumentRefuses(t *testing.T) {
	t.Parallel()
	root := testca.Root("one")
	leaf := testca.SelfSign(x509.Certificate{}, nil)
	evil := testca.Authority("\x1b[2J\n" + strings.Repeat("x", 4000))
	evil.IsCA = false
	small := testca.SelfSign(testca.Authority("P-224"), must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader)))
	var thousand []byte
	for range 1000 {
		thousand = append(thousand, root.PEM()...)
	}
	var large []*testca.Certificate
	for range 90 {
		template := testca.Authority("large")
		template.ExtraExtensions = largeExtension()
		large = append(large, testca.SelfSign(template, root.Key))
	}
	for name, test := range map[string]struct {
		sources []published
		want    string
	}{
		"no namespace":              {nil, "no namespace"},
		"no key":                    {[]published{{"a", "1", ""}}, "root-cert.pem in ConfigMap a/istio-ca-root-cert: it is empty"},
		"not PEM":                   {[]published{{"a", "1", "<html>"}}, "not a certificate"},
		"a megabyte of text":        {[]published{{"a", "1", strings.Repeat("-----BEGIN ", 1<<20/11)}}, "not a certificate"},
		"a megabyte of PEM":         {[]published{{"a", "1", "-----BEGIN CERTIFICATE-----\n" + strings.Repeat("AAAA", 1<<18) + "\n-----END CERTIFICATE-----\n"}}, "larger than"},
		"a private key":             {[]published{{"a", "1", string(root.KeyPEM())}}, "not a certificate"},
		"a private key after it":    {[]published{{"a", "1", string(root.PEM()) + string(root.KeyPEM())}}, "not a certificate"},
		"text after it":             {[]published{{"a", "1", string(root.PEM()) + "x"}}, "not a certificate"},
		"1,000 certificates":        {[]published{{"a", "1", string(thousand)}}, "1000 certificates, more than 100"},
		"a certificate twice":       {[]published{in("a", "1", root, root)}, "twice"},
		"no CA":                     {[]published{in("a", "1", root, leaf)}, "not a root"},
		"not self-signed":           {[]published{in("a", "1", root.Sign(testca.Authority("below"), nil))}, "not a root"},
		"a name for a terminal":     {[]published{in("a", "1", testca.SelfSign(evil, nil))}, "certificate 0 (O="},
		"a key that no JWK has":     {[]published{in("a", "1", small)}, "no form for a root's key"},
		"a bundle of a megabyte":    {[]published{in("a", "1", large...)}, "more than 524288"},
		"istiods of different mesh": {[]published{in("a", "1", root), in("b", "1", testca.Root("two"))}, "share no root"},
		"one bad of two":            {[]published{in("a", "1", root), {"b", "1", "x"}}, "ConfigMap b/"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, err := newDocument(test.sources)
			if err == nil {
				t.Fatalf("it is served, with %d bytes", len(d.json))
			}
			message := err.Error()
			if !strings.Contains(message, test.want) {
				t.Errorf("%q does not contain %q", message, test.want)
			}
			if len(message) > 1024 || strings.ContainsFunc(message, func(r rune) bool { return r < ' ' }) || strings.Contains(message, "PRIVATE") {
				t.Errorf("%d bytes: %q", len(message), message)
			}
		})
	}
}

// Any text gives an error, or a bundle that clients can read, of bounded size, with CAs alone.
func FuzzDocument(f *testing.F) {
	root := testca.Root("one")
	f.Add(string(root.PEM()), "1", string(root.PEM()))
	f.Add("", "", "")
	f.Add(string(testca.SelfSign(x509.Certificate{}, nil).PEM()), "-1", string(root.KeyPEM()))
	f.Fuzz(func(t *testing.T, first, version, second string) {
		d, err := newDocument([]published{{"a", version, first}, {"b", "3", second}})
		if err != nil {
			if len(err.Error()) > 1024 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		bundle, err := spiffebundle.Parse(domain, d.json)
		if err != nil || len(d.json) > maxBytes {
			t.Fatalf("%d bytes: %v", len(d.json), err)
		}
		for _, authority := range bundle.X509Authorities() {
			if !authority.IsCA {
				t.Errorf("%s is no CA", authority.Subject)
			}
		}
	})
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}
