// SPDX-License-Identifier: Apache-2.0

package vaultside

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Found is what there is in Vault, as far as it counts.
type Observed struct {
	// AuthType is the type of what is mounted where service accounts log in, empty when nothing is.
	AuthType string
	// Config and Role are what Vault answers there, nil when there is none.
	Config, Role map[string]any
	Mounts       map[string]ObservedMount
	// Policies by name, the wanted ones and those of the role; one that is not there is absent.
	Policies map[string]string
}

// FoundMount is a secrets engine; its Type is empty when there is none.
type ObservedMount struct {
	Type string
	// Longest is the longest that it signs for.
	MaxLease time.Duration
	// HasCA says that there is a CA to sign with.
	HasCA bool
}

// Kind of a difference.
type Kind int

// The kinds.
const (
	// Missing is not there at all.
	Missing Kind = iota
	// Differs is there, but not as is wanted.
	Differs
	// Yours is for a person to do: nothing here does it.
	Manual
)

// MarshalText names the kind.
func (k Kind) MarshalText() ([]byte, error) {
	return []byte([]string{"missing", "differs", "yours"}[k]), nil
}

// Difference is between what is in Vault and what is wanted.
type Difference struct {
	Kind Kind `json:"kind"`
	// What it is about, such as "policy istiod".
	What string `json:"what"`
	// Lines say it: removed ones begin with -, added ones with +.
	Lines []string `json:"lines"`
	// Done says what was done about it, in the past tense.
	Done string `json:"done,omitempty"`
	// NeedsForce is true where the change replaces something that this command did not make.
	NeedsForce bool `json:"needsForce,omitempty"`
	// Unused is true for a missing policy that the role, which is there, does not name.
	Unused bool `json:"-"`
	// change makes it so; nil for Yours.
	change *change
}

// change is one call of Vault's.
type change struct {
	do   action
	path string
	data map[string]any
}

type action int

const (
	enableAuth action = iota
	enablePKI
	tuneLease
	writePolicy
	writeData
)

// Differences compares, in the order in which changes are to be made.
func (w *Desired) Differences(observed *Observed) ([]Difference, error) {
	var all []Difference
	add := func(kind Kind, what string, lines []string, done string, change *change) {
		all = append(all, Difference{Kind: kind, What: what, Lines: lines, Done: done, change: change})
	}
	if w.Auth != nil {
		at := "auth/" + w.Auth.Mount
		switch observed.AuthType {
		case "kubernetes":
		case "":
			add(Missing, at, []string{"+ auth method of type kubernetes"}, "enabled the auth method", &change{do: enableAuth, path: w.Auth.Mount})
		default:
			return nil, fmt.Errorf("%s is of type %s; set kubernetesAuth.mountPath to one of type kubernetes, or to a free path", at, observed.AuthType)
		}
		if w.Auth.Configure {
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
		there := observed.Mounts[mount.Path]
		switch there.Type {
		case "pki":
		case "":
			add(Missing, mount.Path, []string{"+ secrets engine of type pki"}, "enabled the secrets engine", &change{do: enablePKI, path: mount.Path})
		default:
			return nil, fmt.Errorf("%s is of type %s; set caPath and csrPath to secrets engines of type pki, or to free paths", mount.Path, there.Type)
		}
		if !mount.Signs {
			continue
		}
		if there.MaxLease < mount.MaxLease {
			lines := []string{"+ max_lease_ttl " + hours(mount.MaxLease)}
			if there.Type != "" {
				lines = slices.Insert(lines, 0, "- max_lease_ttl "+hours(there.MaxLease))
			}
			add(Differs, mount.Path, lines, "raised max_lease_ttl to "+hours(mount.MaxLease), &change{do: tuneLease, path: mount.Path, data: map[string]any{"max_lease_ttl": hours(mount.MaxLease)}})
		}
		if !there.HasCA {
			add(Manual, mount.Path, append([]string{"it has no CA to sign with, and none is made here; give it yours:"}, RootAdvice(mount.Path)...), "", nil)
		}
	}
	for _, policy := range w.Policies {
		text, there := observed.Policies[policy.Name]
		if there && rules(text) == rules(policy.Text) {
			continue
		}
		kind := Differs
		if !there {
			kind = Missing
		}
		add(kind, "policy "+policy.Name, textDifference(text, policy.Text), "wrote the policy", &change{do: writePolicy, path: policy.Name, data: map[string]any{"policy": policy.Text}})
		last := &all[len(all)-1]
		last.NeedsForce = there && !policy.wrote(text)
		last.Unused = !there && observed.Role != nil && !slices.Contains(observed.rolePolicies(), policy.Name)
	}
	if w.Auth != nil {
		if difference := w.Auth.roleDifference(observed.Role); difference != nil {
			difference.NeedsForce = observed.Role != nil && !w.wroteRole(observed)
			all = append(all, *difference)
		}
	}
	return all, nil
}

// configDifference leaves a configuration that is there alone, unless another API server or CA is asked for: nobody but
// Vault can read which token it has.
func (a *Auth) configDifference(observed map[string]any) (*Difference, error) {
	what, reviewer := "auth/"+a.Mount+"/config", a.Reviewer
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
		return nil, nil //nolint:nilnil // there is no difference, and no mistake
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
			lines = append(lines, "- kubernetes_ca_cert, another")
		}
		lines = append(lines, "+ kubernetes_ca_cert of "+reviewer.CAFile)
	}
	if reviewer.Token != "" && (host == "" || known && !hasToken) {
		lines = append(lines, "+ token_reviewer_jwt of "+reviewer.TokenFile)
	}
	if len(lines) == 0 {
		return nil, nil //nolint:nilnil // there is no difference, and no mistake
	}
	if hasToken && reviewer.Token == "" {
		return nil, fmt.Errorf("%s holds a token_reviewer_jwt that writing it anew would lose; give it by --token-reviewer-jwt-file, or leave it all by --skip-auth-config", what)
	}
	// Vault replaces the whole: what is not asked about is written back.
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
		Kind: kind, What: what, Lines: lines, Done: "wrote how tokens are reviewed",
		NeedsForce: kind == Differs, change: &change{do: writeData, path: what, data: data},
	}, nil
}

// textDifference is by lines, with what stays the same around.
func textDifference(before, after string) []string {
	a, b := lines(before), lines(after)
	// The longest common subsequence; policies are short.
	common := make([][]int, len(a)+1)
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := range slices.Backward(a) {
		for j := range slices.Backward(b) {
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var out []string
	for i, j := 0, 0; i < len(a) || j < len(b); {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			out = append(out, "  "+a[i])
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			out = append(out, "- "+a[i])
			i++
		default:
			out = append(out, "+ "+b[j])
			j++
		}
	}
	return out
}

func lines(text string) []string {
	if text = strings.TrimRight(text, "\n"); text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}
