// SPDX-License-Identifier: Apache-2.0

// Package clientca tests a webhook with server.clientCA, which requires a client certificate from API servers.
package clientca

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/controlplane"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

func TestClientCA(t *testing.T) {
	dir := t.TempDir()
	ca, crt, key := certificates()
	write := func(name, content string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	kubeconfig := write("webhooks.kubeconfig", fmt.Sprintf("apiVersion: v1\nkind: Config\nusers:\n- name: '*'\n  user:\n    client-certificate: %s\n    client-key: %s\n",
		write("tls.crt", crt), write("tls.key", key)))
	configuration := write("admission.yaml", `apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: MutatingAdmissionWebhook
  configuration:
    apiVersion: apiserver.config.k8s.io/v1
    kind: WebhookAdmissionConfiguration
    kubeConfigFile: `+kubeconfig+"\n")
	for name, test := range map[string]struct {
		configure []func(*envtest.APIServer)
		admitted  bool
	}{
		"with its certificate": {[]func(*envtest.APIServer){func(server *envtest.APIServer) {
			server.Configure().Set("admission-control-config-file", configuration)
		}}, true},
		"without": {nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			plane, err := controlplane.Start(test.configure...)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := plane.Stop(); err != nil {
					t.Error(err)
				}
			})
			served, err := webhookserver.Start(t.Context(), plane, webhookserver.Options{ // which waits until it is ready
				Values:        helm.Values{"server": helm.Values{"clientCA": ca}},
				Configuration: map[string]any{"server": map[string]any{"clientCA": write("ca.crt", ca)}},
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := served.Stop(); err != nil {
					t.Error(err)
				}
			})
			c, err := client.New(plane.Config, client.Options{})
			if err != nil {
				t.Fatal(err)
			}
			namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "mesh", Labels: map[string]string{"istiod-agent.io/injection": "enabled"}}}
			if err := c.Create(t.Context(), namespace); err != nil {
				t.Fatal(err)
			}
			labels := map[string]string{"app": "istiod"}
			err = c.Create(t.Context(), &appsv1.Deployment{
				ObjectMeta: metav1.ObjectMeta{Name: "istiod", Namespace: "mesh", Labels: labels},
				Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{
					ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "discovery", Image: "pilot"}}},
				}},
			}, client.DryRunAll)
			if (err == nil) != test.admitted {
				t.Errorf("admission: %v", err)
			}
			stranger := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
			if answer, err := stranger.Post("https://"+served.Replicas[0].Address(), "application/json", strings.NewReader("{}")); err == nil {
				answer.Body.Close()
				t.Errorf("a stranger is answered with %s", answer.Status)
			}
			if output, err := served.Check(t.Context()); err != nil || !strings.Contains(output, "server.clientCA") {
				t.Errorf("check: %v: %s", err, output)
			}
		})
	}
}

// certificates returns a CA, and a client certificate that it signed with its key, in PEM.
func certificates() (ca, crt, key string) {
	template := testca.Authority("webhooks")
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	root := testca.SelfSign(template, nil)
	leaf := root.Sign(x509.Certificate{
		Subject: pkix.Name{CommonName: "kube-apiserver"}, NotBefore: root.NotBefore, NotAfter: root.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, nil)
	return string(root.PEM()), string(leaf.PEM()), string(leaf.KeyPEM())
}
