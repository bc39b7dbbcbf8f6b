// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

const (
	callTimeout = 10 * time.Second
	// While the API server cannot be reached, what is to be told waits this long between two attempts.
	tellAgain = 30 * time.Second
	// eventNote is the longest note that the API server takes (events.k8s.io/v1: 1 kB).
	eventNote = 1000
	component = "istiod-agent.io/istiod-agent"
)

// Report tells the API server how things are. It implements agent.Reporter: what is told waits in memory
// until Run has passed it on, of the status the newest, of the events the last few.
type Report struct {
	cluster *Cluster
	log     logr.Logger
	status  chan statusOf
	events  chan *unstructured.Unstructured
}

type statusOf struct {
	certificate *certificatesv1.IssuedCertificate
	status      certificatesv1.IssuedCertificateStatus
}

// Report gives a reporter; Run starts it.
func (c *Cluster) Report(log logr.Logger) *Report {
	return &Report{cluster: c, log: log, status: make(chan statusOf, 1), events: make(chan *unstructured.Unstructured, 20)}
}

// Status implements agent.Reporter.
func (r *Report) Status(certificate *certificatesv1.IssuedCertificate, status certificatesv1.IssuedCertificateStatus) {
	newest := statusOf{certificate, status}
	for {
		select {
		case r.status <- newest:
			return
		default:
		}
		select { // what is overtaken need not be told
		case <-r.status:
		default:
		}
	}
}

// Event implements agent.Reporter.
func (r *Report) Event(certificate *certificatesv1.IssuedCertificate, warning bool, reason, message string) {
	select {
	case r.events <- r.cluster.event(certificate, warning, reason, message, time.Now()):
	default: // the log has it
	}
}

// Run passes on what is told until ctx ends, and then once more what is left.
func (r *Report) Run(ctx context.Context) {
	var pending *statusOf
	for {
		var again <-chan time.Time
		if pending != nil {
			again = time.After(tellAgain)
		}
		select {
		case newest := <-r.status:
			pending = &newest
		case event := <-r.events:
			r.send(ctx, event)
			continue
		case <-again:
		case <-ctx.Done():
			r.rest(context.WithoutCancel(ctx), pending)
			return
		}
		if err := r.apply(ctx, pending); err == nil || apierrors.IsNotFound(err) {
			pending = nil
		} else {
			r.log.V(1).Info("the status could not be written yet", "cause", err.Error())
		}
	}
}

// rest sends what was told just before the end: of an init container, that is nearly everything.
func (r *Report) rest(ctx context.Context, pending *statusOf) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for {
		select {
		case newest := <-r.status:
			pending = &newest
		case event := <-r.events:
			r.send(ctx, event)
		default:
			if pending != nil {
				if err := r.apply(ctx, pending); err != nil {
					r.log.V(1).Info("the status could not be written", "cause", err.Error())
				}
			}
			return
		}
	}
}

// apply writes the status by server-side apply, as this pod's field manager: each pod owns its own entry of
// certificates[], and the last one to speak the fields that all share.
func (r *Report) apply(ctx context.Context, s *statusOf) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	status, err := json.Marshal(s.status)
	if err != nil {
		return err
	}
	var content map[string]any
	if err := json.Unmarshal(status, &content); err != nil {
		return err
	}
	err = r.applyContent(ctx, s.certificate, content)
	if err != nil && strings.Contains(err.Error(), undeclared) {
		delete(content, "certificates") // a CRD of Gloo Mesh's has neither
		delete(content, "conditions")
		err = r.applyContent(ctx, s.certificate, content)
	}
	return err
}

// undeclared is how the API server refuses to apply a field that the CRD does not have
// (structured-merge-diff typed/validate.go).
const undeclared = "field not declared in schema"

func (r *Report) applyContent(ctx context.Context, certificate *certificatesv1.IssuedCertificate, status map[string]any) error {
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": certificatesv1.GroupVersion.String(), "kind": certificatesv1.Kind,
		"metadata": map[string]any{"name": certificate.Name, "namespace": certificate.Namespace},
		"status":   status,
	}}
	_, err := r.cluster.client.Resource(certificatesv1.IssuedCertificates).Namespace(certificate.Namespace).
		ApplyStatus(ctx, certificate.Name, object, metav1.ApplyOptions{FieldManager: manager(r.cluster.identity.Pod), Force: true})
	return err
}

// manager names a pod as an owner of fields, within the 128 characters that are allowed.
func manager(pod string) string {
	name := "istiod-agent/" + pod
	return name[:min(len(name), 128)]
}

func (r *Report) send(ctx context.Context, event *unstructured.Unstructured) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := r.cluster.client.Resource(schema.GroupVersionResource{Group: "events.k8s.io", Version: "v1", Resource: "events"}).
		Namespace(event.GetNamespace()).Create(ctx, event, metav1.CreateOptions{})
	if err != nil {
		r.log.V(1).Info("an event could not be written", "cause", err.Error())
	}
}

// event is about the IssuedCertificate, and related to the pod.
func (c *Cluster) event(certificate *certificatesv1.IssuedCertificate, warning bool, reason, message string, now time.Time) *unstructured.Unstructured {
	kind := "Normal"
	if warning {
		kind = "Warning"
	}
	if len(message) > eventNote {
		message = strings.ToValidUTF8(message[:eventNote-3], "") + "..."
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "events.k8s.io/v1", "kind": "Event",
		"metadata": map[string]any{
			"name":      fmt.Sprintf("%.200s.%x", certificate.Name, now.UnixNano()), // of 253 characters
			"namespace": certificate.Namespace,
		},
		"eventTime":           now.UTC().Format(metav1.RFC3339Micro),
		"reportingController": component,
		"reportingInstance":   c.identity.Pod,
		"action":              "Issue",
		"type":                kind,
		"reason":              reason,
		"note":                message,
		"regarding": map[string]any{
			"apiVersion": certificatesv1.GroupVersion.String(), "kind": "IssuedCertificate",
			"namespace": certificate.Namespace, "name": certificate.Name, "uid": string(certificate.UID),
			"resourceVersion": certificate.ResourceVersion,
		},
		"related": map[string]any{"apiVersion": "v1", "kind": "Pod", "namespace": c.identity.Namespace, "name": c.identity.Pod},
	}}
}
