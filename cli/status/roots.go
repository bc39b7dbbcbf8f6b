// SPDX-License-Identifier: Apache-2.0

package status

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// rootUse is a root that istiods sign under.
type rootUse struct {
	// Fingerprint is its SHA-256 (DER) in hexadecimal.
	Fingerprint string `json:"fingerprint"`
	// Contexts are the contexts of these istiods.
	Contexts []string `json:"contexts"`

	replicas int
}

func summarize(contexts []contextStatus, now time.Time) *summary {
	f := &summary{Contexts: contexts, Roots: rootsOf(contexts), Problems: []string{}, Notes: notes(contexts, now)}
	add := func(format string, args ...any) { f.Problems = append(f.Problems, fmt.Sprintf(format, args...)) }
	for _, context := range contexts {
		if context.Error != "" {
			add("%s: %s", context.Context, context.Error)
			continue
		}
		if len(context.Replicas) == 0 {
			add("%s: there is no Pod of istiod (label app=istiod)", context.Context)
		}
		for i := range context.Replicas {
			if r := &context.Replicas[i]; r.State != stateReady {
				add("%s: %s/%s: %s", context.Context, r.Namespace, r.Pod, r.problem())
			}
			if ca := context.Replicas[i].CA; ca != nil {
				for _, problem := range ca.RemoteClusters.Problems() {
					add("%s: %s/%s: %s; %s", context.Context, context.Replicas[i].Namespace, context.Replicas[i].Pod, problem, renewToken)
				}
			}
		}
	}
	problems, more := remoteProblems(contexts, now)
	f.Problems, f.Notes = append(f.Problems, problems...), append(f.Notes, more...)
	if len(f.Roots) > 1 && !f.allTrusted() {
		add("The roots of trust differ: %s. Workloads of different roots refuse each other; change to one root by kubectl istiod-agent rotate-root", f.rootsInWords())
	}
	return f
}

// notes names the roots that expire soon and the certificates that limit CAs, once per context.
func notes(contexts []contextStatus, now time.Time) []string {
	all := []string{}
	add := func(format string, args ...any) {
		if note := fmt.Sprintf(format, args...); !slices.Contains(all, note) {
			all = append(all, note)
		}
	}
	for _, context := range contexts {
		for _, replica := range context.Replicas {
			if replica.CA == nil {
				continue
			}
			if remote := replica.CA.RemoteClusters; remote != nil && remote.Error != "" {
				add("%s: %s/%s: the remote clusters are unknown: %s", context.Context, replica.Namespace, replica.Pod, remote.Error)
			}
			if end := replica.CA.RootNotAfter; end != nil && end.Sub(now) < certificatesv1.RootEndsSoon {
				add("%s: root %s expires at %s; begin a root change (docs/rotation.md)", context.Context, abbreviatedRoot(replica.CA.RootFingerprint), end.UTC().Format(time.RFC3339))
			}
			if replica.CA.LimitedBy != "" {
				add("%s: the lifetime of istiod's CA is shorter than ttlDays: it is limited by %s", context.Context, replica.CA.LimitedBy)
			}
		}
	}
	return all
}

// rootsOf returns the roots, the most frequent first.
func rootsOf(contexts []contextStatus) []rootUse {
	roots := []rootUse{}
	for _, context := range contexts {
		for _, replica := range context.Replicas {
			if replica.CA == nil || replica.CA.RootFingerprint == "" {
				continue
			}
			at := slices.IndexFunc(roots, func(r rootUse) bool { return r.Fingerprint == replica.CA.RootFingerprint })
			if at < 0 {
				at, roots = len(roots), append(roots, rootUse{Fingerprint: replica.CA.RootFingerprint})
			}
			roots[at].replicas++
			if !slices.Contains(roots[at].Contexts, context.Context) {
				roots[at].Contexts = append(roots[at].Contexts, context.Context)
			}
		}
	}
	slices.SortStableFunc(roots, func(a, b rootUse) int {
		return cmp.Or(cmp.Compare(b.replicas, a.replicas), cmp.Compare(a.Fingerprint, b.Fingerprint))
	})
	return roots
}

// allTrusted reports whether every istiod publishes all roots, as during a root change: then workloads accept each other.
func (f *summary) allTrusted() bool {
	for _, context := range f.Contexts {
		for _, replica := range context.Replicas {
			for _, root := range f.Roots {
				if replica.CA != nil && !slices.Contains(replica.CA.TrustedRoots, root.Fingerprint) {
					return false
				}
			}
		}
	}
	return true
}

func (f *summary) rootsInWords() string {
	words := make([]string, len(f.Roots))
	for i, root := range f.Roots {
		words[i] = abbreviatedRoot(root.Fingerprint) + " in " + strings.Join(root.Contexts, ", ")
	}
	return strings.Join(words, "; ")
}
