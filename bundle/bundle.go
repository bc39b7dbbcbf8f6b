// SPDX-License-Identifier: Apache-2.0

// Package bundle serves a mesh's roots of trust as a SPIFFE bundle, so that other trust domains can verify its workloads:
// another istiod (meshConfig.caCertificates[].spiffeBundleUrl), SPIRE, or any client of go-spiffe. It serves only what
// istiod itself publishes in its own namespace, and never a private key.
//
// The bundle is a function of the published ConfigMaps alone, so that all replicas serve the same one.
package bundle

import (
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/istiod-agent/istiod-agent/internal/bounded"
	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

const (
	// refreshHint is the default poll interval of clients (SPIFFE Federation, 4.1). istiod ignores it and polls every 30
	// minutes (pilot/pkg/trustbundle, RemoteDefaultPollPeriod).
	refreshHint = 5 * time.Minute
	// maxBytes limits the bundle: some 150 roots with RSA keys of 4096 bits.
	maxBytes = 512 << 10
	// maxProblem is the most bytes of a problem, which may quote the name of a certificate.
	maxProblem = 512
)

// published is what istiod publishes in a namespace: a version of ConfigMap istio-ca-root-cert.
type published struct {
	namespace       string
	resourceVersion string
	roots           string // PEM
}

// document is a bundle as it is served.
type document struct {
	json []byte
	etag string
	// sequence is 0 if the bundle has none.
	sequence uint64
	roots    []*x509.Certificate
}

// newDocument returns the bundle with the roots of one mesh, whose istiods may be in several namespaces. While the root
// changes in stages, they may differ, but always share a root. Istiods that share none belong to different meshes, whose
// bundles must not be merged (SPIFFE Federation, 4.2).
//
// The sequence is the highest resource version. Within one API server, it increases with every change of every ConfigMap,
// also of one that was deleted and created again. Resource versions are comparable integers since Kubernetes 1.35 (KEP
// 5504), and with etcd before.
func newDocument(sources []published) (*document, error) {
	d := &document{}
	sequenced := true
	for i, source := range sources {
		roots, err := pemcerts.ParseRoots([]byte(source.roots))
		if err != nil {
			return nil, fmt.Errorf("%s in ConfigMap %s/%s: %s", istio.RootCertFile, source.namespace, istio.RootConfigMap, bounded.Text(bounded.Plain(err.Error()), maxProblem))
		}
		if i > 0 && !slices.ContainsFunc(roots, d.has) {
			return nil, fmt.Errorf("the istiods in namespaces %s and %s share no root, so they are different meshes: list the namespaces of one mesh in the chart's value bundleEndpoint.namespaces",
				sources[0].namespace, source.namespace)
		}
		for _, root := range roots {
			if !d.has(root) {
				d.roots = append(d.roots, root)
			}
		}
		version, err := strconv.ParseUint(source.resourceVersion, 10, 64)
		sequenced = sequenced && err == nil
		d.sequence = max(d.sequence, version)
	}
	if len(d.roots) == 0 {
		return nil, errors.New("no namespace of an istiod is configured")
	}
	// The order must not depend on the order of the namespaces.
	slices.SortFunc(d.roots, func(a, b *x509.Certificate) int {
		return cmp.Compare(pemcerts.Fingerprint(a), pemcerts.Fingerprint(b))
	})
	if !sequenced {
		d.sequence = 0
	}
	return d, d.marshal()
}

func (d *document) has(root *x509.Certificate) bool { return slices.ContainsFunc(d.roots, root.Equal) }

// marshal sets the JSON text (SPIFFE Trust Domain and Bundle, 4). The format has no trust domain: the client is configured
// with it. The one here has no effect.
func (d *document) marshal() (err error) {
	bundle := spiffebundle.FromX509Authorities(spiffeid.RequireTrustDomainFromString(istio.DefaultTrustDomain), d.roots)
	bundle.SetRefreshHint(refreshHint)
	if d.sequence > 0 {
		bundle.SetSequenceNumber(d.sequence)
	}
	if d.json, err = bundle.Marshal(); err != nil {
		return fmt.Errorf("the bundle's format has no form for a root's key: %s", bounded.Text(bounded.Plain(err.Error()), maxProblem))
	}
	if len(d.json) > maxBytes {
		return fmt.Errorf("the bundle has %d bytes, more than %d", len(d.json), maxBytes)
	}
	d.etag = fmt.Sprintf(`"%x"`, sha256.Sum256(d.json))
	return nil
}

// expired returns the names of the roots that have ended. They stay in the bundle, which then depends on no clock: they
// verify nothing.
func (d *document) expired(now time.Time) string {
	var names []string
	for _, root := range d.roots {
		if now.After(root.NotAfter) {
			names = append(names, bounded.Plain(pemcerts.Name(root)))
		}
	}
	return bounded.Text(strings.Join(names, ", "), maxProblem)
}
