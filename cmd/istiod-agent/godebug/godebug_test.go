// SPDX-License-Identifier: Apache-2.0

package godebug

import (
	"slices"
	"testing"
)

func TestFilter(t *testing.T) {
	for value, test := range map[string]struct {
		kept    string
		removed []string
	}{
		"":                                    {"", nil},
		"fips140=on":                          {"fips140=on", nil},
		"http2debug=2":                        {"", []string{"http2debug"}},
		"fips140=on,http2debug=1,netdns=go":   {"fips140=on,netdns=go", []string{"http2debug"}},
		" http2debug=1 ,rsa1024min=0":         {"", []string{"http2debug", "rsa1024min"}},
		"fips140=http2debug=2,x=fips140=only": {"", []string{"fips140", "x"}},
		"http2debug,,=":                       {"", []string{"http2debug"}},
	} {
		if kept, removed := filter(value); kept != test.kept || !slices.Equal(removed, test.removed) {
			t.Errorf("%q: kept %q, removed %q", value, kept, removed)
		}
	}
}
