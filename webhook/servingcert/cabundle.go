// SPDX-License-Identifier: Apache-2.0

package servingcert

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"slices"
	"time"

	"gomodules.xyz/jsonpatch/v2"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

// maxCAs bounds the bundle: the current CA and the most recent before it.
const maxCAs = 8

// BundleKeeper keeps the caBundle of the webhook configuration: the current CA and every earlier one that has not expired,
// so that replicas which still serve with an earlier one stay trusted. Every replica runs it, and all write the same.
type BundleKeeper struct {
	Client client.Client
	// WebhookConfiguration is the name of the MutatingWebhookConfiguration.
	WebhookConfiguration string
	// Secret contains the CA of the source's authority.
	Secret types.NamespacedName
	// Source observes the trusted CAs.
	Source *SelfManaged
}

// SetupWithManager registers the controller.
func (k *BundleKeeper) SetupWithManager(mgr ctrl.Manager) error {
	configuration := reconcile.Request{NamespacedName: types.NamespacedName{Name: k.WebhookConfiguration}}
	secretChanged := handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []reconcile.Request {
		return []reconcile.Request{configuration}
	})
	return ctrl.NewControllerManagedBy(mgr).
		Named("ca-bundle").
		For(&admissionregistrationv1.MutatingWebhookConfiguration{}).
		Watches(&corev1.Secret{}, secretChanged).
		WithOptions(controller.Options{NeedLeaderElection: new(false)}).
		Complete(k)
}

// Reconcile implements reconcile.Reconciler.
func (k *BundleKeeper) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	var configuration admissionregistrationv1.MutatingWebhookConfiguration
	if err := k.Client.Get(ctx, types.NamespacedName{Name: k.WebhookConfiguration}, &configuration); err != nil {
		if apierrors.IsNotFound(err) {
			k.Source.observeAbsence()
		}
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	k.Source.observeBundle(trustedByAll(configuration.Webhooks))

	var secret corev1.Secret
	if err := k.Client.Get(ctx, k.Secret, &secret); err != nil {
		// Not made yet: the source makes it, and its watch event brings us back.
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	current := certificates(secret.Data["ca.crt"])
	if len(current) == 0 {
		return reconcile.Result{}, nil
	}

	now := k.Source.clock.Now()
	desired := make([][]byte, len(configuration.Webhooks))
	next := reconcile.Result{}
	for i, webhook := range configuration.Webhooks {
		var expires time.Time
		desired[i], expires = merge(current, certificates(webhook.ClientConfig.CABundle), now)
		if until := expires.Sub(now); next.RequeueAfter == 0 || until < next.RequeueAfter {
			next.RequeueAfter = until
		}
	}
	return writeBundles(ctx, k.Client, &configuration, desired, next)
}

// writeBundles writes each desired caBundle that is not empty and differs. It returns next, or an earlier retry if another
// replica has changed the configuration.
func writeBundles(ctx context.Context, c client.Client, configuration *admissionregistrationv1.MutatingWebhookConfiguration, desired [][]byte, next reconcile.Result) (reconcile.Result, error) {
	operations := []jsonpatch.Operation{jsonpatch.NewOperation("replace", "/metadata/resourceVersion", configuration.ResourceVersion)}
	for i, webhook := range configuration.Webhooks {
		if len(desired[i]) > 0 && !bytes.Equal(desired[i], webhook.ClientConfig.CABundle) {
			operations = append(operations, jsonpatch.NewOperation("add", fmt.Sprintf("/webhooks/%d/clientConfig/caBundle", i), desired[i]))
		}
	}
	if len(operations) == 1 {
		return next, nil
	}
	patch, err := json.Marshal(operations)
	if err != nil {
		return reconcile.Result{}, err
	}
	if err := c.Patch(ctx, configuration, client.RawPatch(types.JSONPatchType, patch)); err != nil {
		if apierrors.IsConflict(err) {
			logf.FromContext(ctx).V(1).Info("Another replica has changed the webhook configuration; retrying", "retryAfter", time.Second.String())
			return reconcile.Result{RequeueAfter: time.Second}, nil
		}
		return reconcile.Result{}, fmt.Errorf("keeping the caBundle of MutatingWebhookConfiguration %s: %w", configuration.Name, err)
	}
	logf.FromContext(ctx).Info("Updated the caBundle", "webhookConfiguration", configuration.Name, "webhooks", len(operations)-1)
	return next, nil
}

// trustedByAll returns the CAs in every webhook's caBundle.
func trustedByAll(webhooks []admissionregistrationv1.MutatingWebhook) []*x509.Certificate {
	var all []*x509.Certificate
	for i, webhook := range webhooks {
		cas := certificates(webhook.ClientConfig.CABundle)
		if i == 0 {
			all = cas
		}
		all = slices.DeleteFunc(all, func(ca *x509.Certificate) bool { return !slices.ContainsFunc(cas, ca.Equal) })
	}
	return all
}

// merge returns the bundle in PEM, newest CA first: the current one and the existing ones that have not expired; and when
// the next of them expires. The order depends only on the certificates, so that replicas agree.
func merge(current, existing []*x509.Certificate, now time.Time) (bundle []byte, expires time.Time) {
	var all []*x509.Certificate
	for _, ca := range append(slices.Clone(current), existing...) {
		if ca.NotAfter.After(now) && !slices.ContainsFunc(all, ca.Equal) {
			all = append(all, ca)
		}
	}
	slices.SortFunc(all, func(a, b *x509.Certificate) int {
		return cmp.Or(b.NotBefore.Compare(a.NotBefore), bytes.Compare(a.Raw, b.Raw))
	})
	for i := len(all) - 1; i >= 0 && len(all) > maxCAs; i-- {
		if !slices.ContainsFunc(current, all[i].Equal) {
			all = slices.Delete(all, i, i+1)
		}
	}
	for _, ca := range all {
		bundle = append(bundle, pemcerts.Encode(ca)...)
		if expires.IsZero() || ca.NotAfter.Before(expires) {
			expires = ca.NotAfter
		}
	}
	return bundle, expires
}

// certificates parses PEM and ignores everything else: what it returns is encoded anew.
func certificates(data []byte) []*x509.Certificate {
	var found []*x509.Certificate
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return found
		}
		if certificate, err := x509.ParseCertificate(block.Bytes); err == nil && block.Type == "CERTIFICATE" {
			found = append(found, certificate)
		}
	}
}
