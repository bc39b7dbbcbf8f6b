// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
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
		"not authenticated": {failure: apierrors.NewUnauthorized("token"), want: "rejects the service account token of istio-system/istiod", missing: true},
		"not reached":       {failure: errors.New("connection refused"), want: "cannot be reached, to find an IssuedCertificate in namespace \"istio-system\": connection refused", missing: true},
		"one that cannot be read": {
			broken: map[string]error{"mine": errors.New("spec.hosts is a number")}, want: "IssuedCertificate istio-system/mine cannot be read: spec.hosts is a number",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWatch(t)
			w.failure = test.failure
			err := w.missing(test.broken)
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
	w, err := (&Client{client: client, identity: me}).Watch("istio-system")
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

// Of the status counts which roots the replicas have, as far as it is as an agent writes it.
func TestTheReplicasOfAStatus(t *testing.T) {
	root := strings.Repeat("a", 64)
	good := map[string]any{"pod": "istiod-1", "rootFingerprint": root, "trustedRoots": []any{root}, "notAfter": "2030-01-01T00:00:00Z", "confirmed": true}
	for name, test := range map[string]struct {
		status any
		want   int
	}{
		"an agent's":               {map[string]any{"certificates": []any{good, good}}, 2},
		"as protobuf has it":       {map[string]any{"state": int64(3)}, 0},
		"of another type":          {"FINISHED", 0},
		"entries of another type":  {map[string]any{"certificates": map[string]any{"a": good}}, 0},
		"an entry of another type": {map[string]any{"certificates": []any{"a", nil, int64(1), good}}, 1},
		"fields of another type":   {map[string]any{"certificates": []any{map[string]any{"pod": int64(1), "rootFingerprint": root}, map[string]any{"pod": "a", "rootFingerprint": []any{}}}}, 0},
		"a Pod that waits":         {map[string]any{"certificates": []any{map[string]any{"pod": "a", "offeredRootFingerprint": root}}}, 0},
		"a name that is none":      {map[string]any{"certificates": []any{map[string]any{"pod": "a\n; kubectl delete", "rootFingerprint": root}}}, 0},
		"a root that is none":      {map[string]any{"certificates": []any{map[string]any{"pod": "a", "rootFingerprint": strings.Repeat("A", 1<<20)}}}, 0},
		"a time that is none":      {map[string]any{"certificates": []any{map[string]any{"pod": "a", "rootFingerprint": root, "notAfter": "never", "trustedRoots": "all"}}}, 1},
		"very many":                {map[string]any{"certificates": slices.Repeat([]any{good}, 5000)}, 1000},
	} {
		t.Run(name, func(t *testing.T) {
			certificate, err := decode(&unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": "mine"}, "status": test.status}})
			if err != nil || len(certificate.Status.Certificates) != test.want {
				t.Fatalf("%d replicas, %v", len(certificate.Status.Certificates), err)
			}
			if test.want == 2 {
				if one := certificate.Status.Certificates[0]; one.Pod != "istiod-1" || one.RootFingerprint != root || len(one.TrustedRoots) != 1 || one.NotAfter.Year() != 2030 {
					t.Errorf("%+v", one)
				}
			}
		})
	}
}

// A ConfigMap's value is bounded, and of what is in it nothing is told.
func TestConfigMapValue(t *testing.T) {
	for name, test := range map[string]struct {
		status int
		answer string
		want   string
	}{
		"there":       {200, `{"kind":"ConfigMap","apiVersion":"v1","data":{"k":"value"}}`, ""},
		"no such key": {200, `{"kind":"ConfigMap","apiVersion":"v1","data":{"other":"value"}}`, `it has no key "k"`},
		"no data":     {200, `{"kind":"ConfigMap","apiVersion":"v1"}`, `it has no key "k"`},
		"a number":    {200, `{"kind":"ConfigMap","apiVersion":"v1","data":{"k":1}}`, `it has no key "k"`},
		"too large":   {200, `{"kind":"ConfigMap","apiVersion":"v1","data":{"k":"value of 17 bytes"}}`, `key "k" holds 17 bytes, more than 16`},
		"forbidden":   {403, `{"kind":"Status","apiVersion":"v1","reason":"Forbidden","code":403}`, "may not read ConfigMap istio-system/name; grant it a Role"},
		"none":        {404, `{"kind":"Status","apiVersion":"v1","reason":"NotFound","code":404}`, "reading ConfigMap istio-system/name"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/api/v1/namespaces/istio-system/configmaps/name" {
					t.Errorf("asked for %s", r.URL.Path)
				}
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(test.status)
				_, _ = w.Write([]byte(test.answer))
			}))
			defer server.Close()
			cluster, err := New(&rest.Config{Host: server.URL}, me)
			if err != nil {
				t.Fatal(err)
			}
			value, err := cluster.ConfigMapValue(t.Context(), "istio-system", "name", "k", 16)
			if test.want == "" && (err != nil || value != "value") || test.want != "" && (value != "" || err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %q, %v", value, err)
			}
		})
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
	c := &Client{identity: me}
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

