// SPDX-License-Identifier: Apache-2.0

package certmanager

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"

	"github.com/istiod-agent/istiod-agent/agent/ca"
	"github.com/istiod-agent/istiod-agent/agent/cacerts"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

// apiServer has the CertificateRequests of one namespace.
type apiServer struct {
	dynamic.ResourceInterface

	created []*unstructured.Unstructured // all, in order
	stored  map[string]*unstructured.Unstructured
	// get is the error of reading a request, deleting that of deleting one.
	get, deleting error
	// creating is called as a request is created.
	creating func()
}

func (s *apiServer) Create(ctx context.Context, object *unstructured.Unstructured, _ metav1.CreateOptions, _ ...string) (*unstructured.Unstructured, error) {
	created := object.DeepCopy()
	created.SetName(fmt.Sprint(object.GetGenerateName(), len(s.created)))
	created.SetUID(types.UID(created.GetName()))
	created.SetResourceVersion("1")
	s.created = append(s.created, created)
	s.stored[created.GetName()] = created
	if s.creating != nil {
		s.creating()
	}
	return created, ctx.Err()
}

func (s *apiServer) List(context.Context, metav1.ListOptions) (*unstructured.UnstructuredList, error) {
	list := &unstructured.UnstructuredList{}
	for _, each := range s.stored {
		list.Items = append(list.Items, *each)
	}
	return list, nil
}

func (s *apiServer) Get(_ context.Context, name string, _ metav1.GetOptions, _ ...string) (*unstructured.Unstructured, error) {
	if s.get != nil {
		return nil, s.get
	}
	if found := s.stored[name]; found != nil {
		return found, nil
	}
	return nil, apierrors.NewNotFound(Requests.GroupResource(), name)
}

func (s *apiServer) Watch(ctx context.Context, _ metav1.ListOptions) (watch.Interface, error) {
	watching := watch.NewFake()
	context.AfterFunc(ctx, watching.Stop)
	return watching, nil
}

func (s *apiServer) Delete(_ context.Context, name string, options metav1.DeleteOptions, _ ...string) error {
	found := s.stored[name]
	switch {
	case s.deleting != nil:
		return s.deleting
	case found == nil:
		return apierrors.NewNotFound(Requests.GroupResource(), name)
	case options.Preconditions != nil && *options.Preconditions.UID != found.GetUID():
		return apierrors.NewConflict(Requests.GroupResource(), name, errors.New("another UID"))
	}
	delete(s.stored, name)
	return nil
}

// last is the request that was created last.
func (s *apiServer) last() *unstructured.Unstructured { return s.created[len(s.created)-1] }

var wanted = ca.Request{
	Hosts: []string{"spiffe://cluster.local/ns/istio-system/sa/istiod"}, Organization: "Istio", TTL: 24 * time.Hour,
	Key: cacerts.Key{Type: "ec", Bits: 256},
}

func newTestSource() (*source, *apiServer) {
	s, server := newSource(), &apiServer{stored: map[string]*unstructured.Unstructured{}}
	s.pending = nil
	s.Options = Options{Pod: "istiod-0", Requests: server, Patience: 20 * time.Millisecond, Observe: func(string, time.Duration) {}}
	return s, server
}

func wantPending(t *testing.T, answer ca.Answer, err error, reason string) {
	t.Helper()
	pending, ok := errors.AsType[*ca.PendingError](err)
	if !ok || pending.Reason != reason || answer.Tidy != nil || answer.Issued.Key != nil {
		t.Fatalf("want %s, got %v", reason, err)
	}
}

// A request that nobody decides about stays, with its key, until it is decided.
func TestIssueContinues(t *testing.T) {
	t.Parallel()
	s, server := newTestSource()
	answer, err := s.Issue(t.Context(), wanted)
	wantPending(t, answer, err, unapproved)
	server.get = errors.New("connection refused")
	answer, err = s.Issue(t.Context(), wanted)
	wantPending(t, answer, err, unreachable)
	server.get = nil
	answer, err = s.Issue(t.Context(), wanted)
	wantPending(t, answer, err, unapproved)
	if len(server.created) != 1 {
		t.Fatalf("%d requests", len(server.created))
	}

	request := server.last()
	issuer := testca.Root("issuer")
	csr := parsed(t, request)
	signed := issuer.SignPublic(testca.Authority("istiod"), csr.PublicKey)
	request.Object["status"] = map[string]any{
		"certificate": base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signed.Raw})),
		"ca":          base64.StdEncoding.EncodeToString(issuer.PEM()),
		"conditions":  []any{map[string]any{"type": "Ready", "status": "True", "reason": "Issued"}},
	}
	answer, err = s.Issue(t.Context(), wanted)
	if err != nil || len(answer.Issued.Key) == 0 || len(answer.Issued.Certificate) == 0 || len(answer.Issued.Chain) != 1 {
		t.Fatalf("got %d in the chain, %v", len(answer.Issued.Chain), err)
	}
	if leftovers := answer.Tidy(t.Context()); len(leftovers) > 0 || len(server.stored) > 0 {
		t.Errorf("%q, and %d requests are left", leftovers, len(server.stored))
	}
}

