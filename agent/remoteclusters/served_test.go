// SPDX-License-Identifier: Apache-2.0

package remoteclusters

import (
	"errors"
	"slices"
	"testing"
	"time"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// A cluster that timed out is read nevertheless when istiod has its endpoints; the large page is read once for each istiod.
func TestServed(t *testing.T) {
	t.Parallel()
	var s served
	now := time.Unix(0, 0)
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
		now = now.Add(time.Hour)
		s.apply(clusters, failures, now, func(names []string) ([]string, error) {
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

// A cluster that never answers stays timed out, and each lookup reads a page of up to half a gigabyte.
func TestServedWaitsLonger(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(names []string) ([]string, error){
		"no endpoints":            func(names []string) ([]string, error) { return names, nil },
		"the page cannot be read": func([]string) ([]string, error) { return nil, errors.New("x") },
	} {
		var s served
		var lookups []time.Duration
		read := func(at time.Duration, count float64) {
			clusters := &certificatesv1.RemoteClusters{Clusters: []certificatesv1.RemoteCluster{remote("a", certificatesv1.RemoteTimedOut)}}
			s.apply(clusters, map[string]float64{"a": count}, time.Unix(0, 0).Add(at), func(names []string) ([]string, error) {
				lookups = append(lookups, at)
				return answer(names)
			})
		}
		for minute := range 60 {
			read(time.Duration(minute)*time.Minute, 5)
		}
		minutes := func(all ...int) (times []time.Duration) {
			for _, each := range all {
				times = append(times, time.Duration(each)*time.Minute)
			}
			return times
		}
		if want := minutes(0, 1, 2, 4, 8, 16, 26, 36, 46, 56); !slices.Equal(lookups, want) {
			t.Errorf("%s: lookups at %v, want %v", name, lookups, want)
		}
		read(60*time.Minute, 0) // a new istiod
		if at := lookups[len(lookups)-1]; at != time.Hour {
			t.Errorf("%s: a new istiod is not looked up, but %s", name, at)
		}
		syncing := &certificatesv1.RemoteClusters{Clusters: []certificatesv1.RemoteCluster{remote("a", certificatesv1.RemoteSyncing)}}
		s.apply(syncing, map[string]float64{"a": 0}, time.Unix(0, 0).Add(61*time.Minute), func(names []string) ([]string, error) { return answer(names) })
		if read(61*time.Minute+time.Second, 0); lookups[len(lookups)-1] != 61*time.Minute+time.Second {
			t.Errorf("%s: a cluster that has just timed out is not looked up", name)
		}
		s.apply(&certificatesv1.RemoteClusters{}, nil, time.Unix(7200, 0), nil)
		if len(s) != 0 {
			t.Errorf("%s: it remembers clusters that are gone: %v", name, s)
		}
	}
}
