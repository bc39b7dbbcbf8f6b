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

	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

const confirmTimeout = 5 * time.Second

// confirm asks istiod's TLS port (15012 by default) which CA it signs with. The certificate served there is
// signed anew whenever istiod loads its CA files (Istio pilot/pkg/bootstrap/certcontroller.go,
// updateRootCertAndGenKeyCert), so it is proof: nil means that istiod signs under ca and sends its chain, and serves
// another certificate than the one with the fingerprint before, where that is not empty.
func confirm(ctx context.Context, address string, ca *x509.Certificate, before string) error {
	served, err := serves(ctx, address)
	if err != nil {
		return err
	}
	if err := signedBy(served, ca); err != nil {
		return err
	}
	if pemcerts.Fingerprint(served[0]) == before {
		return fmt.Errorf("%w: it still serves the certificate that it served before its roots were changed", errOtherCA)
	}
	return nil
}

// serves gives the certificates that istiod serves at its TLS port, at least one.
func serves(ctx context.Context, address string) ([]*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	var served []*x509.Certificate
	dialer := tls.Dialer{Config: &tls.Config{
		MinVersion: tls.VersionTLS12,
		// What is asked is who signed, of whoever listens in this pod; nothing is sent that could be lost to another.
		InsecureSkipVerify: true, //nolint:gosec // confirm checks the signature, against the one CA that may have made it
		VerifyConnection: func(state tls.ConnectionState) error {
			served = state.PeerCertificates
			return nil
		},
	}}
	connection, err := dialer.DialContext(ctx, "tcp", address)
	if len(served) == 0 { // istiod may end a connection without a client certificate after it has shown its own
		if err == nil {
			_ = connection.Close()
			err = errors.New("no certificate was served")
		}
		return nil, fmt.Errorf("istiod does not answer on %s yet: %w", address, plain(err))
	}
	if err == nil {
		_ = connection.Close()
	}
	return served, nil
}

// errOtherCA is for an istiod that answers, and not under the CA that it is to use.
var errOtherCA = errors.New("istiod uses another CA")

// signedBy says whether a chain that istiod serves is under ca: a leaf that ca signed, followed by ca itself.
// istiod reads key and chain apart, so that one can be new and the other old.
func signedBy(served []*x509.Certificate, ca *x509.Certificate) error {
	if err := served[0].CheckSignatureFrom(ca); err != nil {
		return fmt.Errorf("%w: it still serves a certificate of issuer %q, whose key is %x…", errOtherCA, served[0].Issuer, short(served[0].AuthorityKeyId))
	}
	if len(served) < 2 || !bytes.Equal(served[1].Raw, ca.Raw) {
		return fmt.Errorf("%w: it signs with the new CA's key and still sends the old CA's chain", errOtherCA)
	}
	return nil
}

func short(id []byte) []byte { return id[:min(len(id), 4)] }

// plain leaves out what a person need not read: that it was a dial, from which port.
func plain(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Err != nil {
		return op.Err
	}
	return err
}
