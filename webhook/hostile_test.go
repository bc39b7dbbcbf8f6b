// SPDX-License-Identifier: Apache-2.0

package webhook_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/istiod-agent/istiod-agent/patches"
	"github.com/istiod-agent/istiod-agent/webhook"
)

// Anybody who reaches the port may have written a review.
func TestForgedReviewLineLength(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("long", 1<<18)
	virtualMesh := func(request *admissionv1.AdmissionRequest, object string) {
		request.Kind = metav1.GroupVersionKind{Group: "networking.mesh.gloo.solo.io", Version: "v1", Kind: "VirtualMesh"}
		request.Object.Raw = []byte(object)
	}
	for name, test := range map[string]struct {
		path   string
		change func(*admissionv1.AdmissionRequest)
	}{
		"claims": {webhook.DeploymentPath, func(r *admissionv1.AdmissionRequest) {
			r.UserInfo.Username, r.Namespace, r.Name = long, long, long
		}},
		"an operation": {webhook.DeploymentPath, func(r *admissionv1.AdmissionRequest) { r.Operation = admissionv1.Operation(long) }},
		"containers' names": {webhook.DeploymentPath, func(r *admissionv1.AdmissionRequest) {
			r.Object.Raw = []byte(`{"spec":{"template":{"spec":{"containers":[{"name":"` + long + `"},{"name":"` + long + `"}]}}}}`)
		}},
		"an annotation that is quoted": {webhook.DeploymentPath, func(r *admissionv1.AdmissionRequest) {
			r.Object.Raw = []byte(strings.Replace(deployment, `"name":"istiod"`, `"name":"istiod","labels":{"istiod-agent.io/inject":"`+long+`"}`, 1))
		}},
		"a mesh's name": {webhook.VirtualMeshPath, func(r *admissionv1.AdmissionRequest) {
			virtualMesh(r, `{"metadata":{"name":"`+long+`"},"spec":{"meshes":[{"name":"`+long+`"},{"name":"`+long+`"}],"mtlsConfig":{}}}`)
		}},
		"many meshes": {webhook.VirtualMeshPath, func(r *admissionv1.AdmissionRequest) {
			virtualMesh(r, `{"spec":{"meshes":[`+strings.Repeat(`{"name":"A"},`, 20_000)+`{"name":"A"}],"mtlsConfig":{}}}`)
		}},
		"many parts of the wrong type": {webhook.VirtualMeshPath, func(r *admissionv1.AdmissionRequest) {
			virtualMesh(r, `{"spec":{"meshes":[`+strings.Repeat(`5,`, 40_000)+`5]}}`)
		}},
		"many unknown fields": {webhook.VirtualMeshPath, func(r *admissionv1.AdmissionRequest) {
			var fields strings.Builder
			for i := range 20_000 {
				fmt.Fprintf(&fields, `"unknown%d":0,`, i)
			}
			virtualMesh(r, `{"spec":{`+fields.String()+`"meshes":[]}}`)
		}},
		"an unknown field of a long name": {webhook.VirtualMeshPath, func(r *admissionv1.AdmissionRequest) {
			virtualMesh(r, `{"spec":{"`+long+`":0,"meshes":[]}}`)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := &lines{}
			s := serve(t, "", log.logger())
			_, review := reviewOf(patches.Deployment, deployment)
			test.change(review.Request)
			answer := s.ask(t, test.path, review)
			if size := len(marshal(t, answer)); size > 64<<10 {
				t.Errorf("an answer of %d bytes: %.300s", size, marshal(t, answer))
			}
			log.mu.Lock()
			defer log.mu.Unlock()
			for _, line := range log.all {
				if len(line) > 8<<10 {
					t.Errorf("a line of %d bytes: %.300s", len(line), line)
				}
			}
		})
	}
}

// The log names the object, who is claimed to have sent it, and the outcome; nothing else of the review.
func TestLogHoldsNoObject(t *testing.T) {
	t.Parallel()
	const secret = "hvs.a-token-that-nobody-may-read"
	for name, object := range map[string]string{
		"patched":   strings.Replace(deployment, `{"name":"discovery"}`, `{"name":"discovery","env":[{"name":"TOKEN","value":"`+secret+`"}],"args":["`+secret+`"]}`, 1),
		"denied":    strings.Replace(notIstiod, `{"name":"pilot"}`, `{"name":"pilot","env":[{"name":"TOKEN","value":"`+secret+`"}]}`, 1),
		"malformed": `{"spec":{"template":"` + secret + `"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := &lines{}
			s := serve(t, "", log.logger())
			path, review := reviewOf(patches.Deployment, object)
			review.Request.UserInfo.Extra = map[string]authenticationv1.ExtraValue{"token": {secret}}
			review.Request.OldObject.Raw = []byte(object)
			s.ask(t, path, review)
			log.wantOne(t, `"claimedName"="istiod"`)
			if strings.Contains(log.all[0], secret) {
				t.Error("the log line holds a value of the object")
			}
		})
	}
}

func TestForgedReviewLogRate(t *testing.T) {
	t.Parallel()
	log := &lines{quiet: true}
	s := serve(t, "", log.logger())
	path, review := reviewOf(patches.Deployment, deployment)
	for range 1000 {
		s.ask(t, path, review)
		s.post(t, path, "application/json", []byte("{"))
	}
	log.mu.Lock()
	defer log.mu.Unlock()
	if len(log.all) > 1000 {
		t.Errorf("%d lines for 2000 requests", len(log.all))
	}
}

func TestLargeReview(t *testing.T) {
	t.Parallel()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, webhook.VirtualMeshPath, unreadable{t})
	if err != nil {
		t.Fatal(err)
	}
	request.ContentLength = 6_800_000
	request.Header.Set("Content-Type", "application/json")
	recorder := httptest.NewRecorder()
	handler(t, "", logr.Discard()).ServeHTTP(recorder, request)
	answer := decodeReview(t, recorder.Code, recorder.Body.Bytes())
	if answer.Response.Allowed || answer.Response.Result.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("got %+v", answer.Response)
	}
}

// unreadable fails the test when it is read.
type unreadable struct{ t *testing.T }

func (u unreadable) Read([]byte) (int, error) {
	u.t.Error("the body is read")
	return 0, http.ErrBodyReadAfterClose
}
