// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"context"
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

// Published are the trust bundles (PEM) of a cluster, by namespace.
type Published map[string]string

// ReadPublished reads the trust bundles of the given namespaces, "" where there is none, or of all namespaces that have one.
func ReadPublished(ctx context.Context, cluster *clusters.Cluster, namespaces []string) (Published, error) {
	found := Published{}
	for _, namespace := range namespaces {
		found[namespace] = ""
	}
	if len(namespaces) == 0 {
		namespaces = []string{""}
	}
	for _, namespace := range namespaces {
		var all corev1.ConfigMapList
		if err := cluster.Client.List(ctx, &all, client.InNamespace(namespace), client.MatchingFields{"metadata.name": istio.RootConfigMap}); err != nil {
			return nil, cluster.Explain("listing ConfigMaps "+istio.RootConfigMap, "list", "configmaps", err)
		}
		for _, configMap := range all.Items {
			found[configMap.Namespace] = configMap.Data[istio.RootCertFile]
		}
	}
	return found, nil
}

// commonRoots returns the roots of the bundle that most namespaces have, of those that parse: a user of one namespace may write
// another into it. Of bundles that are as common, the first by namespace counts.
func (p Published) commonRoots() []*x509.Certificate {
	count := map[string]int{}
	for _, bundle := range p {
		count[bundle]++
	}
	var roots []*x509.Certificate
	most := 0
	for _, namespace := range slices.Sorted(maps.Keys(p)) {
		if bundle := p[namespace]; count[bundle] > most {
			if found, err := parse(bundle); err == nil {
				roots, most = found, count[bundle]
			}
		}
	}
	return roots
}

// parse reads a trust bundle, which a user of its namespace may have written.
func parse(bundle string) ([]*x509.Certificate, error) {
	certificates, err := pemcerts.Parse([]byte(bundle))
	if err == nil && len(certificates) > pemcerts.MaxRoots {
		return nil, fmt.Errorf("it holds %d certificates, more than %d", len(certificates), pemcerts.MaxRoots)
	}
	return certificates, err
}

func (p Published) check(contextName string, expected []*x509.Certificate) []finding {
	var lines []finding
	for _, namespace := range slices.Sorted(maps.Keys(p)) {
		ok, detail := compare(p[namespace], expected)
		lines = append(lines, finding{ok, contextName, namespace, istio.RootConfigMap, detail})
	}
	if len(lines) == 0 {
		lines = append(lines, finding{false, contextName, "", istio.RootConfigMap, "is in no namespace: has istiod started?"})
	}
	return lines
}

// compare reports whether a trust bundle is exactly the expected roots, in any order.
func compare(bundle string, expected []*x509.Certificate) (ok bool, detail string) {
	if strings.TrimSpace(bundle) == "" {
		return false, "is missing or empty: istiod has published no root here"
	}
	certificates, err := parse(bundle)
	if err != nil {
		return false, "does not parse: " + err.Error()
	}
	missing, more := difference(expected, certificates), difference(certificates, expected)
	switch {
	case len(missing)+len(more) == 0 && len(expected) == 1:
		return true, "is the root"
	case len(missing)+len(more) == 0:
		return true, fmt.Sprintf("holds all %d roots", len(expected))
	case len(missing) == 0:
		return false, fmt.Sprintf("holds additional roots, which are trusted too: %s", pemcerts.Names(more))
	case len(more) == 0:
		return false, "does not hold " + pemcerts.Names(missing)
	default:
		return false, fmt.Sprintf("holds another root: %s; expected %s", pemcerts.Names(more), pemcerts.Names(missing))
	}
}

func difference(certificates, others []*x509.Certificate) []*x509.Certificate {
	return slices.DeleteFunc(slices.Clone(certificates), func(c *x509.Certificate) bool { return slices.ContainsFunc(others, c.Equal) })
}
