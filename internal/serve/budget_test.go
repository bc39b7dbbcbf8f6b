// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"slices"
	"strings"
	"testing"
)

// hold requests a part of the budget for a source.
func (b *Budget) hold(source string, size int64, abandoned *[]string) *reservation {
	p := &reservation{source: source, size: size, granted: make(chan struct{}), abandon: func() { *abandoned = append(*abandoned, source) }}
	b.enqueue(p)
	return p
}

func (p *reservation) isGranted() bool {
	select {
	case <-p.granted:
		return true
	default:
		return false
	}
}

func TestBudget(t *testing.T) {
	t.Parallel()
	type want struct {
		source    string
		size      int64
		granted   bool
		abandoned string // sources, one by one
	}
	for name, steps := range map[string][]want{
		"one may hold half":                     {{"a", 30, true, ""}, {"a", 20, true, ""}, {"a", 1, false, ""}, {"b", 50, true, ""}},
		"one request may hold all":              {{"a", 100, true, ""}, {"a", 1, false, ""}},
		"who holds all is abandoned":            {{"a", 100, true, ""}, {"b", 1, false, "a"}, {"b", 1, false, ""}, {"c", 1, false, ""}},
		"the newest is, and no more than needs": {{"a", 25, true, ""}, {"a", 25, true, ""}, {"b", 25, true, ""}, {"c", 25, true, ""}, {"d", 10, false, "a"}},
		"equals wait":                           {{"a", 50, true, ""}, {"b", 50, true, ""}, {"c", 50, false, ""}},
		"less than others hold":                 {{"a", 50, true, ""}, {"b", 50, true, ""}, {"c", 10, false, "b"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			budget := NewBudget(100, 0, 0)
			var parts []*reservation
			for i, step := range steps {
				var abandoned []string
				all := &abandoned
				p := budget.hold(step.source, step.size, all)
				for _, earlier := range parts {
					earlier.abandon = func() { *all = append(*all, earlier.source) }
				}
				_ = all
				parts = append(parts, p)
				if p.isGranted() != step.granted {
					t.Errorf("step %d: granted %t", i, p.isGranted())
				}
			}
			var gone []string
			for _, p := range parts {
				if p.abandoned {
					gone = append(gone, p.source)
				}
			}
			var wanted []string
			for _, step := range steps {
				wanted = append(wanted, strings.Fields(step.abandoned)...)
			}
			if !slices.Equal(gone, wanted) {
				t.Errorf("abandoned %v, want %v", gone, wanted)
			}
			// What waited is served when the others are done, and nothing is lost or given twice.
			for len(parts) > 0 {
				i := slices.IndexFunc(parts, (*reservation).isGranted)
				if i < 0 {
					t.Fatalf("%d wait for ever", len(parts))
				}
				budget.release(parts[i])
				parts = slices.Delete(parts, i, i+1)
			}
			if budget.free != 100 || len(budget.active)+len(budget.queue) > 0 {
				t.Errorf("%d of 100 are free at the end", budget.free)
			}
		})
	}
}

func TestBudgetSmallRequest(t *testing.T) {
	t.Parallel()
	budget := NewBudget(100, 0, 0)
	var none []string
	for _, source := range []string{"a", "b", "c", "d"} {
		budget.hold(source, 60, &none)
	}
	if honest := budget.hold("e", 1, &none); !honest.isGranted() {
		t.Error("it waits behind requests that do not fit")
	}
}

func TestBudgetFairness(t *testing.T) {
	t.Parallel()
	budget := NewBudget(100, 0, 0)
	var none []string
	flood := make([]*reservation, 0, 100)
	for range 100 {
		flood = append(flood, budget.hold("a", 10, &none))
	}
	budget.hold("b", 50, &none)
	if honest := budget.hold("c", 10, &none); honest.isGranted() {
		t.Fatal("there is no room yet")
	}
	budget.release(flood[0])
	if granted := slices.IndexFunc(flood[5:], (*reservation).isGranted); granted >= 0 || len(budget.active) != 6 {
		t.Errorf("flood request %d is served before one of a client that holds nothing; %d hold", granted+5, len(budget.active))
	}
}
