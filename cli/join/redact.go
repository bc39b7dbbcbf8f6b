// SPDX-License-Identifier: Apache-2.0

package join

import (
	"encoding/base64"
	"errors"
	"strings"

	"k8s.io/apimachinery/pkg/util/sets"
)

// quoted is the length from which a part of a token counts as quoted: 96 bits in base64.
const quoted = 16

// withoutToken replaces in an error what it quotes of a token, or of the token in base64, which the values of Secrets have. The
// API server that refuses a Secret and its webhooks may quote the Secret.
func withoutToken(err error, token string) error {
	text := err.Error()
	parts := sets.New[string]()
	for _, form := range forms(token) {
		for i := range len(form) - quoted + 1 {
			parts.Insert(form[i : i+quoted])
		}
	}
	var out strings.Builder
	kept := 0 // the bytes of text that are in out, or replaced
	for i := 0; i+quoted <= len(text); i++ {
		if !parts.Has(text[i : i+quoted]) {
			continue
		}
		if kept < i || i == 0 {
			out.WriteString(text[kept:i] + "[token]")
		}
		kept = i + quoted
	}
	if kept == 0 {
		return err
	}
	return errors.New(out.String() + text[kept:])
}

// forms returns a token as text, and what base64 makes of it at any place of a longer text.
func forms(token string) []string {
	all := []string{token}
	for _, before := range []string{"", "x", "xx"} {
		encoded := base64.RawStdEncoding.EncodeToString([]byte(before + token))
		// The characters at both ends also depend on what is next to the token.
		all = append(all, encoded[min(len(before)*2, len(encoded)):])
	}
	return all
}
