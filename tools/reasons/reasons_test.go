// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const source = `package p

// Reasons of what happens.
//
//reasons:page vault
const (
	// Sealed: Vault is sealed, and it
	// stays so.
	//
	// Remedy: one of these:
	//
	//   - unseal it, with
	//     several keys
	//   - wait
	//
	//	vault operator unseal
	//	vault status
	Sealed Kind = "VaultSealed"
	// second: istiod waits.
	//
	// Remedy: none.
	second = "VaultAway"
)

// Other constants.
const other = "NoReason"
`

func TestRender(t *testing.T) {
	declared, err := parse("p.go", []byte(source))
	if err != nil {
		t.Fatal(err)
	}
	page, err := render(append(declared, declaration{key: "VaultAway", section: "condition"}))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"- [Refused by Vault](#refused-by-vault): [VaultAway](#vaultaway), [VaultSealed](#vaultsealed)\n",
		"\n### VaultSealed\n\nVault is sealed, and it stays so.\n\n**Remedy:** one of these:\n\n- unseal it, with several keys\n- wait\n\n```\nvault operator unseal\nvault status\n```\n",
		"\n### VaultAway\n\nistiod waits.\n\nAlso a reason of [Conditions of an IssuedCertificate](#conditions-of-an-issuedcertificate).\n\n**Remedy:** none.\n",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not contain %q:\n%s", want, page)
		}
	}
	if strings.Contains(page, "NoReason") {
		t.Error("the page contains a constant of a block without the directive")
	}
}

func TestRenderRefuses(t *testing.T) {
	const good = "meaning\n\nRemedy: none.\n"
	for name, declared := range map[string][]declaration{
		"an unknown section":        {{key: "Key", section: "other", doc: good}},
		"a key without a comment":   {{key: "Key", section: "vault"}},
		"a key with two comments":   {{key: "Key", section: "vault", doc: good}, {key: "Key", section: "condition", doc: good}},
		"a comment without remedy":  {{key: "Key", section: "vault", doc: "meaning\n"}},
		"a remedy inside of a line": {{key: "Key", section: "vault", doc: "meaning Remedy: none.\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := render(declared); err == nil {
				t.Error("no error")
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for name, value := range map[string]string{
		"a value that is no literal": `"Root" + stage`,
		"a number":                   `1`,
		"a repetition":               ``,
	} {
		t.Run(name, func(t *testing.T) {
			text := "package p\n\n//reasons:page vault\nconst (\n\ta = \"A\"\n\tb = " + value + "\n)\n"
			if value == "" {
				text = strings.Replace(text, "b = ", "b", 1)
			}
			if _, err := parse("p.go", []byte(text)); err == nil {
				t.Error("no error")
			}
		})
	}
}

// TestRead requires that the page is that of the code, and that the reasons of each section were found.
func TestRead(t *testing.T) {
	root := filepath.Join("..", "..")
	declared, err := read(root)
	if err != nil {
		t.Fatal(err)
	}
	page, err := render(declared)
	if err != nil {
		t.Fatal(err)
	}
	for _, section := range sections {
		if strings.Contains(page, "(#"+anchor(section.title)+"): \n") {
			t.Errorf("section %q is empty", section.title)
		}
	}
	committed, err := os.ReadFile(filepath.Join(root, "docs", "reasons.md"))
	if err != nil {
		t.Fatal(err)
	}
	if string(committed) != page {
		t.Error("docs/reasons.md is out of date: run make generate")
	}
}
