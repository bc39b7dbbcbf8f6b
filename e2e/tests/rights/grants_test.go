// SPDX-License-Identifier: Apache-2.0

package rights

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/controlplane"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

// user and groups are those of the webhook's service account.
var user, groups = controlplane.ServiceAccount(webhookserver.Release.Namespace, webhookserver.Name)

// grant is the smallest part of a rule: one verb on one kind, of one name or of all ("").
type grant struct {
	role                  string
	namespace             string // of its RoleBinding; "" for all
	group, resource, name string
	verb                  string
}

// inAnyNamespace is the grant of a rule that the chart repeats in several namespaces.
func (g grant) inAnyNamespace() grant {
	g.namespace = ""
	return g
}

func (g grant) String() string {
	text := "role " + g.role + ": " + g.verb + " " + strings.TrimSuffix(g.resource+"."+g.group, ".")
	if g.name != "" {
		text += " " + g.name
	}
	if g.namespace != "" {
		text += " in " + g.namespace
	}
	return text
}

// request is what the API server decides about.
type request struct {
	namespace, group, resource, name, verb string
}

// allows reports whether a grant allows a request.
func (g grant) allows(r request) bool {
	return g.group == r.group && g.resource == r.resource && g.verb == r.verb &&
		(g.namespace == "" || g.namespace == r.namespace) && (g.name == "" || g.name == r.name)
}

// role is a Role or ClusterRole of the webhook's service account, and the namespace of its binding.
type role struct {
	client.Object
	rules     *[]rbacv1.PolicyRule
	namespace string
}

// roles returns all that is bound to the webhook's service account.
func roles(t *testing.T) (all []role) {
	t.Helper()
	ours := func(subjects []rbacv1.Subject) bool {
		return slices.ContainsFunc(subjects, func(s rbacv1.Subject) bool {
			return s.Kind == rbacv1.ServiceAccountKind && s.Namespace == webhookserver.Release.Namespace && s.Name == webhookserver.Name
		})
	}
	var clusterBindings rbacv1.ClusterRoleBindingList
	must(t, shared.List(t.Context(), &clusterBindings))
	for _, binding := range clusterBindings.Items {
		if ours(binding.Subjects) {
			found := &rbacv1.ClusterRole{}
			must(t, shared.Get(t.Context(), types.NamespacedName{Name: binding.RoleRef.Name}, found))
			all = append(all, role{found, &found.Rules, ""})
		}
	}
	var bindings rbacv1.RoleBindingList
	must(t, shared.List(t.Context(), &bindings))
	for _, binding := range bindings.Items {
		if ours(binding.Subjects) {
			found := &rbacv1.Role{}
			must(t, shared.Get(t.Context(), types.NamespacedName{Namespace: binding.Namespace, Name: binding.RoleRef.Name}, found))
			all = append(all, role{found, &found.Rules, binding.Namespace})
		}
	}
	return all
}

// grantsOf returns the grants of a rule.
func (r role) grantsOf(rule rbacv1.PolicyRule) (all []grant) {
	names := rule.ResourceNames
	if len(names) == 0 {
		names = []string{""}
	}
	for _, group := range rule.APIGroups {
		for _, resource := range rule.Resources {
			for _, name := range names {
				for _, verb := range rule.Verbs {
					all = append(all, grant{r.GetName(), r.namespace, group, resource, name, verb})
				}
			}
		}
	}
	return all
}

// grants returns what the webhook's service account may do, each once.
func grants(t *testing.T) (all []grant) {
	t.Helper()
	for _, role := range roles(t) {
		for _, rule := range *role.rules {
			for _, each := range role.grantsOf(rule) {
				if !slices.Contains(all, each) {
					all = append(all, each)
				}
			}
		}
	}
	return all
}

