// SPDX-License-Identifier: Apache-2.0

package vaultside

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// derivedPrefix distinguishes derived names from names that people choose.
const derivedPrefix = "istiod-agent-"

var policyName = regexp.MustCompile(`^[a-z0-9_][a-z0-9_.-]*$`)

// builtInPolicies are Vault's own (vault/policy_store.go), which a policy of the same name would replace.
var builtInPolicies = []string{"root", "default", "response-wrapping", "control-group", "default-service-account"}

// validatePolicy validates a name. It must be in lower case: Vault ignores the case of policy names.
func validatePolicy(name string) error {
	if !policyName.MatchString(name) || slices.Contains(builtInPolicies, name) {
		return fmt.Errorf("--policy %q: expected a name of lower-case letters, digits, ., - and _, but not a built-in policy of Vault (%s)", name, strings.Join(builtInPolicies, ", "))
	}
	return nil
}

const markerStart = "# Made by kubectl istiod-agent vault for "

// marker returns the first line of each policy that this command writes. A role has no field for a comment: this command
// recognizes its roles by their policies.
func marker(owner string) string { return markerStart + owner + "\n" }

// rules returns a policy's text without the marker.
func rules(text string) string {
	if strings.HasPrefix(text, markerStart) {
		_, text, _ = strings.Cut(text, "\n")
	}
	return strings.TrimSpace(text)
}

// wrote reports whether this command wrote a policy's text, for the same role.
func (p Policy) wrote(text string) bool {
	mark, _, _ := strings.Cut(p.Text, "\n")
	first, _, _ := strings.Cut(text, "\n")
	return first == mark
}

// wroteRole reports whether this command wrote the existing role, that is all its policies.
func (w *Desired) wroteRole(observed *Observed) bool {
	policies := observed.rolePolicies()
	return len(policies) > 0 && !slices.ContainsFunc(policies, func(name string) bool { return !w.Policies[0].wrote(observed.Policies[name]) })
}

func (f *Observed) rolePolicies() []string {
	policies, _ := decode([]string{}, f.Role["token_policies"])
	names, _ := policies.([]string)
	return names
}

// signingPolicy is the policy of docs/vault.md.
func signingPolicy(path, organization string, hosts, uriDomains []string) string {
	quotedHosts := make([]string, len(hosts))
	for i, host := range hosts {
		quotedHosts[i] = quoted(host)
	}
	required, constraints := "", ""
	if len(uriDomains) > 0 { // as the agent sends them
		required = `, "permitted_uri_domains"`
		constraints = `
    "permitted_uri_domains" = [` + quoted(strings.Join(uriDomains, ",")) + `]`
	}
	return `path ` + quoted(path) + ` {
  capabilities        = ["update"]
  required_parameters = ["csr", "uri_sans", "max_path_length", "exclude_cn_from_sans"` + required + `]
  allowed_parameters = {
    "csr"                  = []
    "ttl"                  = []
    "format"               = ["pem"]
    "common_name"          = [` + quoted(organization) + `]
    "organization"         = [` + quoted(organization) + `]
    "uri_sans"             = [` + strings.Join(quotedHosts, ", ") + `]
    "max_path_length"      = ["0"]
    "exclude_cn_from_sans" = ["true"]` + constraints + `
  }
}
`
}

// exportingPolicy is the policy of docs/vault.md.
func exportingPolicy(generate, mount string) string {
	return `path ` + quoted(generate) + ` {
  capabilities = ["update"]
}
path ` + quoted(mount+"/key/*") + ` {
  capabilities = ["delete"]
}
`
}

// quoted returns a string of HCL 1, the language of policies.
func quoted(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
}
