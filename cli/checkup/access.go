// SPDX-License-Identifier: Apache-2.0

package checkup

import (
	"context"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/controller-runtime/pkg/client"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/cli/terminal"
	"github.com/istiod-agent/istiod-agent/policy"
)

// grant is a binding: rules for subjects, in one namespace or, if that is empty, in all.
type grant struct {
	namespace string
	subjects  []rbacv1.Subject
	rules     []rbacv1.PolicyRule
	// agents is the name of a RoleBinding of the chart that grants the agent's rights alone.
	agents string
}

// toAgent reports whether the grant gives a subject the agent's rights by the chart's values, whether or not its istiod exists.
// Nothing else that the subject may do is excused.
func (g *grant) toAgent(subject rbacv1.Subject) bool {
	return g.agents != "" && subject.Kind == rbacv1.ServiceAccountKind && subject.Namespace == g.namespace && strings.HasSuffix(g.agents, "-"+subject.Name)
}

// reportsOnly reports whether rules grant, of caRights, what the chart's Role of the agent does: patching the status.
func reportsOnly(rules []rbacv1.PolicyRule) bool {
	return !slices.ContainsFunc(rules, func(rule rbacv1.PolicyRule) bool {
		return !slices.Equal(rule.APIGroups, []string{certificatesv1.GroupVersion.Group}) ||
			!slices.Equal(rule.Resources, []string{"issuedcertificates/status"}) || !slices.Equal(rule.Verbs, []string{"patch"})
	})
}

const pageSize = 500

// readGrants reads the grants of caRights. It skips cluster-wide bindings of cluster-admin, whose subjects may do everything.
func readGrants(ctx context.Context, reader client.Reader) ([]grant, error) {
	rules := map[string][]rbacv1.PolicyRule{} // by namespace/name, without a namespace for ClusterRoles
	var grants []grant
	bind := func(binding *metav1.ObjectMeta, ref rbacv1.RoleRef, subjects []rbacv1.Subject) {
		namespace := binding.Namespace
		key := "/" + ref.Name
		if ref.Kind == "Role" {
			key = namespace + key
		}
		if (namespace != "" || key != "/cluster-admin") && len(rules[key]) > 0 {
			given := grant{namespace: namespace, subjects: subjects, rules: rules[key]}
			if ref.Kind == "Role" && ofChart(binding.Labels) && reportsOnly(given.rules) {
				given.agents = binding.Name
			}
			grants = append(grants, given)
		}
	}
	add := func(object runtime.Object) error {
		switch object := object.(type) {
		case *rbacv1.ClusterRole:
			rules["/"+object.Name] = relevant(object.Rules)
		case *rbacv1.Role:
			rules[object.Namespace+"/"+object.Name] = relevant(object.Rules)
		case *rbacv1.ClusterRoleBinding:
			bind(&object.ObjectMeta, object.RoleRef, object.Subjects)
		case *rbacv1.RoleBinding:
			bind(&object.ObjectMeta, object.RoleRef, object.Subjects)
		}
		return nil
	}
	for _, list := range []client.ObjectList{&rbacv1.ClusterRoleList{}, &rbacv1.RoleList{}, &rbacv1.ClusterRoleBindingList{}, &rbacv1.RoleBindingList{}} {
		for more := ""; ; {
			if err := reader.List(ctx, list, client.Limit(pageSize), client.Continue(more)); err != nil {
				return nil, err
			}
			if err := meta.EachListItem(list, add); err != nil {
				return nil, err
			}
			if more = list.GetContinue(); more == "" {
				break
			}
		}
	}
	return grants, nil
}

// relevant returns the rules that grant some of caRights, or approving.
func relevant(rules []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	return slices.DeleteFunc(slices.Clone(rules), func(rule rbacv1.PolicyRule) bool {
		return !approving.grantedBy(rule) && !slices.ContainsFunc(caRights, func(right right) bool { return right.grantedBy(rule) })
	})
}

// right is a permission to change or take istiod's CA.
type right struct {
	action    string // as text, after "may"
	group     string
	resources []string
	verbs     []string
	// in are the namespaces that count.
	in scope
}

type scope int

const (
	istiodNamespaces scope = iota
	// meshNamespaces are those whose VirtualMeshes count.
	meshNamespaces
	// injectionNamespace is that of the policy's parameter, if the policy injects.
	injectionNamespace
)

