// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"reflect"
	"testing"
	"time"
)

// What each event changes, and that it changes nothing else.
func TestAfter(t *testing.T) {
	t.Parallel()
	now := start.Add(10 * day)
	issued := Set{Serial: "02", NotBefore: now, NotAfter: now.Add(100 * day), Digest: "a", Root: "r", Roots: []string{"r"}}
	failed := func(failure Failure) func(*State) {
		return func(s *State) { s.failures, s.failedAt, s.failure, s.rejectedRoot = 3, start, failure, "q" }
	}
	for name, test := range map[string]struct {
		before func(*State)
		event  Event
		change func(*State)
	}{
		"the first specification": {
			func(s *State) { s.desired = nil },
			Specified{Specification{Digest: "b", Renew: "x"}},
			func(s *State) {
				s.desired = &desired{Specification: Specification{Digest: "b", Renew: "x"}, seenAt: now}
			},
		},
		"the same specification": {failed(OtherFailure), Specified{Specification{Digest: "a", Ratio: 0.5}}, func(*State) {}},
		"another digest": {
			func(s *State) { failed(RootRejected)(s); s.published.rootsRefused, s.tokenDue = true, now },
			Specified{Specification{Digest: "b"}},
			func(s *State) {
				s.desired = &desired{Specification: Specification{Digest: "b"}, seenAt: now}
				s.failures, s.failure, s.tokenDue = 0, OtherFailure, time.Time{}
				s.published.rootsRefused = false
			},
		},
		"a request to renew": {
			func(s *State) { s.tokenDue = now; s.desired.roots = []string{"r"} },
			Specified{Specification{Digest: "a", Renew: "x"}},
			func(s *State) {
				s.desired = &desired{Specification: Specification{Digest: "a", Renew: "x"}, seenAt: now, renewedAt: now, roots: []string{"r"}}
			},
		},
		"a request that is withdrawn": {
			func(s *State) { s.desired.Renew, s.desired.renewedAt = "x", start },
			Specified{Specification{Digest: "a"}},
			func(s *State) {
				s.desired = &desired{Specification: Specification{Digest: "a"}, seenAt: now, renewedAt: start}
			},
		},
		"roots without a specification": {func(s *State) { s.desired = nil }, RootsSpecified{[]string{"r"}}, func(*State) {}},
		"the same roots":                {func(s *State) { failed(RootRejected)(s); s.desired.roots = []string{"r"} }, RootsSpecified{[]string{"r"}}, func(*State) {}},
		"other roots after a failure that is not theirs": {
			failed(OtherFailure), RootsSpecified{[]string{"r"}}, func(s *State) { s.desired.roots = []string{"r"} },
		},
		"other roots after a rejected one": {
			func(s *State) { failed(RootRejected)(s); s.published.rootsRefused = true },
			RootsSpecified{[]string{"r"}},
			func(s *State) {
				s.desired.roots, s.failures, s.failure, s.published.rootsRefused = []string{"r"}, 0, OtherFailure, false
			},
		},
		"start conditions, awaited": {
			failed(RootAwaited), StartConditionsChanged{}, func(s *State) { s.failures, s.failure = 0, OtherFailure },
		},
		"start conditions, not awaited": {failed(RootRejected), StartConditionsChanged{}, func(*State) {}},
		"a set is found": {
			func(s *State) { s.published = nil }, SetFound{issued}, func(s *State) { s.published = &Published{Set: issued, readableFrom: now} },
		},
		"an attempt starts": {
			func(*State) {}, IssueStarted{}, func(s *State) { s.issuing, s.paced = true, now.Add(time.Minute) },
		},
		"an attempt starts after failures": {failed(OtherFailure), IssueStarted{}, func(s *State) { s.issuing = true }},
		"an attempt succeeds": {
			func(s *State) { failed(RootRejected)(s); s.issuing = true },
			SetPublished{issued, Expiring},
			func(s *State) {
				s.issuing, s.failures, s.failure, s.rejectedRoot = false, 0, OtherFailure, ""
				s.published = &Published{Set: issued, Reason: Expiring, readableFrom: now}
			},
		},
		"an attempt fails": {
			func(s *State) { failed(RootRejected)(s); s.issuing = true },
			IssueFailed{},
			func(s *State) {
				s.issuing, s.failures, s.failedAt, s.failure, s.rejectedRoot = false, 4, now, OtherFailure, ""
			},
		},
		"an attempt fails by its root": {
			func(s *State) { s.issuing = true },
			IssueFailed{RootAwaited, "r"},
			func(s *State) {
				s.issuing, s.failures, s.failedAt, s.failure, s.rejectedRoot = false, 1, now, RootAwaited, "r"
			},
		},
		"an attempt is undecided": {
			func(s *State) { failed(RootRejected)(s); s.issuing = true },
			IssuePending{},
			func(s *State) {
				s.issuing, s.failures, s.failedAt, s.failure, s.rejectedRoot = false, 1, now, undecided, ""
			},
		},
		"an undecided attempt goes on": {failed(undecided), IssueStarted{}, func(s *State) { s.issuing = true }},
		"an undecided attempt fails": {
			func(s *State) { failed(undecided)(s); s.issuing = true },
			IssueFailed{},
			func(s *State) {
				s.issuing, s.failures, s.failedAt, s.failure, s.rejectedRoot = false, 1, now, OtherFailure, ""
			},
		},
		"roots are published": {
			failed(OtherFailure), RootsPublished{issued}, func(s *State) { s.published = &Published{Set: issued, readableFrom: now} },
		},
		"roots are refused":           {func(*State) {}, RootsRefused{}, func(s *State) { s.published.rootsRefused = true }},
		"roots are delayed":           {func(*State) {}, RootsDelayed{}, func(s *State) { s.published.Confirmed = false }},
		"files are lost":              {func(*State) {}, FilesChecked{}, func(s *State) { s.published.Lost = true }},
		"files are back":              {func(s *State) { s.published.Lost = true }, FilesChecked{Intact: true}, func(s *State) { s.published.Lost = false }},
		"files, with nothing there":   {func(s *State) { s.published = nil }, FilesChecked{}, func(*State) {}},
		"confirmed, with nothing":     {func(s *State) { s.published = nil }, Confirmed{}, func(*State) {}},
		"not confirmed, with nothing": {func(s *State) { s.published = nil }, NotConfirmed{Other: true}, func(*State) {}},
		"confirmed": {
			func(s *State) {
				s.published.Confirmed, s.published.Reason, s.published.otherSince, s.published.confirmations = false, Initial, start, 2
			},
			Confirmed{},
			func(s *State) {
				s.published.Confirmed, s.published.Reason, s.published.otherSince = true, "", time.Time{}
				s.published.confirmations, s.published.askedAt = 3, now
			},
		},
		"no answer": {
			func(s *State) { s.published.Confirmed, s.published.otherSince = false, start },
			NotConfirmed{},
			func(s *State) {
				s.published.otherSince, s.published.confirmations, s.published.askedAt = time.Time{}, 1, now
			},
		},
		"another CA": {
			func(s *State) { s.published.Confirmed = false },
			NotConfirmed{Other: true},
			func(s *State) { s.published.otherSince, s.published.confirmations, s.published.askedAt = now, 1, now },
		},
		"still another CA": {
			func(s *State) { s.published.Confirmed, s.published.otherSince = false, start },
			NotConfirmed{Other: true},
			func(s *State) { s.published.confirmations, s.published.askedAt = 1, now },
		},
		"published once more": {
			func(s *State) { s.published.otherSince, s.published.republished = start, 1 },
			Republished{},
			func(s *State) { s.published.otherSince, s.published.republished = now, 2 },
		},
		"a token is checked": {func(*State) {}, TokenChecked{now.Add(time.Hour)}, func(s *State) { s.tokenDue = now.Add(time.Hour) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			state := func(changes ...func(*State)) State {
				s := State{desired: specified(), published: inUse(), config: Config{WorkloadTTL: day}}
				for _, change := range changes {
					change(&s)
				}
				return s
			}
			before, want := state(test.before), state(test.before, test.change)
			if got := before.After(test.event, now); !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v\n%+v\n%+v, want %+v\n%+v\n%+v", got, got.desired, got.published, want, want.desired, want.published)
			}
			if !reflect.DeepEqual(before, state(test.before)) {
				t.Error("the state before is another now")
			}
		})
	}
}
