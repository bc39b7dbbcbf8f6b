// SPDX-License-Identifier: Apache-2.0

// Package servingcert provides the webhook's serving certificate from one of three sources behind one interface and, for
// self-managed certificates, keeps the webhook configuration's caBundle.
//
// cert-manager's library (pkg/server/tls) issues and reads certificates. This package keeps the CA in its Secret, and serves
// a new certificate only once API servers can trust it.
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

// Source provides the serving certificate. It is a controller-runtime Runnable of every replica, leader or not.
type Source interface {
	// Start obtains the certificate and keeps it current until the context ends.
	Start(context.Context) error
	// NeedLeaderElection is always false.
	NeedLeaderElection() bool
	// GetCertificate is for tls.Config.
	GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// Ready returns nil when clients can be expected to trust the served certificate.
	Ready() error
}

// New returns the configured source. The configuration must be valid; only a self-managed source uses the cluster.
func New(server v1alpha1.Server, in cluster.Cluster) Source {
	c := server.ServingCertificate
	if c.Source != v1alpha1.CertificateSelfManaged {
		return Files(c.Directory)
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

// Files returns the source of tls.crt and tls.key in a directory. It has no certificate until they are there.
func Files(directory string) Source {
	return &fileSource{servertls.FileCertificateSource{
		CertPath: filepath.Join(directory, "tls.crt"),
		KeyPath:  filepath.Join(directory, "tls.key"),
		// A broken file must not stop a server whose certificate is still
		// good: readiness fails when it is not.
		MaxFailures: math.MaxInt,
	}}
}

// fileSource serves the certificate of a mounted Secret, which cert-manager or another program keeps.
type fileSource struct {
	servertls.FileCertificateSource
}

func (*fileSource) NeedLeaderElection() bool { return false }

func (f *fileSource) Ready() error {
	_, err := f.GetCertificate(nil)
	return err
}
