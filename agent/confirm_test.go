// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/istiod-agent/istiod-agent/agent/machine"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

type authority struct {
	*x509.Certificate
	key *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string, serial int64, key *ecdsa.PrivateKey) authority {
	t.Helper()
	if key == nil {
		key = newP256(t)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{Organization: []string{name}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	return authority{certify(t, template, template, key, key), key}
}

func newP256(*testing.T) *ecdsa.PrivateKey { return testca.NewKey() }

func certify(_ *testing.T, template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) *x509.Certificate {
	return (&testca.Certificate{Certificate: parent, Key: signer}).SignPublic(*template, key.Public())
}

// Only a leaf under the new CA's key with the new CA's certificate behind it is proof. The real istiod is asked
// in e2e; the mixed states are such as it cannot be brought to on purpose.
func TestOnlyTheNewCAConfirms(t *testing.T) {
	before := newAuthority(t, "Istio", 1, nil)
	after := newAuthority(t, "Istio", 2, nil)
	sameKey := newAuthority(t, "Istio", 3, after.key)
	leafKey := newP256(t)
	leaf := func(a authority) *x509.Certificate {
		return certify(t, &x509.Certificate{
			SerialNumber: big.NewInt(9), DNSNames: []string{"istiod.istio-system.svc"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		}, a.Certificate, leafKey, a.key)
	}
	for name, test := range map[string]struct {
		served []*x509.Certificate
		want   string
	}{
		"the new CA":                       {[]*x509.Certificate{leaf(after), after.Certificate}, ""},
		"the old CA":                       {[]*x509.Certificate{leaf(before), before.Certificate}, "serves a certificate of issuer"},
		"the new key, the old chain":       {[]*x509.Certificate{leaf(after), before.Certificate}, "old CA's chain"},
		"the old key, the new chain":       {[]*x509.Certificate{leaf(before), after.Certificate}, "serves a certificate of issuer"},
		"the new key, another certificate": {[]*x509.Certificate{leaf(after), sameKey.Certificate}, "old CA's chain"},
		"the new key, and no chain":        {[]*x509.Certificate{leaf(after)}, "old CA's chain"},
	} {
		t.Run(name, func(t *testing.T) {
			var chain [][]byte
			for _, each := range test.served {
				chain = append(chain, each.Raw)
			}
			listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: chain, PrivateKey: leafKey}}})
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			go func() {
				for {
					connection, err := listener.Accept()
					if err != nil {
						return
					}
					_ = connection.(*tls.Conn).Handshake()
					_ = connection.Close()
				}
			}()
			err = checkServed(t.Context(), listener.Addr().String(), after.Certificate, "")
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if err != nil && !errors.Is(err, errOtherCA) {
				t.Errorf("istiod has answered: %v", err)
			}
		})
	}
}

func TestAnIstiodThatDoesNotAnswerIsToldApart(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	err = checkServed(t.Context(), address, newAuthority(t, "Istio", 1, nil).Certificate, "")
	if err == nil || !strings.Contains(err.Error(), "does not answer on "+address) || errors.Is(err, errOtherCA) {
		t.Errorf("got %v", err)
	}
}

// Garbage may hold parts of a key; it is returned to the kernel, which clears it, once there is nothing to do for months.
func TestMemoryIsReturnedOnceConfirmed(t *testing.T) {
	a, specifications, _ := newAgent(t)
	specifications.certificate = named("mine", 1)
	a.observe(time.Now())
	set, key := newSetAndKey(t)
	publishAs(t, a, set)
	a.IstiodAddress, _ = istiodServing(t, set, key)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	act(t, a, machine.Confirm)
	runtime.ReadMemStats(&after)
	if !a.state.Published().Confirmed || after.NumForcedGC == before.NumForcedGC {
		t.Errorf("confirmed: %t, with %d forced collections", a.state.Published().Confirmed, after.NumForcedGC-before.NumForcedGC)
	}
}
