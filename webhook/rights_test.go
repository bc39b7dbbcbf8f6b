// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/util/cache"
	testingclock "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// authorizer answers SubjectAccessReviews; the real one is asked in e2e.
type authorizer struct {
	client.Writer
	denies              map[string]bool // verbs
	err                 error
	clientCertRequested atomic.Int32
}

func (a *authorizer) Create(_ context.Context, object client.Object, _ ...client.CreateOption) error {
	a.clientCertRequested.Add(1)
	review := object.(*authorizationv1.SubjectAccessReview)
	review.Status.Allowed = !a.denies[review.Spec.ResourceAttributes.Verb]
	return a.err
}

func everyone(context.Context, string, string) bool { return true }

func TestRightsOfUnknownAccount(t *testing.T) {
	denying := &authorizer{denies: map[string]bool{"list": true}}
	runsIstiod := func(_ context.Context, namespace, account string) bool {
		return namespace == "istio-system" && account == "istiod"
	}
	rights := NewRights(denying, runsIstiod, logr.Discard())
	for range 100 {
		if warning := rights.Warning(t.Context(), "kube-system", "default"); warning != "" {
			t.Fatalf("an account that no istiod runs as: %q", warning)
		}
	}
	if clientCertRequested := denying.clientCertRequested.Load(); clientCertRequested != 0 {
		t.Errorf("%d SubjectAccessReviews for accounts that no istiod runs as", clientCertRequested)
	}
	if rights.Warning(t.Context(), "istio-system", "istiod") == "" {
		t.Error("no warning of an istiod's account")
	}
}

func TestRightsRate(t *testing.T) {
	answering := &authorizer{}
	rights := NewRights(answering, everyone, logr.Discard())
	for i := range 1000 {
		rights.Warning(t.Context(), "istio-system", strconv.Itoa(i))
	}
	if clientCertRequested := answering.clientCertRequested.Load(); clientCertRequested > 3*(rightsBurst+60) {
		t.Errorf("%d SubjectAccessReviews", clientCertRequested)
	}
}

func TestRightsWarning(t *testing.T) {
	for name, test := range map[string]struct {
		authorizer *authorizer
		want       []string
	}{
		"all there": {&authorizer{}, nil},
		"none there": {&authorizer{denies: map[string]bool{"list": true, "watch": true, "patch": true}}, []string{
			"service account istio-system/istiod may not list issuedcertificates.certificates.mesh.gloo.solo.io, nor watch ",
			"patch issuedcertificates/status.certificates.mesh.gloo.solo.io",
			"add {name: istiod, namespace: istio-system} to istiodSidecar.serviceAccounts",
		}},
		"one missing":              {&authorizer{denies: map[string]bool{"patch": true}}, []string{"may not patch issuedcertificates/status"}},
		"that cannot be found out": {&authorizer{denies: map[string]bool{"list": true}, err: errors.New("forbidden")}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			warning := NewRights(test.authorizer, everyone, logr.Discard()).Warning(t.Context(), "istio-system", "istiod")
			if (warning == "") != (test.want == nil) {
				t.Errorf("got %q", warning)
			}
			for _, want := range test.want {
				if !strings.Contains(warning, want) {
					t.Errorf("want %q in %q", want, warning)
				}
			}
		})
	}
}

func TestRightsCache(t *testing.T) {
	answering := &authorizer{denies: map[string]bool{"list": true}}
	rights := NewRights(answering, everyone, logr.Discard())
	clock := testingclock.NewFakePassiveClock(time.Now())
	rights.answers = cache.NewLRUExpireCacheWithClock(maxAnswers, clock)
	ask := func(account string) (warning string, clientCertRequested bool) {
		before := answering.clientCertRequested.Load()
		warning = rights.Warning(t.Context(), "istio-system", account)
		return warning, answering.clientCertRequested.Load() > before
	}
	if warning, clientCertRequested := ask("istiod"); warning == "" || !clientCertRequested {
		t.Fatalf("%q, %v", warning, clientCertRequested)
	}
	if warning, clientCertRequested := ask("istiod"); warning == "" || clientCertRequested {
		t.Errorf("at once: %q, %v", warning, clientCertRequested)
	}
	if _, clientCertRequested := ask("istiod-canary"); !clientCertRequested {
		t.Error("another's answer was taken")
	}
	answering.denies = nil
	clock.SetTime(clock.Now().Add(rightsTTL + time.Nanosecond))
	if warning, clientCertRequested := ask("istiod"); warning != "" || !clientCertRequested {
		t.Errorf("later: %q, %v", warning, clientCertRequested)
	}
}
