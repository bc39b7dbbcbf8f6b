// SPDX-License-Identifier: Apache-2.0

package servingcert

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	servertls "github.com/cert-manager/cert-manager/pkg/server/tls"
	certauthority "github.com/cert-manager/cert-manager/pkg/server/tls/authority"
	"github.com/cert-manager/cert-manager/pkg/util/pki"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
)

// pollInterval is how often the CA is checked when nothing has changed, by the wall clock: timers miss suspends.
const pollInterval = 10 * time.Second

// authority is the CA of self-managed certificates, which all replicas share in a Secret. A replica that finds no CA
// there, or one in the last third of its life, writes a new one; of two that write at once, the API server refuses the
// second. The keys of the Secret and the time of a renewal are those of cert-manager's authority
// (pkg/server/tls/authority, v1.21.2), so that either can replace the other.
//
// cert-manager's own was tried here. It passes e2e/availability with no lost admission, but fails one case: while writes
// of the Secret are refused (rights, a policy, another webhook that is down), it ignores a CA that is due though valid
// for months, so that a replica that starts then has no certificate and serves nothing
// (TestLibraryAuthorityRefusesDueCA; here TestAuthorityUsesDueCA). Its clientset and watch
// also take 1.6 MiB more at rest (VmRSS, four replicas of each) and 1.6 MB more of program.
type authority struct {
	client    client.Client
	informers cache.Informers
	clock     clock.PassiveClock

	secret                   types.NamespacedName
	caDuration, leafDuration time.Duration

	mu      sync.Mutex
	ca      *tls.Certificate // nil while there is none
	watches []chan<- struct{}
}

var _ servertls.Authority = &authority{}

// Run implements servertls.Authority: it keeps a valid CA in the Secret and uses what others store there.
func (a *authority) Run(ctx context.Context) error {
	informer, err := a.informers.GetInformer(ctx, &corev1.Secret{})
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("watching Secret %s: %w", a.secret, err)
	}
	changed := make(chan struct{}, 1)
	handler, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { notify(changed) },
		UpdateFunc: func(any, any) { notify(changed) },
		DeleteFunc: func(any) { notify(changed) },
	})
	if err != nil {
		return fmt.Errorf("watching Secret %s: %w", a.secret, err)
	}
	defer func() { _ = informer.RemoveEventHandler(handler) }()

	ctx = logf.IntoContext(ctx, logf.FromContext(ctx).WithName("serving-certificate"))
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		if err := a.ensure(ctx); err != nil && ctx.Err() == nil {
			logf.FromContext(ctx).Error(err, "Failed to keep the CA of the serving certificate", "retryAfter", pollInterval.String())
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-tick.C:
		}
	}
}

// ensure uses the CA in the Secret, and replaces it if it is missing, invalid or in the last third of its life.
func (a *authority) ensure(ctx context.Context) error {
	var secret corev1.Secret
	if err := a.client.Get(ctx, a.secret, &secret); apierrors.IsNotFound(err) {
		return a.renew(ctx, nil, "the Secret does not exist")
	} else if err != nil {
		return err
	}
	now := a.clock.Now()
	ca, problem := readCA(secret.Data)
	if problem == "" && now.Before(ca.Leaf.NotAfter) {
		a.use(ca) // also one that is due: should it not be renewed, it is still trusted
	}
	if problem == "" && ca.Leaf.NotAfter.Sub(now) < ca.Leaf.NotAfter.Sub(ca.Leaf.NotBefore)/3 {
		problem = "it expires at " + ca.Leaf.NotAfter.UTC().Format(time.RFC3339)
	}
	if problem != "" {
		return a.renew(ctx, &secret, problem)
	}
	return nil
}

// readCA reads the CA in a Secret's data, or explains what is wrong with it.
func readCA(data map[string][]byte) (_ *tls.Certificate, problem string) {
	ca, err := tls.X509KeyPair(data[corev1.TLSCertKey], data[corev1.TLSPrivateKeyKey])
	switch {
	case err != nil:
		return nil, "its Secret contains no certificate with its key"
	case !ca.Leaf.IsCA:
		return nil, "the certificate in its Secret is not a CA"
	case !bytes.Equal(data[corev1.ServiceAccountRootCAKey], data[corev1.TLSCertKey]):
		return nil, "its Secret has a ca.crt that is not its tls.crt"
	}
	return &ca, ""
}

