// SPDX-License-Identifier: Apache-2.0

// Package externalissuer runs an external issuer of cert-manager as cert-manager's contract for them has it
// (cert-manager.io, "Implementing External Issuers"): a kind of its own group, and a controller that answers the approved
// CertificateRequests which name it. What it answers is the test's.
package externalissuer

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	cmutil "github.com/cert-manager/cert-manager/pkg/api/util"
	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	cmmeta "github.com/cert-manager/cert-manager/pkg/apis/meta/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
)

// Kind is that of the issuers.
var Kind = schema.GroupVersionKind{Group: "issuers.example.com", Version: "v1", Kind: "ExternalIssuer"}

// pause is that between two looks at the requests.
const pause = 50 * time.Millisecond

// Answer signs a request. An error ends the request as failed, unless it is ErrLater.
type Answer func(csr *x509.CertificateRequest, duration time.Duration) (certificate, ca []byte, err error)

// ErrLater leaves a request pending; the issuer asks again.
var ErrLater = errors.New("the issuer's CA is busy")

// Issuer answers the requests of one namespace.
type Issuer struct {
	// Namespace and Name are those of the object.
	Namespace, Name string

	cluster *cluster.Cluster
	mu      sync.Mutex
	answer  Answer
	decide  cmapi.CertificateRequestConditionType
	seen    map[cmapi.CertificateRequestConditionType]int
	stop    context.CancelFunc
	done    chan struct{}
}

// Start creates an issuer that approves each request and answers it by a function. It ends with the test.
func Start(t *testing.T, c *cluster.Cluster, namespace string, answer Answer) (*Issuer, error) {
	t.Helper()
	if err := install(c); err != nil {
		return nil, err
	}
	i := &Issuer{
		Namespace: namespace, Name: "istio-ca", cluster: c, answer: answer, decide: cmapi.CertificateRequestConditionApproved,
		seen: map[cmapi.CertificateRequestConditionType]int{},
	}
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(Kind)
	object.SetNamespace(namespace)
	object.SetName(i.Name)
	if err := c.Create(t.Context(), object); err != nil {
		return nil, err
	}
	i.Resume(t)
	t.Cleanup(func() { i.Pause() })
	return i, nil
}

// Reference is the issuerRef of a specification.
func (i *Issuer) Reference() map[string]any {
	return map[string]any{"name": i.Name, "kind": Kind.Kind, "group": Kind.Group}
}

// Answer replaces what it answers.
func (i *Issuer) Answer(answer Answer) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.answer = answer
}

// Approve has the approver approve each request.
func (i *Issuer) Approve() { i.decides(cmapi.CertificateRequestConditionApproved) }

// Deny has the approver deny each request.
func (i *Issuer) Deny() { i.decides(cmapi.CertificateRequestConditionDenied) }

// Undecided leaves the requests to a person.
func (i *Issuer) Undecided() { i.decides("") }

func (i *Issuer) decides(kind cmapi.CertificateRequestConditionType) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.decide = kind
}

// Signed is the number of requests that it has signed so far.
func (i *Issuer) Signed() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.seen[cmapi.CertificateRequestConditionReady]
}

// Pause ends the controller and the approver: the issuer is down.
func (i *Issuer) Pause() {
	if i.stop != nil {
		i.stop()
		<-i.done
		i.stop = nil
	}
}

