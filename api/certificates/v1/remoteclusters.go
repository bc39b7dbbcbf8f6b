// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// MaxRemoteClusters is the number of remote clusters that an agent reports for its istiod.
const MaxRemoteClusters = 250

// RemoteClusters are the clusters that an istiod reads services and endpoints from, by its remote secrets (label
// istio/multiCluster=true).
type RemoteClusters struct {
	// Number of all clusters, also of those beyond the 250 in clusters; 0 for none, and while they are unknown.
	// +kubebuilder:validation:Minimum=0
	Count int `json:"count"`
	// The clusters, by name.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=250
	Clusters []RemoteCluster `json:"clusters,omitempty"`
	// Why the clusters are unknown; empty when they are known.
	// +kubebuilder:validation:MaxLength=32768
	Error string `json:"error,omitempty"`
}

// RemoteCluster is a cluster that an istiod reads services and endpoints from.
type RemoteCluster struct {
	// Name of the cluster: the key of its kubeconfig in the remote secret.
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// State of the connection. Synced: istiod has read the cluster. Syncing: it reads it for the first time. TimedOut:
	// that takes longer than istiod waits. Failing: istiod read it before, and its requests fail now, as after the end
	// of its token. Closed: istiod has stopped reading it. Or Unknown.
	State RemoteClusterState `json:"state"`
}

// RemoteClusterState is the state of an istiod's connection to a remote cluster.
// +kubebuilder:validation:Enum=Synced;Syncing;TimedOut;Failing;Closed;Unknown
type RemoteClusterState string

// The states. All but Failing are istiod's own (Istio pkg/kube/multicluster/cluster.go, SyncStatus).
const (
	RemoteSynced   RemoteClusterState = "Synced"
	RemoteSyncing  RemoteClusterState = "Syncing"
	RemoteTimedOut RemoteClusterState = "TimedOut"
	RemoteFailing  RemoteClusterState = "Failing"
	RemoteClosed   RemoteClusterState = "Closed"
	RemoteUnknown  RemoteClusterState = "Unknown"
)

// Problem describes a state that needs attention, as a clause about istiod. It is empty for Synced, and for Syncing,
// which ends by itself.
func (s RemoteClusterState) Problem() string {
	switch s {
	case RemoteSynced, RemoteSyncing:
		return ""
	case RemoteTimedOut:
		return "istiod has not been able to read it: its API server cannot be reached from istiod, or refuses the token of the remote secret"
	case RemoteFailing:
		return "istiod's requests to its API server fail, most often because the token of the remote secret has expired"
	case RemoteClosed:
		return "istiod has stopped reading it"
	default:
		return "istiod reports an unknown state of it"
	}
}

// Synced returns how many of all clusters istiod reads. It returns 0 and 0 for nil, and for unknown clusters.
func (r *RemoteClusters) Synced() (synced, all int) {
	if r == nil {
		return 0, 0
	}
	for _, cluster := range r.Clusters {
		if cluster.State == RemoteSynced {
			synced++
		}
	}
	return synced, r.Count
}

// Problems returns a line for each kind of problem, with the names of a few of its clusters.
func (r *RemoteClusters) Problems() (lines []string) {
	if r == nil {
		return nil
	}
	names := map[string][]string{}
	for _, cluster := range r.Clusters {
		if problem := cluster.State.Problem(); problem != "" {
			names[problem] = append(names[problem], cluster.Name)
		}
	}
	for _, problem := range slices.Sorted(maps.Keys(names)) {
		all := names[problem]
		subject := "remote cluster "
		if len(all) > 1 {
			subject = "each of the remote clusters "
		}
		const named = 5
		if extra := len(all) - named; extra > 0 {
			all = append(slices.Clone(all[:named]), fmt.Sprintf("and %d more", extra))
		}
		lines = append(lines, subject+strings.Join(all, ", ")+": "+problem)
	}
	return lines
}
