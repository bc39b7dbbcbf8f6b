// SPDX-License-Identifier: Apache-2.0

package meshes

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/internal/bounded"
	"github.com/istiod-agent/istiod-agent/internal/istio"
)

// Reasons of the condition Federated, besides the states of a federated cluster.
//
//reasons:page federation
const (
	// reasonNoOtherCluster: `spec.meshes` has no istiod of this cluster, or no other cluster: there is nothing to
	// join.
	//
	// Remedy: none. If there are other clusters, add their meshes.
	reasonNoOtherCluster = "NoOtherCluster"
)

// maxFederated is the number of other clusters in the status of a mesh, as in the CRD.
const maxFederated = 250

// federate reports which other clusters the istiods of this cluster read, where spec.federation requests it. The agents report
// that; this controller reads no remote secret, and has no rights in another cluster.
func (p *meshPlan) federate(mesh *networkingv1.VirtualMesh, facts clusterFacts) {
	status := &p.Status
	if p.RetainAll || mesh.Spec.IntermediateCA() == nil || !mesh.Spec.RequestsFederation() {
		meta.RemoveStatusCondition(&status.Conditions, networkingv1.FederatedCondition)
		return
	}
	var reports [][]certificatesv1.CertificateStatus // of each mesh of this cluster
	var keys []string
	for key, mesh := range status.Meshes {
		if mesh.IssuedCertificate != nil {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	for _, key := range keys {
		at := status.Meshes[key].IssuedCertificate
		reports = append(reports, facts.Certificates[types.NamespacedName{Namespace: at.Namespace, Name: at.Name}].Replicas)
	}
	for _, replicas := range reports {
		for _, replica := range replicas {
			if remote := replica.RemoteClusters; remote != nil { // its CRD permits more, and each other cluster repeats it
				remote.Error = bounded.Message(bounded.Plain(remote.Error))
			}
		}
	}
	others := p.otherClusters(mesh, reports, facts.Cluster)
	for i, key := range keys {
		own := status.Meshes[key]
		own.Federation = nil
		views := viewsOf(reports[i])
		for _, other := range others {
			own.Federation = append(own.Federation, federated(other, facts.Cluster, views))
		}
		status.Meshes[key] = own
	}
	condition := metav1.Condition{Type: networkingv1.FederatedCondition, ObservedGeneration: mesh.Generation, LastTransitionTime: facts.Now}
	condition.Status, condition.Reason, condition.Message = federatedCondition(status, keys, len(others))
	condition.Message = bounded.Message(condition.Message)
	meta.SetStatusCondition(&status.Conditions, condition)
}

// otherClusters returns the names of the other clusters of spec.meshes. A mesh's name, <deployment>-<namespace>-<cluster>, does
// not show where the cluster's name begins: it is one that an agent reports, or what follows the Deployment and the namespace
// of an istiod of this cluster, or its namespace alone.
func (p *meshPlan) otherClusters(mesh *networkingv1.VirtualMesh, reports [][]certificatesv1.CertificateStatus, own string) []string {
	known := knownClusters(reports)
	var starts, namespaces []string
	for _, istiod := range p.istiods {
		starts = append(starts, istio.NormalMeshName(istiod.Name+"-"+istiod.Namespace+"-"))
		namespaces = append(namespaces, istio.NormalMeshName("-"+istiod.Namespace+"-"))
	}
	longest := func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) }
	for _, all := range []*[]string{&starts, &namespaces} {
		slices.SortFunc(*all, longest)
		*all = slices.Compact(*all)
	}
	var others []string
	for _, ref := range mesh.Spec.Meshes {
		name := istio.NormalMeshName(strings.Replace(ref.Name, "*", "", 1))
		if strings.HasSuffix(name, "-"+istio.NormalMeshName(own)) {
			continue
		}
		guess := clusterAfter(name, starts, namespaces)
		reported, ok := known[guess]
		for rest := name; !ok && rest != ""; { // the longest reported name first
			_, rest, _ = strings.Cut(rest, "-")
			reported, ok = known[rest]
		}
		others = append(others, cmp.Or(reported, guess))
	}
	slices.Sort(others)
	others = slices.Compact(others)
	return others[:min(len(others), maxFederated)]
}

// clusterAfter cuts the Deployment and the namespace of an istiod from a mesh's name; without a match it returns the whole name.
func clusterAfter(name string, starts, namespaces []string) string {
	for _, start := range starts {
		if cluster, ok := strings.CutPrefix(name, start); ok && cluster != "" {
			return cluster
		}
	}
	for _, namespace := range namespaces {
		if _, cluster, ok := strings.Cut(name, namespace); ok && cluster != "" {
			return cluster
		}
	}
	return name
}

