// SPDX-License-Identifier: Apache-2.0

package servingcert

import (
	"bytes"
	"context"
	"crypto/x509"
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

	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
	"github.com/istiod-agent/istiod-agent/internal/regular"
)

// handover is how long a CA that is not configured stays in the caBundle: after a change of the source, old replicas serve
// with it until they are replaced. If such a replica adds it again, it stays as long again, so that the two do not fight.
const handover = 10 * time.Minute

// maxCABundle is the size in bytes of the largest ConfigMap that an API server stores.
const maxCABundle = 1 << 20

// StaticBundle keeps the configured CAs in the caBundle of the webhook configuration (source secret). The chart never renders
// the field, so that it has one writer, and a server-side apply of the chart conflicts with none. Every replica runs it. It
// wraps the certificate's source, which is ready once the caBundle contains these CAs.
type StaticBundle struct {
	Source
	client        client.Client
	configuration string
	configured    []byte
	trusted       []*x509.Certificate
	clock         clock.PassiveClock
	// since is when this process first observed each foreign CA, by its DER bytes.
	since map[string]time.Time

	mu sync.Mutex
	// observed is true once the webhook configuration has been read; trustedFrom is when every API server can be expected to
	// trust the configured CAs, zero if the caBundle does not contain them.
	observed    bool
	trustedFrom time.Time
}

// NewStaticBundle reads the PEM file of CA certificates, one of which signed the source's certificate.
func NewStaticBundle(source Source, c client.Client, configuration, file string) (*StaticBundle, error) {
	configured, err := regular.Read(file, maxCABundle)
	if err != nil {
		return nil, fmt.Errorf("server.servingCertificate.caBundle: %w", err)
	}
	trusted := certificates(configured)
	if len(trusted) == 0 {
		return nil, errors.New("server.servingCertificate.caBundle: " + file + " contains no PEM certificate")
	}
	return &StaticBundle{Source: source, client: c, configuration: configuration, configured: configured, trusted: trusted, clock: clock.RealClock{}}, nil
}

// Ready implements Source.
func (g *StaticBundle) Ready() error {
	if err := g.Source.Ready(); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case !g.observed:
		return errors.New("the webhook configuration has not been read yet")
	case g.trustedFrom.IsZero():
		return errors.New("the webhook configuration's caBundle does not yet contain servingCertificate.secret.caBundle")
	case g.clock.Now().Before(g.trustedFrom):
		return errors.New("the webhook configuration's caBundle got servingCertificate.secret.caBundle only seconds ago")
	}
	return nil
}

// observe records whether every webhook trusts the configured CAs. What the first observation finds counts as trusted.
func (g *StaticBundle) observe(webhooks []admissionregistrationv1.MutatingWebhook, now time.Time) {
	all := trustedByAll(webhooks)
	trusted := len(webhooks) == 0 || !slices.ContainsFunc(g.trusted, func(ca *x509.Certificate) bool { return !slices.ContainsFunc(all, ca.Equal) })
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case !trusted:
		g.trustedFrom = time.Time{}
	case !g.observed:
		g.trustedFrom = now
	case g.trustedFrom.IsZero():
		g.trustedFrom = now.Add(propagationDelay)
	}
	g.observed = true
}

// SetupWithManager registers the controller.
func (g *StaticBundle) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named("ca-bundle").
		For(&admissionregistrationv1.MutatingWebhookConfiguration{}).
		WithOptions(controller.Options{NeedLeaderElection: new(false)}).
		Complete(g)
}

// Reconcile implements reconcile.Reconciler.
func (g *StaticBundle) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	var configuration admissionregistrationv1.MutatingWebhookConfiguration
	if err := g.client.Get(ctx, types.NamespacedName{Name: g.configuration}, &configuration); err != nil {
		if apierrors.IsNotFound(err) {
			g.observe(nil, g.clock.Now())
		}
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	now := g.clock.Now()
	g.observe(configuration.Webhooks, now)
	foreign := g.foreign(configuration.Webhooks, now)
	next := reconcile.Result{}
	for _, until := range foreign {
		if wait := until.Sub(now); next.RequeueAfter == 0 || wait < next.RequeueAfter {
			next.RequeueAfter = wait
		}
	}
	desired := make([][]byte, len(configuration.Webhooks))
	for i, webhook := range configuration.Webhooks {
		desired[i] = g.with(certificates(webhook.ClientConfig.CABundle), foreign)
	}
	return writeBundles(ctx, g.client, &configuration, desired, next)
}

// foreign returns the CAs in the webhooks that are not configured and may stay, with the end of their handover.
func (g *StaticBundle) foreign(webhooks []admissionregistrationv1.MutatingWebhook, now time.Time) map[string]time.Time {
	since, foreign := map[string]time.Time{}, map[string]time.Time{}
	for _, webhook := range webhooks {
		for _, ca := range certificates(webhook.ClientConfig.CABundle) {
			if slices.ContainsFunc(g.trusted, ca.Equal) || !ca.NotAfter.After(now) {
				continue
			}
			first, observed := g.since[string(ca.Raw)]
			if !observed {
				first = now
			}
			until := first.Add(handover)
			if !until.After(now) {
				continue // it goes now, and counts as new if it comes again
			}
			since[string(ca.Raw)], foreign[string(ca.Raw)] = first, until
		}
	}
	g.since = since
	return foreign
}

// with returns the configured bundle, followed by the existing CAs that may stay.
func (g *StaticBundle) with(existing []*x509.Certificate, retained map[string]time.Time) []byte {
	bundle := bytes.Clone(g.configured)
	var added []*x509.Certificate
	for _, ca := range existing {
		if _, isRetained := retained[string(ca.Raw)]; !isRetained || len(added) == maxCAs || slices.ContainsFunc(added, ca.Equal) {
			continue
		}
		if !bytes.HasSuffix(bundle, []byte("\n")) {
			bundle = append(bundle, '\n')
		}
		bundle = append(bundle, pemcerts.Encode(ca)...)
		added = append(added, ca)
	}
	return bundle
}