var (
	writing = []string{"create", "update", "patch", "delete", "deletecollection"}
	// caRights are the rights of docs/security.md, "Who decides about the CA".
	caRights = []right{
		{"write VirtualMeshes", "networking.mesh.gloo.solo.io", []string{"virtualmeshes", "virtualmeshes/status"}, writing, meshNamespaces},
		{"write IssuedCertificates", "certificates.mesh.gloo.solo.io", []string{"issuedcertificates", "issuedcertificates/status"}, writing, istiodNamespaces},
		{"write PodBounceDirectives", "certificates.mesh.gloo.solo.io", []string{"podbouncedirectives", "podbouncedirectives/status"}, writing, istiodNamespaces},
		// exec over WebSockets needs get.
		{"run commands in istiod's Pods", "", []string{"pods/exec"}, []string{"create", "get"}, istiodNamespaces},
		{"add containers to istiod's Pods", "", []string{"pods/ephemeralcontainers"}, []string{"update", "patch"}, istiodNamespaces},
		{"write Injections", policy.InjectionKind.Group, []string{"injections"}, writing, injectionNamespace},
	}
)

// grantedBy reports whether a rule grants some of the right; also for certain object names only.
func (r right) grantedBy(rule rbacv1.PolicyRule) bool {
	return has(rule.APIGroups, r.group) && slices.ContainsFunc(r.verbs, func(verb string) bool { return has(rule.Verbs, verb) }) &&
		slices.ContainsFunc(r.resources, func(resource string) bool {
			_, subresource, isSub := strings.Cut(resource, "/")
			return has(rule.Resources, resource) || isSub && slices.Contains(rule.Resources, "*/"+subresource)
		})
}

func has(values []string, value string) bool {
	return slices.Contains(values, value) || slices.Contains(values, "*")
}

// holders returns the subjects that have the right in some of the namespaces, sorted.
func (r right) holders(grants []grant, namespaces []string, ours func(rbacv1.Subject) bool) []string {
	found := sets.New[string]()
	for _, grant := range grants {
		if grant.namespace != "" && !slices.Contains(namespaces, grant.namespace) || !slices.ContainsFunc(grant.rules, r.grantedBy) {
			continue
		}
		for _, subject := range grant.subjects {
			if !builtIn(subject) && !ours(subject) && !grant.toAgent(subject) {
				found.Insert(subjectName(subject))
			}
		}
	}
	return sets.List(found)
}

// builtIn reports whether a subject belongs to Kubernetes' control plane, which has all rights anyway.
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

// controlPlane are service accounts of kube-controller-manager whose controllers may change, delete or restart anything
// (plugin/pkg/auth/authorizer/rbac/bootstrappolicy/controller_policy.go, Kubernetes 1.37).
var controlPlane = []string{"generic-garbage-collector", "namespace-controller", "resource-quota-controller", "pod-garbage-collector", "storage-version-migrator-controller"}

func subjectName(subject rbacv1.Subject) string {
	const limit = 80 // names of users have any length
	name := subject.Name
	if subject.Kind == rbacv1.ServiceAccountKind {
		name = subject.Namespace + "/" + name
	}
	if len(name) > limit {
		name = strings.ToValidUTF8(name[:limit], "") + "…"
	}
	return subject.Kind + " " + name
}

const maxNames = 10

// deciders lists the subjects with caRights, except cluster administrators and this project.
func (d *decision) deciders() {
	const subject = "who decides about the CA"
	if err := d.facts.Grants.Err; err != nil {
		d.unknown(subject, "listing Roles, ClusterRoles and their bindings", "list", "clusterrolebindings.rbac.authorization.k8s.io", err)
		return
	}
	var istiods []string
	accounts := sets.New(d.facts.Controllers...)
	for _, istiod := range d.facts.Istiods.Value {
		if d.labelled(istiod.Namespace) {
			istiods = append(istiods, istiod.Namespace)
			accounts.Insert(istiod.Namespace + "/" + istiod.ServiceAccount)
		}
	}
	ours := func(subject rbacv1.Subject) bool {
		return subject.Kind == rbacv1.ServiceAccountKind && accounts.Has(subject.Namespace+"/"+subject.Name)
	}
	others := false
	for _, right := range caRights {
		namespaces := istiods
		switch right.in {
		case meshNamespaces:
			namespaces = d.facts.Configuration.Value.VirtualMesh.Namespaces
		case injectionNamespace:
			if d.facts.Policy.Key == nil {
				continue
			}
			namespaces = []string{d.facts.Policy.Key.Namespace}
		}
		holders := right.holders(d.facts.Grants.Value, namespaces, ours)
		if len(holders) == 0 {
			continue
		}
		others = true
		d.add(levelWarn, subject, fmt.Sprintf("besides cluster administrators and this project, %s may %s", terminal.Names(holders, maxNames), right.action),
			`compare with docs/security.md, "Who decides about the CA", and revoke the permission where it is not intended`)
	}
	if !others {
		kinds := "VirtualMeshes, IssuedCertificates and PodBounceDirectives"
		if d.facts.Policy.Key != nil {
			kinds = "VirtualMeshes, IssuedCertificates, PodBounceDirectives and Injections"
		}
		d.add(levelOK, subject, "only cluster administrators and this project may write "+kinds+", or enter istiod's Pods", "")
	}
}
