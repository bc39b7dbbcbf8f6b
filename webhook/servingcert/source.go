// SPDX-License-Identifier: Apache-2.0

// Package servingcert provides the certificate that the webhook serves with,
// from one of three sources behind one interface, and, for self-managed
// certificates, keeps the webhook configuration's caBundle.
//
// Issuing and reading certificates is cert-manager's own library
// (pkg/server/tls); what is ours is that a new certificate is served only once
// the API server has been told to trust it.
package servingcert

import (
	"context"
	"crypto/tls"
	"math"
	"path/filepath"

	servertls "github.com/cert-manager/cert-manager/pkg/server/tls"
	"github.com/cert-manager/cert-manager/pkg/server/tls/authority"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"

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
// been validated; config reaches the API server that holds the CA's Secret.
func New(server v1alpha1.Server, config *rest.Config) Source {
	c := server.ServingCertificate
	if c.Source != v1alpha1.CertificateSelfManaged {
		return &files{servertls.FileCertificateSource{
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
			Authority: &authority.DynamicAuthority{
				SecretNamespace: server.Namespace,
				SecretName:      c.SecretName,
				SecretLabels:    map[string]string{"app.kubernetes.io/managed-by": "istiod-agent-webhook"},
				RESTConfig:      config,
				CommonName:      c.SecretName,
				CADuration:      duration(c.CADuration),
				LeafDuration:    duration(c.LeafDuration),
			},
		},
		clock: clock.RealClock{},
	}
}

// files serves what cert-manager or somebody else keeps in a mounted Secret.
type files struct {
	servertls.FileCertificateSource
}

func (*files) NeedLeaderElection() bool { return false }

func (f *files) Ready() error {
	_, err := f.GetCertificate(nil)
	return err
}
