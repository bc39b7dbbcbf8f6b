// SPDX-License-Identifier: Apache-2.0

package checkup

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
)

func rule(group, resource, verb string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{resource}, Verbs: []string{verb}}
}

// Which rules give a right, and which only look like it.
func TestRightsThatDecide(t *testing.T) {
	t.Parallel()
	const networking, certificates = "networking.mesh.gloo.solo.io", "certificates.mesh.gloo.solo.io"
	for name, test := range map[string]struct {
		rule rbacv1.PolicyRule
		want string // the words of the rights, "" for none
	}{
		"everything":                      {rule("*", "*", "*"), "VirtualMeshes IssuedCertificates PodBounceDirectives commands containers Injections"},
		"deleting everything":             {rule("*", "*", "deletecollection"), "VirtualMeshes IssuedCertificates PodBounceDirectives Injections"},
		"creating VirtualMeshes":          {rule(networking, "virtualmeshes", "create"), "VirtualMeshes"},
		"reading VirtualMeshes":           {rule(networking, "virtualmeshes", "watch"), ""},
		"a status":                        {rule(certificates, "issuedcertificates/status", "patch"), "IssuedCertificates"},
		"the Injection":                   {rule("istiod-agent.io", "injections", "patch"), "Injections"},
		"every status":                    {rule("*", "*/status", "patch"), "VirtualMeshes IssuedCertificates PodBounceDirectives"},
		"all of a group":                  {rule(certificates, "*", "update"), "IssuedCertificates PodBounceDirectives"},
		"another group":                   {rule("apps", "virtualmeshes", "create"), ""},
		"exec":                            {rule("", "pods/exec", "create"), "commands"},
		"exec over WebSockets":            {rule("", "pods/exec", "get"), "commands"},
		"reading Pods":                    {rule("", "pods", "get"), ""},
		"ephemeral containers":            {rule("", "pods/ephemeralcontainers", "patch"), "containers"},
		"reading ephemeral containers":    {rule("", "pods/ephemeralcontainers", "get"), ""},
		"VirtualMeshes of one name alone": {rbacv1.PolicyRule{APIGroups: []string{networking}, Resources: []string{"virtualmeshes"}, Verbs: []string{"update"}, ResourceNames: []string{"a"}}, "VirtualMeshes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, right := range caRights {
				if right.grantedBy(test.rule) {
					got = append(got, strings.Fields(right.action)[1])
				}
			}
			if strings.Join(got, " ") != test.want {
				t.Errorf("it gives %q, want %q", got, test.want)
			}
		})
	}
}

