// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/istiod-agent/istiod-agent/internal/bounded"
)

// The conditions of an IssuedCertificate that summarize the reports of its Pods.
const (
	// ReadyCondition is true when every istiod has a valid CA certificate in its files.
	ReadyCondition = "Ready"
	// ConfirmedCondition is true when every istiod is confirmed to have loaded that CA certificate.
	ConfirmedCondition = "Confirmed"
	// RootTrustedCondition is true when every CA certificate, and the CA's last answer, leads to a root that all these
	// istiods publish as trusted. It is unknown before the first answer.
	RootTrustedCondition = "RootTrusted"
)

// RootEndsSoon is how long before a root expires the warnings start: changing it takes all clusters and their
// workloads.
const RootEndsSoon = 90 * 24 * time.Hour

// ReasonFilesLost is the reason of a Pod whose files differ from the published set.
const ReasonFilesLost = "FilesLost"

// Reasons of the conditions, besides those that Pods report; docs/reasons.md lists all.
//
//reasons:page condition
const (
	reasonInitial      = "Initial"
	reasonPublished    = "Published"
	reasonConfirmed    = "Confirmed"
	reasonNotConfirmed = "NotConfirmed"
	// reasonTrusted: The CAs lead to a root that every reporting istiod publishes as trusted.
	//
	// Remedy: none.
	reasonTrusted        = "Trusted"
	reasonRootChanged    = "RootChanged"
	reasonRootNotTrusted = "RootNotTrusted"
	reasonIssueFailed    = "IssueFailed"
)

// maxRoots is the number of roots in status.root.
const maxRoots = 3

