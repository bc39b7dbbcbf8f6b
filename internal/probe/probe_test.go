// SPDX-License-Identifier: Apache-2.0

package probe_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/istiod-agent/istiod-agent/internal/probe"
)

func TestEncode(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x509: <unknown> authority\n", 100)
	for name, test := range map[string]struct {
		endpoints int
		detailed  bool
		err       string
	}{
		"one":                    {1, true, ""},
		"a few":                  {10, true, ""},
		"of a hundred clusters":  {2 * 99, false, ""},
		"the most":               {probe.MaxEndpoints, false, ""},
		"more than a Pod can do": {probe.MaxEndpoints + 1, false, "201 results; expected at most 200"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			results := slices.Repeat([]probe.Result{{Outcome: probe.BadCertificate, Detail: long}}, test.endpoints)
			text, err := probe.Encode(results)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil || len(text) > 4096 {
				t.Fatalf("%d bytes, %v", len(text), err)
			}
			decoded, err := probe.Decode(string(text), test.endpoints)
			if err != nil {
				t.Fatal(err)
			}
			for _, result := range decoded {
				if result.Outcome != probe.BadCertificate || strings.HasPrefix(result.Detail, "x509: <unknown> authority ") != test.detailed {
					t.Errorf("got %+v", result)
				}
			}
		})
	}
}

func TestDecode(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ message, want, err string }{
		"both":               {message: `[{"o":"reached"},{"o":"bad-cert","d":"x"}]`, want: "reached , bad-cert x"},
		"an escape":          {message: `[{"o":"reached"},{"o":"failed","d":"a\u001b[2Jb\nc"}]`, want: "reached , failed a [2Jb c"},
		"nothing":            {message: "", err: "without a result"},
		"no JSON":            {message: "panic: \x1b[31mno", err: "not of this program: panic:  [31mno"},
		"too long":           {message: strings.Repeat("a", 5000), err: "5000 bytes; expected at most 4096"},
		"too few":            {message: `[{"o":"reached"}]`, err: "1 outcomes; expected 2"},
		"too many":           {message: `[{"o":"reached"},{"o":"reached"},{"o":"reached"}]`, err: "3 outcomes; expected 2"},
		"another outcome":    {message: `[{"o":"reached"},{"o":"gr\u001beat"}]`, err: "unknown outcome: gr eat"},
		"no outcome":         {message: `[{"o":"reached"},{}]`, err: "unknown outcome"},
		"another field":      {message: `[{"o":"reached","x":1},{"o":"reached"}]`, err: "not of this program"},
		"a second document":  {message: `[{"o":"reached"},{"o":"reached"}] []`, err: "there is more after it"},
		"null in its place":  {message: `null`, err: "0 outcomes; expected 2"},
		"a client's results": {message: `[{"t":"0","o":"calls"},{"t":"1","o":"calls"}]`, err: "not of this program"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			results, err := probe.Decode(test.message, 2)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("got %v, want %s", err, test.err)
				}
				return
			}
			var got []string
			for _, result := range results {
				got = append(got, string(result.Outcome)+" "+result.Detail)
			}
			if err != nil || strings.Join(got, ", ") != test.want {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

// Any message of a Pod gives one printable line for each endpoint, or an error of bounded length.
func FuzzDecode(f *testing.F) {
	f.Add(`[{"o":"reached"}]`)
	f.Add(`[{"o":"failed","d":"\u001b]8;;x\u0007"}]`)
	f.Fuzz(func(t *testing.T, message string) {
		results, err := probe.Decode(message, 1)
		if err != nil {
			if len(err.Error()) > 1024 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		if len(results) != 1 || slices.ContainsFunc([]rune(results[0].Detail), func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("got %+v", results)
		}
	})
}

func TestIsBarred(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"10.1.2.3": false, "192.0.2.1": false, "fd00::1": false, "2001:db8::1": false, "::ffff:10.1.2.3": false,
		"127.0.0.1": true, "::1": true, "::ffff:127.0.0.1": true, "0.0.0.0": true, "::": true,
		"169.254.169.254": true, "::ffff:169.254.169.254": true, "fe80::1": true, "224.0.0.1": true, "ff02::1": true,
	} {
		if got := probe.IsBarred(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: got %v", text, got)
		}
	}
	if !probe.IsBarred(netip.Addr{}) {
		t.Error("no address is not barred")
	}
}
