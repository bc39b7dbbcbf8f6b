// SPDX-License-Identifier: Apache-2.0

package configurations

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/manifest"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

// The source of the serving certificate changes both ways, by every way to apply the chart. No apply conflicts with the
// previous writer of the caBundle, and admission works before and after the replicas are replaced.
func TestSourceChanges(t *testing.T) {
	serverSide, clientSide := webhookserver.Release, webhookserver.Release
	clientSide.ClientSide = true
	for name, way := range map[string]struct {
		release helm.Release
		kubectl []string
	}{
		"Helm 4":                         {release: serverSide},
		"Helm 3":                         {release: clientSide},
		"kubectl apply":                  {release: serverSide, kubectl: []string{"apply"}},
		"kubectl apply with server-side": {release: serverSide, kubectl: []string{"apply", "--server-side"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			ca := writeCertificate(t, dir)
			given := helm.Values{"servingCertificate": helm.Values{
				"source": "secret", "secret": helm.Values{"name": "webhook-tls", "caBundle": string(ca)},
			}}
			byHand := helm.Values{"servingCertificate": helm.Values{"source": "secret", "secret": helm.Values{"name": "webhook-tls"}}}
			installed(t, webhookserver.Options{
				Configuration: map[string]any{"server": map[string]any{"servingCertificate": map[string]any{"directory": dir}}},
			})
			apply := func(values helm.Values) error {
				if way.kubectl != nil {
					if err := applyConfiguration(t, values, way.kubectl...); err != nil {
						return err
					}
				}
				return shared.Webhook.Upgrade(t.Context(), way.release, values)
			}
			if way.kubectl != nil {
				replaceConfiguration(t, way.kubectl...)
			}
			for i, values := range []helm.Values{given, {}, byHand, {}, given} {
				if err := apply(values); err != nil {
					t.Fatalf("change %d: %v", i, err)
				}
				wantAdmission(t)
				if err := shared.Webhook.Roll(t.Context()); err != nil {
					t.Fatalf("change %d: %v", i, err)
				}
				if i == 2 {
					if err := setCABundle(t, ca); err != nil {
						t.Fatal(err)
					}
				}
				wantAdmission(t)
			}
		})
	}
}

// replaceConfiguration creates the webhook configuration by kubectl, as a user without Helm does.
func replaceConfiguration(t *testing.T, arguments ...string) {
	t.Helper()
	configuration := &admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: webhookserver.Release.Name}}
	if err := shared.Delete(t.Context(), configuration); err != nil {
		t.Fatal(err)
	}
	if err := applyConfiguration(t, nil, arguments...); err != nil {
		t.Fatal(err)
	}
	cluster.Eventually(t, "the caBundle is filled in", func() error {
		if len(caBundle(t)) == 0 {
			return fmt.Errorf("it is empty")
		}
		return nil
	})
}

// applyConfiguration applies the chart's webhook configuration by kubectl.
func applyConfiguration(t *testing.T, values helm.Values, arguments ...string) error {
	t.Helper()
	stream, err := shared.Webhook.Render(t.Context(), values)
	if err != nil {
		return err
	}
	objects, err := manifest.Parse(stream)
	if err != nil {
		return err
	}
	for _, object := range objects {
		if object.GetKind() != "MutatingWebhookConfiguration" {
			continue
		}
		document, err := yaml.Marshal(object.Object)
		if err != nil {
			return err
		}
		return runKubectl(t.Context(), document, append(arguments, "-f", "-")...)
	}
	return fmt.Errorf("the chart renders no MutatingWebhookConfiguration")
}

// kubectlVariable makes this program act as kubectl.
const kubectlVariable = "CONFIGURATIONS_TEST_KUBECTL"

func runKubectl(ctx context.Context, input []byte, arguments ...string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	kubeconfig, err := shared.Plane.Kubeconfig("admin", "system:masters")
	if err != nil {
		return err
	}
	command := exec.CommandContext(ctx, self, append(arguments, "--kubeconfig", kubeconfig)...)
	command.Env, command.Stdin = append(os.Environ(), kubectlVariable+"=yes"), bytes.NewReader(input)
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl %v: %w: %s", arguments, err, output)
	}
	return nil
}
