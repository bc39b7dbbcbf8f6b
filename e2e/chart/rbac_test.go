// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/istiod-agent/istiod-agent/e2e/helm"
)

// Rights are those of the configuration at hand and no more.
func TestRightsFollowTheConfiguration(t *testing.T) {
	everywhere := []string{
		"namespaces: list watch",
		"deployments.apps: list watch patch",
		"events.events.k8s.io: create patch",
	}
	pods := "pods: list watch"
	keepBundle := "mutatingwebhookconfigurations.admissionregistration.k8s.io istiod-agent: get list watch patch"
	readBundle := "mutatingwebhookconfigurations.admissionregistration.k8s.io istiod-agent: get"
	secret := []string{"secrets: create", "secrets istiod-agent-webhook-ca: list watch update"}
	lease := []string{"leases.coordination.k8s.io: create", "leases.coordination.k8s.io istiod-agent-webhook: get update", "events: create"}

	for name, test := range map[string]struct {
		values        helm.Values
		cluster, role []string
	}{
		"default":     {nil, with(everywhere, keepBundle), with(secret, lease...)},
		"pods":        {helm.Values{"injection": helm.Values{"target": "pods"}}, with(everywhere[:2], pods, everywhere[2], keepBundle), with(secret, lease...)},
		"certificate": {helm.Values{"servingCertificate": helm.Values{"source": "cert-manager"}}, with(everywhere, readBundle), lease},
		"no leader":   {helm.Values{"server": helm.Values{"leaderElection": false}}, with(everywhere, keepBundle), secret},
		"neither": {helm.Values{
			"server":             helm.Values{"leaderElection": false},
			"servingCertificate": helm.Values{"source": "secret", "secret": helm.Values{"name": "x"}},
		}, with(everywhere, readBundle), nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := render(t, standard, test.values)
			if diff := cmp.Diff(test.cluster, rules(typed[rbacv1.ClusterRole](t, r.one(t, "ClusterRole")).Rules)); diff != "" {
				t.Errorf("ClusterRole (-want +got):\n%s", diff)
			}
			if test.role == nil {
				if r.objects["Role istiod-agent-webhook"] != nil || r.objects["RoleBinding istiod-agent-webhook"] != nil {
					t.Error("there is a Role or RoleBinding without need")
				}
				return
			}
			if diff := cmp.Diff(test.role, rules(typed[rbacv1.Role](t, r.one(t, "Role")).Rules)); diff != "" {
				t.Errorf("Role (-want +got):\n%s", diff)
			}
		})
	}
}

func with(some []string, more ...string) []string {
	return append(append([]string{}, some...), more...)
}

// rules in one line each.
func rules(rules []rbacv1.PolicyRule) []string {
	var lines []string
	for _, rule := range rules {
		line := strings.TrimSuffix(strings.Join(rule.Resources, ",")+"."+strings.Join(rule.APIGroups, ","), ".")
		if len(rule.ResourceNames) > 0 {
			line += " " + strings.Join(rule.ResourceNames, ",")
		}
		lines = append(lines, fmt.Sprintf("%s: %s", line, strings.Join(rule.Verbs, " ")))
	}
	return lines
}

// A person who reviews the rights reads beside each what it is for; two rules
// for one purpose may share a comment.
func TestRightsAreExplained(t *testing.T) {
	renderExamples(t, func(t *testing.T, r rendered) {
		for document := range strings.SplitSeq(r.text, "\n---\n") {
			if !strings.Contains(document, "\nkind: Role\n") && !strings.Contains(document, "\nkind: ClusterRole\n") {
				continue
			}
			var role struct {
				Kind  string      `yaml:"kind"`
				Rules []yaml.Node `yaml:"rules"`
			}
			if err := yaml.Unmarshal([]byte(document), &role); err != nil || len(role.Rules) == 0 {
				t.Fatalf("%s: %v", role.Kind, err)
			}
			var explained string
			for _, rule := range role.Rules {
				resource := rule.Content[3].Content[0].Value
				if rule.HeadComment == "" && resource != explained {
					t.Errorf("%s: nothing says what the rule for %s is for", role.Kind, resource)
				}
				explained = resource
			}
		}
	})
}
