// SPDX-License-Identifier: Apache-2.0

package remoteclusters

import (
	"slices"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// served are the clusters that istiod has endpoints of without having read all, and what it counted for each when that was last
// seen. A count that falls is that of a new istiod.
type served map[string]float64

// apply makes such clusters Synced, and takes their errors from the counts: they are those of the Secrets that istiod may not
// list. withoutEndpoints returns which of the names istiod has no endpoints of; it is only called about those that are new.
func (s *served) apply(clusters *certificatesv1.RemoteClusters, failures map[string]float64, withoutEndpoints func(names []string) ([]string, error)) {
	next := served{}
	var unknown []string
	for _, cluster := range clusters.Clusters {
		count := failures[cluster.Name]
		before, known := (*s)[cluster.Name]
		switch {
		case cluster.State != certificatesv1.RemoteTimedOut && cluster.State != certificatesv1.RemoteSyncing:
		case known && count >= before && cluster.State == certificatesv1.RemoteTimedOut:
			next[cluster.Name] = count
		default:
			unknown = append(unknown, cluster.Name)
		}
	}
	if len(unknown) > 0 {
		missing, err := withoutEndpoints(unknown)
		for _, name := range unknown {
			if err == nil && !slices.Contains(missing, name) {
				next[name] = failures[name]
			}
		}
	}
	*s = next
	for i := range clusters.Clusters {
		if _, serves := next[clusters.Clusters[i].Name]; serves {
			clusters.Clusters[i].State = certificatesv1.RemoteSynced
			failures[clusters.Clusters[i].Name] = 0
		}
	}
}
