// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

func TestWhenARoundBegins(t *testing.T) {
	settled := func(desired ...string) roots { return roots{desired: desired, settled: true} }
	idle := func(state certificatesv1.RestartState, of ...string) certificatesv1.PodBounceDirectiveStatus {
		return certificatesv1.PodBounceDirectiveStatus{State: state, Roots: of, PodsBounced: []certificatesv1.BouncedPodSet{{Set: "istiod", Complete: true}}}
	}
	for name, test := range map[string]struct {
		before    certificatesv1.PodBounceDirectiveStatus
		now       roots
		published []string
		state     certificatesv1.RestartState
		roots     []string
		anew      bool // a round begins
	}{
		"nothing is known yet":                             {now: roots{waiting: "x"}},
		"the first look: what is published is what counts": {now: roots{waiting: "x"}, published: []string{"R1"}, state: certificatesv1.RestartsIdle, roots: []string{"R1"}},
		"the first istiod of all":                          {now: settled("R1"), state: certificatesv1.RestartsIdle, roots: []string{"R1"}},
		"the first look, at a root that has changed":       {now: settled("R2"), published: []string{"R1"}, state: certificatesv1.Restarting, roots: []string{"R2"}, anew: true},
		"a renewal":    {before: idle(certificatesv1.RestartsIdle, "R1"), now: settled("R1"), state: certificatesv1.RestartsIdle, roots: []string{"R1"}},
		"another root": {before: idle(certificatesv1.RestartsIdle, "R1"), now: settled("R2"), state: certificatesv1.Restarting, roots: []string{"R2"}, anew: true},
		"another root, which istiod must be restarted for": {
			before: idle(certificatesv1.RestartsIdle, "R1"), now: roots{desired: []string{"R2"}, outdated: []string{"a"}, waiting: "x"},
			state: certificatesv1.Restarting, roots: []string{"R2"}, anew: true,
		},
		"a second rotation":                  {before: idle(certificatesv1.Restarted, "R2"), now: settled("R3"), state: certificatesv1.Restarting, roots: []string{"R3"}, anew: true},
		"back to the first root":             {before: idle(certificatesv1.Restarted, "R2"), now: settled("R1"), state: certificatesv1.Restarting, roots: []string{"R1"}, anew: true},
		"the same, while under way":          {before: idle(certificatesv1.Restarting, "R2"), now: settled("R2"), state: certificatesv1.Restarting, roots: []string{"R2"}},
		"another root, while under way":      {before: idle(certificatesv1.Restarting, "R2"), now: settled("R3"), state: certificatesv1.Restarting, roots: []string{"R3"}, anew: true},
		"istiod cannot say, while under way": {before: idle(certificatesv1.Restarting, "R2"), now: roots{waiting: "x"}, state: certificatesv1.Restarting, roots: []string{"R2"}},
		"a root is added, in stages":         {before: idle(certificatesv1.RestartsIdle, "R1"), now: settled("R1", "R2"), state: certificatesv1.Restarting, roots: []string{"R1", "R2"}, anew: true},
		"a root is dropped, in stages":       {before: idle(certificatesv1.Restarted, "R1", "R2"), now: settled("R2"), state: certificatesv1.Restarted, roots: []string{"R2"}},
		"a root is dropped, while under way": {before: idle(certificatesv1.Restarting, "R1", "R2"), now: settled("R2"), state: certificatesv1.Restarting, roots: []string{"R1", "R2"}},
		"a change in stages was given up, and its root is offered at once": {
			before: idle(certificatesv1.Restarted, "R1", "R2"), now: roots{desired: []string{"R2"}, outdated: []string{"a"}, waiting: "x"},
			state: certificatesv1.Restarting, roots: []string{"R2"}, anew: true,
		},
		"a replica that lags behind a root that was restarted for": {
			before: idle(certificatesv1.Restarted, "R2"), now: roots{desired: []string{"R2"}, outdated: []string{"a"}, waiting: "x"},
			state: certificatesv1.Restarted, roots: []string{"R2"},
		},
		"a root that was dropped comes again": {before: idle(certificatesv1.Restarted, "R2"), now: settled("R1", "R2"), state: certificatesv1.Restarting, roots: []string{"R1", "R2"}, anew: true},
	} {
		t.Run(name, func(t *testing.T) {
			got := observeRoots(test.before, test.now, test.published, begun)
			if got.State != test.state || !slices.Equal(got.Roots, test.roots) {
				t.Errorf("state %q for roots %q", got.State, got.Roots)
			}
			if anew := got.StartedAt != nil; anew != test.anew || anew && len(got.PodsBounced) > 0 {
				t.Errorf("a round begins: %t, with sets %+v", anew, got.PodsBounced)
			}
		})
	}
}

func TestSetsComeInTheirOrder(t *testing.T) {
	var status certificatesv1.PodBounceDirectiveStatus
	for index, s := range meshSets {
		i, entry := currentSet(&status, meshSets)
		if i != index || entry.Set != s.name || status.Set != s.name {
			t.Fatalf("set %d: %d, %+v", index, i, entry)
		}
		record(&status, entry, certificatesv1.RestartingWorkload{Name: s.name}, []string{"a", "b"})
		entry.Complete = true
	}
	if _, entry := currentSet(&status, meshSets); entry != nil {
		t.Errorf("one more: %+v", entry)
	}
	if len(status.Restarting) != 3 || len(status.PodsBounced) != 3 || status.PodsBounced[2].Workloads != 1 || len(status.PodsBounced[2].BouncedPods) != 2 {
		t.Errorf("noted %+v", status)
	}
}

// An object has its limit, a set may have tens of thousands of Pods, and a directive 100 sets.
func TestNamesOfPodsAreCutOff(t *testing.T) {
	var status certificatesv1.PodBounceDirectiveStatus
	sets, names := make([]podSet, 100), 0
	for i := range sets {
		sets[i].name = fmt.Sprint("set-", i)
	}
	for range sets {
		_, entry := currentSet(&status, sets)
		for range 3 {
			record(&status, entry, certificatesv1.RestartingWorkload{}, slices.Repeat([]string{strings.Repeat("a", 253)}, 200))
		}
		if entry.Workloads != 3 {
			t.Errorf("set %s: %d workloads", entry.Set, entry.Workloads)
		}
		names += len(entry.BouncedPods)
		entry.Complete = true
	}
	if names != maxBouncedPods || len(status.PodsBounced[0].BouncedPods) != 600 {
		t.Errorf("%d names, %d of the first set", names, len(status.PodsBounced[0].BouncedPods))
	}
	if raw, err := json.Marshal(status.PodsBounced); err != nil || len(raw) > 1<<19 {
		t.Errorf("%d bytes, %v", len(raw), err)
	}
}

// A person who changes the sets of a directive has the changed ones restarted, and those after them.
func TestSetsThatChangeMeanwhile(t *testing.T) {
	status := certificatesv1.PodBounceDirectiveStatus{PodsBounced: []certificatesv1.BouncedPodSet{{Set: "a", Complete: true}, {Set: "b", Complete: true}}}
	i, entry := currentSet(&status, []podSet{{name: "a"}, {name: "c"}})
	if i != 1 || entry == nil || entry.Set != "c" || entry.Complete {
		t.Errorf("set %d: %+v", i, entry)
	}
}
