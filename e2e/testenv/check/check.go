// SPDX-License-Identifier: Apache-2.0

// Package check holds the assertions that all tests share.
package check

import "testing"

// Must fails the test at once when there is an error. It is for the steps of a test that are not its subject.
func Must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
