// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/istiod-agent/istiod-agent/agent/machine"
)

// stuck is how long the agent's loop may stand still; issuing takes a few calls of --vault-timeout each.
const stuck = 10 * time.Minute

// health is what the health handlers read while the agent works.
type health struct{ last atomic.Pointer[snapshot] }

type snapshot struct {
	at       time.Time
	notAfter time.Time // of istiod's files, zero where they are not valid
	message  string
}

func (h *health) update(now time.Time, published *machine.Published, message string) {
	s := &snapshot{at: now, message: message}
	if published != nil && !published.Lost {
		s.notAfter = published.NotAfter
	}
	h.last.Store(s)
}

// Healthy returns an error while the agent's loop stands still. Failures to issue are no reason.
func (a *Agent) Healthy(now time.Time) error {
	if s := a.health.last.Load(); s != nil && now.Sub(s.at) > stuck {
		return fmt.Errorf("the agent has stood still since %s", utc(s.at))
	}
	return nil
}

// Ready returns an error while istiod has no valid CA in its files.
func (a *Agent) Ready(now time.Time) error {
	s := a.health.last.Load()
	switch {
	case s == nil:
		return errors.New("starting")
	case s.notAfter.IsZero() && s.message != "":
		return fmt.Errorf("istiod has no CA certificate: %s", s.message)
	case s.notAfter.IsZero():
		return errors.New("istiod has no CA certificate yet")
	case !now.Before(s.notAfter):
		return fmt.Errorf("istiod's CA certificate expired at %s", utc(s.notAfter))
	}
	return nil
}
