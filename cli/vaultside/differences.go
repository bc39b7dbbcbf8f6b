// SPDX-License-Identifier: Apache-2.0

package vaultside

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pmezard/go-difflib/difflib"
)

// Observed is the present configuration of Vault.
type Observed struct {
	// AuthType is the type of the auth method at the path of the login; empty without one.
	AuthType string
	// Config and Role are the method's configuration and role as Vault returns them; nil without one.
	Config, Role map[string]any
	Mounts       map[string]ObservedMount
	// Policies are the existing policies by name: the desired policies, and those of the role.
	Policies map[string]string
}

// ObservedMount is a secrets engine; its Type is empty without one.
type ObservedMount struct {
	Type string
	// MaxLease limits the lifetime of signed certificates.
	MaxLease time.Duration
	// HasCA is true where the engine has a CA to sign with.
	HasCA bool
}

// Kind of a difference.
type Kind int

// The kinds.
const (
	// Missing: does not exist.
	Missing Kind = iota
	// Differs: exists, but not as desired.
	Differs
	// Manual: a person must make the change.
	Manual
)

// MarshalText returns the name of the kind.
func (k Kind) MarshalText() ([]byte, error) {
	return []byte([]string{"missing", "differs", "yours"}[k]), nil
}

// Difference is a difference between the observed and the desired configuration.
type Difference struct {
	Kind Kind `json:"kind"`
	// What is the subject, such as "policy istiod".
	What string `json:"what"`
	// Lines describe the difference: removed lines begin with -, added lines with +.
	Lines []string `json:"lines"`
	// Done describes the change that was made, in the past tense.
	Done string `json:"done,omitempty"`
	// NeedsForce is true where the change replaces something that this command did not make.
	NeedsForce bool `json:"needsForce,omitempty"`
	// Unused is true for a missing policy that the existing role does not name.
	Unused bool `json:"-"`
	// change removes the difference; nil for Manual.
	change *change
}

// change is one write to Vault.
type change struct {
	call string // as text
	path string
	data map[string]any
}

// Differences compares the observed with the desired configuration, in the order of the changes.
func (w *Desired) Differences(observed *Observed) ([]Difference, error) {
	var all []Difference
	add := func(kind Kind, subject string, lines []string, done string, change *change) {
		all = append(all, Difference{Kind: kind, What: subject, Lines: lines, Done: done, change: change})
	}
	if w.Auth != nil {
		path := "auth/" + w.Auth.Mount
		switch observed.AuthType {
		case w.Auth.Method:
		case "":
			add(Missing, path, []string{"+ auth method of type " + w.Auth.Method}, "enabled the auth method", &change{"enable the auth method", "sys/auth/" + w.Auth.Mount, map[string]any{"type": w.Auth.Method}})
		default:
			return nil, fmt.Errorf("%s is of type %s; set the mountPath of the login to one of type %s, or to a free path", path, observed.AuthType, w.Auth.Method)
		}
		if w.Auth.Configure && w.Auth.Method == jwtAuth {
			if difference := w.Auth.keysDifference(observed.Config); difference != nil {
				all = append(all, *difference)
			}
		}
		if w.Auth.Configure && w.Auth.Method == kubernetesAuth {
			difference, err := w.Auth.configDifference(observed.Config)
			if err != nil {
				return nil, err
			}
			if difference != nil {
				all = append(all, *difference)
			}
		}
	}
	for _, mount := range w.Mounts {
		existing := observed.Mounts[mount.Path]
		switch existing.Type {
		case "pki":
		case "":
			add(Missing, mount.Path, []string{"+ secrets engine of type pki"}, "enabled the secrets engine", &change{"enable the secrets engine", "sys/mounts/" + mount.Path, map[string]any{"type": "pki"}})
		default:
			return nil, fmt.Errorf("%s is of type %s; set caPath and csrPath to secrets engines of type pki, or to free paths", mount.Path, existing.Type)
		}
		if !mount.Signs {
			continue
		}
		if existing.MaxLease < mount.MaxLease {
			lease := formatDuration(mount.MaxLease)
			lines := []string{"+ max_lease_ttl " + lease}
			if existing.Type != "" {
				lines = slices.Insert(lines, 0, "- max_lease_ttl "+formatDuration(existing.MaxLease))
			}
			add(Differs, mount.Path, lines, "raised max_lease_ttl to "+lease, &change{"raise the longest lease", "sys/mounts/" + mount.Path + "/tune", map[string]any{"max_lease_ttl": lease}})
		}
		if !existing.HasCA {
			add(Manual, mount.Path, append([]string{"it has no CA to sign with, and this command creates none; provide yours:"}, rootAdvice(mount.Path)...), "", nil)
		}
	}
	for _, policy := range w.Policies {
		text, exists := observed.Policies[policy.Name]
		if exists && rules(text) == rules(policy.Text) {
			continue
		}
		kind := Differs
		if !exists {
			kind = Missing
		}
		add(kind, "policy "+policy.Name, diffLines(text, policy.Text), "wrote the policy", &change{"write the policy", "sys/policies/acl/" + policy.Name, map[string]any{"policy": policy.Text}})
		last := &all[len(all)-1]
		last.NeedsForce = exists && !policy.wrote(text)
		last.Unused = !exists && observed.Role != nil && !slices.Contains(observed.rolePolicies(), policy.Name)
	}
	if w.Auth != nil {
		if difference := w.Auth.roleDifference(observed.Role); difference != nil {
			difference.NeedsForce = observed.Role != nil && !w.wroteRole(observed)
			all = append(all, *difference)
		}
	}
	return all, nil
}

