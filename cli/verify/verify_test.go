// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"
	"testing"

	"github.com/istiod-agent/istiod-agent/cli/exit"
	"github.com/istiod-agent/istiod-agent/cli/terminal"
	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

// newRoot is a root certificate with a name.
func newRoot(_ *testing.T, name string) *x509.Certificate { return testca.Root(name).Certificate }

func text(certificates ...*x509.Certificate) string {
	var all bytes.Buffer
	for _, each := range certificates {
		_ = pem.Encode(&all, &pem.Block{Type: "CERTIFICATE", Bytes: each.Raw})
	}
	return all.String()
}

func TestWhatIsPublished(t *testing.T) {
	t.Parallel()
	a, b, c := newRoot(t, "a"), newRoot(t, "b"), newRoot(t, "c")
	for name, test := range map[string]struct {
		bundle   string
		expected []*x509.Certificate
		ok       bool
		says     string
	}{
		"the root":                 {text(a), []*x509.Certificate{a}, true, "is the root"},
		"with spaces around":       {"\n" + text(a) + "\n\n", []*x509.Certificate{a}, true, "is the root"},
		"both, in another order":   {text(b, a), []*x509.Certificate{a, b}, true, "holds all 2 roots"},
		"another root":             {text(b), []*x509.Certificate{a}, false, "holds another root: O=b (SHA-256 " + pemcerts.Fingerprint(b)[:16] + "…); expected O=a"},
		"one more":                 {text(a, b), []*x509.Certificate{a}, false, "holds additional roots, which are trusted too: O=b"},
		"one less":                 {text(a), []*x509.Certificate{a, b}, false, "does not hold O=b"},
		"one more and one less":    {text(a, c), []*x509.Certificate{a, b}, false, "holds another root: O=c"},
		"nothing":                  {"", []*x509.Certificate{a}, false, "is missing or empty"},
		"something else":           {"-----BEGIN CERTIFICATE-----", []*x509.Certificate{a}, false, "does not parse"},
		"a key beside the root":    {text(a) + "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", []*x509.Certificate{a}, false, "does not parse"},
		"something that is no DER": {"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", []*x509.Certificate{a}, false, "does not parse"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ok, says := compare(test.bundle, test.expected)
			if ok != test.ok || !strings.HasPrefix(says, test.says) {
				t.Errorf("got %t, %q; want %t, %q", ok, says, test.ok, test.says)
			}
		})
	}
}

// A user of one namespace may write the ConfigMap there.
func TestTheMostCommonPublishedRootIsTheMeasure(t *testing.T) {
	t.Parallel()
	a, b := newRoot(t, "a"), newRoot(t, "b")
	for name, test := range map[string]struct {
		published Published
		want      *x509.Certificate
	}{
		"garbage beside it":         {Published{"y": text(a), "x": "garbage"}, a},
		"more garbage":              {Published{"y": text(a), "x": "garbage", "w": "garbage"}, a},
		"garbage alone":             {Published{"x": "garbage"}, nil},
		"too many roots":            {Published{"y": text(a), "x": strings.Repeat(text(b), 101)}, a},
		"another one first by name": {Published{"a-tenant": text(b), "istio-system": text(a), "shop": text(a)}, a},
		"as common":                 {Published{"y": text(a), "z": text(b)}, a},
	} {
		found := test.published.commonRoots()
		if test.want == nil && found != nil || test.want != nil && (len(found) != 1 || !found[0].Equal(test.want)) {
			t.Errorf("%s: got %v", name, found)
		}
	}
}

// What a namespace holds is printed for each namespace.
func TestRootsInTextAreCutOff(t *testing.T) {
	t.Parallel()
	var many []*x509.Certificate
	for range 100 {
		many = append(many, newRoot(t, strings.Repeat("long", 1000)))
	}
	for name, bundle := range map[string]string{"100 roots": text(many...), "1000 roots": strings.Repeat(text(many...), 10)} {
		if ok, detail := compare(bundle, many[:1]); ok || len(detail) > 4<<10 {
			t.Errorf("%s: %t, %d bytes: %.200s", name, ok, len(detail), detail)
		}
	}
	var out bytes.Buffer
	(&verification{roots: many}).print(terminal.NewWriter(&out), false)
	if out.Len() > 100*400 {
		t.Errorf("%d bytes of roots", out.Len())
	}
}

