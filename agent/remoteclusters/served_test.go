// SPDX-License-Identifier: Apache-2.0

package remoteclusters

import (
	"errors"
	"slices"
	"testing"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// A cluster that timed out is read nevertheless when istiod has its endpoints; the large page is read once for each istiod.
func TestServed(t *testing.T) {
	t.Parallel()
	var s served
	for _, step := range []struct {
		name    string
		state   certificatesv1.RemoteClusterState
		count   float64
		missing bool
		err     error
		want    certificatesv1.RemoteClusterState
		reads   bool
	}{
		{name: "no endpoints", state: certificatesv1.RemoteTimedOut, missing: true, want: certificatesv1.RemoteTimedOut, reads: true},
		{name: "the page cannot be read", state: certificatesv1.RemoteTimedOut, err: errors.New("x"), want: certificatesv1.RemoteTimedOut, reads: true},
		{name: "endpoints, at first", state: certificatesv1.RemoteSyncing, count: 1, want: certificatesv1.RemoteSynced, reads: true},
		{name: "still at first", state: certificatesv1.RemoteSyncing, count: 2, want: certificatesv1.RemoteSynced, reads: true},
		{name: "timed out", state: certificatesv1.RemoteTimedOut, count: 5, want: certificatesv1.RemoteSynced},
		{name: "more errors", state: certificatesv1.RemoteTimedOut, count: 9, want: certificatesv1.RemoteSynced},
		{name: "a new istiod without endpoints", state: certificatesv1.RemoteTimedOut, count: 1, missing: true, want: certificatesv1.RemoteTimedOut, reads: true},
		{name: "read completely", state: certificatesv1.RemoteSynced, count: 1, want: certificatesv1.RemoteSynced},
		{name: "closed", state: certificatesv1.RemoteClosed, count: 1, want: certificatesv1.RemoteClosed},
	} {
		clusters := &certificatesv1.RemoteClusters{Clusters: []certificatesv1.RemoteCluster{remote("a", step.state)}}
		failures, reads := map[string]float64{"a": step.count}, false
		s.apply(clusters, failures, func(names []string) ([]string, error) {
			reads = true
			if !slices.Equal(names, []string{"a"}) {
				t.Errorf("%s: asked about %v", step.name, names)
			}
			if step.missing {
				return names, nil
			}
			return nil, step.err
		})
		promoted := step.state != step.want
		if got := clusters.Clusters[0].State; got != step.want || reads != step.reads || promoted && failures["a"] != 0 || !promoted && failures["a"] != step.count {
			t.Errorf("%s: %s, read %t, errors %v", step.name, got, reads, failures)
		}
	}
}
