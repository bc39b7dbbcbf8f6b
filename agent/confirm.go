// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/istiod-agent/istiod-agent/agent/machine"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

const confirmTimeout = 5 * time.Second

// confirm asks istiod which CA it uses.
func (a *Agent) confirm(ctx context.Context) (machine.Event, error) {
	err := checkServed(ctx, a.IstiodAddress, a.set.Certificate(), a.state.Published().Served)
	switch {
	case err == nil:
		return machine.Confirmed{}, nil
	case ctx.Err() != nil:
		return nil, nil //nolint:nilerr // no failure: the agent stops
	}
	return machine.NotConfirmed{Other: errors.Is(err, errOtherCA)}, err
}

// checkServed returns an error unless istiod's TLS port (15012 by default) proves that istiod uses a CA and sends its chain.
// istiod signs the certificate there anew whenever it loads its CA files (Istio pilot/pkg/bootstrap/certcontroller.go,
// updateRootCertAndGenKeyCert); the one with the fingerprint before, where that is not empty, is no proof.
func checkServed(ctx context.Context, address string, ca *x509.Certificate, before string) error {
	served, err := readServed(ctx, address)
	if err != nil {
		return err
	}
	if err := signedBy(served, ca); err != nil {
		return err
	}
	if pemcerts.Fingerprint(served[0]) == before {
		return fmt.Errorf("%w: it still serves the certificate from before its roots changed", errOtherCA)
	}
	return nil
}

// readServed returns the certificates that istiod serves at its TLS port, at least one.
func readServed(ctx context.Context, address string) ([]*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	var served []*x509.Certificate
	dialer := tls.Dialer{Config: &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, //nolint:gosec // checkServed checks the signature, and nothing secret is sent
		VerifyConnection: func(state tls.ConnectionState) error {
			served = state.PeerCertificates
			return nil
		},
	}}
	connection, err := dialer.DialContext(ctx, "tcp", address)
	if err == nil {
		_ = connection.Close()
	}
	if len(served) == 0 { // else istiod may have closed a connection without a client certificate, after sending its own
		if op, ok := errors.AsType[*net.OpError](err); ok && op.Err != nil {
			err = op.Err // without the operation and the ports
		}
		return nil, fmt.Errorf("istiod does not answer on %s yet: %w", address, err)
	}
	return served, nil
}

// errOtherCA means that istiod answers and does not use the published CA.
var errOtherCA = errors.New("istiod uses another CA")

// signedBy returns an error unless a served chain is a leaf that ca signed, followed by ca itself: istiod reads key and chain
// apart, so that one can be new and the other old.
func signedBy(served []*x509.Certificate, ca *x509.Certificate) error {
	if err := served[0].CheckSignatureFrom(ca); err != nil {
		return fmt.Errorf("%w: it still serves a certificate of issuer %q, whose key is %.4x…", errOtherCA, served[0].Issuer, served[0].AuthorityKeyId)
	}
	if len(served) < 2 || !bytes.Equal(served[1].Raw, ca.Raw) {
		return fmt.Errorf("%w: it uses the new CA's key and still sends the old CA's chain", errOtherCA)
	}
	return nil
}
