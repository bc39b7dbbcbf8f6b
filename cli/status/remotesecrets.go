// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/cli/remotes"
	"github.com/istiod-agent/istiod-agent/cli/terminal"
)

// remoteSecret is an istiod's access to another cluster.
type remoteSecret struct {
	// Cluster is the other cluster's name.
	Cluster string `json:"cluster"`
	// Secret is namespace/name.
	Secret string `json:"secret"`
	// Expires is the end of its token; absent for a token without an end, and for another login.
	Expires *metav1.Time `json:"expires,omitempty"`

	soon bool
}

// readRemoteSecrets reads the remote secrets of the namespaces whose istiods are injected or, in a cluster without any, of those
// with replicas. chosen is the namespace of --namespace. A person without the right to read Secrets has none.
func readRemoteSecrets(ctx context.Context, cluster *clusters.Cluster, chosen string, replicas []replicaStatus, now time.Time) (found []remoteSecret) {
	var injected, namespaces []string
	if chosen == "" {
		var err error
		if injected, err = clusters.InjectedNamespaces(ctx, cluster.Client); err != nil {
			return nil // any of the replicas may be a tenant's
		}
	}
	for i := range replicas {
		namespace := replicas[i].Namespace
		if (len(injected) == 0 || slices.Contains(injected, namespace)) && !slices.Contains(namespaces, namespace) {
			namespaces = append(namespaces, namespace)
		}
	}
	for _, namespace := range namespaces {
		secrets, err := remotes.List(ctx, cluster.Client, namespace)
		if err != nil {
			continue // check reports it
		}
		for _, s := range secrets {
			for _, name := range s.Clusters {
				remote := remoteSecret{Cluster: name, Secret: s.Key.String(), soon: s.EndsSoon(now)}
				if !s.Expires.IsZero() {
					remote.Expires = &metav1.Time{Time: s.Expires}
				}
				found = append(found, remote)
			}
		}
	}
	return found
}

// remoteProblems returns the expired tokens, and notes the ones that expire soon.
func remoteProblems(contexts []contextStatus, now time.Time) (problems, notes []string) {
	for _, c := range contexts {
		for _, r := range c.RemoteSecrets {
			switch {
			case r.Expires == nil:
			case !now.Before(r.Expires.Time):
				problems = append(problems, fmt.Sprintf("%s: the token for cluster %s expired at %s, so istiod reads no changes there; renew it with kubectl istiod-agent join", c.Context, r.Cluster, r.Expires.UTC().Format(time.RFC3339)))
			case r.soon:
				notes = append(notes, fmt.Sprintf("%s: the token for cluster %s expires at %s; renew it with kubectl istiod-agent join", c.Context, r.Cluster, r.Expires.UTC().Format(time.RFC3339)))
			}
		}
	}
	return problems, notes
}

// maxRemotes is the most clusters that are named in a line.
const maxRemotes = 6

// printRemotes writes a line for each context with remote secrets: the clusters, and what is left of their tokens.
func (f *summary) printRemotes(out io.Writer, now time.Time) {
	for _, c := range f.Contexts {
		var names []string
		for _, r := range c.RemoteSecrets {
			left := until(r.Expires, now, "", "expired")
			if left == "" {
				left = "no end"
			}
			names = append(names, terminal.Line(r.Cluster)+" ("+left+")")
		}
		if len(names) > 0 {
			fmt.Fprintf(out, "%s: remote secrets for %s\n", c.Context, strings.TrimSpace(terminal.Names(names, maxRemotes)))
		}
	}
}
