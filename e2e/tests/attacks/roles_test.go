// SPDX-License-Identifier: Apache-2.0

package attacks

import (
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
)

// docs/security.md names the rights on the CA that Kubernetes' own roles grant.
func TestKubernetesRoles(t *testing.T) {
	var roles rbacv1.ClusterRoleList
	must(t, shared.List(t.Context(), &roles))
	var gives []string
	for _, role := range roles.Items {
		if role.Labels["rbac.authorization.k8s.io/aggregate-to-admin"]+role.Labels["rbac.authorization.k8s.io/aggregate-to-edit"] == "" {
			continue
		}
		for _, rule := range role.Rules {
			for _, group := range rule.APIGroups {
				if group == "*" || strings.HasSuffix(group, ".mesh.gloo.solo.io") {
					t.Errorf("%s gives rights on this project's kinds: %v", role.Name, rule)
				}
			}
			for _, resource := range []string{"pods/exec", "pods/ephemeralcontainers", "deployments", "pods"} {
				if slices.Contains(rule.Resources, resource) && (slices.Contains(rule.Verbs, "create") || slices.Contains(rule.Verbs, "patch")) && !slices.Contains(gives, resource) {
					gives = append(gives, resource)
				}
			}
		}
	}
	slices.Sort(gives)
	if want := []string{"deployments", "pods", "pods/exec"}; !slices.Equal(gives, want) {
		t.Errorf("they give %q, want %q", gives, want)
	}
}
