// SPDX-License-Identifier: Apache-2.0

package scope

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/controllers"
)

// asked is a cache that records whether it was asked.
type asked struct {
	cache.Cache
	times int
}

func (a *asked) Get(context.Context, client.ObjectKey, client.Object, ...client.GetOption) error {
	a.times++
	return nil
}

func (a *asked) List(context.Context, client.ObjectList, ...client.ListOption) error {
	a.times++
	return nil
}

// The names of other namespaces, which users write into annotations, hosts and status fields, lead to no error: there is
// nothing in them.
func TestOtherNamespaces(t *testing.T) {
	config := &v1alpha1.InjectionConfiguration{Namespaces: []string{"istio-system"}, VirtualMesh: v1alpha1.VirtualMesh{Namespaces: []string{"gloo-mesh"}}}
	mesh, certificate := networkingv1.GroupVersion.WithKind(networkingv1.Kind), certificatesv1.GroupVersion.WithKind(certificatesv1.Kind)
	for name, test := range map[string]struct {
		object         client.Object
		namespace      string
		others, meshes int // which cache is asked
	}{
		"an IssuedCertificate":                    {controllers.Untyped(certificate), "istio-system", 1, 0},
		"an IssuedCertificate elsewhere":          {controllers.Untyped(certificate), "tenant", 0, 0},
		"an IssuedCertificate beside VirtualMesh": {controllers.Untyped(certificate), "gloo-mesh", 0, 0},
		"a VirtualMesh":                           {controllers.Untyped(mesh), "gloo-mesh", 0, 1},
		"a VirtualMesh elsewhere":                 {controllers.Untyped(mesh), "istio-system", 0, 0},
		"a Pod's metadata elsewhere":              {controllers.Metadata(controllers.PodKind), "tenant", 0, 0},
		"a ConfigMap elsewhere":                   {&corev1.ConfigMap{}, "tenant", 0, 0},
		"a namespace":                             {namespace(), "", 1, 0},
		"the program's own Secret":                {&corev1.Secret{}, "istiod-agent-system", 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			others, meshes := &asked{}, &asked{}
			limited := &limitedCache{Cache: others, meshes: meshes, config: config}
			err := limited.Get(t.Context(), types.NamespacedName{Namespace: test.namespace, Name: "x"}, test.object)
			if none := test.others+test.meshes == 0; apierrors.IsNotFound(err) != none || !none && err != nil {
				t.Errorf("the error is %v", err)
			}
			if others.times != test.others || meshes.times != test.meshes {
				t.Errorf("asked %d times, for VirtualMeshes %d times", others.times, meshes.times)
			}
		})
	}
	for name, test := range map[string]struct {
		namespace      string
		others, meshes int
	}{"VirtualMeshes": {"", 0, 1}, "VirtualMeshes elsewhere": {"tenant", 0, 0}} {
		t.Run(name, func(t *testing.T) {
			list := &unstructured.UnstructuredList{}
			list.SetGroupVersionKind(networkingv1.GroupVersion.WithKind(networkingv1.Kind + "List"))
			others, meshes := &asked{}, &asked{}
			limited := &limitedCache{Cache: others, meshes: meshes, config: config}
			if err := limited.List(t.Context(), list, client.InNamespace(test.namespace)); err != nil {
				t.Error(err)
			}
			if others.times != test.others || meshes.times != test.meshes {
				t.Errorf("asked %d times, for VirtualMeshes %d times", others.times, meshes.times)
			}
		})
	}
}
