// SPDX-License-Identifier: Apache-2.0

package vaultside

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

type roleField struct {
	name string
	// value is a []string, a time.Duration, a string or a map[string]any.
	value any
	// file is the file with a value that is printed as its name.
	file string
}

func (f roleField) text() string { return format(f.value) }

// data is the value for Vault's API.
func (f roleField) data() any {
	if _, ok := f.value.(map[string]any); ok {
		return f.value
	}
	return f.text()
}

// line is the value in a difference.
func (f roleField) line(text string) string {
	if f.file != "" && text != "" {
		return "SHA-256 " + digest(text)
	}
	return text
}

// digest identifies a long text.
func digest(text string) string {
	sum := sha256.Sum256([]byte(strings.TrimSpace(text)))
	return hex.EncodeToString(sum[:8])
}

func (a *Auth) roleDifference(observed map[string]any) *Difference {
	path := a.rolePath()
	difference := &Difference{Kind: Differs, What: path, Done: "wrote the role", change: &change{"write the data", path, map[string]any{}}}
	if observed == nil {
		difference.Kind = Missing
	}
	for _, field := range a.fields() {
		difference.change.data[field.name] = field.data()
		value, exists := decode(field.value, observed[field.name])
		if exists && strings.TrimSpace(format(value)) == field.text() {
			continue
		}
		if exists {
			difference.Lines = append(difference.Lines, "- "+field.name+" "+field.line(format(value)))
		}
		difference.Lines = append(difference.Lines, "+ "+field.name+" "+field.line(field.text()))
	}
	if a.Method != kubernetesAuth {
		return difference.unlessEmpty()
	}
	// Without an audience, the agents' tokens are for the API server: a role with another audience refuses them.
	if audience, _ := observed["audience"].(string); audience != "" && a.Role.Audience == "" {
		difference.change.data["audience"] = ""
		difference.Lines = append(difference.Lines, "- audience "+audience)
	}
	// It binds further namespaces; every write resets it.
	if selector, _ := observed["bound_service_account_namespace_selector"].(string); selector != "" {
		difference.Lines = append(difference.Lines, "- bound_service_account_namespace_selector "+selector)
	}
	return difference.unlessEmpty()
}

// unlessEmpty returns nil for a difference without lines.
func (d *Difference) unlessEmpty() *Difference {
	if len(d.Lines) == 0 {
		return nil
	}
	return d
}
