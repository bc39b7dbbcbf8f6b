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
		reports  []report
		staged   bool
		desired  []string
		outdated []string
		waiting  string // none: settled
	}{
		"nobody has reported":    {waiting: "istiod's agents to report"},
		"all have the same root": {reports: []report{replica("a", "R1"), replica("b", "R1")}, desired: []string{"R1"}},
		"one has not loaded its certificate yet": {
			reports: []report{replica("a", "R1"), replica("b", "R1", unconfirmed)}, waiting: "the same roots: b",
		},
		"one has none yet": {reports: []report{replica("a", "R1"), {Pod: "b"}}, waiting: "the same roots: b"},
		"one is offered another root": {
			reports: []report{replica("a", "R1", offered("R2")), replica("b", "R1")},
			desired: []string{"R2"}, outdated: []string{"a", "b"}, waiting: "istiod to take root R2",
		},
		"the root of all is offered": {reports: []report{replica("a", "R2", offered("R2")), replica("b", "R2")}, desired: []string{"R2"}},
		"one has started with another root already": {
			reports: []report{replica("a", "R1", offered("R2")), replica("b", "R2")},
			desired: []string{"R2"}, outdated: []string{"a"}, waiting: "istiod to take root R2: a started with another",
		},
		"one has started with another root, and nobody is offered one": {
			reports: []report{replica("a", "R1"), replica("b", "R2", issued(time.Hour))},
			desired: []string{"R2"}, outdated: []string{"a"}, waiting: "istiod to take root R2",
		},
		"the certificate that was issued last counts, not the order": {
			reports: []report{replica("a", "R2", issued(time.Hour)), replica("b", "R1"), {Pod: "c"}},
			desired: []string{"R2"}, outdated: []string{"b"}, waiting: "istiod to take root R2",
		},
		"Vault cannot make up its mind": {
			reports: []report{replica("a", "R1", offered("R2")), replica("b", "R1", offered("R3"))},
			waiting: "the CA to have one root: replicas of istiod were offered 2 different ones",
		},
		"in stages, both roots are published": {
			reports: []report{replica("a", "R1", trusts("R1", "R2")), replica("b", "R1", trusts("R2", "R1"))}, staged: true,
			desired: []string{"R1", "R2"},
		},
		"in stages, one does not publish both yet": {
			reports: []report{replica("a", "R1", trusts("R1", "R2")), replica("b", "R1")}, staged: true, waiting: "the same roots: b",
		},
		"in stages, one signs under the new root already": {
			reports: []report{replica("a", "R2", trusts("R1", "R2"), issued(time.Hour)), replica("b", "R1", trusts("R1", "R2"))}, staged: true,
			desired: []string{"R1", "R2"},
		},
		"in stages, what is offered besides is not restarted for: istiod would not come up with it": {
			reports: []report{replica("a", "R1", trusts("R1", "R2"), offered("R3"))}, staged: true, desired: []string{"R1", "R2"},
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
			if !slices.Equal(got.desired, test.desired) || !slices.Equal(got.outdated, test.outdated) {
				t.Errorf("wanted %q, behind %q", got.desired, got.outdated)
			}
		})
	}
}
