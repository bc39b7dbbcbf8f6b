// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/retry"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

const (
	callTimeout   = 10 * time.Second
	retryInterval = 30 * time.Second // of the status, while the API server cannot be reached
	// maxNote is the bytes of an Event's note (events.k8s.io/v1: 1 kB).
	maxNote   = 1000
	component = "istiod-agent.io/istiod-agent"
)

// Reporter implements agent.Reporter. It keeps the newest status and a few events in memory until Run has written them.
type Reporter struct {
	client *Client
	log    logr.Logger
	status chan statusOf
	events chan *unstructured.Unstructured
}

type statusOf struct {
	certificate *certificatesv1.IssuedCertificate
	status      certificatesv1.IssuedCertificateStatus
}

// Reporter returns a Reporter; its Run writes.
func (c *Client) Reporter(log logr.Logger) *Reporter {
	return &Reporter{client: c, log: log, status: make(chan statusOf, 1), events: make(chan *unstructured.Unstructured, 20)}
}

// Status implements agent.Reporter.
func (r *Reporter) Status(certificate *certificatesv1.IssuedCertificate, status certificatesv1.IssuedCertificateStatus) {
	newest := statusOf{certificate, status}
	for {
		select {
		case r.status <- newest:
			return
		default:
		}
		select { // the older status is obsolete
		case <-r.status:
		default:
		}
	}
}

// Event implements agent.Reporter.
func (r *Reporter) Event(certificate *certificatesv1.IssuedCertificate, warning bool, reason, message string) {
	select {
	case r.events <- r.client.event(certificate, warning, reason, message, time.Now()):
	default: // the log has them all
	}
}

// Run writes until ctx ends, and then what remains.
func (r *Reporter) Run(ctx context.Context) {
	var pending *statusOf
	for {
		var again <-chan time.Time
		if pending != nil {
			again = time.After(retryInterval)
		}
		select {
		case newest := <-r.status:
			pending = &newest
		case event := <-r.events:
			r.create(context.WithoutCancel(ctx), event) // an init container may end meanwhile
			continue
		case <-again:
		case <-ctx.Done():
			r.flush(context.WithoutCancel(ctx), pending)
			return
		}
		if err := r.apply(ctx, pending); err == nil || apierrors.IsNotFound(err) {
			pending = nil
		} else {
			r.log.V(1).Info("Failed to write the status", "err", err.Error())
		}
	}
}

// flush writes what remains at the end: of an init container, that is nearly everything.
func (r *Reporter) flush(ctx context.Context, pending *statusOf) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for {
		select {
		case newest := <-r.status:
			pending = &newest
		case event := <-r.events:
			r.create(ctx, event)
		default:
			if pending != nil {
				if err := r.apply(ctx, pending); err != nil {
					r.log.V(1).Info("Failed to write the last status", "err", err.Error())
				}
			}
			return
		}
	}
}

// apply writes the status by server-side apply, as this pod's field manager: each pod owns its own entry of certificates[],
// and the last writer the fields that all share. Some of those summarize all stored entries, so that a write conflicts with
// another pod's in between, and is retried.
func (r *Reporter) apply(ctx context.Context, s *statusOf) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return retry.OnError(wait.Backoff{Steps: applyAttempts}, apierrors.IsConflict, func() error { return r.applyOnce(ctx, s) })
}

// applyAttempts is more than the replicas that write at the same moment.
const applyAttempts = 20

func (r *Reporter) applyOnce(ctx context.Context, s *statusOf) error {
	stored, err := r.client.client.Resource(certificatesv1.IssuedCertificates).Namespace(s.certificate.Namespace).
		Get(ctx, s.certificate.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	status := summarized(s.status, stored, time.Now())
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&status)
	if err != nil {
		return err
	}
	content["error"] = status.Error // also if empty: a field left out stays as long as a deleted pod owns it too
	err = r.applyContent(ctx, stored, content)
	for _, older := range []func(map[string]any){withoutDetails, withoutAdditions} {
		if err == nil || !strings.Contains(err.Error(), undeclared) {
			break
		}
		older(content)
		err = r.applyContent(ctx, stored, content)
	}
	return err
}

