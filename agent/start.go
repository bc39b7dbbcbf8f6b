// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/internal/bounded"
)

// maxNamed is how many replicas a message names.
const maxNamed = 3

// Start is what decides whether an istiod that has no CA yet may begin under a root. All roots are fingerprints.
type Start struct {
	// Replicas are the others of this istiod that have a CA of the agent's.
	Replicas []Replica
	// Accepted is the root that a person has allowed (AcceptRootAnnotation).
	Accepted string
	// Staged are the roots that are to be trusted while the root changes in stages.
	Staged []string
	// Restarts says that all Pods of the mesh are restarted for another root (autoRestartPods).
	Restarts bool
	// Mesh are the roots that the mesh publishes as trusted, none while that is not known. Who can write them can keep an
	// istiod from nothing, and let it do what it would do without other replicas.
	Mesh []string
}

// Replica is another replica of istiod: the root that it signs under, and all that it publishes as trusted.
type Replica struct {
	Pod, Root string
	Trusted   []string
}

// Strangers returns the replicas for whose sake an istiod may not begin under a root: workloads of theirs would not trust
// those of this one. Without any other replica, as at a first installation or after all were stopped, there is none.
func (s Start) Strangers(root string) []Replica {
	if s.Restarts || strings.EqualFold(s.Accepted, root) || slices.Contains(s.Staged, root) || slices.Contains(s.Mesh, root) {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(s.Replicas), func(replica Replica) bool {
		return replica.Root == root || slices.Contains(replica.Trusted, root)
	})
}

// same reports whether two Starts agree in all that a specification and its status say.
func (s Start) same(other Start) bool {
	return s.Accepted == other.Accepted && s.Restarts == other.Restarts && slices.Equal(s.Staged, other.Staged) &&
		slices.EqualFunc(s.Replicas, other.Replicas, func(a, b Replica) bool {
			return a.Pod == b.Pod && a.Root == b.Root && slices.Equal(a.Trusted, b.Trusted)
		})
}

// startOf is what an IssuedCertificate and its status say to the istiod of a Pod. A replica whose CA has expired does not
// count: it signs nothing.
func startOf(certificate *certificatesv1.IssuedCertificate, pod string, staged []string, now time.Time) Start {
	start := Start{
		Accepted: strings.TrimSpace(certificate.Annotations[certificatesv1.AcceptRootAnnotation]),
		Staged:   staged, Restarts: certificate.Spec.PodBounceDirective != nil,
	}
	for _, report := range certificate.Status.Certificates {
		if report.Pod == pod || report.RootFingerprint == "" || report.NotAfter != nil && !now.Before(report.NotAfter.Time) {
			continue
		}
		start.Replicas = append(start.Replicas, Replica{Pod: report.Pod, Root: report.RootFingerprint, Trusted: report.TrustedRoots})
	}
	slices.SortFunc(start.Replicas, func(a, b Replica) int { return cmp.Compare(a.Pod, b.Pod) })
	return start
}

// mayStart returns an error where an istiod that has no CA yet may not begin under a root.
func (a *Agent) mayStart(root string) error {
	strangers := a.start.Strangers(root)
	if len(strangers) == 0 {
		return nil
	}
	a.offered = root
	return &rootWaitsError{strangers: strangers, is: root, accept: acceptCommand(a.wanted, root), meshUnknown: a.meshUnknown}
}

// acceptCommand has istiods that start take a root, and no other. It is empty for a specification in a file, where nobody
// knows of other replicas.
func acceptCommand(certificate *certificatesv1.IssuedCertificate, root string) string {
	if certificate.Namespace == "" {
		return ""
	}
	return fmt.Sprintf("kubectl annotate issuedcertificate -n %s %s --overwrite %s=%s", certificate.Namespace, certificate.Name, certificatesv1.AcceptRootAnnotation, root)
}

// rootWaitsError is an answer that is in order in itself, under a root that the running replicas do not have.
type rootWaitsError struct {
	strangers []Replica // at least one
	is        string
	accept    string
	// meshUnknown is why the mesh's roots could not be read, nil otherwise.
	meshUnknown error
}

func (e *rootWaitsError) Error() string {
	var pods []string
	for _, replica := range e.strangers[:min(len(e.strangers), maxNamed)] {
		pods = append(pods, replica.Pod)
	}
	running := strings.Join(pods, ", ")
	if more := len(e.strangers) - maxNamed; more > 0 {
		running += fmt.Sprintf(" and %d more", more)
	}
	said := fmt.Sprintf("Vault's root has changed from %s to %s (SHA-256), and this istiod waits: running replicas have the old root (%s), and workloads of the two roots do not trust each other. "+
		"Restore Vault's root, or change it in stages (docs/rotation.md); to let new Pods of istiod start under the new root at once, run: %s", e.strangers[0].Root, e.is, bounded.Text(running, 300), e.accept)
	if e.meshUnknown != nil {
		said += "; also, the roots that the mesh trusts could not be read: " + e.meshUnknown.Error()
	}
	return said
}
