// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestSummarize(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	in := func(days int) *metav1.Time { return &metav1.Time{Time: now.AddDate(0, 0, days)} }
	root, other := strings.Repeat("a", 64), strings.Repeat("b", 64)
	good := CertificateStatus{Pod: "a", SerialNumber: "01", Confirmed: true, NotAfter: in(100), RootNotAfter: in(1000), RootFingerprint: root, TrustedRoots: []string{root}}
	pod := func(change func(*CertificateStatus)) CertificateStatus {
		c := good
		c.Pod = "b"
		change(&c)
		return c
	}
	none := CertificateStatus{Pod: "b"}
	for name, test := range map[string]struct {
		pods []CertificateStatus
		want string // Ready, Confirmed, RootTrusted
	}{
		"no Pod":                      {nil, "False Initial, False Initial, Unknown Initial"},
		"all is well":                 {[]CertificateStatus{good, pod(func(*CertificateStatus) {})}, "True Published, True Confirmed, True Trusted"},
		"one has none yet":            {[]CertificateStatus{good, none}, "False Initial, False Initial, True Trusted"},
		"one gets none":               {[]CertificateStatus{good, {Pod: "b", Error: "sealed", Reason: "VaultSealed"}}, "False VaultSealed, False VaultSealed, True Trusted"},
		"of an older agent":           {[]CertificateStatus{good, {Pod: "b", Error: "sealed"}}, "False IssueFailed, False IssueFailed, True Trusted"},
		"a reason out of bounds":      {[]CertificateStatus{good, {Pod: "b", Error: "sealed", Reason: "not a reason"}}, "False IssueFailed, False IssueFailed, True Trusted"},
		"not confirmed yet":           {[]CertificateStatus{good, pod(func(c *CertificateStatus) { c.Confirmed = false })}, "True Published, False NotConfirmed, True Trusted"},
		"a renewal fails":             {[]CertificateStatus{pod(func(c *CertificateStatus) { c.Error, c.Reason = "sealed", "VaultSealed" })}, "True Published, True Confirmed, True Trusted"},
		"expired":                     {[]CertificateStatus{pod(func(c *CertificateStatus) { c.NotAfter, c.Error, c.Reason = in(0), "expired", "Expired" })}, "False Expired, False Expired, True Trusted"},
		"expired, of a Pod long gone": {[]CertificateStatus{good, pod(func(c *CertificateStatus) { c.NotAfter, c.RootFingerprint = in(0), other })}, "True Published, True Confirmed, True Trusted"},
		"files lost":                  {[]CertificateStatus{pod(func(c *CertificateStatus) { c.Error, c.Reason = "lost", "FilesLost" })}, "False FilesLost, False FilesLost, True Trusted"},
		"another root offered":        {[]CertificateStatus{pod(func(c *CertificateStatus) { c.Error, c.Reason, c.OfferedRootFingerprint = "root", "RootChanged", other })}, "True Published, True Confirmed, False RootChanged"},
		"a root that is not named": {[]CertificateStatus{pod(func(c *CertificateStatus) {
			c.Error, c.Reason, c.OfferedRootFingerprint = "root", "RootNotTrusted", other
		})}, "True Published, True Confirmed, False RootNotTrusted"},
		"a new Pod waits with another root": {[]CertificateStatus{good, {Pod: "b", Error: "root", Reason: "RootChanged", OfferedRootFingerprint: other}}, "False RootChanged, False RootChanged, False RootChanged"},
		"split roots": {
			[]CertificateStatus{good, pod(func(c *CertificateStatus) { c.RootFingerprint, c.TrustedRoots = other, []string{other} })},
			"True Published, True Confirmed, False RootChanged",
		},
		"a root that changes in stages": {
			[]CertificateStatus{pod(func(c *CertificateStatus) { c.TrustedRoots = []string{root, other} }), pod(func(c *CertificateStatus) { c.RootFingerprint, c.TrustedRoots = other, []string{root, other} })},
			"True Published, True Confirmed, True Trusted",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := IssuedCertificateStatus{Certificates: test.pods}
			s.Summarize(7, now)
			var got []string
			for _, kind := range []string{ReadyCondition, ConfirmedCondition, RootTrustedCondition} {
				c := meta.FindStatusCondition(s.Conditions, kind)
				if c.Message == "" || c.ObservedGeneration != 7 || !c.LastTransitionTime.Time.Equal(now) {
					t.Errorf("%+v", c)
				}
				got = append(got, fmt.Sprintf("%s %s", c.Status, c.Reason))
			}
			if got := strings.Join(got, ", "); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}

	s := IssuedCertificateStatus{Certificates: []CertificateStatus{good, pod(func(c *CertificateStatus) { c.NotAfter, c.RootNotAfter, c.RootFingerprint = in(50), in(2000), other })}}
	s.Summarize(1, now)
	if !s.NotAfter.Equal(in(50)) || !s.RootNotAfter.Equal(in(1000)) || s.Root != root[:12]+", "+other[:12] {
		t.Errorf("ends %s, root %s until %s", s.NotAfter, s.Root, s.RootNotAfter)
	}
	// The time of a condition changes with its status alone; what another wrote stays.
	s.Conditions = append(s.Conditions, metav1.Condition{Type: "Another"})
	later := now.Add(time.Hour)
	s.Certificates[1].Confirmed = false
	s.Summarize(2, later)
	for kind, want := range map[string]time.Time{ReadyCondition: now, ConfirmedCondition: later} {
		if c := meta.FindStatusCondition(s.Conditions, kind); !c.LastTransitionTime.Time.Equal(want) || c.ObservedGeneration != 2 {
			t.Errorf("%+v", c)
		}
	}
	if len(s.Conditions) != 4 {
		t.Errorf("%+v", s.Conditions)
	}
}

