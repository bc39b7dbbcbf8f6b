// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/istiod-agent/istiod-agent/agent/machine"
	"github.com/istiod-agent/istiod-agent/agent/notices"
	"github.com/istiod-agent/istiod-agent/agent/roots"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

func list(certificates ...*x509.Certificate) []*x509.Certificate { return certificates }

// beside is a specification whose status names another replica and its root.
func beside(root string) *certificatesv1.IssuedCertificate {
	certificate := named("mine", 1)
	certificate.Status.Certificates = []certificatesv1.CertificateStatus{{Pod: "istiod-9", RootFingerprint: root, TrustedRoots: []string{root}}}
	return certificate
}

// An istiod that starts does not split the mesh: it waits, says why and what allows it, and goes on as soon as that is done.
func TestANewPodWaitsForTheRootOfTheOthers(t *testing.T) {
	t.Parallel()
	old, set := newSet(t), newSet(t)
	was, is := old.RootFingerprint(), set.RootFingerprint()
	for name, change := range map[string]func(*certificatesv1.IssuedCertificate){
		"accepted": func(c *certificatesv1.IssuedCertificate) {
			c.Annotations = map[string]string{certificatesv1.AcceptRootAnnotation: is}
		},
		"the others have gone":    func(c *certificatesv1.IssuedCertificate) { c.Status.Certificates = nil },
		"the others have changed": func(c *certificatesv1.IssuedCertificate) { c.Status.Certificates[0].RootFingerprint = is },
		"changing in stages": func(c *certificatesv1.IssuedCertificate) {
			c.Annotations = trusting(old.Root(), set.Root()).Annotations
		},
		"all Pods to be restarted": func(c *certificatesv1.IssuedCertificate) {
			c.Spec.PodBounceDirective = &certificatesv1.ObjectRef{Name: "a"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, specifications, reporter := newAgent(t)
			specifications.certificate = beside(was)
			a.observe(time.Now())
			err := publish(a, set, note{})
			if rejected, ok := errors.AsType[*roots.RejectedError](err); !ok || !rejected.Awaited || rejected.Root != is || len(err.Error()) > 1000 {
				t.Fatalf("got %v", err)
			}
			a.observe(time.Now())
			a.report()
			for _, want := range []string{was, is, "istiod-9", "docs/rotation.md", "kubectl annotate issuedcertificate -n istio-system mine --overwrite istiod-agent.io/accept-root=" + is} {
				if !strings.Contains(reporter.status.Error, want) {
					t.Errorf("want %q in %q", want, reporter.status.Error)
				}
			}
			if got, _ := a.notices.Problems(); got != roots.RootChanged {
				t.Errorf("reason %s", got)
			}
			if s := reporter.status; s.State != certificatesv1.Failed || s.Certificates[0].RootFingerprint != "" || s.Certificates[0].OfferedRootFingerprint != is {
				t.Errorf("status %+v", s)
			}
			if a.Ready(time.Now()) == nil || a.set != nil {
				t.Error("it is ready")
			}
			if step := machine.Next(a.state, time.Now()); step.Action != machine.Wait || time.Until(step.Until) > time.Minute {
				t.Errorf("the next step is %+v", step)
			}

			specifications.certificate = beside(was)
			change(specifications.certificate)
			a.observe(time.Now())
			if step := machine.Next(a.state, time.Now()); step.Action != machine.Issue {
				t.Fatalf("the next step is %+v", step)
			}
			if err := publish(a, set, note{}); err != nil {
				t.Fatal(err)
			}
			if a.state.RejectedRoot() != "" || a.state.RootRejected() {
				t.Errorf("offered %q", a.state.RejectedRoot())
			}
		})
	}
}

// Other replicas bind an istiod that starts, not one that runs; and what they report about nothing new is no reason to ask.
func TestOnlyAStartLooksAtTheOthers(t *testing.T) {
	t.Parallel()
	a, specifications, _ := newAgent(t)
	set := newSet(t)
	specifications.certificate = beside(set.RootFingerprint())
	a.observe(time.Now())
	if err := publish(a, set, note{}); err != nil {
		t.Fatal(err)
	}
	specifications.certificate = beside(newSet(t).RootFingerprint())
	a.observe(time.Now())
	if err := publish(a, set, note{}); err != nil {
		t.Error(err)
	}

	waiting, specifications, _ := newAgent(t)
	for i := range 3 {
		certificate := beside(set.RootFingerprint())
		certificate.Status.Certificates = append(certificate.Status.Certificates, certificatesv1.CertificateStatus{Pod: fmt.Sprint("new-", i)})
		specifications.certificate = certificate
		waiting.observe(time.Now())
		if i == 0 {
			_ = publish(waiting, newSet(t), note{})
		}
	}
	if step := machine.Next(waiting.state, time.Now()); step.Action != machine.Wait {
		t.Errorf("the next step is %+v", step)
	}
}

