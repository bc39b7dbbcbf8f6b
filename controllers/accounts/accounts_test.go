// SPDX-License-Identifier: Apache-2.0

package accounts

import (
	"fmt"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/patches"
)

const roleBinding = "istiod-agent.istiods"

// The subjects are the service accounts of the namespace's injected istiods, whatever stood there before, and no others.
func TestSubjects(t *testing.T) {
	t.Parallel()
	optedOut := map[string]string{patches.InjectKey: "false"}
	var many []client.Object
	for i := range maxAccounts + 1 {
		many = append(many, istiod("mesh", fmt.Sprint("istiod-", i), fmt.Sprintf("a%03d", i), nil))
	}
	for name, test := range map[string]struct {
		namespaces []string // those that are labelled
		istiods    []client.Object
		before     []string
		want       []string
	}{
		"none":                                     {[]string{"mesh"}, nil, nil, nil},
		"two revisions":                            {[]string{"mesh"}, []client.Object{istiod("mesh", "b", "b", nil), istiod("mesh", "a", "a", nil)}, nil, []string{"a", "b"}},
		"two of one account":                       {[]string{"mesh"}, []client.Object{istiod("mesh", "a", "a", nil), istiod("mesh", "b", "a", nil)}, nil, []string{"a"}},
		"another namespace's":                      {[]string{"mesh", "other"}, []client.Object{istiod("other", "a", "a", nil)}, nil, nil},
		"one that is gone":                         {[]string{"mesh"}, []client.Object{istiod("mesh", "a", "a", nil)}, []string{"a", "b"}, []string{"a"}},
		"one that somebody added":                  {[]string{"mesh"}, nil, []string{"stranger"}, nil},
		"the account of Pods that name none":       {[]string{"mesh"}, []client.Object{istiod("mesh", "a", "", nil), istiod("mesh", "b", "default", nil)}, nil, nil},
		"one that opted out":                       {[]string{"mesh"}, []client.Object{istiod("mesh", "a", "a", optedOut)}, []string{"a"}, nil},
		"one in a namespace without the label":     {nil, []client.Object{istiod("mesh", "a", "a", nil)}, []string{"a"}, nil},
		"the same, while the agent is in it":       {nil, []client.Object{istiod("mesh", "a", "a", nil, "discovery", patches.AgentContainer)}, nil, []string{"a"}},
		"more accounts than a RoleBinding may get": {[]string{"mesh"}, many, nil, all(maxAccounts)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			objects := append(slices.Clone(test.istiods), &rbacv1.RoleBinding{
				ObjectMeta: metav1.ObjectMeta{Namespace: "mesh", Name: roleBinding}, Subjects: subjects("mesh", test.before),
			})
			for _, namespace := range test.namespaces {
				objects = append(objects, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
			}
			c := newController(t, objects...)
			if result, err := c.Reconcile(t.Context(), reconcile.Request{NamespacedName: types.NamespacedName{Name: "mesh"}}); err != nil || result.RequeueAfter != checkInterval {
				t.Fatalf("%+v, %v", result, err)
			}
			var binding rbacv1.RoleBinding
			if err := c.client.Get(t.Context(), types.NamespacedName{Namespace: "mesh", Name: roleBinding}, &binding); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, subject := range binding.Subjects {
				if subject.Kind != rbacv1.ServiceAccountKind || subject.Namespace != "mesh" {
					t.Errorf("it binds %+v", subject)
				}
				got = append(got, subject.Name)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("it binds %q, want %q", got, test.want)
			}
		})
	}
}

// A RoleBinding is the chart's to make.
func TestNoRoleBindingIsMade(t *testing.T) {
	t.Parallel()
	c := newController(t, istiod("mesh", "a", "a", nil), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "mesh"}})
	if result, err := c.Reconcile(t.Context(), reconcile.Request{NamespacedName: types.NamespacedName{Name: "mesh"}}); err != nil || result.RequeueAfter != retryInterval {
		t.Fatalf("%+v, %v", result, err)
	}
	var bindings rbacv1.RoleBindingList
	if err := c.client.List(t.Context(), &bindings); err != nil || len(bindings.Items) > 0 {
		t.Errorf("there are %d, %v", len(bindings.Items), err)
	}
}

func all(n int) (names []string) {
	for i := range n {
		names = append(names, fmt.Sprintf("a%03d", i))
	}
	return names
}

func istiod(namespace, name, account string, annotations map[string]string, containers ...string) client.Object {
	deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Annotations: annotations}}
	deployment.Spec.Template.Spec.ServiceAccountName = account
	for _, container := range containers {
		deployment.Spec.Template.Spec.Containers = append(deployment.Spec.Template.Spec.Containers, corev1.Container{Name: container})
	}
	return deployment
}

func newController(t *testing.T, objects ...client.Object) *reconciler {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme, rbacv1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).Build()
	return &reconciler{
		client: c, live: c, target: patches.Deployment,
		rights: v1alpha1.AgentRights{Namespaces: []string{"mesh"}, RoleBinding: roleBinding},
	}
}
