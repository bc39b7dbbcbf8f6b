// SPDX-License-Identifier: Apache-2.0

package vaultside

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// field of a role.
type roleField struct {
	name string
	// value is a []string or a time.Duration or a string.
	value any
}

func (f roleField) text() string { return shown(f.value) }

func shown(value any) string {
	switch value := value.(type) {
	case []string:
		return strings.Join(value, ",")
	case time.Duration:
		return short(value)
	default:
		return fmt.Sprint(value)
	}
}

// short is 10m and not 10m0s.
func short(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

func (r *Role) fields() []roleField {
	fields := []roleField{
		{"bound_service_account_names", r.ServiceAccounts},
		{"bound_service_account_namespaces", r.Namespaces},
	}
	if r.Audience != "" {
		fields = append(fields, roleField{"audience", r.Audience})
	}
	return append(fields,
		roleField{"token_policies", r.Policies},
		roleField{"token_ttl", r.TokenTTL},
		roleField{"token_max_ttl", r.TokenTTL},
	)
}

func (a *Auth) roleDifference(found map[string]any) *Difference {
	what := a.rolePath()
	difference := &Difference{Kind: Differs, What: what, Done: "wrote the role", change: &change{do: writeData, path: what, data: map[string]any{}}}
	if found == nil {
		difference.Kind = Missing
	}
	for _, field := range a.Role.fields() {
		difference.change.data[field.name] = field.text()
		is, there := decoded(field.value, found[field.name])
		if there && shown(is) == shown(sortedValue(field.value)) {
			continue
		}
		if there {
			difference.Lines = append(difference.Lines, "- "+field.name+" "+shown(is))
		}
		difference.Lines = append(difference.Lines, "+ "+field.name+" "+field.text())
	}
	// The agents' tokens are for the API server: a role that asks for another audience refuses them.
	if audience, _ := found["audience"].(string); audience != "" && a.Role.Audience == "" {
		difference.change.data["audience"] = ""
		difference.Lines = append(difference.Lines, "- audience "+audience)
	}
	// Every writing resets it; it binds further namespaces.
	if selector, _ := found["bound_service_account_namespace_selector"].(string); selector != "" {
		difference.Lines = append(difference.Lines, "- bound_service_account_namespace_selector "+selector)
	}
	if len(difference.Lines) == 0 {
		return nil
	}
	return difference
}

func sortedValue(value any) any {
	if list, ok := value.([]string); ok {
		return sorted(list)
	}
	return value
}

// decoded reads a field of Vault's answer as a value of the wanted one's type.
func decoded(like, answer any) (any, bool) {
	switch like.(type) {
	case []string:
		values, ok := answer.([]any)
		if !ok {
			return nil, false
		}
		list := make([]string, len(values))
		for i, value := range values {
			list[i] = fmt.Sprint(value)
		}
		return sorted(list), true
	case time.Duration:
		seconds, ok := number(answer)
		return time.Duration(seconds) * time.Second, ok
	default:
		text, ok := answer.(string)
		return text, ok
	}
}

func number(answer any) (int64, bool) {
	switch answer := answer.(type) {
	case json.Number:
		n, err := answer.Int64()
		return n, err == nil
	case float64:
		return int64(answer), true
	case string:
		n, err := strconv.ParseInt(answer, 10, 64)
		return n, err == nil
	}
	return 0, false
}