// withhold removes a grant from all rules, and returns a function that restores them.
func withhold(t *testing.T, removed grant) (restore func()) {
	t.Helper()
	var before []client.Object
	for _, role := range roles(t) {
		was, left := role.DeepCopyObject().(client.Object), []rbacv1.PolicyRule{}
		found := false
		for _, rule := range *role.rules {
			for _, each := range role.grantsOf(rule) {
				if each.right() == removed.right() {
					found = true
					continue
				}
				part := rbacv1.PolicyRule{APIGroups: []string{each.group}, Resources: []string{each.resource}, Verbs: []string{each.verb}}
				if each.name != "" {
					part.ResourceNames = []string{each.name}
				}
				left = append(left, part)
			}
		}
		if found {
			*role.rules = left
			must(t, shared.Update(t.Context(), role.Object))
			before = append(before, was)
		}
	}
	if len(before) == 0 {
		t.Fatalf("no rule grants %s", removed)
	}
	return func() {
		for _, object := range before {
			object.SetResourceVersion("")
			must(t, shared.Update(t.Context(), object))
		}
	}
}

// mayDo asks the API server whether it would admit a request of the webhook's service account.
func mayDo(t *testing.T, r request) bool {
	t.Helper()
	resource, subresource, _ := strings.Cut(r.resource, "/")
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: user, Groups: append(slices.Clone(groups), "system:authenticated"),
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace: r.namespace, Verb: r.verb, Group: r.group, Version: "*", Resource: resource, Subresource: subresource, Name: r.name,
		},
	}}
	must(t, shared.Create(t.Context(), review))
	return review.Status.Allowed
}

// requests returns what the API server decided about for the webhook's service account, each once, and the refused requests.
func (s *scenario) requests(t *testing.T) (allowed, refused []request) {
	t.Helper()
	events, err := shared.Plane.AllRequests(user)
	must(t, err)
	add := func(r request) {
		if !slices.Contains(allowed, r) {
			allowed = append(allowed, r)
		}
	}
	for _, event := range events[s.before:] {
		ref := event.ObjectRef
		r := request{ref.Namespace, ref.APIGroup, ref.Resource, ref.Name, event.Verb}
		if ref.Subresource != "" {
			r.resource += "/" + ref.Subresource
		}
		if event.ResponseStatus.Code == http.StatusForbidden {
			refused = append(refused, r)
			continue
		}
		add(r)
		switch {
		case r.verb == "patch" && event.ResponseStatus.Code == http.StatusCreated:
			// A server-side apply that creates an object needs both rights (k8s.io/apiserver, handlers/patch.go).
			r.verb = "create"
			add(r)
		case r.resource == "rolebindings":
			// A change of a RoleBinding needs the right to bind its Role (pkg/registry/rbac/rolebinding/policybased).
			r.resource, r.verb = "roles", "bind"
			add(r)
		}
	}
	return allowed, refused
}

// wantUsed requires that each right serves a request that no other right allows: without it, the API server refuses this
// request. A rule that the chart repeats in several namespaces is needed in one of them.
func wantUsed(t *testing.T, made []request, unforced map[string]string) {
	t.Helper()
	all, needed := grants(t), map[grant]bool{}
	for _, each := range all {
		served := slices.IndexFunc(made, func(r request) bool {
			return each.allows(r) && !slices.ContainsFunc(all, func(other grant) bool { return other.right() != each.right() && other.allows(r) })
		})
		if served < 0 || needed[each.inAnyNamespace()] {
			continue
		}
		needed[each.inAnyNamespace()] = true
		restore := withhold(t, each)
		wantMayDo(t, made[served], false)
		restore()
		wantMayDo(t, made[served], true)
	}
	for _, each := range all {
		kind := each.inAnyNamespace()
		if _, ok := unforced[kind.String()]; !ok && !needed[kind] {
			needed[kind] = true // reported once
			t.Errorf("no request needs this right: remove it from the chart: %s", kind)
		}
	}
}

// right is the grant without its role: several rules may grant it.
func (g grant) right() grant {
	g.role = ""
	return g
}

func wantMayDo(t *testing.T, r request, want bool) {
	t.Helper()
	cluster.Eventually(t, fmt.Sprintf("the API server's answer to %+v is %t", r, want), func() error {
		if mayDo(t, r) != want {
			return errors.New("it is not")
		}
		return nil
	})
}
