// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"fmt"
	"slices"
	"strings"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// roots is the state of the roots of trust that the agents of one mesh report.
type roots struct {
	// desired are the sorted fingerprints of the roots that every proxy must trust; empty while unknown.
	desired []string
	// settled reports that every replica of istiod was seen to publish exactly these.
	settled bool
	// outdated are istiod's Pods that take the desired root only when they start.
	outdated []string
	// waiting is why the roots are not settled.
	waiting string
}

// readRoots evaluates the reports. staged reports that the root changes in stages: a running istiod then takes new
// roots, and a restart for a root outside of the stages would fail.
func readRoots(reports []certificatesv1.CertificateStatus, staged bool) roots {
	if len(reports) == 0 {
		return roots{waiting: "istiod's agents to report"}
	}
	if !staged {
		offered, unclear := offeredRoot(reports)
		if unclear != "" {
			return roots{waiting: unclear}
		}
		if offered != "" {
			found := roots{desired: []string{offered}}
			for _, report := range reports {
				if report.RootFingerprint != "" && report.RootFingerprint != offered {
					found.outdated = append(found.outdated, report.Pod)
				}
			}
			if len(found.outdated) > 0 {
				found.waiting = "istiod to take root " + shorten(offered) + ": " + strings.Join(found.outdated, ", ") + " started with another root"
				return found
			}
		}
	}
	found := roots{desired: sorted(reports[0].TrustedRoots), settled: true}
	var lacking []string
	for _, report := range reports {
		if !report.Confirmed || len(report.TrustedRoots) == 0 || !slices.Equal(sorted(report.TrustedRoots), found.desired) {
			lacking = append(lacking, report.Pod)
		}
	}
	if len(lacking) > 0 {
		return roots{waiting: "every replica of istiod to publish the same roots: " + strings.Join(lacking, ", ")}
	}
	return found
}

// offeredRoot is the root of Vault that some replica does not have yet: the rejected one that replicas report, otherwise, where
// they differ, that of the newest certificate.
func offeredRoot(reports []certificatesv1.CertificateStatus) (root, unclear string) {
	var offered []string
	for _, report := range reports {
		if report.OfferedRootFingerprint != "" {
			offered = append(offered, report.OfferedRootFingerprint)
		}
	}
	offered = sorted(offered)
	switch {
	case len(offered) > 1:
		return "", fmt.Sprintf("the CA to have one root: replicas of istiod were offered %d different ones", len(offered))
	case len(offered) == 1:
		return offered[0], ""
	}
	var last certificatesv1.CertificateStatus
	differ := false
	for _, report := range reports {
		if report.RootFingerprint == "" {
			continue // it will take the root of Vault
		}
		differ = differ || last.RootFingerprint != "" && last.RootFingerprint != report.RootFingerprint
		if last.RootFingerprint == "" || last.NotBefore.Before(report.NotBefore) {
			last = report
		}
	}
	if !differ {
		return "", ""
	}
	return last.RootFingerprint, ""
}

// sorted returns the distinct values in order.
func sorted(values []string) []string {
	values = slices.Clone(values)
	slices.Sort(values)
	return slices.Compact(values)
}

// containsAll reports whether all contains each of some.
func containsAll(all, some []string) bool {
	return !slices.ContainsFunc(some, func(root string) bool { return !slices.Contains(all, root) })
}

// rootsKey is the value of RestartedForRootAnnotation.
func rootsKey(roots []string) string { return strings.Join(roots, ",") }

// shorten returns the first 12 digits of each fingerprint.
func shorten(fingerprints ...string) string {
	var words []string
	for _, fingerprint := range fingerprints {
		words = append(words, fingerprint[:min(len(fingerprint), 12)])
	}
	return strings.Join(words, ", ")
}
