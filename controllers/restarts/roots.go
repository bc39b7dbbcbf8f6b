// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"fmt"
	"slices"
	"strings"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// roots is what the agents of one mesh report about its roots of trust.
type roots struct {
	// desired are the fingerprints, sorted, of the roots that every proxy is to trust; none while that is not known.
	desired []string
	// settled says that every replica of istiod publishes just these, and was seen to.
	settled bool
	// outdated are istiod's Pods that take the wanted root only when they start.
	outdated []string
	// waiting says what is not so yet.
	waiting string
}

// readRoots judges reports. staged says that the root changes in stages: a running istiod then takes other roots, and one
// that is offered outside of the stages is none to restart for: istiod would not come up with it.
func readRoots(reports []certificatesv1.CertificateStatus, staged bool) roots {
	if len(reports) == 0 {
		return roots{waiting: "istiod's agents, which have not reported yet"}
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
				found.waiting = "istiod to take root " + shorten(offered) + ": " + strings.Join(found.outdated, ", ") + " started with another"
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
		return roots{waiting: "every replica of istiod to be seen to publish the same roots: " + strings.Join(lacking, ", ")}
	}
	return found
}

// offeredRoot is the root that Vault has now, where some replica does not have it: the one that replicas are offered, and
// else, where they differ, that of the certificate that was issued last.
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
		return "", fmt.Sprintf("Vault to have one root: replicas of istiod were offered %d different ones", len(offered))
	case len(offered) == 1:
		return offered[0], ""
	}
	var last certificatesv1.CertificateStatus
	differ := false
	for _, report := range reports {
		if report.RootFingerprint == "" {
			continue // it has none yet, and takes what Vault has
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

// sorted gives values in order, none twice.
func sorted(values []string) []string {
	values = slices.Clone(values)
	slices.Sort(values)
	return slices.Compact(values)
}

// containsAll says whether all of some roots are among others.
func containsAll(all, some []string) bool {
	return !slices.ContainsFunc(some, func(root string) bool { return !slices.Contains(all, root) })
}

// key is what roots are called in RestartedForRootAnnotation.
func rootsKey(roots []string) string { return strings.Join(roots, ",") }

// short are fingerprints as a message has them.
func shorten(fingerprints ...string) string {
	var words []string
	for _, each := range fingerprints {
		words = append(words, each[:min(len(each), 12)])
	}
	return strings.Join(words, ", ")
}