// Subjects are found by every kind of binding, in the namespaces that count, and the cluster's own and ours are left out.
func TestDeciders(t *testing.T) {
	t.Parallel()
	account := func(namespace, name string) rbacv1.Subject {
		return rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: name}
	}
	user := func(name string) rbacv1.Subject { return rbacv1.Subject{Kind: rbacv1.UserKind, Name: name} }
	group := func(name string) rbacv1.Subject { return rbacv1.Subject{Kind: rbacv1.GroupKind, Name: name} }
	clusterRole := func(name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
		return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}
	}
	everywhere := func(role string, subjects ...rbacv1.Subject) *rbacv1.ClusterRoleBinding {
		return &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: role}, Subjects: subjects, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: role}}
	}
	within := func(namespace, kind, role string, subjects ...rbacv1.Subject) *rbacv1.RoleBinding {
		return &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: kind + "-" + role}, Subjects: subjects, RoleRef: rbacv1.RoleRef{Kind: kind, Name: role}}
	}
	// What the chart creates for an account of its values, with a verb on the status.
	agents := func(name, verb string) *rbacv1.Role {
		return &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: name}, Rules: []rbacv1.PolicyRule{
			rule("certificates.mesh.gloo.solo.io", "issuedcertificates", "get"), rule("certificates.mesh.gloo.solo.io", "issuedcertificates/status", verb),
		}}
	}
	ofChart := func(binding *rbacv1.RoleBinding) *rbacv1.RoleBinding {
		binding.Labels = map[string]string{partOf: partOfValue}
		return binding
	}
	meshes, exec := rule("networking.mesh.gloo.solo.io", "virtualmeshes", "create"), rule("", "pods/exec", "create")
	var many []rbacv1.Subject
	for i := range 22 {
		many = append(many, user(fmt.Sprintf("user-%02d", i)))
	}
	reader := fake.NewClientBuilder().WithObjects(
		clusterRole("cluster-admin", rule("*", "*", "*")), everywhere("cluster-admin", group("system:masters"), user("admin")),
		clusterRole("edit", exec), everywhere("edit", group("developers"), user("system:kube-controller-manager"), account("kube-system", "generic-garbage-collector")),
		clusterRole("trust", meshes), within("gloo-mesh", "ClusterRole", "trust", user("alice")), within("tenant", "ClusterRole", "trust", user("mallory")),
		within("gloo-mesh", "ClusterRole", "cluster-admin", user("bob")),
		&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "status"}, Rules: []rbacv1.PolicyRule{rule("certificates.mesh.gloo.solo.io", "issuedcertificates/status", "patch")}},
		within("istio-system", "Role", "status", account("istio-system", "istiod"), account("ci", "deployer"), account("istiod-agent-system", "istiod-agent-webhook")),
		clusterRole("restarts", rule("certificates.mesh.gloo.solo.io", "podbouncedirectives", "*")), everywhere("restarts", many...),
		clusterRole("view", rule("*", "*", "get")), everywhere("view", user("eve")), // which gives exec, over WebSockets
		everywhere("gone", user("nobody")),
		clusterRole("injections", rule("istiod-agent.io", "injections", "update")),
		within("istiod-agent-system", "ClusterRole", "injections", user("carol"), account("istiod-agent-system", "istiod-agent-webhook")),
		within("tenant", "ClusterRole", "injections", user("mallory")),
		agents("istiod-service-account", "patch"), agents("wider", "update"),
		ofChart(within("istio-system", "Role", "istiod-service-account", account("istio-system", "istiod-service-account"), account("istio-system", "other"), account("ci", "istiod-service-account"))),
		ofChart(within("istio-system", "Role", "wider", account("istio-system", "wider"))),
		&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "mine-unlabelled"}, Subjects: []rbacv1.Subject{account("istio-system", "unlabelled")}, RoleRef: rbacv1.RoleRef{Kind: "Role", Name: "istiod-service-account"}},
	).Build()
	grants, err := readGrants(t.Context(), reader)
	if err != nil {
		t.Fatal(err)
	}
	const beside = "warn besides cluster administrators and this project, "
	want := []string{
		beside + "User alice, User bob may write VirtualMeshes",
		beside + "ServiceAccount ci/deployer, ServiceAccount ci/istiod-service-account, ServiceAccount istio-system/other, ServiceAccount istio-system/unlabelled, ServiceAccount istio-system/wider may write IssuedCertificates",
		beside + "User user-00, User user-01, User user-02, User user-03, User user-04, User user-05, User user-06, User user-07, User user-08, User user-09 and 12 more may write PodBounceDirectives",
		beside + "Group developers, User eve may run commands in istiod's Pods",
	}
	for name, test := range map[string]struct {
		change func(*clusterFacts)
		want   []string
	}{
		"by the webhook": {func(*clusterFacts) {}, want},
		"by the policy":  {byPolicy(func(*clusterFacts) {}), append(slices.Clone(want), beside+"User carol may write Injections")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			facts := healthy(t)
			test.change(facts)
			facts.Grants.Value, facts.Controllers = grants, []string{"istiod-agent-system/istiod-agent-webhook"}
			d := &decision{facts: facts, kubectl: "kubectl"}
			d.deciders()
			var got []string
			for _, line := range d.lines {
				got = append(got, string(line.Status)+" "+line.Detail)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(test.want, "\n"))
			}
		})
	}
}