// The mesh's roots are read from istiod's own namespace, a bounded part of them; what cannot be read allows nothing.
func TestMeshRoots(t *testing.T) {
	t.Parallel()
	one, two := newSet(t).Root(), newSet(t).Root()
	leaf := newSet(t).Certificate()
	for name, test := range map[string]struct {
		text    string
		want    []string
		problem string
	}{
		"one":                   {string(encode(one)), pemcerts.Fingerprints(list(one)), ""},
		"several, twice":        {string(encodeAll(one, two, one)), pemcerts.Fingerprints(list(one, two)), ""},
		"one that is no root":   {string(encodeAll(leaf, two)), pemcerts.Fingerprints(list(two)), ""},
		"the last of very many": {strings.Repeat(string(encode(one)), maxMeshRootsNumber) + string(encode(two)), pemcerts.Fingerprints(list(one)), ""},
		"too large":             {strings.Repeat(string(encode(one)), 1000), nil, "at most 262144 bytes"},
		"a key":                 {string(encodeKey(t, newP256(t))), nil, "something that is not a certificate"},
		"noise":                 {"\x00", nil, "something that is not a certificate"},
		"nothing":               {"", nil, "it is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := &stored{values: map[string]string{"istio-ca-root-cert/root-cert.pem": test.text}}
			roots, err := readMeshRoots(t.Context(), cluster, me.Namespace)
			if !slices.Equal(pemcerts.Fingerprints(roots), test.want) || (test.problem == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), test.problem) {
				t.Errorf("got %d roots, %v", len(roots), err)
			}
			if !slices.Equal(cluster.read, []string{"istio-system/istio-ca-root-cert"}) {
				t.Errorf("read %q", cluster.read)
			}
		})
	}
}

// The roots that a specification names come from it, or from a ConfigMap of istiod's namespace, whose author may be anybody.
func TestPinned(t *testing.T) {
	t.Parallel()
	one, two := newSet(t).Root(), newSet(t).Root()
	leaf := newSet(t).Certificate()
	for name, test := range map[string]struct {
		text    string
		want    int
		problem string
	}{
		"two":              {string(encodeAll(one, two)), 2, ""},
		"one that is none": {string(encodeAll(one, leaf)), 0, "is not a root"},
		"a key":            {string(encode(one)) + string(encodeKey(t, newP256(t))), 0, "holds a private key"},
		"noise":            {"hvs.CAESIA", 0, "something that is not a certificate"},
		"very many":        {strings.Repeat("-----BEGIN CERTIFICATE-----\n", 1000), 0, "contains 1000 certificates, more than 20"},
		"nothing":          {"", 0, "it is empty"},
		"too large":        {strings.Repeat(string(encode(one)), 1000), 0, "65536"},
	} {
		for source, trusted := range map[string]*certificatesv1.TrustedRoots{
			"inline":      {PEM: test.text},
			"a ConfigMap": {ConfigMapRef: &certificatesv1.ConfigMapKeyRef{Name: "roots", Key: "ca.crt"}},
		} {
			t.Run(name+", "+source, func(t *testing.T) {
				t.Parallel()
				a := &Agent{Identity: me, APIServer: &stored{values: map[string]string{"roots/ca.crt": test.text}}}
				pinned, err := a.pinned(t.Context(), trusted)
				if len(pinned) != test.want || (test.problem == "") != (err == nil) || err != nil && (!strings.Contains(err.Error(), test.problem) || strings.Contains(err.Error(), "hvs.")) {
					t.Errorf("got %d roots, %v", len(pinned), err)
				}
				if err == nil {
					return
				}
				if reasonOf(err) != notices.RootsUnavailable || !strings.HasPrefix(err.Error(), "spec.agentCa.trustedRoots.") {
					t.Errorf("got %v", err)
				}
			})
		}
	}
	if pinned, err := (&Agent{Identity: me}).pinned(t.Context(), nil); pinned != nil || err != nil {
		t.Errorf("got %v, %v", pinned, err)
	}
}