var (
	// reasonFormat is the format of metav1.Condition, with this project's length limit.
	reasonFormat = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]{0,63}$`)
	// fingerprintFormat matches the start of a fingerprint.
	fingerprintFormat = regexp.MustCompile(`^[0-9a-f]{12}`)
)

// urgency orders the states by how urgently they need a person.
var urgency = []State{Failed, Pending, Requested, Issued, Finished}

// Summarize derives the conditions Ready, Confirmed and RootTrusted, the earliest expirations, the short roots, and the
// most urgent state with its error from the entries of all Pods. Other conditions stay, and a transition time changes only
// with its status. generation is that of the object that the reporting agent acts on.
func (s *IssuedCertificateStatus) Summarize(generation int64, now time.Time) {
	pods := s.reporting(now)
	for _, condition := range []metav1.Condition{ready(pods, now), confirmed(pods, now), rootTrusted(pods)} {
		condition.ObservedGeneration, condition.LastTransitionTime = generation, metav1.NewTime(now.UTC().Truncate(time.Second))
		condition.Message = bounded.Text(condition.Message, MaxStatusText)
		meta.SetStatusCondition(&s.Conditions, condition)
	}
	s.State, s.Error = Pending, ""
	if len(pods) > 0 {
		worst := slices.MinFunc(pods, func(a, b CertificateStatus) int {
			return cmp.Compare(slices.Index(urgency, a.State()), slices.Index(urgency, b.State()))
		})
		s.State, s.Error = worst.State(), worst.Error
	}
	s.NotAfter, s.RootNotAfter = nil, nil
	var roots []string
	for _, pod := range pods {
		s.NotAfter, s.RootNotAfter = earliest(s.NotAfter, pod.NotAfter), earliest(s.RootNotAfter, pod.RootNotAfter)
		if root := fingerprintFormat.FindString(pod.RootFingerprint); root != "" && !slices.Contains(roots, root) {
			roots = append(roots, root)
		}
	}
	if extra := len(roots) - maxRoots; extra > 0 {
		roots = append(roots[:maxRoots], fmt.Sprintf("and %d more", extra))
	}
	s.Root = strings.Join(roots, ", ")
}

// reporting are the entries that count. An agent reports an expired certificate as an error: an expired entry without
// one belongs to a deleted Pod.
func (s *IssuedCertificateStatus) reporting(now time.Time) []CertificateStatus {
	return slices.DeleteFunc(slices.Clone(s.Certificates), func(pod CertificateStatus) bool {
		return pod.expired(now) && pod.Error == ""
	})
}

func (c *CertificateStatus) expired(now time.Time) bool {
	return c.NotAfter != nil && !now.Before(c.NotAfter.Time)
}

func (c *CertificateStatus) hasCA(now time.Time) bool {
	return c.SerialNumber != "" && c.Reason != ReasonFilesLost && !c.expired(now)
}

// failure explains why a Pod has no CA certificate.
func (c *CertificateStatus) failure() (reason, message string) {
	switch {
	case c.Error == "":
		return reasonInitial, fmt.Sprintf("Pod %s has no CA certificate yet.", c.Pod)
	case reasonFormat.MatchString(c.Reason):
		reason = c.Reason
	default: // written by an older agent or another program
		reason = reasonIssueFailed
	}
	return reason, fmt.Sprintf("Pod %s: %s", c.Pod, c.Error)
}

func ready(pods []CertificateStatus, now time.Time) metav1.Condition {
	condition := metav1.Condition{Type: ReadyCondition, Status: metav1.ConditionFalse}
	without := slices.IndexFunc(pods, func(p CertificateStatus) bool { return !p.hasCA(now) })
	switch {
	case len(pods) == 0:
		condition.Reason, condition.Message = reasonInitial, "No Pod has a CA certificate yet."
	case without >= 0:
		condition.Reason, condition.Message = pods[without].failure()
	default:
		condition.Status, condition.Reason = metav1.ConditionTrue, reasonPublished
		condition.Message = fmt.Sprintf("Every reporting istiod has a valid CA certificate (Pods: %d).", len(pods))
	}
	return condition
}

func confirmed(pods []CertificateStatus, now time.Time) metav1.Condition {
	condition := ready(pods, now)
	condition.Type = ConfirmedCondition
	if condition.Status != metav1.ConditionTrue {
		return condition
	}
	if waiting := slices.IndexFunc(pods, func(p CertificateStatus) bool { return !p.Confirmed }); waiting >= 0 {
		condition.Status, condition.Reason = metav1.ConditionFalse, reasonNotConfirmed
		condition.Message = fmt.Sprintf("Pod %s: istiod has not loaded its CA certificate yet.", pods[waiting].Pod)
		return condition
	}
	condition.Reason = reasonConfirmed
	condition.Message = fmt.Sprintf("Every reporting istiod has loaded its CA certificate (Pods: %d).", len(pods))
	return condition
}

func rootTrusted(pods []CertificateStatus) metav1.Condition {
	condition := metav1.Condition{Type: RootTrustedCondition, Status: metav1.ConditionFalse}
	roots := map[string]string{} // to the first Pod that uses it
	for i := range pods {
		pod := &pods[i]
		if pod.OfferedRootFingerprint != "" {
			condition.Reason = reasonRootChanged
			if pod.Reason == reasonRootNotTrusted {
				condition.Reason = reasonRootNotTrusted
			}
			_, condition.Message = pod.failure()
			return condition
		}
		if _, known := roots[pod.RootFingerprint]; !known && pod.RootFingerprint != "" {
			roots[pod.RootFingerprint] = pod.Pod
		}
	}
	for i := range pods {
		if root := pods[i].distrusts(roots); root != "" {
			condition.Reason = reasonRootChanged
			condition.Message = fmt.Sprintf("The CA certificate of Pod %s leads to a root that istiod in Pod %s does not trust.", roots[root], pods[i].Pod)
			return condition
		}
	}
	if len(roots) == 0 {
		condition.Status, condition.Reason, condition.Message = metav1.ConditionUnknown, reasonInitial, "No Pod has a CA certificate yet."
		return condition
	}
	condition.Status, condition.Reason = metav1.ConditionTrue, reasonTrusted
	condition.Message = "The CA certificates lead to a root that every reporting istiod publishes as trusted."
	return condition
}

// distrusts returns the first of the roots, by fingerprint, that a Pod does not publish as trusted; empty when it
// publishes all.
func (c *CertificateStatus) distrusts(roots map[string]string) string {
	if len(c.TrustedRoots) == 0 {
		return ""
	}
	trusted := sets.New(c.TrustedRoots...)
	for _, root := range slices.Sorted(maps.Keys(roots)) { // a stable message
		if !trusted.Has(root) {
			return root
		}
	}
	return ""
}

func earliest(a, b *metav1.Time) *metav1.Time {
	if a == nil || b != nil && b.Before(a) {
		return b
	}
	return a
}
