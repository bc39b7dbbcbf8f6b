// SPDX-License-Identifier: Apache-2.0

package roots

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/internal/bounded"
)

// maxNamed bounds the replicas that a message names.
const maxNamed = 3

// Start decides whether an istiod that has no CA yet may start under a root. All roots are fingerprints.
type Start struct {
	// Replicas are the other replicas of this istiod with a CA from the agent.
	Replicas []Replica
	// Accepted is the root that a person has accepted (AcceptRootAnnotation).
	Accepted string
	// Staged are the roots to trust while the root changes in stages.
	Staged []string
	// Restarts means that all Pods of the mesh restart for another root (autoRestartPods).
	Restarts bool
	// Mesh are the roots that the mesh publishes as trusted, none while that is not known; MeshErr is why they could not be
	// read. Their writers can prevent no start, and permit no more than a start without other replicas.
	Mesh    []string
	MeshErr error
	// Namespace and Name are those of the IssuedCertificate, both empty for a file.
	Namespace, Name string
}

// Replica is another replica of istiod: its root, and all roots that it publishes as trusted.
type Replica struct {
	Pod, Root string
	Trusted   []string
}

// strangers returns the replicas whose workloads would not trust those of an istiod under a root. Without other replicas, as at
// a first installation or after all have stopped, there are none.
func (s Start) strangers(root string) []Replica {
	if s.Restarts || strings.EqualFold(s.Accepted, root) || slices.Contains(s.Staged, root) || slices.Contains(s.Mesh, root) {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(s.Replicas), func(replica Replica) bool {
		return replica.Root == root || slices.Contains(replica.Trusted, root)
	})
}

// Same reports whether two Starts agree in what StartOf reads.
func (s Start) Same(other Start) bool {
	return s.Accepted == other.Accepted && s.Restarts == other.Restarts && slices.Equal(s.Staged, other.Staged) &&
		slices.EqualFunc(s.Replicas, other.Replicas, func(a, b Replica) bool {
			return a.Pod == b.Pod && a.Root == b.Root && slices.Equal(a.Trusted, b.Trusted)
		})
}

// StartOf reads an IssuedCertificate and its status for the istiod of a Pod. It omits a replica whose CA has expired, which signs
// nothing.
func StartOf(certificate *certificatesv1.IssuedCertificate, pod string, staged []string, now time.Time) Start {
	start := Start{
		Accepted: strings.TrimSpace(certificate.Annotations[certificatesv1.AcceptRootAnnotation]),
		Staged:   staged, Restarts: certificate.Spec.PodBounceDirective != nil,
		Namespace: certificate.Namespace, Name: certificate.Name,
	}
	for _, entry := range certificate.Status.Certificates {
		if entry.Pod == pod || entry.RootFingerprint == "" || entry.NotAfter != nil && !now.Before(entry.NotAfter.Time) {
			continue
		}
		start.Replicas = append(start.Replicas, Replica{Pod: entry.Pod, Root: entry.RootFingerprint, Trusted: entry.TrustedRoots})
	}
	slices.SortFunc(start.Replicas, func(a, b Replica) int { return cmp.Compare(a.Pod, b.Pod) })
	return start
}

// check returns a *RejectedError where an istiod that has no CA yet must not start under a root.
func (s Start) check(root string) error {
	strangers := s.strangers(root)
	if len(strangers) == 0 {
		return nil
	}
	var pods []string
	for _, replica := range strangers[:min(len(strangers), maxNamed)] {
		pods = append(pods, replica.Pod)
	}
	running := strings.Join(pods, ", ")
	if more := len(strangers) - maxNamed; more > 0 {
		running += fmt.Sprintf(" and %d more", more)
	}
	message := fmt.Sprintf("the CA's root has changed from %s to %s (SHA-256), and this istiod waits: running replicas have the old root (%s), and workloads of the two roots do not trust each other. "+
		"Restore the CA's root, or change it in stages (docs/rotation.md); to let new Pods of istiod start under the new root at once, run: %s", strangers[0].Root, root, bounded.Text(running, 300), s.acceptCommand(root))
	if s.MeshErr != nil {
		message += "; also, the roots that the mesh trusts could not be read: " + s.MeshErr.Error()
	}
	return &RejectedError{Reason: RootChanged, Root: root, Awaited: true, message: message}
}

// changed is the message about a root that a running istiod does not trust.
func (s Start) changed(was, is string) string {
	message := fmt.Sprintf("the CA's root has changed from %s to %s (SHA-256): nothing was published, since istiod refuses another root while it runs; "+
		"restore the CA's root, or change it in stages without downtime (docs/rotation.md); to switch all clusters to the new root at once, restart istiod", was, is)
	if command := s.acceptCommand(is); command != "" {
		message += " after this command: " + command
	}
	return message
}

// acceptCommand permits istiods that start to use a root, and no other. It is empty for a specification in a file, which
// names no other replicas.
func (s Start) acceptCommand(root string) string {
	if s.Namespace == "" {
		return ""
	}
	return fmt.Sprintf("kubectl annotate issuedcertificate -n %s %s --overwrite %s=%s", s.Namespace, s.Name, certificatesv1.AcceptRootAnnotation, root)
}
