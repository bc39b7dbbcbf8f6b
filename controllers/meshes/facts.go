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
	// Replicas are how many Pods it has, or is to have, whichever is more.
	Replicas int
	// Unwatched is set where a change of its ConfigMap is not seen by itself.
	Unwatched bool
	// Problem says what is not known of it yet; it is not acted on.
	Problem string
}

// NotSelected is a Deployment labelled app=istiod that is not injected here, and why.
type unselected struct{ Namespace, Name, Why string }

// Mesh is what the public API calls the mesh of an istiod of a cluster: <deployment>-<namespace>-<cluster>, with what
// no object's name may hold made dashes (Gloo Mesh pkg/mesh-discovery/translation/utils/object_meta.go).
func (i deployedIstiod) Mesh(cluster string) string {
	return istio.MeshName(i.Name, i.Namespace, cluster)
}

// Host is the identity that the istiod's certificate is for.
func (i deployedIstiod) Host() string {
	return istio.Identity{TrustDomain: i.TrustDomain, Namespace: i.Namespace, ServiceAccount: i.ServiceAccount}.String()
}

// storedMesh is a VirtualMesh as it is stored.
type storedMesh struct {
	*networkingv1.VirtualMesh
	// Unknown are warnings about its fields that nobody knows; Unreadable are those of the wrong type.
	Unknown    []string
	Unreadable field.ErrorList
}

func (s storedMesh) key() types.NamespacedName {
	return types.NamespacedName{Namespace: s.Namespace, Name: s.Name}
}

// storedCertificate is what counts of an IssuedCertificate that is there.
type storedCertificate struct {
	// Owner is the VirtualMesh that it was made for; empty when it was not made here.
	Owner string
	State certificatesv1.State
	Error string
	// AgentCA is the CA that it names, where that can be read.
	AgentCA *certificatesv1.IntermediateCertificateAuthority
	// FromSecret is the Secret that it has istiod's CA in, while a change of the root begins.
	FromSecret string
	// Replicas are what istiod's Pods report of themselves.
	Replicas []certificatesv1.CertificateStatus
}

// clusterFacts are what a VirtualMesh is translated with.
type clusterFacts struct {
	// Cluster is what this cluster is called in the names of meshes.
	Cluster string
	// Allowed are the namespaces whose VirtualMeshes are acted on.
	Allowed v1alpha1.VirtualMesh
	// Istiods of this cluster, by their mesh. Two may come to the same name.
	Istiods map[string][]deployedIstiod
	// NotSelected are, by mesh, Deployments that have its name and are not injected here, each with the reason.
	NotSelected map[string][]unselected
	// Claims are, by mesh, the VirtualMeshes of allowed namespaces that name it and a CA, the one to translate among them.
	Claims map[string][]storedMesh
	// Owners are the VirtualMeshes of allowed namespaces that the IssuedCertificates were made for, as in Stored.For.
	Owners map[string]storedMesh
	// Made are IssuedCertificates that were made for the VirtualMesh to translate, where its namespace is not allowed.
	Orphans []string
	// Certificates are the IssuedCertificates that are there.
	Certificates map[types.NamespacedName]storedCertificate
	// Directives are the PodBounceDirectives that are there, and whether they were made here.
	Directives map[types.NamespacedName]bool
	// MayNotRestart says which rights are lacking to restart Pods, empty when none is.
	MissingRights string
	// Now is when conditions change.
	Now metav1.Time
}

// unwatched reports whether an istiod's ConfigMap is not watched.
func (f *clusterFacts) unwatched() bool {
	for _, istiods := range f.Istiods {
		if slices.ContainsFunc(istiods, func(i deployedIstiod) bool { return i.Unwatched }) {
			return true
		}
	}
	return false
}
