// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
)

// These lines delimit the tables of docs/security.md.
const (
	rightsBegin = "<!-- Generated from the chart's Roles by `make golden`. -->\n"
	rightsEnd   = "<!-- End of the generated part. -->\n"
)

// installation is a configuration of the chart with rights of its own.
type installation struct {
	when   string // what the page calls it
	values helm.Values
}

// The first one is the default. Each other one differs from it in one value.
var installations = []installation{
	{"", nil},
	{"`restarts.enabled`", helm.Values{"restarts": helm.Values{"enabled": true}}},
	{"certificate source `secret` with `caBundle`", helm.Values{"servingCertificate": helm.Values{
		"source": "secret", "secret": helm.Values{"name": "x", "caBundle": "-----BEGIN CERTIFICATE-----\nx"},
	}}},
	{"certificate source `cert-manager`, or `secret` without `caBundle`", helm.Values{"servingCertificate": helm.Values{"source": "cert-manager"}}},
	{"without `server.leaderElection`", helm.Values{"server": helm.Values{"leaderElection": false}}},
	{byPolicy, helm.Values{"injection": helm.Values{"by": "policy"}}},
	{limited, namedNamespaces},
	{noWrites, helm.Values{"injection": helm.Values{"injectExisting": false}}},
	{"`istiodSidecar.namespaces`", helm.Values{"istiodSidecar": helm.Values{"namespaces": []any{"istio-system"}}}},
	{"`tokenSecret`", helm.Values{"istiodSidecar": helm.Values{"serviceAccounts": []any{
		helm.Values{"name": "istiod", "namespace": "istio-system", "tokenSecret": "vault-token"},
	}}}},
	{"`vaultSecrets`", helm.Values{"istiodSidecar": helm.Values{"serviceAccounts": []any{
		helm.Values{"name": "istiod", "namespace": "istio-system", "vaultSecrets": []any{"vault-login"}},
	}}}},
	{"`rootsConfigMap`", helm.Values{"istiodSidecar": helm.Values{"serviceAccounts": []any{
		helm.Values{"name": "istiod", "namespace": "istio-system", "rootsConfigMap": "mesh-roots"},
	}}}},
	{"`istiodSidecar.certManager`", helm.Values{"istiodSidecar": helm.Values{"certManager": true}}},
	{"`requestTokens`", helm.Values{"istiodSidecar": helm.Values{"serviceAccounts": []any{
		helm.Values{"name": "istiod", "namespace": "istio-system", "requestTokens": true},
	}}}},
}

const (
	byPolicy = "`injection.by: policy`"
	limited  = "`rbac.namespaces`"
	noWrites = "`injectExisting: false` with `rollout: manual`"
)

// namedNamespaces limit the rights to these namespaces.
var namedNamespaces = helm.Values{"rbac": helm.Values{"namespaces": []any{"istio-system"}}, "virtualMesh": helm.Values{"namespaces": []any{"gloo-mesh"}}}

// absences are the page's words for a right that the default grants and another installation does not.
var absences = map[string]string{
	"certificate source `cert-manager`, or `secret` without `caBundle`": "certificate source `self-managed`",
	"without `server.leaderElection`":                                   "`server.leaderElection`",
	byPolicy:                                                            "`injection.by: webhook`",
	limited:                                                             "without `rbac.namespaces`",
	noWrites:                                                            "`injectExisting`, or `rollout: automatic`",
}

// right is a rule of a Role, its purpose, and what happens without it.
type right struct{ scope, rule, why, without string }

// The page lists every right that the chart grants in any installation, with the purpose in the chart's comment.
func TestSecurityPage(t *testing.T) {
	file := filepath.Join(root(t), "docs", "security.md")
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(content), rightsBegin)
	_, after, foundEnd := strings.Cut(rest, rightsEnd)
	if !found || !foundEnd {
		t.Fatalf("%s: expected the lines %q and %q", file, rightsBegin, rightsEnd)
	}
	want := before + rightsBegin + rightsTables(t) + rightsEnd + after
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, string(content)); diff != "" {
		t.Errorf("docs/security.md differs from the chart's rights (-chart +page); if the chart is right: make golden\n%s", diff)
	}
}

