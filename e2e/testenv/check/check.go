// SPDX-License-Identifier: Apache-2.0

// Package check holds the assertions that all tests share.
package check

import (
	"regexp"
	"strings"
	"testing"
)

// Must fails the test at once when there is an error. It is for the steps of a test that are not its subject.
func Must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var secret = regexp.MustCompile(`-----BEGIN|hvs\.|eyJ[A-Za-z0-9_-]{10}|[A-Za-z0-9+/=]{65,}`)

// NoSecrets expects no key, token or answer body in what a program wrote.
func NoSecrets(t *testing.T, output string) {
	t.Helper()
	for line := range strings.Lines(output) {
		line = strings.ReplaceAll(line, "accept-root=", "accept-root ") // a fingerprint
		if found := secret.FindString(line); found != "" {
			t.Errorf("this may be a secret, %.20q…, in: %.200s", found, line)
		}
	}
}
