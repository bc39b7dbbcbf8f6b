// SPDX-License-Identifier: Apache-2.0

// Package servingcert provides the certificate that the webhook serves with,
// from one of three sources behind one interface, and, for self-managed
// certificates, keeps the webhook configuration's caBundle.
//
// Issuing and reading certificates is cert-manager's own library
// (pkg/server/tls); what is ours is the CA in its Secret, and that a new
// certificate is served only once the API server has been told to trust it.
package servingcert

import (
	"context"
	"crypto/tls"
	"math"
	"path/filepath"

	servertls "github.com/cert-manager/cert-manager/pkg/server/tls"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/cluster"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
)

// Source provides the serving certificate. Every replica runs one, leader or
// not; it is a controller-runtime Runnable.
type Source interface {
	// Start obtains the certificate and keeps it current until the context ends.
	Start(context.Context) error
	// NeedLeaderElection is always false.
	NeedLeaderElection() bool
	// GetCertificate is for tls.Config.
	GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// Ready is nil when clients can be expected to trust what is served.
	Ready() error
}

// New returns the source that the configuration names. The configuration has
// been validated; a self-managed source keeps its CA in this cluster, and needs
// it alone.
func New(server v1alpha1.Server, in cluster.Cluster) Source {
	c := server.ServingCertificate
	if c.Source != v1alpha1.CertificateSelfManaged {
		return &fileSource{servertls.FileCertificateSource{
			CertPath: filepath.Join(c.Directory, "tls.crt"),
			KeyPath:  filepath.Join(c.Directory, "tls.key"),
			// A broken file must not stop a server whose certificate is still
			// good: readiness tells when it no longer is.
			MaxFailures: math.MaxInt,
		}}
	}
	return &SelfManaged{
		issue: &servertls.DynamicSource{
			DNSNames: c.DNSNames,
			Authority: &authority{
				client: in.GetClient(), informers: in.GetCache(), clock: clock.RealClock{},
				secret:     types.NamespacedName{Namespace: server.Namespace, Name: c.SecretName},
				caDuration: duration(c.CADuration), leafDuration: duration(c.LeafDuration),
			},
		},
		clock: clock.RealClock{},
	}
}

// fileSource serves what cert-manager or somebody else keeps in a mounted Secret.
type fileSource struct {
	servertls.FileCertificateSource
}

func (*fileSource) NeedLeaderElection() bool { return false }

func (f *fileSource) Ready() error {
	_, err := f.GetCertificate(nil)
	return err
}
