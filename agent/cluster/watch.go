// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/istiod-agent/istiod-agent/agent"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// Watch watches the IssuedCertificates of a namespace. It implements agent.Specifications.
type Watch struct {
	identity  agent.Identity
	namespace string
	informer  cache.SharedIndexInformer
	changed   chan struct{}

	mu      sync.Mutex
	failure error // of the last list or watch, nil once one succeeds
}

// Watch prepares a watch; Run starts it.
func (c *Client) Watch(namespace string) (*Watch, error) {
	resource := c.client.Resource(certificatesv1.IssuedCertificates).Namespace(namespace)
	w := &Watch{identity: c.identity, namespace: namespace, changed: make(chan struct{}, 1)}
	w.informer = cache.NewSharedIndexInformer(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			list, err := resource.List(ctx, options)
			w.observe(err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			watching, err := resource.Watch(ctx, options)
			w.observe(err)
			return watching, err
		},
	}, &unstructured.Unstructured{}, 0, cache.Indexers{})
	if err := w.informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) {
		if !errors.Is(err, io.EOF) && !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) { // these end every watch at times
			w.observe(err)
		}
	}); err != nil {
		return nil, err
	}
	_, err := w.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { w.signal() },
		UpdateFunc: func(any, any) { w.signal() },
		DeleteFunc: func(any) { w.signal() },
	})
	return w, err
}

// Run watches until ctx ends.
func (w *Watch) Run(ctx context.Context) {
	go func() {
		if cache.WaitForCacheSync(ctx.Done(), w.informer.HasSynced) {
			w.signal() // an empty list has no event
		}
	}()
	w.informer.RunWithContext(ctx)
}

func (w *Watch) signal() {
	select {
	case w.changed <- struct{}{}:
	default: // signalled already
	}
}

// observe records the result of a list or watch.
func (w *Watch) observe(err error) {
	w.mu.Lock()
	changed := fmt.Sprint(err) != fmt.Sprint(w.failure)
	w.failure = err
	w.mu.Unlock()
	if changed {
		w.signal() // Current returns another error now
	}
}

// Changed implements agent.Specifications.
func (w *Watch) Changed() <-chan struct{} { return w.changed }

// Current implements agent.Specifications.
func (w *Watch) Current() (*certificatesv1.IssuedCertificate, []string, error) {
	var all []*certificatesv1.IssuedCertificate
	invalid := map[string]error{}
	for _, stored := range w.informer.GetStore().List() {
		object, ok := stored.(*unstructured.Unstructured)
		if !ok {
			continue // the informer stores nothing else
		}
		certificate, err := decode(object)
		if err != nil {
			invalid[object.GetName()] = err
			continue
		}
		all = append(all, certificate)
	}
	chosen, warning := w.identity.Choose(all)
	if chosen == nil {
		return nil, nil, w.missing(invalid)
	}
	prepared, warnings, err := agent.PrepareStored(chosen)
	if warning != "" {
		warnings = append(warnings, warning)
	}
	if err != nil {
		return nil, warnings, &agent.SpecificationError{Certificate: chosen, Err: fmt.Errorf("IssuedCertificate %s/%s: %w", chosen.Namespace, chosen.Name, err)}
	}
	return prepared, warnings, nil
}

// missing returns why there is no specification.
func (w *Watch) missing(invalid map[string]error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, err := range invalid {
		return &agent.SpecificationError{Err: fmt.Errorf("IssuedCertificate %s/%s cannot be read: %w", w.namespace, name, err)}
	}
	missing := func(format string, args ...any) error {
		return &agent.SpecificationError{Missing: true, Err: fmt.Errorf(format, args...)}
	}
	switch failure := w.failure; {
	case failure == nil && !w.informer.HasSynced():
		return &agent.SpecificationError{Missing: true, Listing: true, Err: fmt.Errorf("waiting for the API server's list of IssuedCertificates in namespace %q", w.namespace)}
	case failure == nil:
		return missing("waiting for an IssuedCertificate in namespace %q with host %s; apply the VirtualMesh, or the IssuedCertificate itself", w.namespace, w.identity.Host())
	case apierrors.IsForbidden(failure):
		return missing("service account %s/%s may not list and watch issuedcertificates.certificates.mesh.gloo.solo.io in namespace %q; grant it a Role that allows get, list and watch",
			w.identity.Namespace, w.identity.ServiceAccount, w.namespace)
	case apierrors.IsNotFound(failure):
		return missing("the API server has no IssuedCertificates; install the CRD issuedcertificates.certificates.mesh.gloo.solo.io")
	case apierrors.IsUnauthorized(failure):
		return missing("the API server rejects the service account token of %s/%s", w.identity.Namespace, w.identity.ServiceAccount)
	default:
		return missing("the API server cannot be reached, to find an IssuedCertificate in namespace %q: %w", w.namespace, failure)
	}
}

// decode reads what an agent needs. Of the status that is the roots of the other replicas: Gloo Mesh writes parts of it with
// other types.
func decode(object *unstructured.Unstructured) (*certificatesv1.IssuedCertificate, error) {
	content := maps.Clone(object.Object)
	delete(content, "status")
	var certificate certificatesv1.IssuedCertificate
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(content, &certificate); err != nil {
		return nil, err
	}
	certificate.Status.Certificates = replicas(object)
	return &certificate, nil
}

// fingerprint is a SHA-256 in hexadecimal, as agents write it.
var fingerprint = regexp.MustCompile(`^[0-9a-f]{64}$`)

// maxReplicas is the most entries of status.certificates, as in the CRD.
const maxReplicas = 1000

// replicas returns the entries of a status that have the form that agents write.
func replicas(object *unstructured.Unstructured) []certificatesv1.CertificateStatus {
	field, _, _ := unstructured.NestedFieldNoCopy(object.Object, "status", "certificates")
	entries, _ := field.([]any)
	var all []certificatesv1.CertificateStatus
	for _, entry := range entries[:min(len(entries), maxReplicas)] {
		fields, _ := entry.(map[string]any)
		one := certificatesv1.CertificateStatus{}
		one.Pod, _ = fields["pod"].(string)
		one.RootFingerprint, _ = fields["rootFingerprint"].(string)
		one.TrustedRoots, _, _ = unstructured.NestedStringSlice(fields, "trustedRoots")
		if text, _ := fields["notAfter"].(string); text != "" {
			if end, err := time.Parse(time.RFC3339, text); err == nil {
				one.NotAfter = &metav1.Time{Time: end}
			}
		}
		if len(validation.IsDNS1123Subdomain(one.Pod)) == 0 && fingerprint.MatchString(one.RootFingerprint) {
			all = append(all, one)
		}
	}
	return all
}
