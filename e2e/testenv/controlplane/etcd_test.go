// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"bytes"
	"encoding/base64"
	"encoding/pem"
	"testing"

	"github.com/istiod-agent/istiod-agent/internal/testca"
)

// A key is found in each form, wherever it begins in what is encoded.
func TestForms(t *testing.T) {
	t.Parallel()
	key, other := testca.Root("a").KeyPEM(), testca.Root("b").KeyPEM()
	block, _ := pem.Decode(key)
	holds := func(content []byte) bool {
		for _, form := range forms(key) {
			if bytes.Contains(content, form) {
				return true
			}
		}
		return false
	}
	for _, content := range [][]byte{key, block.Bytes} {
		for before := range 4 {
			plain := append(bytes.Repeat([]byte("x"), before), content...)
			if encoded := []byte(base64.StdEncoding.EncodeToString(plain)); !holds(plain) || !holds(encoded) {
				t.Errorf("it is not found after %d bytes", before)
			}
		}
	}
	if holds(other) || holds([]byte(base64.StdEncoding.EncodeToString(other))) {
		t.Error("another key is taken for it")
	}
}
