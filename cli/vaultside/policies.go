// SPDX-License-Identifier: Apache-2.0

package vaultside

import (
	"slices"
	"strings"
)

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
