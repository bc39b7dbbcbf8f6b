// SPDX-License-Identifier: Apache-2.0

package vaultside

// roleField is a field of a role.
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
	what := a.rolePath()
	difference := &Difference{Kind: Differs, What: what, Done: "wrote the role", change: &change{do: writeData, path: what, data: map[string]any{}}}
	if observed == nil {
		difference.Kind = Missing
	}
	for _, field := range a.Role.fields() {
		difference.change.data[field.name] = field.text()
		is, there := decode(field.value, observed[field.name])
		if there && format(is) == format(sortedList(field.value)) {
			continue
		}
		if there {
			difference.Lines = append(difference.Lines, "- "+field.name+" "+format(is))
		}
		difference.Lines = append(difference.Lines, "+ "+field.name+" "+field.text())
	}
	// The agents' tokens are for the API server: a role that asks for another audience refuses them.
	if audience, _ := observed["audience"].(string); audience != "" && a.Role.Audience == "" {
		difference.change.data["audience"] = ""
		difference.Lines = append(difference.Lines, "- audience "+audience)
	}
	// Every writing resets it; it binds further namespaces.
	if selector, _ := observed["bound_service_account_namespace_selector"].(string); selector != "" {
		difference.Lines = append(difference.Lines, "- bound_service_account_namespace_selector "+selector)
	}
	if len(difference.Lines) == 0 {
		return nil
	}
	return difference
}
