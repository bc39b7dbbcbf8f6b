// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/istiod-agent/istiod-agent/agent/cacerts"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

// A root that ends before the certificate, and whose key not every proxy verifies: the certificate is published, renewed
// before the root's end, and reported so.
func TestTheWholeChainCounts(t *testing.T) {
	_, rootKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	soon := time.Now().Add(20 * day).Truncate(time.Second).UTC()
	uri, err := url.Parse("spiffe://cluster.local/ns/istio-system/sa/istiod")
	if err != nil {
		t.Fatal(err)
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{Organization: []string{"root"}}, NotBefore: time.Now().Add(-time.Minute), NotAfter: soon,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	intermediate := *root
	intermediate.Subject, intermediate.URIs, intermediate.MaxPathLenZero = pkix.Name{Organization: []string{"Istio"}}, []*url.URL{uri}, true
	intermediate.NotAfter = time.Now().Add(100 * day)
	key := newP256(t)
	signed := testca.SelfSign(*root, rootKey)
	set, err := cacerts.Verify(cacerts.Issued{
		Key: encodeKey(t, key), Certificate: encode(signed.Sign(intermediate, key).Certificate), Chain: [][]byte{encode(signed.Certificate)},
	}, cacerts.Request{Hosts: []string{uri.String()}, Organization: "Istio", Key: cacerts.Key{Type: "ec", Bits: 256}, TTL: 100 * day, Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}

	a, specifications, reporter := newAgent(t)
	specifications.certificate = named("mine", 1)
	a.observe(time.Now())
	publishAs(t, a, set)
	a.report()
	status := reporter.status.Certificates[0]
	if !a.state.Published().NotAfter.Equal(soon) || !status.NotAfter.Time.Equal(soon) {
		t.Errorf("scheduled by %s, reported %s, want %s", a.state.Published().NotAfter, status.NotAfter, soon)
	}
	if !status.RenewAt.Time.Before(soon) {
		t.Errorf("it is renewed at %s, after the root's end %s", status.RenewAt, soon)
	}
	if limited := "O=root, which ends at " + soon.Format(time.RFC3339); !status.RootNotAfter.Time.Equal(soon) || status.LimitedBy != limited {
		t.Errorf("the root ends at %s, limited by %q, want %q", status.RootNotAfter, status.LimitedBy, limited)
	}
	var metrics bytes.Buffer
	a.Metrics.Write(&metrics)
	for _, name := range []string{"ca", "root", "issuer"} {
		if want := fmt.Sprintf("istiod_agent_%s_not_after_seconds %d\n", name, soon.Unix()); !strings.Contains(metrics.String(), want) {
			t.Errorf("the metrics do not hold %q", want)
		}
	}
	for _, event := range []string{"mine CAWarning true", "mine LimitedByIssuer true"} {
		if !slices.Contains(reporter.events, event) {
			t.Errorf("told %q, not %q", reporter.events, event)
		}
	}
}

func TestLimitedBy(t *testing.T) {
	set := newSet(t) // both it and its root end in 100 days
	for ttl, limited := range map[time.Duration]bool{100 * day: false, 101 * day: true} {
		if got := set.LimitedBy(ttl); (got != "") != limited {
			t.Errorf("asked for %s: %q", ttl, got)
		}
	}
}

// A CA that may sign further CAs is reported for as long as it is published.
func TestPathLengthLimited(t *testing.T) {
	for name, limited := range map[string]bool{"path length 0": true, "none": false} {
		t.Run(name, func(t *testing.T) {
			key := newP256(t)
			root := testca.Root("root")
			template := testca.Authority("Istio")
			uri, err := url.Parse("spiffe://cluster.local/ns/istio-system/sa/istiod")
			if err != nil {
				t.Fatal(err)
			}
			template.Subject.CommonName, template.URIs, template.MaxPathLenZero = "Istio", []*url.URL{uri}, limited
			template.NotAfter = time.Now().Add(100 * day)
			set, err := cacerts.Verify(cacerts.Issued{
				Key: encodeKey(t, key), Certificate: encode(root.Sign(template, key).Certificate), Chain: [][]byte{root.PEM()},
			}, cacerts.Request{
				Hosts: []string{uri.String()}, Organization: "Istio", Key: cacerts.Key{Type: "ec", Bits: 256}, TTL: 100 * day, Now: time.Now(), AnyPathLength: true,
			})
			if err != nil {
				t.Fatal(err)
			}
			a, specifications, reporter := newAgent(t)
			specifications.certificate = named("mine", 1)
			a.observe(time.Now())
			publishAs(t, a, set)
			a.report()
			condition := meta.FindStatusCondition(reporter.status.Conditions, certificatesv1.PathLengthLimitedCondition)
			if (condition == nil) != limited || condition != nil && (condition.Status != metav1.ConditionFalse || condition.ObservedGeneration != 1) {
				t.Errorf("got %+v", condition)
			}
		})
	}
}
