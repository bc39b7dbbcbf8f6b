// SPDX-License-Identifier: Apache-2.0

package certmanager

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/istiod-agent/istiod-agent/agent/ca"
)

// Requests is the resource of CertificateRequests.
var Requests = schema.GroupVersionResource{Group: "cert-manager.io", Version: "v1", Resource: "certificaterequests"}

const (
	// podLabel has the name of the Pod whose agent made a request.
	podLabel = "istiod-agent.io/pod"
	// hostsAnnotation shows an approver the names in the certificate.
	hostsAnnotation = "istiod-agent.io/hosts"
	// specificationAnnotation is the name of its IssuedCertificate, which names istiod's mesh.
	specificationAnnotation = "istiod-agent.io/issued-certificate"
	// maxLeftovers bounds the requests that one call deletes.
	maxLeftovers = 100
	// createTimeout bounds how long the creation of a request holds up the agent's end.
	createTimeout = 10 * time.Second
	// rewatch is the pause before the request is read again after a watch has ended.
	rewatch = 250 * time.Millisecond
	// settled is how long a request waits for the same before that is reported. Most issuers decide sooner.
	settled = 2 * time.Second
)

// label is the label's value for a Pod; the names of Pods may be longer.
func label(pod string) string {
	if len(validation.IsValidLabelValue(pod)) == 0 {
		return pod
	}
	return fmt.Sprintf("%x", sha256.Sum256([]byte(pod)))[:40]
}

func (s *source) create(ctx context.Context, request ca.Request, csr []byte) (*unstructured.Unstructured, error) {
	ref := s.spec.IssuerRef
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": Requests.GroupVersion().String(), "kind": "CertificateRequest",
		"metadata": map[string]any{
			"generateName": s.Pod + "-", // which the API server shortens
			"labels":       map[string]any{podLabel: label(s.Pod)},
			"annotations":  map[string]any{podLabel: s.Pod, specificationAnnotation: s.of, hostsAnnotation: strings.Join(request.Hosts, ",")},
		},
		"spec": map[string]any{
			"request":   base64.StdEncoding.EncodeToString(csr),
			"isCA":      true,
			"usages":    []any{"cert sign", "crl sign"},
			"duration":  request.TTL.String(),
			"issuerRef": map[string]any{"name": ref.Name, "kind": ref.Kind, "group": ref.Group},
		},
	}}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// A canceled call may have created a request whose name the agent never learns.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), createTimeout)
	defer cancel()
	if s.PodUID != "" {
		// Not a controller, and blocking no deletion: that would need more rights.
		object.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: s.Pod, UID: s.PodUID}})
	}
	created, err := s.Requests.Create(ctx, object, metav1.CreateOptions{})
	if err != nil {
		return nil, explain("create a CertificateRequest", err)
	}
	return created, nil
}

// removeLeftovers deletes the requests of this Pod's earlier agents, whose keys are gone.
func (s *source) removeLeftovers(ctx context.Context) error {
	list, err := s.Requests.List(ctx, metav1.ListOptions{LabelSelector: podLabel + "=" + label(s.Pod), Limit: maxLeftovers})
	if err != nil {
		return explain("list the CertificateRequests of this Pod", err)
	}
	for _, leftover := range list.Items {
		if err := s.Requests.Delete(ctx, leftover.GetName(), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return explain("delete a CertificateRequest of an earlier run", err)
		}
	}
	return nil
}

// remove deletes a request that is of no use any more, also when ctx has ended. It returns what is left.
func (s *source) remove(ctx context.Context, of *pending) []string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidyTimeout)
	defer cancel()
	err := s.Requests.Delete(ctx, of.name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &of.uid}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return []string{fmt.Sprintf("CertificateRequest %s was not deleted; the agent deletes it before its next request: %v", of.name, explain("delete it", err))}
	}
	return nil
}

// await returns the status of the pending request once its issuer has signed it, or an error once it is refused. It returns a
// *ca.PendingError where neither happens within Patience, or sooner where what the request waits for has changed.
func (s *source) await(ctx context.Context) (*status, error) {
	p, begun := s.pending, time.Now()
	waits, since := &ca.PendingError{Reason: unapproved, Cause: fmt.Errorf("CertificateRequest %s was created", p.name)}, begun
	version := ""
	for {
		limit := begun.Add(s.Patience)
		if news := since.Add(settled); waits.Error() != p.reported && news.Before(limit) {
			limit = news
		}
		object, err := s.read(ctx, limit, version)
		var now *ca.PendingError
		switch {
		case errors.Is(err, errLimit):
			p.reported = waits.Error()
			return nil, waits
		case apierrors.IsNotFound(err):
			return nil, &ca.Error{Reason: deleted, Cause: fmt.Errorf("CertificateRequest %s was deleted before %s answered it; the agent creates another one", p.name, s)}
		case apierrors.IsForbidden(err):
			return nil, explain("watch CertificateRequest "+p.name, err)
		case errors.Is(err, errWatchEnded):
			version = ""
		case err != nil: // the issuer may decide meanwhile
			version, now = "", &ca.PendingError{Reason: unreachable, Cause: explain("watch CertificateRequest "+p.name, err)}
		default:
			var found *status
			if found, now, err = s.decided(object); err != nil || found != nil {
				return found, err
			}
			version = object.GetResourceVersion()
		}
		if now != nil && now.Error() != waits.Error() {
			waits, since = now, time.Now()
		}
		if version == "" {
			pause(ctx, rewatch)
		}
	}
}

func pause(ctx context.Context, length time.Duration) {
	timer := time.NewTimer(length)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// read returns the request, the next version after one that was read. It returns errLimit at the limit, and where ctx has ended.
func (s *source) read(ctx context.Context, limit time.Time, version string) (object *unstructured.Unstructured, err error) {
	ctx, cancel := context.WithDeadline(ctx, limit)
	defer cancel()
	if version == "" {
		object, err = s.Requests.Get(ctx, s.pending.name, metav1.GetOptions{})
	} else {
		object, err = s.next(ctx, version)
	}
	if err != nil && ctx.Err() != nil {
		return nil, errLimit
	}
	return object, err
}

var (
	errLimit      = errors.New("the request is not decided yet")
	errWatchEnded = errors.New("the watch has ended")
)

// next returns the request's next version.
func (s *source) next(ctx context.Context, version string) (*unstructured.Unstructured, error) {
	watching, err := s.Requests.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + s.pending.name, ResourceVersion: version})
	if err != nil {
		return nil, err
	}
	defer watching.Stop()
	for event := range watching.ResultChan() {
		object, ok := event.Object.(*unstructured.Unstructured)
		switch {
		case event.Type == watch.Deleted:
			return nil, apierrors.NewNotFound(Requests.GroupResource(), s.pending.name)
		case ok && event.Type != watch.Error && event.Type != watch.Bookmark:
			return object, nil
		default:
			return nil, errWatchEnded
		}
	}
	return nil, errWatchEnded
}

// explain returns an error of the API server with what to do.
func explain(do string, err error) error {
	switch {
	case apierrors.IsForbidden(err):
		return &ca.Error{Reason: forbidden, Cause: fmt.Errorf("the agent may not %s: give istiod's service account a Role with create, get, list, watch and delete on certificaterequests of cert-manager.io (istiodSidecar.certManager in the chart): %w", do, err)}
	case apierrors.IsNotFound(err):
		return &ca.Error{Reason: absent, Cause: fmt.Errorf("the API server has no CertificateRequests: install cert-manager: %w", err)}
	}
	return &ca.Error{Reason: unreachable, Cause: fmt.Errorf("failed to %s: %w", do, err)}
}