// What is printed is read by people: the whole of it is here.
func TestPrinted(t *testing.T) {
	t.Parallel()
	a := newRoot(t, "a")
	result := &verification{roots: []*x509.Certificate{a}, Lines: []finding{
		{true, "one", "default", istio.RootConfigMap, "is the root"},
		{false, "one", "gone", istio.RootConfigMap, "is not there"},
		{true, "one", "istio-system", istio.RootConfigMap, "is the root"},
		{false, "two", "", "", "no answer."},
		{false, "three", "", istio.RootConfigMap, "is in no namespace"},
		{true, "one", "", "handshake with one", "succeeds"},
	}}
	for _, namespace := range []string{"v", "w", "x", "y", "z"} {
		result.Lines = append(result.Lines, finding{true, "four", namespace, istio.RootConfigMap, "is the root"})
	}
	head := "Root O=a, SHA-256 " + pemcerts.Fingerprint(a) + "\n"
	for name, test := range map[string]struct {
		wide, coloured bool
		want           string
	}{
		"for people": {false, false, head + `ok    one: istio-ca-root-cert in 2 namespaces (default, istio-system): is the root
fail  one: istio-ca-root-cert in namespace gone: is not there
fail  two: no answer
fail  three: istio-ca-root-cert: is in no namespace
ok    one: handshake with one: succeeds
ok    four: istio-ca-root-cert in 5 namespaces (v, w, x, y and 1 more): is the root
`},
		"wide": {true, true, head + "\x1b[32mok  \x1b[0m  one: istio-ca-root-cert in namespace default: is the root\n" +
			"\x1b[31mfail\x1b[0m  one: istio-ca-root-cert in namespace gone: is not there\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got bytes.Buffer
			out := terminal.NewWriter(&got)
			out.Coloured = test.coloured
			result.print(out, test.wide)
			if !strings.HasPrefix(got.String(), test.want) || !test.wide && got.String() != test.want {
				t.Errorf("got\n%s\nwant\n%s", &got, test.want)
			}
		})
	}
}

func TestFlagsAreChecked(t *testing.T) {
	t.Parallel()
	for want, arguments := range map[string][]string{
		`--service-account "default": expected NAMESPACE/NAME`:  {"--service-account=default"},
		`--service-account "/a": expected NAMESPACE/NAME`:       {"--service-account=/a"},
		`--istiod-address "host:1": expected CONTEXT=HOST:PORT`: {"--istiod-address=host:1", "--handshake"},
		`--istiod-address "a=host": expected CONTEXT=HOST:PORT`: {"--istiod-address=a=host", "--handshake"},
		"--istiod-address requires --handshake":                 {"--istiod-address=a=host:1"},
		"--traffic-image and --traffic-timeout require":         {"--traffic-image=example.com/x:1"},
		"--traffic-timeout: expected a positive duration":       {"--traffic", "--traffic-timeout=0s"},
		"--filename and --virtual-mesh require":                 {"-f=x"},
		`--output "xml": expected wide, json or yaml`:           {"-o=xml"},
		"--root: open /nothing/there":                           {"--root=/nothing/there", "--kubeconfig=/dev/null"},
		"[root vault] were all set":                             {"--root=x", "--vault"},
		"unknown command":                                       {"argument"},
		"unknown flag: --roots":                                 {"--roots"},
		"[filename virtual-mesh] were all set":                  {"-f=x", "--virtual-mesh=a/b", "--vault"},
		"the kubeconfig has no current context; name one":       {"--kubeconfig=/dev/null"},
		"--vault: no context could be read for the VirtualMesh": {"--vault", "--kubeconfig=/dev/null"},
	} {
		cmd := Command()
		cmd.SetArgs(arguments)
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		cmd.SetOut(&bytes.Buffer{})
		cmd.SetErr(&bytes.Buffer{})
		err := cmd.ExecuteContext(context.Background())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", arguments, err, want)
		}
		code, coded := errors.AsType[*exit.Error](err)
		if !coded || code.Code != 2 {
			t.Errorf("%q: the exit code is not 2", arguments)
		}
	}
}
