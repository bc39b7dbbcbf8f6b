// SPDX-License-Identifier: Apache-2.0

package renewal

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
)

// inARow is the number of requested renewals that an agent makes without a pause.
const inARow = 5

// 200 renewals, each requested once the one before is confirmed: istiod reloads exactly once for each, keeps its root, and
// signs workload certificates meanwhile. The agent is replaced after every few of them, since it would pause.
func TestTwoHundredRenewals(t *testing.T) {
	t.Run("Vault", func(t *testing.T) { newMesh(t, nil).renews(t, 200, func() {}) })
	t.Run("cert-manager", func(t *testing.T) {
		m, issuerKey := newIssuerMesh(t)
		var keys [][]byte
		m.renews(t, 200, func() { keys = append(keys, []byte(m.Files(t)["ca-key.pem"])) })
		requests := &unstructured.UnstructuredList{}
		requests.SetGroupVersionKind(schema.GroupVersionKind{Group: "cert-manager.io", Version: "v1", Kind: "CertificateRequestList"})
		must(t, shared.List(t.Context(), requests, client.InNamespace(m.Namespace)))
		if len(requests.Items) > 0 {
			t.Errorf("%d CertificateRequests are left", len(requests.Items))
		}
		// The keys of istiod's CAs are nowhere in etcd; the issuer's, in a Secret, is found by the same search.
		for _, key := range [][]byte{keys[0], keys[len(keys)/2], keys[len(keys)-1]} {
			if found, _, err := shared.Plane.Stored(key); found || err != nil {
				t.Errorf("a key of istiod's CA is in etcd: %t (%v)", found, err)
			}
		}
		if found, _, err := shared.Plane.Stored(issuerKey); !found || err != nil {
			t.Errorf("the issuer's key is not found in etcd: %v", err)
		}
	})
}

// renews makes so many renewals, and calls a function after each.
func (m *mesh) renews(t *testing.T, count int, after func()) {
	t.Helper()
	if testing.Short() {
		count /= 10
	}
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
		after()
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

// workloads requests workload certificates from istiod one after the other, fifty a second at most, until the caller calls the
// function that it returns, which returns their number and the errors. A gap of one millisecond in each of two hundred renewals
// is still met, with a probability of 99.99 % (1 - (1 - 1/20)^200).
//
// A certificate that istiod signed under the former CA, and sent with the new one's chain, is requested again: istiod reads
// key and chain one after the other, and loads a CA in between if it must (Istio security/pkg/pki/ca/ca.go,
// signWithCertChain). The next one must be right.
func (m *mesh) workloads(t *testing.T) (stop func() (signed int, failed error)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var signed int
	var failed []error
	done := make(chan struct{})
	go func() {
		defer close(done)
		next := time.NewTicker(20 * time.Millisecond)
		defer next.Stop()
		for ctx.Err() == nil {
			<-next.C
			err := m.signs(ctx)
			if _, mixed := errors.AsType[x509.UnknownAuthorityError](err); mixed {
				t.Log("istiod sent a certificate with the chain of its next CA")
				err = m.signs(ctx)
			}
			if err == nil {
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