// Resume starts them again.
func (i *Issuer) Resume(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	i.stop, i.done = cancel, make(chan struct{})
	go func() {
		defer close(i.done)
		tick := time.NewTicker(pause)
		defer tick.Stop()
		for {
			if err := i.look(ctx); err != nil && ctx.Err() == nil {
				t.Errorf("the external issuer: %v", err)
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}()
}

// look acts on each request of the issuer.
func (i *Issuer) look(ctx context.Context) error {
	list := &cmapi.CertificateRequestList{}
	if err := i.cluster.List(ctx, list, client.InNamespace(i.Namespace)); err != nil {
		return err
	}
	for at := range list.Items {
		request := &list.Items[at]
		if ref := request.Spec.IssuerRef; ref.Group != Kind.Group || ref.Kind != Kind.Kind || ref.Name != i.Name {
			continue
		}
		if err := i.act(ctx, request); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return err
		}
	}
	return nil
}

// act does the next step for a request, in the contract's order.
func (i *Issuer) act(ctx context.Context, request *cmapi.CertificateRequest) error {
	i.mu.Lock()
	answer, decide := i.answer, i.decide
	i.mu.Unlock()
	ready := cmutil.GetCertificateRequestCondition(request, cmapi.CertificateRequestConditionReady)
	switch {
	case ready != nil && (ready.Status == cmmeta.ConditionTrue || ready.Reason != cmapi.CertificateRequestReasonPending):
		return nil
	case cmutil.CertificateRequestIsDenied(request):
		return i.fail(ctx, request, cmapi.CertificateRequestReasonDenied, "the request was denied")
	case !cmutil.CertificateRequestIsApproved(request):
		if decide == "" {
			return nil
		}
		return i.set(ctx, request, decide, cmmeta.ConditionTrue, "approver.example.com", "as the test has it")
	}
	csr, err := parse(request.Spec.Request)
	if err != nil {
		return i.fail(ctx, request, cmapi.CertificateRequestReasonFailed, err.Error())
	}
	certificate, ca, err := answer(csr, request.Spec.Duration.Duration)
	switch {
	case errors.Is(err, ErrLater) && ready != nil:
		return nil
	case errors.Is(err, ErrLater):
		return i.set(ctx, request, cmapi.CertificateRequestConditionReady, cmmeta.ConditionFalse, cmapi.CertificateRequestReasonPending, err.Error())
	case err != nil:
		return i.fail(ctx, request, cmapi.CertificateRequestReasonFailed, err.Error())
	}
	request.Status.Certificate, request.Status.CA = certificate, ca
	return i.set(ctx, request, cmapi.CertificateRequestConditionReady, cmmeta.ConditionTrue, cmapi.CertificateRequestReasonIssued, "signed")
}

func (i *Issuer) fail(ctx context.Context, request *cmapi.CertificateRequest, reason, message string) error {
	now := metav1.Now()
	request.Status.FailureTime = &now
	return i.set(ctx, request, cmapi.CertificateRequestConditionReady, cmmeta.ConditionFalse, reason, message)
}

func (i *Issuer) set(ctx context.Context, request *cmapi.CertificateRequest, kind cmapi.CertificateRequestConditionType, status cmmeta.ConditionStatus, reason, message string) error {
	cmutil.SetCertificateRequestCondition(request, kind, status, reason, message)
	if err := i.cluster.Status().Update(ctx, request); err != nil {
		return err
	}
	if status == cmmeta.ConditionTrue {
		i.mu.Lock()
		i.seen[kind]++
		i.mu.Unlock()
	}
	return nil
}

func parse(text []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("spec.request is no PEM")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("spec.request: %w", err)
	}
	return csr, csr.CheckSignature()
}

// installing is locked meanwhile: tests in parallel would create the CRD at the same time.
var installing sync.Mutex

// install installs the CRD.
func install(c *cluster.Cluster) error {
	installing.Lock()
	defer installing.Unlock()
	yes := true
	crd := &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "externalissuers." + Kind.Group},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: Kind.Group, Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Kind: Kind.Kind, ListKind: Kind.Kind + "List", Plural: "externalissuers", Singular: "externalissuer"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: Kind.Version, Served: true, Storage: true,
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: &yes}},
			}},
		},
	}
	_, err := envtest.InstallCRDs(c.Plane.Config, envtest.CRDInstallOptions{CRDs: []*apiextensionsv1.CustomResourceDefinition{crd}})
	return err
}
