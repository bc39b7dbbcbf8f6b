// SPDX-License-Identifier: Apache-2.0

package renewal

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/process"
)

// A renewal is complete when istiod has loaded it. While istiod hangs, the agent reports that after a minute; the renewal
// is done as soon as istiod continues.
func TestIstiodHangs(t *testing.T) {
	t.Parallel()
	m := newMesh(t, nil)
	sidecar := m.start(t)
	old := m.confirmed(t, "")
	istiod := m.istiod.Process()
	t.Cleanup(func() { must(t, istiod.Signal(syscall.SIGCONT)) }) // or it cannot be stopped
	must(t, istiod.Signal(syscall.SIGSTOP))

	must(t, agents.Renew(t.Context(), shared, m.certificate, "once"))
	serial := m.unconfirmed(t, sidecar)
	if serial == old {
		t.Error("nothing was published")
	}

	must(t, istiod.Signal(syscall.SIGCONT))
	cluster.Within(t, time.Minute, "the renewal counts", func() error {
		got, err := sidecar.Metric(t.Context(), requested)
		if err == nil && got != 1 {
			err = fmt.Errorf("%v renewals count as done", got)
		}
		return err
	})
	metric(t, sidecar, "istiod_agent_istiod_confirmed", 1)
	if now := m.confirmed(t, old); now != serial {
		t.Errorf("certificate %s is confirmed, %s was published", now, serial)
	}
	if n := m.reloads(); n != 1 {
		t.Errorf("istiod has loaded it %d times", n)
	}
	must(t, m.signs(t.Context()))
}

// A sidecar whose istiod never answers reports that after a minute and confirms nothing.
func TestIstiodUnreachable(t *testing.T) {
	t.Parallel()
	m := newMesh(t, nil)
	ports, err := process.FreePorts(1)
	must(t, err)
	m.IstiodAddress = fmt.Sprintf("127.0.0.1:%d", ports[0])
	sidecar := m.startSidecar(t)
	m.unconfirmed(t, sidecar, m.IstiodAddress, "connection refused")
	// istiod's files are in order, so the Pod is ready.
	_, err = sidecar.Get(t.Context(), "/readyz")
	must(t, err)
}

// unconfirmed waits until status, Event and metrics report that istiod has not loaded the published CA.
func (m *mesh) unconfirmed(t *testing.T, sidecar *agents.Sidecar, words ...string) (serial string) {
	t.Helper()
	words = append(words, "has not loaded CA certificate", "within 1m0s")
	// A minute, and up to half of one until the agent asks again.
	cluster.Within(t, 2*time.Minute, "the status reports that istiod has not loaded the published CA", func() error {
		state, entry := m.status(t)
		if state != "FAILED" || entry["confirmed"] != false {
			return fmt.Errorf("state %q, %v", state, entry)
		}
		serial = entry["serialNumber"].(string)
		return contains(fmt.Sprint(entry["error"]), append(words, serial)...)
	})
	m.wantEvent(t, "Warning", "NotConfirmed", append(words, serial)...)
	metric(t, sidecar, "istiod_agent_istiod_confirmed", 0)
	for _, reason := range []string{"RenewRequested", "Initial"} {
		metric(t, sidecar, `istiod_agent_renewals_total{outcome="success",reason="`+reason+`"}`, 0)
	}
	return serial
}
