// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// notices are for parts of a module that have another licence than its file names.
var notices = map[string]struct {
	licence string // how its text begins; another module must bring it
	text    string
}{
	"golang.org/x/crypto/x509roots/fallback": {
		licence: "Mozilla Public License",
		text: "The root certificates in golang.org/x/crypto/x509roots/fallback are those of Mozilla's Network Security\n" +
			"Services (NSS), generated from its file lib/ckfw/builtins/certdata.txt. That file is available under the\n" +
			"Mozilla Public License, version 2.0, whose text is below.\n",
	},
}

const rule = "================================================================================\n"

// render returns the file: its purpose, the notices, then each text below the names of the files that have it.
func render(program string, modules []*module, texts []text) ([]byte, error) {
	var out bytes.Buffer
	fmt.Fprintf(&out, "Licences of %s, and of the software that it links.\n\n", program)
	out.WriteString("`go mod download MODULE@VERSION` downloads the source code of a module listed here.\n")
	for _, m := range modules {
		notice, special := notices[m.path]
		if !special {
			continue
		}
		if !slices.ContainsFunc(texts, func(t text) bool { return strings.HasPrefix(t.content, notice.licence) }) {
			return nil, fmt.Errorf("%s: %w: a part of it is under the %s, whose text no other module brings", m, errNoLicence, notice.licence)
		}
		out.WriteString("\n" + notice.text)
	}
	for _, t := range texts {
		out.WriteString("\n" + rule + strings.Join(t.sources, "\n") + "\n" + rule + "\n" + t.content)
	}
	return out.Bytes(), nil
}
