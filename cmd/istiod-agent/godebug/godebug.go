// SPDX-License-Identifier: Apache-2.0

// Package godebug removes settings from GODEBUG that could print secrets or weaken TLS: http2debug logs every header of a
// request, including Vault's token.
//
// net/http and golang.org/x/net/http2 read GODEBUG in their initialization. This package comes first: Go initializes packages in
// the order of their import paths as soon as their imports are initialized, and this one imports none of theirs.
package godebug

import (
	"os"
	"regexp"
	"slices"
	"strings"
)

// allowed are the settings that stay: none prints traffic or accepts a weaker peer.
var allowed = []string{"fips140", "gctrace", "http2client", "madvdontneed", "netdns", "tlsmlkem"}

// simple values contain no other setting: net/http finds http2debug anywhere in the variable.
var simple = regexp.MustCompile(`^[a-z0-9]*$`)

// Removed are the names of the removed settings.
var Removed = remove()

func remove() []string {
	kept, removed := filter(os.Getenv("GODEBUG"))
	switch {
	case len(removed) == 0:
	case kept == "":
		_ = os.Unsetenv("GODEBUG")
	default:
		_ = os.Setenv("GODEBUG", kept) // it cannot fail: the value is a part of the old one
	}
	return removed
}

// filter returns the settings that stay and the names of the others.
func filter(value string) (kept string, removed []string) {
	var all []string
	for setting := range strings.SplitSeq(value, ",") {
		setting = strings.TrimSpace(setting)
		name, value, _ := strings.Cut(setting, "=")
		switch {
		case name == "":
		case slices.Contains(allowed, name) && simple.MatchString(value):
			all = append(all, setting)
		default:
			removed = append(removed, name)
		}
	}
	return strings.Join(all, ","), removed
}