func parsed(t *testing.T, request *unstructured.Unstructured) *x509.CertificateRequest {
	t.Helper()
	text, _, _ := unstructured.NestedString(request.Object, "spec", "request")
	decoded, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(decoded)
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

// The CSR asks for a CA of path length 0 that signs certificates and CRLs.
func TestExtensions(t *testing.T) {
	t.Parallel()
	s, server := newTestSource()
	_, _ = s.Issue(t.Context(), wanted)
	csr := parsed(t, server.last())
	// Go reads these extensions of certificates alone.
	template := testca.Authority("")
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage, template.ExtraExtensions = false, false, 0, csr.Extensions
	certificate := testca.Root("issuer").SignPublic(template, csr.PublicKey)
	if !certificate.IsCA || certificate.MaxPathLen != 0 || !certificate.MaxPathLenZero || certificate.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign {
		t.Errorf("it asks for CA %t, path length %d, usage %b", certificate.IsCA, certificate.MaxPathLen, certificate.KeyUsage)
	}
	if len(certificate.PermittedURIDomains) > 0 {
		t.Errorf("it asks for the constraints %q", certificate.PermittedURIDomains)
	}
	if len(csr.URIs) != 1 || csr.URIs[0].String() != wanted.Hosts[0] {
		t.Errorf("it asks for %v", csr.URIs)
	}
}

// With permittedURIDomains, the CSR asks for these name constraints too, critical; another list is another request.
func TestNameConstraints(t *testing.T) {
	t.Parallel()
	s, server := newTestSource()
	limited := wanted
	limited.PermittedURIDomains = []string{"cluster.local", ".example.com"}
	for _, request := range []ca.Request{wanted, limited, limited} {
		_, err := s.Issue(t.Context(), request)
		wantPending(t, ca.Answer{}, err, unapproved)
	}
	if len(server.created) != 2 || len(server.stored) != 1 {
		t.Errorf("%d requests were created, %d are left; want 2 and 1", len(server.created), len(server.stored))
	}
	csr := parsed(t, server.last())
	template := testca.Authority("")
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage, template.ExtraExtensions = false, false, 0, csr.Extensions
	certificate := testca.Root("issuer").SignPublic(template, csr.PublicKey)
	if !slices.Equal(certificate.PermittedURIDomains, limited.PermittedURIDomains) || !certificate.PermittedDNSDomainsCritical {
		t.Errorf("it asks for the constraints %q, critical: %t", certificate.PermittedURIDomains, certificate.PermittedDNSDomainsCritical)
	}
}

// An agent that does not know its Pod could delete another's request.
func TestIssueNeedsAPod(t *testing.T) {
	t.Parallel()
	s, server := newTestSource()
	s.Pod = ""
	server.stored["another-agents"] = &unstructured.Unstructured{}
	if _, err := s.Issue(t.Context(), wanted); err == nil || len(server.created) > 0 || len(server.stored) != 1 {
		t.Errorf("got %v, with %d requests", err, len(server.stored))
	}
}

// An agent that stops takes its request with it; one that was killed leaves it to the next in its Pod.
func TestIssueLeavesNothing(t *testing.T) {
	t.Parallel()
	s, server := newTestSource()
	s.Patience = time.Hour
	ctx, stop := context.WithCancel(t.Context())
	server.creating = stop // a creation that were cut off would leave a request whose name nobody knows
	answer, err := s.Issue(ctx, wanted)
	if err == nil || answer.Tidy == nil || len(server.created) != 1 {
		t.Fatalf("%d requests were created: %v", len(server.created), err)
	}
	if leftovers := answer.Tidy(ctx); len(leftovers) > 0 || len(server.stored) > 0 {
		t.Errorf("%q, and %d requests are left", leftovers, len(server.stored))
	}
	if _, err := s.Issue(ctx, wanted); err == nil || len(server.created) != 1 {
		t.Errorf("after its end it created another one: %v", err)
	}

	killed, _ := newTestSource()
	killed.Requests = server
	_, _ = killed.Issue(t.Context(), wanted)
	next, _ := newTestSource()
	next.Requests = server
	_, err = next.Issue(t.Context(), wanted)
	wantPending(t, ca.Answer{}, err, unapproved)
	if len(server.stored) != 1 {
		t.Errorf("%d requests are left", len(server.stored))
	}
	other := wanted
	other.TTL *= 2
	_, err = next.Issue(t.Context(), other)
	wantPending(t, ca.Answer{}, err, unapproved)
	if duration, _, _ := unstructured.NestedString(server.last().Object, "spec", "duration"); len(server.stored) != 1 || duration != "48h0m0s" {
		t.Errorf("%d requests are left, the last for %s", len(server.stored), duration)
	}
}

// A request that cannot be deleted is reported.
func TestTidyReports(t *testing.T) {
	t.Parallel()
	s, server := newTestSource()
	server.deleting = apierrors.NewForbidden(Requests.GroupResource(), "", errors.New("no"))
	ctx, stop := context.WithCancel(t.Context())
	server.creating = stop
	answer, _ := s.Issue(ctx, wanted)
	if leftovers := answer.Tidy(ctx); len(leftovers) != 1 {
		t.Errorf("got %q", leftovers)
	}
}