// knownClusters returns the remote clusters that agents report, by their name in the name of a mesh.
func knownClusters(reports [][]certificatesv1.CertificateStatus) map[string]string {
	known := map[string]string{}
	for _, replicas := range reports {
		for _, replica := range replicas {
			if replica.RemoteClusters == nil {
				continue
			}
			for _, cluster := range replica.RemoteClusters.Clusters {
				known[istio.NormalMeshName(cluster.Name)] = cluster.Name
			}
		}
	}
	return known
}

// view is what one replica of an istiod reports, found by the name of a cluster in the name of a mesh.
type view struct {
	remote *certificatesv1.RemoteClusters
	states map[string]certificatesv1.RemoteClusterState
}

// viewsOf normalizes each reported name once: a comparison with each name of spec.meshes would take the square of the time.
func viewsOf(replicas []certificatesv1.CertificateStatus) []view {
	views := make([]view, 0, len(replicas))
	for _, replica := range replicas {
		v := view{remote: replica.RemoteClusters, states: map[string]certificatesv1.RemoteClusterState{}}
		if v.remote != nil {
			for _, cluster := range v.remote.Clusters {
				name := istio.NormalMeshName(cluster.Name)
				if _, twice := v.states[name]; !twice {
					v.states[name] = cluster.State
				}
			}
		}
		views = append(views, v)
	}
	return views
}

// federated returns how the replicas of an istiod see another cluster: the worst of their reports.
func federated(other, own string, replicas []view) networkingv1.FederatedCluster {
	result := networkingv1.FederatedCluster{Cluster: other, State: networkingv1.FederationUnknown, Message: "istiod's agents have not reported yet"}
	worst := -1
	for _, replica := range replicas {
		state, message := replica.sees(other, own)
		if rank := slices.Index(ranks, state); rank > worst {
			worst, result.State, result.Message = rank, state, message
		}
	}
	return result
}

// ranks are the states, best first.
var ranks = []networkingv1.FederationState{networkingv1.Joined, networkingv1.FederationUnknown, networkingv1.NotSynced, networkingv1.NoAccess}

// sees returns how the istiod sees another cluster, and what to do.
func (v view) sees(other, own string) (networkingv1.FederationState, string) {
	remote := v.remote
	switch {
	case remote == nil:
		return networkingv1.FederationUnknown, "istiod's agent has not reported the remote clusters yet; if the agent is older than this release, restart istiod"
	case remote.Error != "":
		return networkingv1.FederationUnknown, "the remote clusters are unknown: " + remote.Error
	}
	join := fmt.Sprintf("kubectl istiod-agent join --context %s --context %s", own, other)
	state, listed := v.states[istio.NormalMeshName(other)]
	switch {
	case !listed && remote.Count > len(remote.Clusters):
		return networkingv1.FederationUnknown, fmt.Sprintf("it may be one of %d remote clusters that the agent does not list", remote.Count-len(remote.Clusters))
	case !listed:
		return networkingv1.NoAccess, fmt.Sprintf("istiod has no access to %s: check this name in spec.meshes, then run %s with your kubeconfig's contexts for these clusters", other, join)
	}
	switch state {
	case certificatesv1.RemoteSynced:
		return networkingv1.Joined, ""
	case certificatesv1.RemoteSyncing:
		return networkingv1.NotSynced, "istiod reads it for the first time"
	default:
		return networkingv1.NotSynced, fmt.Sprintf("%s; to renew the token, run %s --renew with your kubeconfig's contexts for these clusters", state.Problem(), join)
	}
}

// federatedCondition summarizes the meshes of this cluster.
func federatedCondition(status *networkingv1.VirtualMeshStatus, keys []string, others int) (metav1.ConditionStatus, string, string) {
	switch {
	case len(keys) == 0 && status.State != networkingv1.Accepted:
		return metav1.ConditionUnknown, string(networkingv1.FederationUnknown), "no istiod of this cluster has its IssuedCertificate yet"
	case len(keys) == 0, others == 0:
		return metav1.ConditionTrue, reasonNoOtherCluster, "there is nothing to join: spec.meshes has no istiod of this cluster, or no other cluster"
	}
	worst, text := 0, ""
	joined, all := 0, 0
	for _, key := range keys {
		for _, cluster := range status.Meshes[key].Federation {
			all++
			rank := slices.Index(ranks, cluster.State)
			if rank == 0 {
				joined++
			}
			if rank > worst {
				worst, text = rank, strings.TrimSuffix(key, ".")+": "+cluster.Cluster+": "+cluster.Message
			}
		}
	}
	reason := string(ranks[worst])
	switch ranks[worst] {
	case networkingv1.Joined:
		return metav1.ConditionTrue, reason, fmt.Sprintf("istiod reads the services and endpoints of all other clusters (%d)", others)
	case networkingv1.FederationUnknown:
		return metav1.ConditionUnknown, reason, fmt.Sprintf("%d of %d joined; %s", joined, all, text)
	default:
		return metav1.ConditionFalse, reason, fmt.Sprintf("%d of %d joined; %s", joined, all, text)
	}
}
