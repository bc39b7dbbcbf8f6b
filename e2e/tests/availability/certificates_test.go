// SPDX-License-Identifier: Apache-2.0

package availability

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"sync"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/client-go/util/cert"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

// Both replicas serve leaves of three CAs, one after the other, under load from the API server and from new connections.
func TestCertificateRotation(t *testing.T) {
	load := shared.StartLoad(t, 2, 40*time.Millisecond)
	watchers := make([]*watcher, 0, len(shared.Webhook.Replicas))
	for _, replica := range shared.Webhook.Replicas {
		watchers = append(watchers, watch(t, replica))
	}

	cluster.Within(t, 2*time.Minute, "both replicas have served leaves of three CAs", func() error {
		for i, w := range watchers {
			if seen := w.issuers(); seen < 3 && !t.Failed() {
				return fmt.Errorf("replica %d: of %d", i, seen)
			}
		}
		return nil
	})

	wantNoneFailed(t, load)
	for i, w := range watchers {
		dialled, leaves, issuers := w.stop()
		t.Logf("replica %d: %d handshakes, %d leaves of %d CAs", i, dialled, leaves, issuers)
	}
	if bundle := caBundle(t.Context(), t); len(bundle) > 2 {
		t.Errorf("the caBundle holds %d CAs; expired ones should be gone", len(bundle))
	}
}

// watcher opens TLS connections to a replica and trusts only the current caBundle of the webhook configuration, like an API
// server that has just started.
type watcher struct {
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu              sync.Mutex
	dialled         int
	leaves, signers map[string]struct{}
}

func watch(t *testing.T, replica *webhookserver.Replica) *watcher {
	ctx, cancel := context.WithCancel(t.Context())
	w := &watcher{cancel: cancel, leaves: map[string]struct{}{}, signers: map[string]struct{}{}}
	w.done.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if err := w.dial(ctx, t, replica.Address()); err != nil && ctx.Err() == nil {
					t.Errorf("a client that trusts the caBundle cannot connect to %s: %v", replica.Address(), err)
					return
				}
			}
		}
	})
	t.Cleanup(func() { w.stop() })
	return w
}

func (w *watcher) dial(ctx context.Context, t *testing.T, address string) error {
	roots := x509.NewCertPool()
	for _, ca := range caBundle(ctx, t) {
		roots.AddCert(ca)
	}
	dialer := tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: "localhost"}}
	connection, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer connection.Close()
	chain := connection.(*tls.Conn).ConnectionState().VerifiedChains[0]
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dialled++
	w.leaves[string(chain[0].Raw)] = struct{}{}
	w.signers[string(chain[len(chain)-1].Raw)] = struct{}{}
	return nil
}

func (w *watcher) issuers() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.signers)
}

func (w *watcher) stop() (dialled, leaves, issuers int) {
	w.cancel()
	w.done.Wait()
	return w.dialled, len(w.leaves), len(w.signers)
}

func caBundle(ctx context.Context, t *testing.T) []*x509.Certificate {
	var configuration admissionregistrationv1.MutatingWebhookConfiguration
	if err := shared.Get(ctx, client.ObjectKey{Name: webhookserver.Release.Name}, &configuration); err != nil {
		if ctx.Err() == nil {
			t.Error(err)
		}
		return nil
	}
	certificates, err := cert.ParseCertsPEM(configuration.Webhooks[0].ClientConfig.CABundle)
	if err != nil {
		t.Error("the caBundle:", err)
	}
	return certificates
}