// Of the status only the newest is kept, of the events the first until somebody takes them, and nobody waits.
func TestNobodyWaitsForTheAPIServer(t *testing.T) {
	r := (&Client{identity: me}).Reporter(logr.Discard())
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
		error  string
	}{
		"the first":  {nil, "TokenAudienceBound True now, Ready True now, Confirmed False now, RootTrusted Unknown now", ""},
		"of another": {map[string]any{"state": int64(3)}, "TokenAudienceBound True now, Ready True now, Confirmed False now, RootTrusted Unknown now", ""},
		"beside one that is ready": {map[string]any{
			"certificates": []any{map[string]any{"pod": "b", "serialNumber": "02", "confirmed": true}, map[string]any{"pod": "a", "error": "old", "confirmed": false}},
			"conditions":   []any{condition("Another"), condition("Ready"), condition("Confirmed"), condition("TokenAudienceBound")},
		}, "Ready True before, Confirmed False now, TokenAudienceBound True before, RootTrusted Unknown now", ""},
		"beside one that is not": {map[string]any{
			"certificates": []any{map[string]any{"pod": "b", "error": "sealed", "reason": "VaultSealed", "confirmed": false}},
			"conditions":   []any{condition("Ready")},
		}, "Ready False now, TokenAudienceBound True now, Confirmed False now, RootTrusted Unknown now", "sealed"},
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
			if got.Error != test.error {
				t.Errorf("the error is %q, want %q", got.Error, test.error)
			}
		})
	}
}

// A status without an error has an empty one: server-side apply keeps a field that is left out while a deleted Pod owns it.
func TestAnEmptyErrorIsApplied(t *testing.T) {
	var applied map[string]any
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		object := map[string]any{
			"apiVersion": "certificates.mesh.gloo.solo.io/v1", "kind": "IssuedCertificate",
			"metadata": map[string]any{"name": "mine", "namespace": "istio-system"},
			"status":   map[string]any{"state": "FAILED", "error": "of a deleted Pod"},
		}
		if r.Method == http.MethodPatch {
			if err := json.NewDecoder(r.Body).Decode(&applied); err != nil {
				t.Error(err)
			}
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(object)
	}))
	defer server.Close()
	c, err := New(&rest.Config{Host: server.URL}, me)
	if err != nil {
		t.Fatal(err)
	}
	certificate := &certificatesv1.IssuedCertificate{ObjectMeta: metav1.ObjectMeta{Name: "mine", Namespace: "istio-system"}}
	if err := c.Reporter(logr.Discard()).apply(t.Context(), &statusOf{certificate, certificatesv1.IssuedCertificateStatus{State: certificatesv1.Finished}}); err != nil {
		t.Fatal(err)
	}
	if text, found, _ := unstructured.NestedString(applied, "status", "error"); !found || text != "" {
		t.Errorf("applied %v", applied)
	}
}

// Requests belong to a Pod only where its token names this Pod: with the UID of another one, they would be deleted at once.
func TestPodUID(t *testing.T) {
	t.Parallel()
	part := base64.RawURLEncoding.EncodeToString
	write := func(claims string) string {
		file := filepath.Join(t.TempDir(), "token")
		content := part([]byte(`{"alg":"RS256"}`)) + "." + part([]byte(`{"iss":"a","sub":"system:serviceaccount:mesh:istiod","kubernetes.io":`+claims+`}`)) + "." + part([]byte("signature"))
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	const mine = `{"namespace":"mesh","pod":{"name":"istiod-0","uid":"1-2"}}`
	for name, test := range map[string]struct {
		file string
		want types.UID
	}{
		"its own":                {write(mine), "1-2"},
		"another Pod's":          {write(strings.Replace(mine, "istiod-0", "istiod-1", 1)), ""},
		"another namespace's":    {write(strings.Replace(mine, "mesh", "other", 1)), ""},
		"a service account's":    {write(`{"namespace":"mesh"}`), ""},
		"no file":                {filepath.Join(t.TempDir(), "none"), ""},
		"a client certificate's": {"", ""},
	} {
		if got := PodUID(&rest.Config{BearerTokenFile: test.file}, agent.Identity{Namespace: "mesh", Pod: "istiod-0"}); got != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}