// configDifference keeps an existing configuration unless flags set another API server or CA: its token cannot be read from
// Vault.
func (a *Auth) configDifference(observed map[string]any) (*Difference, error) {
	path, reviewer := "auth/"+a.Mount+"/config", a.Reviewer
	data := map[string]any{"kubernetes_host": reviewer.host()}
	lines := []string{"+ kubernetes_host " + reviewer.host()}
	host, _ := observed["kubernetes_host"].(string)
	ca, _ := observed["kubernetes_ca_cert"].(string)
	hasToken, known := observed["token_reviewer_jwt_set"].(bool)
	kind := Differs
	switch {
	case host == "":
		kind = Missing
	case reviewer.isDefault():
		return nil, nil //nolint:nilnil // no difference
	default:
		lines = nil
		if reviewer.Host != "" && host != reviewer.Host {
			lines = append(lines, "- kubernetes_host "+host, "+ kubernetes_host "+reviewer.Host)
		} else {
			data["kubernetes_host"] = host
		}
	}
	if reviewer.CA != "" && strings.TrimSpace(ca) != strings.TrimSpace(reviewer.CA) {
		if ca != "" {
			lines = append(lines, "- kubernetes_ca_cert, another certificate")
		}
		lines = append(lines, "+ kubernetes_ca_cert of "+reviewer.CAFile)
	}
	if reviewer.Token != "" && (host == "" || known && !hasToken) {
		lines = append(lines, "+ token_reviewer_jwt of "+reviewer.TokenFile)
	}
	if len(lines) == 0 {
		return nil, nil //nolint:nilnil // no difference
	}
	if hasToken && reviewer.Token == "" {
		return nil, fmt.Errorf("%s holds a token_reviewer_jwt that writing it anew would lose; provide it by --token-reviewer-jwt-file, or keep the configuration by --skip-auth-config", path)
	}
	// Vault replaces the whole configuration: write the other fields back.
	for _, field := range []string{"pem_keys", "issuer", "disable_iss_validation", "disable_local_ca_jwt", "use_annotations_as_alias_metadata"} {
		if value, ok := observed[field]; ok {
			data[field] = value
		}
	}
	if ca = cmp.Or(reviewer.CA, ca); ca != "" {
		data["kubernetes_ca_cert"] = ca
	}
	if reviewer.Token != "" {
		data["token_reviewer_jwt"] = reviewer.Token
	}
	return &Difference{
		Kind: kind, What: path, Lines: lines, Done: "wrote the configuration of token reviews",
		NeedsForce: kind == Differs, change: &change{"write the data", path, data},
	}, nil
}

func diffLines(before, after string) []string {
	a, b := lines(before), lines(after)
	var out []string
	add := func(prefix string, lines []string) {
		for _, line := range lines {
			out = append(out, prefix+line)
		}
	}
	for _, op := range difflib.NewMatcher(a, b).GetOpCodes() {
		if op.Tag == 'e' { // equal
			add("  ", a[op.I1:op.I2])
			continue
		}
		add("- ", a[op.I1:op.I2])
		add("+ ", b[op.J1:op.J2])
	}
	return out
}

func lines(text string) []string {
	if text = strings.TrimRight(text, "\n"); text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}