// summarized returns a pod's status with the summary of its entry and the stored entries of the other pods.
func summarized(mine certificatesv1.IssuedCertificateStatus, stored *unstructured.Unstructured, now time.Time) certificatesv1.IssuedCertificateStatus {
	var all certificatesv1.IssuedCertificateStatus
	content, _, _ := unstructured.NestedMap(stored.Object, "status")
	if runtime.DefaultUnstructuredConverter.FromUnstructured(content, &all) != nil {
		all = certificatesv1.IssuedCertificateStatus{} // Gloo Mesh writes parts of it with other types
	}
	own := []string{certificatesv1.ReadyCondition, certificatesv1.ConfirmedCondition, certificatesv1.RootTrustedCondition}
	for _, condition := range mine.Conditions {
		condition.LastTransitionTime = metav1.NewTime(now.UTC().Truncate(time.Second)) // unless its status is the stored one
		meta.SetStatusCondition(&all.Conditions, condition)
		own = append(own, condition.Type)
	}
	for _, entry := range mine.Certificates {
		at := slices.IndexFunc(all.Certificates, func(c certificatesv1.CertificateStatus) bool { return c.Pod == entry.Pod })
		if at < 0 {
			at, all.Certificates = len(all.Certificates), append(all.Certificates, entry)
		}
		all.Certificates[at] = entry
	}
	all.Summarize(mine.ObservedGeneration, now)
	mine.NotAfter, mine.Root, mine.RootNotAfter = all.NotAfter, all.Root, all.RootNotAfter
	mine.Error = cmp.Or(mine.Error, all.Error) // another pod's, which reports it only once
	mine.Conditions = slices.DeleteFunc(all.Conditions, func(c metav1.Condition) bool { return !slices.Contains(own, c.Type) })
	return mine
}

// undeclared is the API server's error for a field that is not in the CRD (structured-merge-diff typed/validate.go).
const undeclared = "field not declared in schema"

// withoutDetails removes what the CRD of the previous version does not have.
func withoutDetails(status map[string]any) {
	for _, field := range []string{"notAfter", "root", "rootNotAfter"} {
		delete(status, field)
	}
	entries, _ := status["certificates"].([]any)
	for _, entry := range entries {
		fields, _ := entry.(map[string]any)
		for _, field := range []string{"reason", "rootNotAfter", "limitedBy", "remoteClusters"} {
			delete(fields, field)
		}
	}
}

// withoutAdditions removes what Gloo Mesh's CRD does not have.
func withoutAdditions(status map[string]any) {
	delete(status, "certificates")
	delete(status, "conditions")
}

func (r *Reporter) applyContent(ctx context.Context, stored *unstructured.Unstructured, status map[string]any) error {
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": certificatesv1.GroupVersion.String(), "kind": certificatesv1.Kind,
		"metadata": map[string]any{"name": stored.GetName(), "namespace": stored.GetNamespace(), "resourceVersion": stored.GetResourceVersion()},
		"status":   status,
	}}
	_, err := r.client.client.Resource(certificatesv1.IssuedCertificates).Namespace(stored.GetNamespace()).
		ApplyStatus(ctx, stored.GetName(), object, metav1.ApplyOptions{FieldManager: certificatesv1.FieldManager(r.client.identity.Pod), Force: true})
	return err
}

func (r *Reporter) create(ctx context.Context, event *unstructured.Unstructured) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := r.client.client.Resource(schema.GroupVersionResource{Group: "events.k8s.io", Version: "v1", Resource: "events"}).
		Namespace(event.GetNamespace()).Create(ctx, event, metav1.CreateOptions{})
	if err != nil {
		r.log.V(1).Info("Failed to create an Event", "err", err.Error())
	}
}

// event returns an Event regarding the IssuedCertificate, related to the pod.
func (c *Client) event(certificate *certificatesv1.IssuedCertificate, warning bool, reason, message string, now time.Time) *unstructured.Unstructured {
	kind := "Normal"
	if warning {
		kind = "Warning"
	}
	if len(message) > maxNote {
		message = strings.ToValidUTF8(message[:maxNote-3], "") + "..."
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
