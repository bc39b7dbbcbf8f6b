// SPDX-License-Identifier: Apache-2.0

package servingcert

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/istiod-agent/istiod-agent/internal/regular"
)

// handover is how long a CA that is not in the configuration stays in the
// caBundle: replicas of before a change of the source serve with it until they
// are replaced. One that such a replica adds again stays as long again, so that
// the two do not write against each other.
const handover = 10 * time.Minute

// maxCABundle is the largest ConfigMap that the API server stores, in bytes.
const maxCABundle = 1 << 20

// GivenBundle keeps the caBundle of the webhook configuration as the
// configuration has it (source secret). The chart never renders the field, so
// that it has one writer whatever the source is, and a server-side apply of the
// chart conflicts with none. Every replica runs it. It is the source of the
// certificate too, which is ready once the caBundle trusts what was given.
type GivenBundle struct {
	Source
	client        client.Client
	configuration string
	given         []byte
	trusted       []*x509.Certificate
	clock         clock.PassiveClock
	// since is when this process first saw each other CA, by its DER bytes.
	since map[string]time.Time

	mu sync.Mutex
	// known is whether the webhook configuration has been looked up; trustedFrom
	// is when every API server can be expected to trust the given CAs, zero where
	// the caBundle does not hold them.
	known       bool
	trustedFrom time.Time
}

// NewGivenBundle reads the PEM file of CA certificates for the named
// MutatingWebhookConfiguration, of which one signed the source's certificate.
func NewGivenBundle(source Source, c client.Client, configuration, file string) (*GivenBundle, error) {
	given, err := regular.Read(file, maxCABundle)
	if err != nil {
		return nil, fmt.Errorf("server.servingCertificate.caBundle: %w", err)
	}
	trusted := certificates(given)
	if len(trusted) == 0 {
		return nil, errors.New("server.servingCertificate.caBundle: " + file + " holds no PEM certificate")
	}
	return &GivenBundle{Source: source, client: c, configuration: configuration, given: given, trusted: trusted, clock: clock.RealClock{}}, nil
}

// Ready implements Source.
func (g *GivenBundle) Ready() error {
	if err := g.Source.Ready(); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case !g.known:
		return errors.New("the webhook configuration has not been looked at yet")
	case g.trustedFrom.IsZero():
		return errors.New("the webhook configuration's caBundle does not yet hold servingCertificate.secret.caBundle")
	case g.clock.Now().Before(g.trustedFrom):
		return errors.New("the webhook configuration's caBundle has only just got servingCertificate.secret.caBundle")
	}
	return nil
}

// observe takes note of whether every webhook trusts the given CAs. What the
// first look finds has been there for long enough.
func (g *GivenBundle) observe(webhooks []admissionregistrationv1.MutatingWebhook, now time.Time) {
	all := trustedByAll(webhooks)
	trusted := len(webhooks) == 0
	if !trusted {
		trusted = !slices.ContainsFunc(g.trusted, func(ca *x509.Certificate) bool { return !slices.ContainsFunc(all, ca.Equal) })
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case !trusted:
		g.trustedFrom = time.Time{}
	case !g.known:
		g.trustedFrom = now
	case g.trustedFrom.IsZero():
		g.trustedFrom = now.Add(settle)
	}
	g.known = true
}

// SetupWithManager registers the keeper.
func (g *GivenBundle) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named("ca-bundle").
		For(&admissionregistrationv1.MutatingWebhookConfiguration{}).
		WithOptions(controller.Options{NeedLeaderElection: new(false)}).
		Complete(g)
}

// Reconcile implements reconcile.Reconciler.
func (g *GivenBundle) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	var configuration admissionregistrationv1.MutatingWebhookConfiguration
	if err := g.client.Get(ctx, types.NamespacedName{Name: g.configuration}, &configuration); err != nil {
		if apierrors.IsNotFound(err) {
			g.observe(nil, g.clock.Now())
		}
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	now := g.clock.Now()
	g.observe(configuration.Webhooks, now)
	others := g.others(configuration.Webhooks, now)
	next := reconcile.Result{}
	for _, until := range others {
		if wait := until.Sub(now); next.RequeueAfter == 0 || wait < next.RequeueAfter {
			next.RequeueAfter = wait
		}
	}
	desired := make([][]byte, len(configuration.Webhooks))
	for i, webhook := range configuration.Webhooks {
		desired[i] = g.with(certificates(webhook.ClientConfig.CABundle), others)
	}
	return writeBundles(ctx, g.client, &configuration, desired, next)
}

// others are the CAs of the webhooks that the configuration does not have and
// that may still stay, with the end of their stay.
func (g *GivenBundle) others(webhooks []admissionregistrationv1.MutatingWebhook, now time.Time) map[string]time.Time {
	since, others := map[string]time.Time{}, map[string]time.Time{}
	for _, webhook := range webhooks {
		for _, ca := range certificates(webhook.ClientConfig.CABundle) {
			if slices.ContainsFunc(g.trusted, ca.Equal) || !ca.NotAfter.After(now) {
				continue
			}
			first, known := g.since[string(ca.Raw)]
			if !known {
				first = now
			}
			until := first.Add(handover)
			if !until.After(now) {
				continue // it goes now, and counts as new if it comes again
			}
			since[string(ca.Raw)], others[string(ca.Raw)] = first, until
		}
	}
	g.since = since
	return others
}

// with is the given bundle as it was written, and those of the existing CAs that
// may stay.
func (g *GivenBundle) with(existing []*x509.Certificate, stay map[string]time.Time) []byte {
	bundle := bytes.Clone(g.given)
	var added []*x509.Certificate
	for _, ca := range existing {
		if _, stays := stay[string(ca.Raw)]; !stays || len(added) == mostCAs || slices.ContainsFunc(added, ca.Equal) {
			continue
		}
		if !bytes.HasSuffix(bundle, []byte("\n")) {
			bundle = append(bundle, '\n')
		}
		bundle = append(bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw})...)
		added = append(added, ca)
	}
	return bundle
}