// use signs leaves with this CA from now on.
func (a *authority) use(ca *tls.Certificate) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ca != nil && a.ca.Leaf.Equal(ca.Leaf) {
		return
	}
	a.ca = ca
	for _, watch := range a.watches {
		notify(watch)
	}
}

// renew writes a new CA into the Secret; nil creates it. The watch then reports it, or the one of another replica.
func (a *authority) renew(ctx context.Context, secret *corev1.Secret, why string) error {
	certificate, key, err := a.newCA()
	if err != nil {
		return fmt.Errorf("making a CA: %w", err)
	}
	data := map[string][]byte{corev1.TLSCertKey: certificate, corev1.TLSPrivateKeyKey: key, corev1.ServiceAccountRootCAKey: certificate}
	if secret == nil {
		secret = &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{
				Name: a.secret.Name, Namespace: a.secret.Namespace,
				Labels: map[string]string{"app.kubernetes.io/managed-by": "istiod-agent-webhook"},
			},
			Data: data,
		}
		err = a.client.Create(ctx, secret)
	} else {
		if secret.Data == nil {
			secret.Data = map[string][]byte{}
		}
		maps.Copy(secret.Data, data)
		err = a.client.Update(ctx, secret) // with the version that was read
	}
	switch {
	case apierrors.IsAlreadyExists(err), apierrors.IsConflict(err):
		logf.FromContext(ctx).V(1).Info("Another replica has created a CA", "secret", a.secret.String())
		return nil
	case err != nil:
		return fmt.Errorf("writing Secret %s: %w", a.secret, err)
	}
	logf.FromContext(ctx).Info("Created a CA for the serving certificates", "secret", a.secret.String(), "err", why)
	return nil
}

// newCA returns a CA certificate and its key, in PEM.
func (a *authority) newCA() (certificate, key []byte, err error) {
	private, err := pki.GenerateECPrivateKey(pki.ECCurve256)
	if err != nil {
		return nil, nil, err
	}
	now := a.clock.Now()
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: a.secret.Name},
		NotBefore: now, NotAfter: now.Add(a.caDuration),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	if certificate, _, err = pki.SignCertificate(template, template, private.Public(), private); err != nil {
		return nil, nil, err
	}
	key, err = pki.EncodePKCS8PrivateKey(private)
	return certificate, key, err
}

// Sign implements servertls.Authority: a leaf is valid from now on, for its duration but not longer than its CA.
func (a *authority) Sign(template *x509.Certificate) (*x509.Certificate, error) {
	a.mu.Lock()
	ca := a.ca
	a.mu.Unlock()
	if ca == nil {
		return nil, certauthority.ErrCertificateNotAvailable
	}
	template.NotBefore = a.clock.Now()
	if !template.NotBefore.Before(ca.Leaf.NotAfter) {
		return nil, fmt.Errorf("the CA in Secret %s has expired", a.secret)
	}
	template.NotAfter = template.NotBefore.Add(a.leafDuration)
	if ca.Leaf.NotAfter.Before(template.NotAfter) {
		template.NotAfter = ca.Leaf.NotAfter
	}
	template.BasicConstraintsValid = true
	_, leaf, err := pki.SignCertificate(template, ca.Leaf, template.PublicKey, ca.PrivateKey)
	return leaf, err
}

// WatchRotation implements servertls.Authority.
func (a *authority) WatchRotation(watch chan<- struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.watches = append(a.watches, watch)
}

// StopWatchingRotation implements servertls.Authority.
func (a *authority) StopWatchingRotation(watch chan<- struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.watches = slices.DeleteFunc(a.watches, func(observed chan<- struct{}) bool { return observed == watch })
}

// notify signals a change; signals that were not received yet are merged.
func notify(watch chan<- struct{}) {
	select {
	case watch <- struct{}{}:
	default:
	}
}
