// SPDX-License-Identifier: Apache-2.0

package meshes

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/internal/istio"
)

// deployedIstiod is an istiod Deployment of this cluster.
type deployedIstiod struct {
	Name, Namespace, ServiceAccount string
	TrustDomain                     string
	// Replicas is the desired or the current number of Pods, whichever is larger.
	Replicas int
	// Unwatched reports that the controller does not watch its ConfigMap.
	Unwatched bool
	// Problem is why the istiod cannot be used yet.
	Problem string
}

// unselected is a Deployment labelled app=istiod that this project does not inject, and why.
type unselected struct{ Namespace, Name, Why string }

// Host is the SPIFFE ID in the IssuedCertificate.
func (i deployedIstiod) Host() string {
	return istio.Identity{TrustDomain: i.TrustDomain, Namespace: i.Namespace, ServiceAccount: i.ServiceAccount}.String()
}

// storedMesh is a VirtualMesh as the API server stores it.
type storedMesh struct {
	*networkingv1.VirtualMesh
	// Unknown are warnings about unknown fields; Unreadable are fields of the wrong type.
	Unknown    []string
	Unreadable field.ErrorList
}

func (s storedMesh) key() types.NamespacedName {
	return types.NamespacedName{Namespace: s.Namespace, Name: s.Name}
}

// storedCertificate is the part of an IssuedCertificate that decisions need.
type storedCertificate struct {
	// Owner is the VirtualMesh that it was applied for; empty when another program created it.
	Owner string
	State certificatesv1.State
	Error string
	// AgentCA is its CA, nil when unreadable.
	AgentCA *certificatesv1.IntermediateCertificateAuthority
	// FromSecret is the Secret with the CA that istiod keeps during the first stage of a root change.
	FromSecret string
	// Replicas are the reports of istiod's Pods.
	Replicas []certificatesv1.CertificateStatus
}

// clusterFacts is the observed state that a VirtualMesh is translated with.
type clusterFacts struct {
	// Cluster is this cluster's name in mesh names.
	Cluster string
	// Allowed are the namespaces whose VirtualMeshes count.
	Allowed v1alpha1.VirtualMesh
	// Istiods by mesh name; two may have the same one.
	Istiods map[string][]deployedIstiod
	// NotSelected are the Deployments that are not injected, by mesh name.
	NotSelected map[string][]unselected
	// Claims are the VirtualMeshes of allowed namespaces with a CA, by the mesh that they name, including the one to
	// translate.
	Claims map[string][]storedMesh
	// Owners are the VirtualMeshes of allowed namespaces, as in storedCertificate.Owner.
	Owners map[string]storedMesh
	// Orphans are the IssuedCertificates of the VirtualMesh to translate, where its namespace is no longer allowed.
	Orphans []string
	// Certificates are the stored IssuedCertificates.
	Certificates map[types.NamespacedName]storedCertificate
	// Directives are the stored PodBounceDirectives, and whether this controller applied them.
	Directives map[types.NamespacedName]bool
	// MissingRights describes the missing rights to restart Pods; empty when none is missing.
	MissingRights string
	// Now is the transition time of conditions.
	Now metav1.Time
}

// ownerOf is the owner of the IssuedCertificate of a mesh in a namespace; empty when there is none.
func (f *clusterFacts) ownerOf(namespace, mesh string) string {
	return f.Certificates[types.NamespacedName{Namespace: namespace, Name: mesh}].Owner
}

// unwatched reports whether any ConfigMap of an istiod is not watched.
func (f *clusterFacts) unwatched() bool {
	for _, istiods := range f.Istiods {
		if slices.ContainsFunc(istiods, func(i deployedIstiod) bool { return i.Unwatched }) {
			return true
		}
	}
	return false
}
