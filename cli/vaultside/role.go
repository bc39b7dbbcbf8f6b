// SPDX-License-Identifier: Apache-2.0

package vaultside

type roleField struct {
	name string
	// value is a []string or a time.Duration or a string.
	value any
}

func (f roleField) text() string { return format(f.value) }

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

func (a *Auth) roleDifference(observed map[string]any) *Difference {
	path := a.rolePath()
	difference := &Difference{Kind: Differs, What: path, Done: "wrote the role", change: &change{"write the data", path, map[string]any{}}}
	if observed == nil {
		difference.Kind = Missing
	}
	for _, field := range a.Role.fields() {
		difference.change.data[field.name] = field.text()
		value, exists := decode(field.value, observed[field.name])
		if exists && format(value) == field.text() {
			continue
		}
		if exists {
			difference.Lines = append(difference.Lines, "- "+field.name+" "+format(value))
		}
		difference.Lines = append(difference.Lines, "+ "+field.name+" "+field.text())
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
	if len(difference.Lines) == 0 {
		return nil
	}
	return difference
}
