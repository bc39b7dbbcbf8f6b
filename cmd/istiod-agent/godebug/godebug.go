// SPDX-License-Identifier: Apache-2.0

// Package godebug takes settings out of GODEBUG that could print secrets or weaken TLS: http2debug logs every header
// of a request, Vault's token among them.
//
// net/http and golang.org/x/net/http2 read GODEBUG while they are initialized. This package is initialized before them:
// the Go specification has packages initialized in the order of their import paths as soon as their own imports are,
// and this one imports none that imports them.
package godebug

import (
	"os"
	"regexp"
	"slices"
	"strings"
)

// allowed are the settings of GODEBUG that stay: none of them prints what is sent or accepts a weaker peer.
var allowed = []string{"fips140", "gctrace", "http2client", "madvdontneed", "netdns", "tlsmlkem"}

// simple values hold no other setting: http2debug is looked for anywhere in the variable.
var simple = regexp.MustCompile(`^[a-z0-9]*$`)

// Removed are the names of the settings that were taken out of GODEBUG.
var Removed = remove()

func remove() []string {
	kept, removed := filter(os.Getenv("GODEBUG"))
	switch {
	case len(removed) == 0:
	case kept == "":
		_ = os.Unsetenv("GODEBUG")
	default:
		_ = os.Setenv("GODEBUG", kept) // it cannot fail: the value was one before
	}
	return removed
}

// filter parts the settings that stay from the names of the others.
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
