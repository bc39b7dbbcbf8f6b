// SPDX-License-Identifier: Apache-2.0

package certmanager_test

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	cmutil "github.com/cert-manager/cert-manager/pkg/api/util"
	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	cmmeta "github.com/cert-manager/cert-manager/pkg/apis/meta/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/certmanager"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/injected"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

var shared *cluster.Cluster

func TestMain(m *testing.M) {
	if err := cmapi.AddToScheme(scheme.Scheme); err != nil {
		panic(err)
	}
	cluster.Main(m, &shared, nil)
}

// startCertManager starts cert-manager for a test, and logs its output if the test fails.
func startCertManager(t *testing.T) {
	t.Helper()
	running, err := certmanager.Start(t.Context(), shared.Plane)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(running.Output())
		}
		if err := running.Stop(); err != nil {
			t.Error(err)
		}
	})
}

// install installs the chart and runs its webhook for a test, with the files of a Secret in the Deployment's mount.
func install(t *testing.T, secret string, servingCertificate map[string]any) {
	t.Helper()
	err := shared.Install(t.Context(), webhookserver.Options{
		Values:        map[string]any{"servingCertificate": servingCertificate},
		Configuration: map[string]any{"server": map[string]any{"servingCertificate": map[string]any{"directory": mount(t, secret)}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := shared.Webhook.Stop(); err != nil {
			t.Error(err)
		}
		shared.Webhook = nil
	})
}

// mount writes the files of a Secret into a folder and follows its changes, as the kubelet does.
func mount(t *testing.T, secret string) string {
	t.Helper()
	folder := t.TempDir()
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		version := ""
		for {
			select {
			case <-t.Context().Done():
				return
			case <-tick.C:
				stored, err := getSecret(t, secret)
				if err != nil || stored.ResourceVersion == version {
					continue // it is not there yet, or has not changed
				}
				if err := writeFiles(folder, stored); err != nil {
					t.Error(err)
				}
				version = stored.ResourceVersion
			}
		}
	}()
	t.Cleanup(func() { <-done })
	return folder
}

func writeFiles(folder string, secret *corev1.Secret) error {
	for name, content := range secret.Data {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func getSecret(t *testing.T, name string) (*corev1.Secret, error) {
	var secret corev1.Secret
	err := shared.Get(t.Context(), client.ObjectKey{Namespace: webhookserver.Release.Namespace, Name: name}, &secret)
	return &secret, err
}

// certificate returns a Certificate of the chart.
func certificate(t *testing.T, name string) (*cmapi.Certificate, error) {
	var stored cmapi.Certificate
	err := shared.Get(t.Context(), client.ObjectKey{Namespace: webhookserver.Release.Namespace, Name: name}, &stored)
	return &stored, err
}

// ready returns an error unless a certificate is issued and not being renewed.
func ready(t *testing.T, name string) error {
	stored, err := certificate(t, name)
	if err != nil {
		return err
	}
	if !cmutil.CertificateHasCondition(stored, cmapi.CertificateCondition{Type: cmapi.CertificateConditionReady, Status: cmmeta.ConditionTrue}) ||
		cmutil.CertificateHasCondition(stored, cmapi.CertificateCondition{Type: cmapi.CertificateConditionIssuing, Status: cmmeta.ConditionTrue}) {
		return fmt.Errorf("%s is not ready: %v", name, stored.Status.Conditions)
	}
	return nil
}

// renew does what `cmctl renew` does, and waits for the new certificate.
func renew(t *testing.T, name string) {
	t.Helper()
	before, err := certificate(t, name)
	if err != nil {
		t.Fatal(err)
	}
	renewal := before.DeepCopy()
	cmutil.SetCertificateCondition(renewal, renewal.Generation, cmapi.CertificateConditionIssuing, cmmeta.ConditionTrue, "ManuallyTriggered", "by a test")
	if err := shared.Status().Update(t.Context(), renewal); err != nil {
		t.Fatal(err)
	}
	cluster.Eventually(t, name+" is renewed", func() error {
		after, err := certificate(t, name)
		if err != nil {
			return err
		}
		if *after.Status.Revision == *before.Status.Revision {
			return fmt.Errorf("still revision %d", *before.Status.Revision)
		}
		return ready(t, name)
	})
}

// trusts returns an error unless the caBundle holds a CA. It may hold others, which cainjector keeps until they expire.
func trusts(t *testing.T, crt []byte) error {
	var configuration admissionregistrationv1.MutatingWebhookConfiguration
	if err := shared.Get(t.Context(), client.ObjectKey{Name: webhookserver.Release.Name}, &configuration); err != nil {
		return err
	}
	for _, webhook := range configuration.Webhooks {
		if len(crt) == 0 || !bytes.Contains(webhook.ClientConfig.CABundle, crt) {
			return fmt.Errorf("the caBundle of %s, of %d bytes, does not hold it", webhook.Name, len(webhook.ClientConfig.CABundle))
		}
	}
	return nil
}

// serves returns an error unless the webhook serves this certificate.
func serves(t *testing.T, crt []byte) error {
	block, _ := pem.Decode(crt)
	if block == nil {
		return errors.New("no certificate")
	}
	dialer := &tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} // which one it is, is the question
	connection, err := dialer.DialContext(t.Context(), "tcp", shared.Webhook.Replicas[0].Address())
	if err != nil {
		return err
	}
	defer connection.Close()
	served := connection.(*tls.Conn).ConnectionState().PeerCertificates[0]
	if !bytes.Equal(served.Raw, block.Bytes) {
		return errors.New("it serves another one")
	}
	return nil
}

// wantAdmission creates an istiod, which must be injected.
func wantAdmission(t *testing.T) {
	t.Helper()
	istiod := cluster.Istiod(t, shared.Namespace(t, true))
	stored := shared.MustApply(t, istiod)
	for _, point := range injected.Missing(injected.Check(shared.Without(t, istiod), &stored.Spec.Template, injected.Default(shared.Webhook.AgentImage()))) {
		t.Errorf("not so: %s: %v", point.Name, point.Err)
	}
}
