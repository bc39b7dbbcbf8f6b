// SPDX-License-Identifier: Apache-2.0

package renewal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
)

// inARow is how many renewals an agent makes in a row when it is asked to, before it pauses.
const inARow = 5

// Renewal after renewal, each asked for as soon as the one before is confirmed: istiod runs on and reloads
// exactly once for each, its root stays what it was, and workloads get certificates all the while. The agent, which would
// pause, is another one after a few of them.
func TestTwoHundredRenewals(t *testing.T) {
	count := 200
	if testing.Short() {
		count = 20
	}
	m := newMesh(t, nil)
	m.startWithoutSidecar(t)
	sidecar := m.crashing(t)
	m.confirmed(t, "")
	serial := m.serial(t)
	istiod := m.istiod.Process().PID()
	_, root := m.file(t, "root-cert.pem")

	stop := m.workloads(t)
	begin := time.Now()
	for i := 1; i <= count; i++ {
		must(t, agents.Renew(t.Context(), shared, m.certificate, strconv.Itoa(i)))
		metric(t, sidecar, requested, float64((i-1)%inARow+1))
		if _, again := m.file(t, "root-cert.pem"); !bytes.Equal(root, again) {
			t.Fatalf("root-cert.pem has changed with renewal %d", i)
		}
		before := serial
		if serial = m.serial(t); serial == before {
			t.Fatalf("renewal %d left the certificate as it was", i)
		}
		if i%inARow == 0 {
			must(t, sidecar.Kill())
			sidecar = m.crashing(t)
			metric(t, sidecar, "istiod_agent_istiod_confirmed", 1)
		}
	}
	took := time.Since(begin)
	signed, failed := stop()
	t.Logf("%d renewals in %s, %s each, while istiod signed %d certificates of workloads", count, took.Round(time.Second), (took / time.Duration(count)).Round(time.Millisecond), signed)
	if failed != nil {
		t.Error("a workload was left without a certificate:", failed)
	}
	if signed < count/2 {
		t.Errorf("istiod signed %d certificates of workloads: too few to tell anything of %d renewals", signed, count)
	}

	cluster.Eventually(t, "istiod has loaded each renewal once", func() error {
		if n := m.reloads(); n != count {
			return fmt.Errorf("it has loaded %d", n)
		}
		return nil
	})
	metric(t, sidecar, "istiod_agent_istiod_confirmed", 1)
	select {
	case <-m.istiod.Process().Exited():
		t.Error("istiod has ended")
	default:
		if now := m.istiod.Process().PID(); now != istiod {
			t.Errorf("istiod is process %d, was %d", now, istiod)
		}
	}
	must(t, m.signs(t.Context()))
	m.published(t)
}

// requested counts the renewals that the annotation asked for and istiod confirmed.
const requested = `istiod_agent_renewals_total{outcome="success",reason="RenewRequested"}`

// workloads has istiod sign certificates of workloads, one after the other, until the function it gives is
// called: that says how many there were, and what went wrong.
func (m *mesh) workloads(t *testing.T) (stop func() (signed int, failed error)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var signed int
	var failed []error
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if err := m.signs(ctx); err == nil {
				signed++
			} else if ctx.Err() == nil { // else it was cut off
				failed = append(failed, err)
			}
		}
	}()
	stop = func() (int, error) {
		cancel()
		<-done
		return signed, errors.Join(failed...)
	}
	t.Cleanup(func() { _, _ = stop() })
	return stop
}
