// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/istiod-agent/istiod-agent/agent"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

var me = agent.Identity{Pod: "istiod-0", Namespace: "istio-system", ServiceAccount: "istiod"}

// Why there is no specification is said with what to do about it.
func TestWhyThereIsNoSpecification(t *testing.T) {
	resource := certificatesv1.IssuedCertificates.GroupResource()
	for name, test := range map[string]struct {
		failure error
		broken  map[string]error
		want    string
		missing bool
		listing bool
	}{
		"no answer yet":     {want: "waiting for the API server's list", missing: true, listing: true},
		"not allowed":       {failure: apierrors.NewForbidden(resource, "", errors.New("RBAC")), want: "grant it a Role that allows get, list and watch", missing: true},
		"no CRD":            {failure: apierrors.NewNotFound(resource, ""), want: "install the CRD issuedcertificates.certificates.mesh.gloo.solo.io", missing: true},
		"not authenticated": {failure: apierrors.NewUnauthorized("token"), want: "does not accept the service account token of istio-system/istiod", missing: true},
		"not reached":       {failure: errors.New("connection refused"), want: "cannot be reached to look for an IssuedCertificate in namespace \"istio-system\": connection refused", missing: true},
		"one that cannot be read": {
			broken: map[string]error{"mine": errors.New("spec.hosts is a number")}, want: "IssuedCertificate istio-system/mine cannot be read: spec.hosts is a number",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWatch(t)
			w.failure = test.failure
			err := w.none(test.broken)
			var problem *agent.SpecificationError
			if !errors.As(err, &problem) || problem.Missing != test.missing || problem.Listing != test.listing || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %#v: %v", problem, err)
			}
		})
	}
}

// newWatch is one that was never run.
func newWatch(t *testing.T) *Watch {
	t.Helper()
	client, err := dynamic.NewForConfig(&rest.Config{Host: "http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	w, err := (&Cluster{client: client, identity: me}).Watch("istio-system")
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestTheSpecificationIsReadWithoutItsStatus(t *testing.T) {
	object := func(spec map[string]any) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "certificates.mesh.gloo.solo.io/v1", "kind": "IssuedCertificate",
			"metadata": map[string]any{"name": "mine", "namespace": "istio-system"},
			"spec":     spec,
			"status":   map[string]any{"state": int64(3)}, // an enumeration by number, as protobuf has it
		}}
	}
	good := object(map[string]any{"hosts": []any{"spiffe://cluster.local/ns/istio-system/sa/istiod"}})
	certificate, err := decode(good)
	if err != nil || certificate.Name != "mine" || len(certificate.Spec.Hosts) != 1 || certificate.Status.State != "" {
		t.Errorf("%+v, %v", certificate, err)
	}
	if _, ok := good.Object["status"]; !ok {
		t.Error("the stored object was changed")
	}
	if _, err := decode(object(map[string]any{"hosts": int64(1)})); err == nil {
		t.Error("a number was read as hosts")
	}
}

