// SPDX-License-Identifier: Apache-2.0

package remoteclusters

import (
	"slices"
	"time"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// longestWait is the longest time until a cluster without endpoints is looked up again: one that never answers stays timed out,
// and the page about endpoints has up to maxEndpoints bytes.
const longestWait = 10 * time.Minute

// served are the clusters that istiod has not read completely, by name.
type served map[string]incomplete

// incomplete is a cluster that istiod has not read completely.
type incomplete struct {
	// serves reports that istiod has endpoints of it.
	serves bool
	// count is what istiod counted when that was last seen. A count that falls is that of a new istiod.
	count float64
	state certificatesv1.RemoteClusterState
	// first and last are the times of the first lookup without endpoints, and of the last.
	first, last time.Time
}

// isKnown reports whether the last lookup still holds: with endpoints, once the cluster has timed out; without, for as long as
// the lookups have lasted.
func (c incomplete) isKnown(state certificatesv1.RemoteClusterState, count float64, now time.Time) bool {
	switch {
	case count < c.count:
		return false
	case c.serves:
		return state == certificatesv1.RemoteTimedOut
	case state != c.state && state == certificatesv1.RemoteTimedOut: // it may serve what it has
		return false
	default:
		return now.Sub(c.last) < min(c.last.Sub(c.first), longestWait)
	}
}

// apply makes clusters with endpoints Synced, and takes their errors from the counts: they are those of the Secrets that istiod
// may not list. withoutEndpoints returns which of the names istiod has no endpoints of; it is not called about those that are
// known.
func (s *served) apply(clusters *certificatesv1.RemoteClusters, failures map[string]float64, now time.Time, withoutEndpoints func(names []string) ([]string, error)) {
	next := served{}
	var unknown []string
	for _, cluster := range clusters.Clusters {
		if cluster.State != certificatesv1.RemoteTimedOut && cluster.State != certificatesv1.RemoteSyncing {
			continue
		}
		count := failures[cluster.Name]
		before, found := (*s)[cluster.Name]
		entry := incomplete{state: cluster.State, serves: before.serves, count: count, first: before.first, last: before.last}
		if !found || !before.isKnown(cluster.State, count, now) {
			if !found || before.serves || count < before.count || cluster.State != before.state {
				entry.first = now
			}
			entry.serves, entry.last = false, now
			unknown = append(unknown, cluster.Name)
		}
		next[cluster.Name] = entry
	}
	if len(unknown) > 0 {
		missing, err := withoutEndpoints(unknown)
		for _, name := range unknown {
			if entry := next[name]; err == nil && !slices.Contains(missing, name) {
				entry.serves = true
				next[name] = entry
			}
		}
	}
	*s = next
	for i := range clusters.Clusters {
		if next[clusters.Clusters[i].Name].serves {
			clusters.Clusters[i].State = certificatesv1.RemoteSynced
			failures[clusters.Clusters[i].Name] = 0
		}
	}
}
