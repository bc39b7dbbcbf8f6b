// SPDX-License-Identifier: Apache-2.0

package remoteclusters

import (
	"errors"
	"testing"
	"time"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

var start = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

// reading is one at a time after the start, of a cluster "a".
type reading struct {
	at     time.Duration
	state  certificatesv1.RemoteClusterState // Synced by default
	errors float64
	err    string
	want   string // its state, error: and a text, or nothing
}

func TestReadings(t *testing.T) {
	t.Parallel()
	const second, minute = time.Second, time.Minute
	for name, readings := range map[string][]reading{
		"no errors":                    {{want: "Synced"}, {at: minute, want: "Synced"}},
		"errors from before the agent": {{errors: 100, want: "Synced"}, {at: minute, errors: 100, want: "Synced"}},
		"an expired token": {
			{errors: 3, want: "Synced"},
			{at: 1 * minute, errors: 8, want: "Synced"}, // perhaps a restart of the API server
			{at: 2 * minute, errors: 20, want: "Failing"},
			{at: 3 * minute, errors: 30, want: "Failing"},
			{at: 4 * minute, errors: 30, want: "Failing"}, // each watch may wait for a minute
			{at: 5 * minute, errors: 30, want: "Synced"},
			{at: 6 * minute, errors: 31, want: "Synced"}, // a new episode
			{at: 7 * minute, errors: 32, want: "Failing"},
		},
		"errors that end soon":           {{want: "Synced"}, {at: minute, errors: 9, want: "Synced"}, {at: minute + 10*second, errors: 12, want: "Synced"}, {at: 3 * minute, errors: 12, want: "Synced"}},
		"errors now and then":            {{want: "Synced"}, {at: 2 * minute, errors: 1, want: "Synced"}, {at: 4 * minute, errors: 2, want: "Synced"}, {at: 6 * minute, errors: 3, want: "Synced"}},
		"readings soon after each other": {{want: "Synced"}, {at: minute, errors: 1, want: "Synced"}, {at: 2 * minute, errors: 2, want: "Failing"}, {at: 2*minute + 5*second, errors: 2, want: "Failing"}, {at: 2*minute + 15*second, errors: 2, want: "Failing"}},
		"a restarted istiod":             {{errors: 50, want: "Synced"}, {at: minute, errors: 60, want: "Synced"}, {at: 2 * minute, errors: 1, want: "Synced"}, {at: 3 * minute, errors: 1, want: "Synced"}},
		"a state of istiod's own with errors": {
			{state: certificatesv1.RemoteSyncing, want: "Syncing"},
			{at: minute, state: certificatesv1.RemoteTimedOut, errors: 10, want: "TimedOut"},
			{at: 2 * minute, state: certificatesv1.RemoteTimedOut, errors: 20, want: "TimedOut"},
		},
		"an istiod that starts":             {{err: "refused"}, {at: minute, err: "refused"}, {at: minute + 10*second, want: "Synced"}},
		"an istiod that never answers":      {{err: "refused"}, {at: 2 * minute, err: "refused", want: "error: refused"}, {at: 3 * minute, err: "late", want: "error: late"}, {at: 4 * minute, want: "Synced"}},
		"an istiod that restarts":           {{want: "Synced"}, {at: minute, err: "refused", want: "Synced"}, {at: 2 * minute, want: "Synced"}},
		"an istiod that does not come back": {{want: "Synced"}, {at: minute, err: "refused", want: "Synced"}, {at: 2 * minute, err: "refused", want: "error: refused"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all := readingsFrom(start)
			for i, r := range readings {
				var err error
				clusters := &certificatesv1.RemoteClusters{Clusters: []certificatesv1.RemoteCluster{{Name: "a", State: certificatesv1.RemoteSynced}}}
				if r.state != "" {
					clusters.Clusters[0].State = r.state
				}
				if r.err != "" {
					clusters, err = nil, errors.New(r.err)
				}
				if got := describe(all.add(clusters, map[string]float64{"a": r.errors}, err, start.Add(r.at))); got != r.want {
					t.Fatalf("reading %d: got %q, want %q", i, got, r.want)
				}
			}
		})
	}
}

func readingsFrom(start time.Time) *readings { return &readings{started: start} }

func describe(result *certificatesv1.RemoteClusters) string {
	switch {
	case result == nil:
		return ""
	case result.Error != "":
		return "error: " + result.Error
	default:
		return string(result.Clusters[0].State)
	}
}

// A cluster that is removed and comes back has no errors from before: nothing of removed clusters is kept.
func TestRemovedClusters(t *testing.T) {
	t.Parallel()
	all := readingsFrom(start)
	for i, cluster := range []string{"a", "a", "a", "", "a", "a"} {
		clusters := &certificatesv1.RemoteClusters{}
		if cluster != "" {
			clusters.Clusters = []certificatesv1.RemoteCluster{{Name: cluster, State: certificatesv1.RemoteSynced}}
		}
		count := map[string]float64{"a": float64(min(i, 2))}
		result := all.add(clusters, count, nil, start.Add(time.Duration(i)*time.Minute))
		if cluster == "" {
			if len(all.errors) != 0 {
				t.Errorf("kept %v", all.errors)
			}
			continue
		}
		if got, want := describe(result), map[int]string{2: "Failing"}[i]; want != "" && got != want || want == "" && got != "Synced" {
			t.Errorf("reading %d: got %s", i, got)
		}
	}
}