func rightsTables(t *testing.T) string {
	t.Helper()
	var order []right
	given := map[right][]string{} // the installations that give it
	for _, each := range installations {
		for _, r := range rightsIn(t, each.values) {
			if given[r] == nil {
				order = append(order, r)
			}
			if !slices.Contains(given[r], each.when) {
				given[r] = append(given[r], each.when)
			}
		}
	}
	var text strings.Builder
	for _, scope := range []struct{ name, title string }{
		{"cluster", "In the whole cluster:"},
		{"named", "In the whole cluster, since any namespace may be labelled, or in each namespace of `rbac.namespaces`:"},
		{"meshes", "In the whole cluster, or with `rbac.namespaces` in each namespace of `virtualMesh.namespaces`:"},
		{standard.Namespace, "In the webhook's own namespace:"},
		{"istiods", "In each namespace of `istiodSidecar`, the webhook:"},
		{"agent", "In each namespace of `istiodSidecar`, the agent, as istiod's service account:"},
	} {
		fmt.Fprintf(&text, "\n%s\n\n| right | why | without it | when |\n|---|---|---|---|\n", scope.title)
		for _, r := range order {
			if r.scope == scope.name {
				fmt.Fprintf(&text, "| %s | %s | %s | %s |\n", r.rule, r.why, r.without, when(given[r]))
			}
		}
	}
	return text.String() + "\n"
}

// rightsIn are the rights of an installation. Those in the whole cluster that rbac.namespaces grants by Roles have the scope
// of these Roles.
func rightsIn(t *testing.T, values helm.Values) []right {
	t.Helper()
	byRoles := rightsOf(t, render(t, standard, merged(values, namedNamespaces)).text)
	all := rightsOf(t, render(t, standard, values).text)
	for i, r := range all {
		for _, scope := range []string{"named", "meshes"} {
			granted := r
			if granted.scope = scope; r.scope == "cluster" && slices.Contains(byRoles, granted) {
				all[i] = granted
			}
		}
	}
	return all
}

func merged(values, more helm.Values) helm.Values {
	all := maps.Clone(more)
	maps.Copy(all, values)
	return all
}

// when returns the page's words for the installations that grant a right.
func when(in []string) string {
	if slices.Contains(in, "") { // by default
		var all []string
		for _, each := range installations {
			if absence, ok := absences[each.when]; ok && !slices.Contains(in, each.when) {
				all = append(all, absence)
			}
		}
		if len(all) == 0 {
			return "always"
		}
		if slices.Contains(in, "certificate source `secret` with `caBundle`") && all[0] == "certificate source `self-managed`" {
			all[0] += ", or `secret` with `caBundle`"
		}
		return strings.Join(all, "; ")
	}
	return strings.Join(in, ", ")
}

// rightsOf reads the rules of all Roles, and their comments. Rules for one purpose share one.
func rightsOf(t *testing.T, text string) (all []right) {
	t.Helper()
	for document := range strings.SplitSeq(text, "\n---\n") {
		var role struct {
			Kind     string                           `yaml:"kind"`
			Metadata struct{ Name, Namespace string } `yaml:"metadata"`
			Rules    []yaml.Node                      `yaml:"rules"`
		}
		if err := yaml.Unmarshal([]byte(document), &role); err != nil {
			t.Fatal(err)
		}
		if role.Kind != "Role" && role.Kind != "ClusterRole" {
			continue
		}
		scope := role.Metadata.Namespace
		switch {
		case role.Kind == "ClusterRole":
			scope = "cluster"
		case role.Metadata.Name == "istiod-agent.controllers":
			scope = "named"
		case role.Metadata.Name == "istiod-agent.virtualmeshes":
			scope = "meshes"
		case role.Metadata.Name == "istiod-agent.webhook":
			scope = "istiods"
		case scope != standard.Namespace:
			scope = "agent"
		}
		why, without := "", ""
		for _, node := range role.Rules {
			var rule struct {
				APIGroups     []string `yaml:"apiGroups"`
				Resources     []string `yaml:"resources"`
				ResourceNames []string `yaml:"resourceNames"`
				Verbs         []string `yaml:"verbs"`
			}
			if err := node.Decode(&rule); err != nil {
				t.Fatal(err)
			}
			if node.HeadComment != "" {
				why, without = reason(node.HeadComment)
			}
			line := strings.Join(rule.Resources, ", ")
			if group := rule.APIGroups[0]; group != "" {
				line = group + ": " + line
			}
			if len(rule.ResourceNames) > 0 {
				line += " `" + strings.Join(rule.ResourceNames, "`, `") + "`"
			}
			all = append(all, right{scope, line + ": " + strings.Join(rule.Verbs, ", "), why, without})
		}
	}
	return all
}

// reason returns the purpose in a comment, and what happens without the right, as cells of a table.
func reason(comment string) (why, without string) {
	var words []string
	for line := range strings.Lines(comment) {
		words = append(words, strings.Fields(strings.TrimPrefix(line, "#"))...)
	}
	why, without, _ = strings.Cut(strings.Join(words, " "), " Without ")
	without = strings.TrimPrefix("Without "+without, "Without it, ")
	why = strings.TrimSuffix(why, ".")
	return strings.ToLower(why[:1]) + why[1:], strings.TrimSuffix(strings.ToLower(without[:1])+without[1:], ".")
}
