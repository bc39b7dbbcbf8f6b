// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/csr"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istiodserver"
)

// fleet is a group of workloads that talk to each other by mutual TLS all the time and renew their certificates one after
// the other. As sidecars, they use the certificates that the istiods sign and the roots that the istiods publish.
type fleet struct {
	namespace string
	ask       func(func(istiods []*istiodserver.Server) error) error

	mu         sync.Mutex
	workloads  []*workload
	rounds     int // renewals of each workload
	handshakes int
	failures   []string
}

// workload has a certificate and the roots that it trusts.
type workload struct {
	name        string
	certificate tls.Certificate
	trusted     []byte
}

// newFleet starts workloads with their first certificates.
func newFleet(ctx context.Context, namespace string, size int, ask func(func([]*istiodserver.Server) error) error) (*fleet, error) {
	f := &fleet{namespace: namespace, ask: ask}
	for i := range size {
		w := &workload{name: fmt.Sprintf("workload-%d", i)}
		if err := f.renew(ctx, w, i); err != nil {
			return nil, err
		}
		f.workloads = append(f.workloads, w)
	}
	return f, nil
}

// run makes all pairs of workloads talk. Then, until ctx ends, one workload after the other renews and talks to all: what the others
// have for each other is as before. It renews 25 times a second at most.
func (f *fleet) run(ctx context.Context) {
	for _, w := range f.workloads {
		f.talk(w)
	}
	next := time.NewTicker(40 * time.Millisecond)
	defer next.Stop()
	for turn := 0; ctx.Err() == nil; turn++ {
		<-next.C
		w := f.workloads[turn%len(f.workloads)]
		if err := f.renew(ctx, w, turn); err != nil && ctx.Err() == nil {
			f.count(err)
		}
		f.talk(w)
		f.mu.Lock()
		f.rounds = (turn + 1) / len(f.workloads)
		f.mu.Unlock()
	}
}

// talk makes a workload talk to itself, to each other and each other to it.
func (f *fleet) talk(w *workload) {
	f.count(handshake(w, w))
	for _, other := range f.workloads {
		if other != w {
			f.count(handshake(w, other))
			f.count(handshake(other, w))
		}
	}
}

// at returns a copy of a workload.
func (f *fleet) at(i int) *workload {
	f.mu.Lock()
	defer f.mu.Unlock()
	copied := *f.workloads[i]
	return &copied
}

func (f *fleet) count(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.handshakes++
	if err != nil && len(f.failures) < 20 {
		f.failures = append(f.failures, err.Error())
	}
}

// result returns the number of handshakes, their failures, and the number of renewals of each workload.
func (f *fleet) result() (handshakes, rounds int, failures []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.handshakes, f.rounds, f.failures
}

// renew requests a certificate from an istiod, which it trusts by the ConfigMap that every Pod mounts.
func (f *fleet) renew(ctx context.Context, w *workload, turn int) error {
	var answer *csr.Workload
	if err := f.ask(func(istiods []*istiodserver.Server) error {
		istiod := istiods[turn%len(istiods)]
		root, err := istiod.PublishedRoot(ctx, f.namespace)
		if err != nil {
			return fmt.Errorf("reading istio-ca-root-cert: %w", err)
		}
		answer, err = istiod.CSR(ctx, istiodserver.CSROptions{Namespace: f.namespace, ServiceAccount: w.name, Root: root})
		return err
	}); err != nil {
		return fmt.Errorf("%s: %w", w.name, err)
	}
	certificate := tls.Certificate{PrivateKey: answer.Key}
	// The last element of the answer is what is to be trusted, the others are what is served (Istio
	// security/pkg/server/ca/server.go, CreateCertificate).
	last := len(answer.Chain) - 1
	served, err := (&csr.Workload{Chain: answer.Chain[:last]}).Certificates()
	if err != nil {
		return err
	}
	for _, each := range served {
		certificate.Certificate = append(certificate.Certificate, each.Raw)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	w.certificate, w.trusted = certificate, []byte(answer.Chain[last])
	return nil
}

// trusts reports whether a workload trusts a root.
func (w *workload) trusts(root []byte) bool { return bytes.Contains(w.trusted, bytes.TrimSpace(root)) }

// exchange is the key exchange that costs least: here certificates are tested.
var exchange = []tls.CurveID{tls.X25519}

// handshake does mutual TLS with each side's roots.
func handshake(client, server *workload) error {
	// What a side of a pipe sends waits until the other reads it.
	here, there := net.Pipe()
	defer here.Close()
	defer there.Close()
	deadline := time.Now().Add(10 * time.Second)
	_ = here.SetDeadline(deadline)
	_ = there.SetDeadline(deadline)
	result := make(chan error, 1)
	go func() {
		err := tls.Server(there, &tls.Config{
			Certificates: []tls.Certificate{server.certificate}, MinVersion: tls.VersionTLS12, CurvePreferences: exchange,
			ClientAuth: tls.RequireAnyClientCert, VerifyConnection: server.verify,
		}).Handshake()
		if err != nil {
			_ = there.Close()
		}
		result <- err
	}()
	connection := tls.Client(here, &tls.Config{
		Certificates: []tls.Certificate{client.certificate}, MinVersion: tls.VersionTLS12, CurvePreferences: exchange,
		InsecureSkipVerify: true, VerifyConnection: client.verify, // a SPIFFE ID is no host name: verify looks at the chain
	})
	err := connection.Handshake()
	if err != nil {
		_ = here.Close()
	}
	if err := errors.Join(err, <-result); err != nil {
		return fmt.Errorf("%s to %s: %w", client.name, server.name, err)
	}
	return nil
}

func (w *workload) verify(state tls.ConnectionState) error {
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(w.trusted)
	for _, each := range state.PeerCertificates[1:] {
		between.AddCert(each)
	}
	_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	return err
}