// A bad specification is named, for status and events to go there.
func TestABadSpecificationComesWithItsObject(t *testing.T) {
	w := newWatch(t)
	err := w.informer.GetStore().Add(&unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "certificates.mesh.gloo.solo.io/v1", "kind": "IssuedCertificate",
		"metadata": map[string]any{"name": "mine", "namespace": "istio-system"},
		"spec":     map[string]any{"hosts": []any{"spiffe://cluster.local/ns/istio-system/sa/istiod"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = w.Current()
	var problem *agent.SpecificationError
	if !errors.As(err, &problem) || problem.Certificate == nil || problem.Certificate.Name != "mine" || problem.Missing || !strings.Contains(err.Error(), "spec.agentCa") {
		t.Errorf("got %#v: %v", problem, err)
	}
}

// The API server refuses an event whose note or name is too long.
func TestEventsAreOfASizeThatIsTaken(t *testing.T) {
	c := &Cluster{identity: me}
	certificate := &certificatesv1.IssuedCertificate{ObjectMeta: metav1.ObjectMeta{Name: strings.Repeat("n", 253), Namespace: "istio-system"}}
	for _, message := range []string{"short", strings.Repeat("x", 5000), strings.Repeat("é", 3000), "x" + strings.Repeat("é", 3000)} {
		event := c.event(certificate, true, "Reason", message, time.Now())
		note, _, _ := unstructured.NestedString(event.Object, "note")
		if len(note) > 1024 || !utf8.ValidString(note) || (len(message) < 1000) != (note == message) {
			t.Errorf("a note of %d bytes: %.20q", len(note), note)
		}
		if n := len(event.GetName()); n > 253 {
			t.Errorf("a name of %d bytes", n)
		}
		if _, err := json.Marshal(event); err != nil {
			t.Error(err)
		}
	}
}

func TestTheManagersNameFits(t *testing.T) {
	if got := manager("istiod-0"); got != "istiod-agent/istiod-0" {
		t.Errorf("got %q", got)
	}
	if got := manager(strings.Repeat("p", 253)); len(got) != 128 {
		t.Errorf("%d bytes", len(got))
	}
}

// Of the status only the newest is kept, of the events the first until somebody takes them, and nobody waits.
func TestNobodyWaitsForTheAPIServer(t *testing.T) {
	r := (&Cluster{identity: me}).Report(logr.Discard())
	certificate := &certificatesv1.IssuedCertificate{ObjectMeta: metav1.ObjectMeta{Name: "mine", Namespace: "istio-system"}}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range int64(100) {
			r.Status(certificate, certificatesv1.IssuedCertificateStatus{ObservedGeneration: i})
			r.Event(certificate, false, "Reason", "message")
		}
	}()
	select {
	case <-done:
	case <-ctx.Done():
		t.Fatal("it waits")
	}
	if newest := <-r.status; newest.status.ObservedGeneration != 99 {
		t.Errorf("kept the status of generation %d", newest.status.ObservedGeneration)
	}
}

// What follows from all Pods' entries is of the stored ones and the own. Times of conditions whose status stays are the
// stored ones; conditions of others are not claimed.
func TestSummarized(t *testing.T) {
	before, now := "2025-01-01T00:00:00Z", time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	condition := func(kind string) any {
		return map[string]any{"type": kind, "status": "True", "reason": "Old", "message": "", "lastTransitionTime": before}
	}
	mine := certificatesv1.IssuedCertificateStatus{
		ObservedGeneration: 2, Conditions: []metav1.Condition{{Type: certificatesv1.TokenAudienceBoundCondition, Status: metav1.ConditionTrue, Reason: "AudienceSet"}},
		Certificates: []certificatesv1.CertificateStatus{{Pod: "a", SerialNumber: "01"}},
	}
	for name, test := range map[string]struct {
		status map[string]any
		want   string
	}{
		"the first":  {nil, "TokenAudienceBound True now, Ready True now, Confirmed False now, RootTrusted Unknown now"},
		"of another": {map[string]any{"state": int64(3)}, "TokenAudienceBound True now, Ready True now, Confirmed False now, RootTrusted Unknown now"},
		"beside one that is ready": {map[string]any{
			"certificates": []any{map[string]any{"pod": "b", "serialNumber": "02", "confirmed": true}, map[string]any{"pod": "a", "error": "old", "confirmed": false}},
			"conditions":   []any{condition("Another"), condition("Ready"), condition("Confirmed"), condition("TokenAudienceBound")},
		}, "Ready True before, Confirmed False now, TokenAudienceBound True before, RootTrusted Unknown now"},
		"beside one that is not": {map[string]any{
			"certificates": []any{map[string]any{"pod": "b", "error": "sealed", "reason": "VaultSealed", "confirmed": false}},
			"conditions":   []any{condition("Ready")},
		}, "Ready False now, TokenAudienceBound True now, Confirmed False now, RootTrusted Unknown now"},
	} {
		t.Run(name, func(t *testing.T) {
			got := summarized(mine, &unstructured.Unstructured{Object: map[string]any{"status": test.status}}, now)
			var words []string
			for _, c := range got.Conditions {
				when := "before"
				if c.LastTransitionTime.Time.Equal(now) {
					when = "now"
				}
				words = append(words, fmt.Sprintf("%s %s %s", c.Type, c.Status, when))
			}
			if got := strings.Join(words, ", "); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
			if len(got.Certificates) != 1 || got.Certificates[0].Pod != "a" {
				t.Errorf("it claims the entries %+v", got.Certificates)
			}
		})
	}
}
