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

// Root is one that istiods sign under.
type Root struct {
	// Fingerprint is its SHA-256 (DER) in hexadecimal.
	Fingerprint string `json:"fingerprint"`
	// Contexts are those with such an istiod.
	Contexts []string `json:"contexts"`

	replicas int
}

// conclude says what the answers mean.
func conclude(reports []Report, now time.Time) *Found {
	f := &Found{Contexts: reports, Roots: rootsOf(reports), Problems: []string{}, Notes: notes(reports, now)}
	add := func(format string, args ...any) { f.Problems = append(f.Problems, fmt.Sprintf(format, args...)) }
	for _, report := range reports {
		if report.Error != "" {
			add("%s: %s", report.Context, report.Error)
			continue
		}
		if len(report.Replicas) == 0 {
			add("%s: no Pod of istiod is there (label app=istiod)", report.Context)
		}
		for i := range report.Replicas {
			if r := &report.Replicas[i]; r.State != Ready {
				add("%s: %s/%s: %s", report.Context, r.Namespace, r.Pod, r.problem())
			}
		}
	}
	if len(f.Roots) > 1 && !f.allTrusted() {
		add("The roots of trust differ: %s. Workloads of different roots refuse each other; kubectl istiod-agent rotate-root leads to one root", f.rootsInWords())
	}
	return f
}

// notes name the roots that end soon, and what cuts CAs short, each once in a context.
func notes(reports []Report, now time.Time) []string {
	all := []string{}
	add := func(format string, args ...any) {
		if note := fmt.Sprintf(format, args...); !slices.Contains(all, note) {
			all = append(all, note)
		}
	}
	for _, report := range reports {
		for _, replica := range report.Replicas {
			if replica.CA == nil {
				continue
			}
			if end := replica.CA.RootNotAfter; end != nil && end.Sub(now) < certificatesv1.RootEndsSoon {
				add("%s: root %s ends at %s; begin to change the root (docs/rotation.md)", report.Context, abbreviatedRoot(replica.CA.RootFingerprint), end.UTC().Format(time.RFC3339))
			}
			if replica.CA.LimitedBy != "" {
				add("%s: istiod's CA does not last for ttlDays: it is limited by %s", report.Context, replica.CA.LimitedBy)
			}
		}
	}
	return all
}

// rootsOf gives the root of most replicas first.
func rootsOf(reports []Report) []Root {
	roots := []Root{}
	for _, report := range reports {
		for _, replica := range report.Replicas {
			if replica.CA == nil || replica.CA.RootFingerprint == "" {
				continue
			}
			at := slices.IndexFunc(roots, func(r Root) bool { return r.Fingerprint == replica.CA.RootFingerprint })
			if at < 0 {
				at, roots = len(roots), append(roots, Root{Fingerprint: replica.CA.RootFingerprint})
			}
			roots[at].replicas++
			if !slices.Contains(roots[at].Contexts, report.Context) {
				roots[at].Contexts = append(roots[at].Contexts, report.Context)
			}
		}
	}
	slices.SortStableFunc(roots, func(a, b Root) int {
		return cmp.Or(cmp.Compare(b.replicas, a.replicas), cmp.Compare(a.Fingerprint, b.Fingerprint))
	})
	return roots
}

// allTrusted says whether every istiod publishes all of the roots, as while the root changes: then nobody refuses anybody.
func (f *Found) allTrusted() bool {
	for _, report := range f.Contexts {
		for _, replica := range report.Replicas {
			for _, root := range f.Roots {
				if replica.CA != nil && !slices.Contains(replica.CA.TrustedRoots, root.Fingerprint) {
					return false
				}
			}
		}
	}
	return true
}

func (f *Found) rootsInWords() string {
	words := make([]string, len(f.Roots))
	for i, root := range f.Roots {
		words[i] = abbreviatedRoot(root.Fingerprint) + " in " + strings.Join(root.Contexts, ", ")
	}
	return strings.Join(words, "; ")
}
