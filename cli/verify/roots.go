// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"cmp"
	"context"
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

// Where istiod publishes the roots that workloads trust (Istio pilot/pkg/serviceregistry/kube/controller/namespacecontroller.go).
const (
	configMap = "istio-ca-root-cert"
	rootKey   = "root-cert.pem"
)

// Line is what was found in one place.
type Line struct {
	// OK says whether it is as it should be.
	OK bool `json:"ok"`
	// What was looked at.
	What string `json:"what"`
	// Detail says what was found.
	Detail string `json:"detail"`
}

// published are the trust bundles of a cluster, by namespace.
type published map[string]string

// readPublished reads them, of the namespaces named or of all that have one. One that is named and has none is "".
func readPublished(ctx context.Context, cluster *clusters.Cluster, namespaces []string) (published, error) {
	found := published{}
	for _, namespace := range namespaces {
		found[namespace] = ""
	}
	if len(namespaces) == 0 {
		namespaces = []string{""}
	}
	for _, namespace := range namespaces {
		var maps corev1.ConfigMapList
		if err := cluster.Client.List(ctx, &maps, client.InNamespace(namespace), client.MatchingFields{"metadata.name": configMap}); err != nil {
			return nil, cluster.Explain("listing ConfigMaps "+configMap, "list", "configmaps", err)
		}
		for _, each := range maps.Items {
			found[each.Namespace] = each.Data[rootKey]
		}
	}
	return found, nil
}

// check holds what a cluster has published against the root that it should be.
func (p published) check(context string, root *x509.Certificate) []Line {
	var lines []Line
	for _, namespace := range slices.Sorted(maps.Keys(p)) {
		ok, detail := compare(p[namespace], root)
		lines = append(lines, Line{ok, context + ": " + namespace + "/" + configMap, detail})
	}
	if len(lines) == 0 {
		lines = append(lines, Line{false, context, "no namespace has a ConfigMap " + configMap + ": has istiod started?"})
	}
	return lines
}

// compare says whether a trust bundle is just the root.
func compare(bundle string, root *x509.Certificate) (ok bool, detail string) {
	if strings.TrimSpace(bundle) == "" {
		return false, "is not there, or empty: istiod has published no root here"
	}
	certificates, err := pemcerts.Parse([]byte(bundle))
	if err != nil {
		return false, "cannot be read: " + err.Error()
	}
	has := slices.ContainsFunc(certificates, root.Equal)
	switch {
	case has && len(certificates) == 1:
		return true, "is the root"
	case has:
		return true, fmt.Sprintf("holds the root, and %d more: %s", len(certificates)-1, others(certificates, root))
	default:
		return false, fmt.Sprintf("holds another root: %s; expected %s", others(certificates, root), short(root))
	}
}

func others(certificates []*x509.Certificate, root *x509.Certificate) string {
	var names []string
	for _, each := range certificates {
		if !each.Equal(root) {
			names = append(names, short(each))
		}
	}
	return strings.Join(names, ", ")
}

// short names a root for people.
func short(root *x509.Certificate) string {
	return fmt.Sprintf("%s (SHA-256 %.16s…)", cmp.Or(root.Subject.String(), "no name"), pemcerts.Fingerprint(root))
}