func TestFieldManager(t *testing.T) {
	t.Parallel()
	if got := FieldManager("istiod-0"); got != "istiod-agent/istiod-0" {
		t.Errorf("got %q", got)
	}
	if got := FieldManager(strings.Repeat("p", 253)); len(got) != 128 {
		t.Errorf("%d bytes", len(got))
	}
}

// The state and the error are those of one Pod, the one that most urgently needs a person.
func TestSummarizedState(t *testing.T) {
	t.Parallel()
	finished := CertificateStatus{Pod: "finished", SerialNumber: "01", Confirmed: true}
	issued := CertificateStatus{Pod: "issued", SerialNumber: "01"}
	waiting := CertificateStatus{Pod: "waiting", SerialNumber: "01", Confirmed: true, Reason: "CertManagerWaitingForApproval", Error: "approve it"}
	pending := CertificateStatus{Pod: "pending"}
	failed := CertificateStatus{Pod: "failed", SerialNumber: "01", Confirmed: true, Reason: "VaultSealed", Error: "sealed"}
	for name, test := range map[string]struct {
		pods  []CertificateStatus
		state State
		text  string
	}{
		"no Pod":              {nil, Pending, ""},
		"all are finished":    {[]CertificateStatus{finished, finished}, Finished, ""},
		"one is not loaded":   {[]CertificateStatus{finished, issued}, Issued, ""},
		"one waits":           {[]CertificateStatus{issued, waiting}, Requested, "approve it"},
		"one has none yet":    {[]CertificateStatus{waiting, pending}, Pending, ""},
		"one fails":           {[]CertificateStatus{finished, pending, failed, waiting}, Failed, "sealed"},
		"the failing is gone": {[]CertificateStatus{finished}, Finished, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := IssuedCertificateStatus{State: Failed, Error: "of a deleted Pod", Certificates: test.pods}
			if s.Summarize(1, time.Unix(0, 0)); s.State != test.state || s.Error != test.text {
				t.Errorf("got %s, %q", s.State, s.Error)
			}
		})
	}
}

// The worst that the API server can hold of others' entries fits the bounds of what follows from them.
func TestSummarizeIsBounded(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var s IssuedCertificateStatus
	for i := range 1000 {
		pod := CertificateStatus{
			Pod: strings.Repeat("p", 250) + fmt.Sprint(i), Reason: strings.Repeat("é", 64), Error: strings.Repeat("é", 32768),
			SerialNumber: "1", Confirmed: i%2 == 0,
		}
		pod.RootFingerprint = fmt.Sprintf("%012x", i) + strings.Repeat("é", 58)
		for j := range 100 {
			pod.TrustedRoots = append(pod.TrustedRoots, fmt.Sprintf("%0128x", j))
		}
		if i%3 == 0 {
			pod.SerialNumber = ""
		}
		s.Certificates = append(s.Certificates, pod)
	}
	s.Summarize(1, now)
	for _, c := range s.Conditions {
		if !reasonFormat.MatchString(c.Reason) || len(c.Message) > MaxStatusText {
			t.Errorf("%s: reason %q, %d bytes of message", c.Type, c.Reason, len(c.Message))
		}
	}
	if len(s.Root) > 128 || !strings.HasSuffix(s.Root, "and 997 more") {
		t.Errorf("roots %q", s.Root)
	}
}
