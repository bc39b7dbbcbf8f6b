// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// The author of a specification can have another long message every second.
func TestMessagesTakeBoundedMemory(t *testing.T) {
	t.Parallel()
	a, specifications, reporter := newAgent(t)
	for i := range 2 * maxReported {
		specifications.err = &SpecificationError{Certificate: named("mine", 1), Err: errors.New(fmt.Sprint(i, strings.Repeat(" long", 1000)))}
		a.observe(a.started.Add(2 * look))
	}
	size := 0
	for message := range a.said {
		size += len(message)
	}
	if limit := maxReported * (maxProblem + 64); size > limit {
		t.Errorf("%d bytes are kept, more than %d", size, limit)
	}
	if message := a.problems.String(); len(message) > 4<<10 {
		t.Errorf("a health check answers %d bytes", len(message))
	}
	a.report()
	if !strings.Contains(reporter.status.Error, "long") {
		t.Errorf("status: %q", reporter.status.Error)
	}
}
