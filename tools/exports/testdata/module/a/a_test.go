// SPDX-License-Identifier: Apache-2.0

package a_test

import (
	"testing"

	"example.test/module/a"
)

func TestOnly(t *testing.T) {
	if a.OnlyTested != 1 {
		t.Fail()
	}
}
