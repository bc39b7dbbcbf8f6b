// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

var begun = metav1.NewTime(time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC))

type report = certificatesv1.CertificateStatus

// replica is one that is content: it publishes the root that it signs under.
func replica(pod, root string, change ...func(*report)) report {
	r := report{Pod: pod, RootFingerprint: root, TrustedRoots: []string{root}, Confirmed: true, NotBefore: &begun}
	for _, each := range change {
		each(&r)
	}
	return r
}

func offered(root string) func(*report) { return func(r *report) { r.OfferedRootFingerprint = root } }

func trusts(roots ...string) func(*report) {
	return func(r *report) { r.TrustedRoots = roots }
}

func issued(later time.Duration) func(*report) {
	return func(r *report) { r.NotBefore = &metav1.Time{Time: begun.Add(later)} }
}
func unconfirmed(r *report) { r.Confirmed = false }

func TestWhatTheRootsAre(t *testing.T) {
	for name, test := range map[string]struct {
		reports []report
		staged  bool
		wanted  []string
		behind  []string
		waiting string // none: settled
	}{
		"nobody has reported":    {waiting: "have not reported"},
		"all have the same root": {reports: []report{replica("a", "R1"), replica("b", "R1")}, wanted: []string{"R1"}},
		"one was not seen to use its certificate yet": {
			reports: []report{replica("a", "R1"), replica("b", "R1", unconfirmed)}, waiting: "the same roots: b",
		},
		"one has none yet": {reports: []report{replica("a", "R1"), {Pod: "b"}}, waiting: "the same roots: b"},
		"one is offered another root": {
			reports: []report{replica("a", "R1", offered("R2")), replica("b", "R1")},
			wanted:  []string{"R2"}, behind: []string{"a", "b"}, waiting: "istiod to take root R2",
		},
		"the root of all is offered": {reports: []report{replica("a", "R2", offered("R2")), replica("b", "R2")}, wanted: []string{"R2"}},
		"one has started with another root already": {
			reports: []report{replica("a", "R1", offered("R2")), replica("b", "R2")},
			wanted:  []string{"R2"}, behind: []string{"a"}, waiting: "istiod to take root R2: a started with another",
		},
		"one has started with another root, and nobody is offered one": {
			reports: []report{replica("a", "R1"), replica("b", "R2", issued(time.Hour))},
			wanted:  []string{"R2"}, behind: []string{"a"}, waiting: "istiod to take root R2",
		},
		"the certificate that was issued last counts, not the order": {
			reports: []report{replica("a", "R2", issued(time.Hour)), replica("b", "R1"), {Pod: "c"}},
			wanted:  []string{"R2"}, behind: []string{"b"}, waiting: "istiod to take root R2",
		},
		"Vault cannot make up its mind": {
			reports: []report{replica("a", "R1", offered("R2")), replica("b", "R1", offered("R3"))},
			waiting: "Vault to have one root: replicas of istiod were offered 2 different ones",
		},
		"in stages, both roots are published": {
			reports: []report{replica("a", "R1", trusts("R1", "R2")), replica("b", "R1", trusts("R2", "R1"))}, staged: true,
			wanted: []string{"R1", "R2"},
		},
		"in stages, one does not publish both yet": {
			reports: []report{replica("a", "R1", trusts("R1", "R2")), replica("b", "R1")}, staged: true, waiting: "the same roots: b",
		},
		"in stages, one signs under the new root already": {
			reports: []report{replica("a", "R2", trusts("R1", "R2"), issued(time.Hour)), replica("b", "R1", trusts("R1", "R2"))}, staged: true,
			wanted: []string{"R1", "R2"},
		},
		"in stages, what is offered besides is not restarted for: istiod would not come up with it": {
			reports: []report{replica("a", "R1", trusts("R1", "R2"), offered("R3"))}, staged: true, wanted: []string{"R1", "R2"},
		},
		"in stages, the old root is being dropped": {
			reports: []report{replica("a", "R2", trusts("R1", "R2")), replica("b", "R2")}, waiting: "the same roots: b",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := readRoots(test.reports, test.staged)
			if test.waiting == "" != got.settled || !strings.Contains(got.waiting, test.waiting) {
				t.Errorf("settled %t, waiting for %q", got.settled, got.waiting)
			}
			if !slices.Equal(got.wanted, test.wanted) || !slices.Equal(got.behind, test.behind) {
				t.Errorf("wanted %q, behind %q", got.wanted, got.behind)
			}
		})
	}
}

func TestWhenARoundBegins(t *testing.T) {
	settled := func(wanted ...string) roots { return roots{wanted: wanted, settled: true} }
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
			before: idle(certificatesv1.RestartsIdle, "R1"), now: roots{wanted: []string{"R2"}, behind: []string{"a"}, waiting: "x"},
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
			before: idle(certificatesv1.Restarted, "R1", "R2"), now: roots{wanted: []string{"R2"}, behind: []string{"a"}, waiting: "x"},
			state: certificatesv1.Restarting, roots: []string{"R2"}, anew: true,
		},
		"a replica that lags behind a root that was restarted for": {
			before: idle(certificatesv1.Restarted, "R2"), now: roots{wanted: []string{"R2"}, behind: []string{"a"}, waiting: "x"},
			state: certificatesv1.Restarted, roots: []string{"R2"},
		},
		"a root that was dropped comes again": {before: idle(certificatesv1.Restarted, "R2"), now: settled("R1", "R2"), state: certificatesv1.Restarting, roots: []string{"R1", "R2"}, anew: true},
	} {
		t.Run(name, func(t *testing.T) {
			got := begin(test.before, test.now, test.published, begun)
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
	for want, s := range meshSets {
		i, entry := setOf(&status, meshSets)
		if i != want || entry.Set != s.name || status.Set != s.name {
			t.Fatalf("set %d: %d, %+v", want, i, entry)
		}
		note(&status, entry, certificatesv1.RestartingWorkload{Name: s.name}, []string{"a", "b"})
		entry.Complete = true
	}
	if _, entry := setOf(&status, meshSets); entry != nil {
		t.Errorf("one more: %+v", entry)
	}
	if len(status.Restarting) != 3 || len(status.PodsBounced) != 3 || status.PodsBounced[2].Workloads != 1 || len(status.PodsBounced[2].BouncedPods) != 2 {
		t.Errorf("noted %+v", status)
	}
}

// An object has its limit, and a set may have tens of thousands of Pods.
func TestNamesOfPodsAreCutOff(t *testing.T) {
	var status certificatesv1.PodBounceDirectiveStatus
	_, entry := setOf(&status, meshSets)
	for range 3 {
		note(&status, entry, certificatesv1.RestartingWorkload{}, make([]string, 200))
	}
	if len(entry.BouncedPods) != namesKept || entry.Workloads != 3 {
		t.Errorf("%d names of %d workloads", len(entry.BouncedPods), entry.Workloads)
	}
}

// A person who changes the sets of a directive has the changed ones restarted, and those after them.
func TestSetsThatChangeMeanwhile(t *testing.T) {
	status := certificatesv1.PodBounceDirectiveStatus{PodsBounced: []certificatesv1.BouncedPodSet{{Set: "a", Complete: true}, {Set: "b", Complete: true}}}
	i, entry := setOf(&status, []set{{name: "a"}, {name: "c"}})
	if i != 1 || entry == nil || entry.Set != "c" || entry.Complete {
		t.Errorf("set %d: %+v", i, entry)
	}
}
