// SPDX-License-Identifier: Apache-2.0

package vaultside

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// derivedPrefix sets names that are derived from others apart from names that people choose.
const derivedPrefix = "istiod-agent-"

var policyName = regexp.MustCompile(`^[a-z0-9_][a-z0-9_.-]*$`)

// builtInPolicies are Vault's own (vault/policy_store.go), which a policy of the same name would replace.
var builtInPolicies = []string{"root", "default", "response-wrapping", "control-group", "default-service-account"}

// validatePolicy checks a name, whether it was given or derived. Vault takes names in any case for the same.
func validatePolicy(name string) error {
	if !policyName.MatchString(name) || slices.Contains(builtInPolicies, name) {
		return fmt.Errorf("--policy %q: expected a name of lower-case letters, digits, ., - and _, and none of Vault's own (%s)", name, strings.Join(builtInPolicies, ", "))
	}
	return nil
}

// marker is the first line of a policy that this command makes. Roles of the Kubernetes auth method have no field for one:
// a role is known by its policies.
func marker(maker string) string {
	return "# Made by kubectl istiod-agent vault for " + maker + "\n"
}

// rules are a policy's text without the line by which this command recognizes its own.
func rules(text string) string {
	first, rest, _ := strings.Cut(text, "\n")
	if strings.HasPrefix(first+"\n", strings.TrimSuffix(marker(""), "\n")) {
		text = rest
	}
	return strings.TrimSpace(text)
}

// made says whether a policy's text is one that this command has made, for the same role.
func (p Policy) made(text string) bool {
	mark, _, _ := strings.Cut(p.Text, "\n")
	first, _, _ := strings.Cut(text, "\n")
	return first == mark
}

// madeRole says whether this command has made the role that is there: all that it gives is policies of this command's.
func (w *Wanted) madeRole(found *Found) bool {
	policies := found.rolePolicies()
	return len(policies) > 0 && !slices.ContainsFunc(policies, func(name string) bool { return !w.Policies[0].made(found.Policies[name]) })
}

// rolePolicies are the names of the policies of the role that is there.
func (f *Found) rolePolicies() []string {
	policies, _ := decoded([]string{}, f.Role["token_policies"])
	names, _ := policies.([]string)
	return names
}

// signingPolicy is docs/vault.md's.
func signingPolicy(path, organization string, hosts []string) string {
	quotedHosts := make([]string, len(hosts))
	for i, host := range hosts {
		quotedHosts[i] = quoted(host)
	}
	return `path ` + quoted(path) + ` {
  capabilities        = ["update"]
  required_parameters = ["csr", "uri_sans", "max_path_length", "exclude_cn_from_sans"]
  allowed_parameters = {
    "csr"                  = []
    "ttl"                  = []
    "format"               = ["pem"]
    "common_name"          = [` + quoted(organization) + `]
    "organization"         = [` + quoted(organization) + `]
    "uri_sans"             = [` + strings.Join(quotedHosts, ", ") + `]
    "max_path_length"      = ["0"]
    "exclude_cn_from_sans" = ["true"]
  }
}
`
}

// exportingPolicy is docs/vault.md's.
func exportingPolicy(generate, mount string) string {
	return `path ` + quoted(generate) + ` {
  capabilities = ["update"]
}
path ` + quoted(mount+"/key/*") + ` {
  capabilities = ["delete"]
}
`
}

// quoted is a string of a policy's language (HCL 1).
func quoted(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
}
