// SPDX-License-Identifier: Apache-2.0

package checkup

import (
	"context"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// grant is what a binding gives: rules, to subjects, in a namespace or, where that is empty, in all.
type grant struct {
	namespace string
	subjects  []rbacv1.Subject
	rules     []rbacv1.PolicyRule
}

// page is how many objects are read at a time.
const pageSize = 500

// readGrants reads what RBAC gives. Bindings of cluster-admin in the whole cluster are left out: its subjects decide
// about everything.
func readGrants(ctx context.Context, reader client.Reader) ([]grant, error) {
	rules := map[string][]rbacv1.PolicyRule{} // by namespace/name, without a namespace for ClusterRoles
	var grants []grant
	clusterRoles, roles, everywhere, within := &rbacv1.ClusterRoleList{}, &rbacv1.RoleList{}, &rbacv1.ClusterRoleBindingList{}, &rbacv1.RoleBindingList{}
	bind := func(namespace string, ref rbacv1.RoleRef, subjects []rbacv1.Subject) {
		key := "/" + ref.Name
		if ref.Kind == "Role" {
			key = namespace + key
		}
		if (namespace != "" || key != "/cluster-admin") && len(rules[key]) > 0 {
			grants = append(grants, grant{namespace, subjects, rules[key]})
		}
	}
	for _, each := range []struct {
		list client.ObjectList
		add  func()
	}{
		{clusterRoles, func() {
			for i := range clusterRoles.Items {
				rules["/"+clusterRoles.Items[i].Name] = relevant(clusterRoles.Items[i].Rules)
			}
		}},
		{roles, func() {
			for i := range roles.Items {
				rules[roles.Items[i].Namespace+"/"+roles.Items[i].Name] = relevant(roles.Items[i].Rules)
			}
		}},
		{everywhere, func() {
			for i := range everywhere.Items {
				bind("", everywhere.Items[i].RoleRef, everywhere.Items[i].Subjects)
			}
		}},
		{within, func() {
			for i := range within.Items {
				bind(within.Items[i].Namespace, within.Items[i].RoleRef, within.Items[i].Subjects)
			}
		}},
	} {
		for more := ""; ; {
			if err := reader.List(ctx, each.list, client.Limit(pageSize), client.Continue(more)); err != nil {
				return nil, err
			}
			each.add()
			if more = each.list.GetContinue(); more == "" {
				break
			}
		}
	}
	return grants, nil
}

// relevant drops the rules that give none of the rights of deciding.
func relevant(rules []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	return slices.DeleteFunc(slices.Clone(rules), func(rule rbacv1.PolicyRule) bool {
		return !slices.ContainsFunc(caRights, func(right right) bool { return right.of(rule) })
	})
}

// right is a way to decide about istiod's CA.
type right struct {
	action    string // in words, after "may"
	group     string
	resources []string
	verbs     []string
	// ofMeshes says that the namespaces are those whose VirtualMeshes are acted on, not istiods'.
	ofMeshNamespaces bool
}

var (
	writing = []string{"create", "update", "patch", "delete", "deletecollection"}
	// deciding are the rights that docs/security.md, "Who decides about the CA", names.
	caRights = []right{
		{"write VirtualMeshes", "networking.mesh.gloo.solo.io", []string{"virtualmeshes", "virtualmeshes/status"}, writing, true},
		{"write IssuedCertificates", "certificates.mesh.gloo.solo.io", []string{"issuedcertificates", "issuedcertificates/status"}, writing, false},
		{"write PodBounceDirectives", "certificates.mesh.gloo.solo.io", []string{"podbouncedirectives", "podbouncedirectives/status"}, writing, false},
		// The API server takes exec over WebSockets as get.
		{"run commands in istiod's Pods", "", []string{"pods/exec"}, []string{"create", "get"}, false},
		{"add containers to istiod's Pods", "", []string{"pods/ephemeralcontainers"}, []string{"update", "patch"}, false},
	}
)

// of reports whether a rule gives some of the right. One for objects of certain names counts.
func (r right) of(rule rbacv1.PolicyRule) bool {
	return has(rule.APIGroups, r.group) && slices.ContainsFunc(r.verbs, func(verb string) bool { return has(rule.Verbs, verb) }) &&
		slices.ContainsFunc(r.resources, func(resource string) bool {
			_, subresource, isSub := strings.Cut(resource, "/")
			return has(rule.Resources, resource) || isSub && slices.Contains(rule.Resources, "*/"+subresource)
		})
}

func has(values []string, value string) bool {
	return slices.Contains(values, value) || slices.Contains(values, "*")
}

// holders are the subjects that have a right in some of the namespaces, sorted.
func (r right) holders(grants []grant, namespaces []string, ours func(rbacv1.Subject) bool) []string {
	found := map[string]bool{}
	for _, grant := range grants {
		if grant.namespace != "" && !slices.Contains(namespaces, grant.namespace) || !slices.ContainsFunc(grant.rules, r.of) {
			continue
		}
		for _, subject := range grant.subjects {
			if !builtIn(subject) && !ours(subject) {
				found[subjectName(subject)] = true
			}
		}
	}
	names := make([]string, 0, len(found))
	for name := range found {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// builtIn is a subject of Kubernetes' own control plane, which has all rights in any case.
func builtIn(subject rbacv1.Subject) bool {
	switch subject.Kind {
	case rbacv1.GroupKind:
		return subject.Name == "system:masters"
	case rbacv1.UserKind:
		return strings.HasPrefix(subject.Name, "system:kube-")
	default:
		return subject.Namespace == metav1.NamespaceSystem && slices.Contains(controlPlane, subject.Name)
	}
}

// controlPlane are the service accounts of kube-controller-manager's controllers that may delete or restart anything
// (plugin/pkg/auth/authorizer/rbac/bootstrappolicy/controller_policy.go, Kubernetes 1.37).
var controlPlane = []string{"generic-garbage-collector", "namespace-controller", "resource-quota-controller", "pod-garbage-collector"}

func subjectName(subject rbacv1.Subject) string {
	const most = 80 // the names of users are of any length
	name := subject.Name
	if subject.Kind == rbacv1.ServiceAccountKind {
		name = subject.Namespace + "/" + name
	}
	if len(name) > most {
		name = strings.ToValidUTF8(name[:most], "") + "…"
	}
	return subject.Kind + " " + name
}

// mostNamed bounds the names in a line.
const mostNamed = 10

// listed joins names, the first of them.
func listed(names []string) string {
	if more := len(names) - mostNamed; more > 0 {
		return strings.Join(names[:mostNamed], ", ") + fmt.Sprintf(" and %d more", more)
	}
	return strings.Join(names, ", ")
}

// deciders names who else decides about istiod's CA, or takes it.
func (d *decision) deciders() {
	const what = "who decides about the CA"
	if err := d.facts.Grants.Err; err != nil {
		d.unknown(what, "listing Roles, ClusterRoles and their bindings", "list", "clusterrolebindings.rbac.authorization.k8s.io", err)
		return
	}
	var istiods []string
	accounts := map[string]bool{}
	for _, istiod := range d.facts.Istiods.Value {
		if d.labelled(istiod.Namespace) {
			istiods = append(istiods, istiod.Namespace)
			accounts[istiod.Namespace+"/"+istiod.ServiceAccount] = true
		}
	}
	for _, account := range d.facts.Controllers {
		accounts[account] = true
	}
	ours := func(subject rbacv1.Subject) bool {
		return subject.Kind == rbacv1.ServiceAccountKind && accounts[subject.Namespace+"/"+subject.Name]
	}
	others := false
	for _, right := range caRights {
		namespaces := istiods
		if right.ofMeshNamespaces {
			namespaces = d.facts.Configuration.Value.VirtualMesh.Namespaces
		}
		holders := right.holders(d.facts.Grants.Value, namespaces, ours)
		if len(holders) == 0 {
			continue
		}
		others = true
		d.add(Warn, what, fmt.Sprintf("beside cluster administrators and this project's own, %s may %s", listed(holders), right.action),
			`compare with docs/security.md, "Who decides about the CA", and take the right away where it is not meant`)
	}
	if !others {
		d.add(OK, what, "only cluster administrators and this project's own may write VirtualMeshes, IssuedCertificates and PodBounceDirectives, or enter istiod's Pods", "")
	}
}
