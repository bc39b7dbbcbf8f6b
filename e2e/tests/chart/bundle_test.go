// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
)

// bundled returns values with the bundle endpoint.
func bundled(values helm.Values) helm.Values {
	all := helm.Values{"bundleEndpoint": helm.Values{"enabled": true, "secretName": "trust"}}
	maps.Copy(all, values)
	return all
}

// In both forms of the injection, the endpoint has a port and a Service of its own, so that opening it to other clusters opens
// nothing else; and without its Secret, the webhook starts.
func TestBundle(t *testing.T) {
	for _, by := range []string{"webhook", "policy"} {
		t.Run(by, func(t *testing.T) {
			values := bundled(helm.Values{"injection": helm.Values{"by": by}, "server": helm.Values{"bundlePort": 12001}})
			result, err := tryRender(t, standard, values, "v1.36.0")
			if err != nil {
				t.Fatal(err)
			}
			endpoint := configuration(t, result).Server.BundleEndpoint
			if endpoint.Port != 12001 || len(endpoint.Namespaces) != 1 || endpoint.Namespaces[0] != "istio-system" {
				t.Errorf("the configuration has %+v", endpoint)
			}
			pods := webhookPods(t, result)
			ports := map[string]int32{}
			for _, port := range pods.Spec.Containers[0].Ports {
				ports[port.Name] = port.ContainerPort
			}
			service := typed[corev1.Service](t, result.objects["Service istiod-agent-bundle"])
			if len(service.Spec.Ports) != 1 || ports[service.Spec.Ports[0].TargetPort.String()] != endpoint.Port {
				t.Errorf("the Service opens %+v, the Pods have %v", service.Spec.Ports, ports)
			}
			for _, port := range webhookService(t, result).Spec.Ports {
				if port.TargetPort.String() == "bundle" {
					t.Error("the webhook's Service opens it too")
				}
			}
			var mounted string
			for _, mount := range pods.Spec.Containers[0].VolumeMounts {
				if mount.MountPath == endpoint.Directory {
					mounted = mount.Name
				}
			}
			for _, volume := range pods.Spec.Volumes {
				if volume.Name == mounted && (volume.Secret == nil || volume.Secret.SecretName != "trust" || !*volume.Secret.Optional) {
					t.Errorf("the volume is %+v", volume)
				}
			}
			if mounted == "" {
				t.Errorf("nothing is mounted at %s", endpoint.Directory)
			}
		})
	}
}

// cert-manager writes the Secret that the Pods mount.
func TestBundleCertificate(t *testing.T) {
	values := helm.Values{"bundleEndpoint": helm.Values{"enabled": true, "issuerRef": helm.Values{"name": "public"}, "dnsNames": []any{"trust.example.com"}}}
	result := render(t, standard, values)
	certificate := result.one(t, "Certificate")
	name, _, _ := unstructured.NestedString(certificate.Object, "spec", "secretName")
	names, _, _ := unstructured.NestedStringSlice(certificate.Object, "spec", "dnsNames")
	volumes := webhookPods(t, result).Spec.Volumes
	if mounted := volumes[len(volumes)-1].Secret; mounted == nil || mounted.SecretName != name || len(names) != 1 || names[0] != "trust.example.com" {
		t.Errorf("cert-manager writes %s for %v, the Pods mount %+v", name, names, mounted)
	}
}

// The endpoint needs no right that the webhook does not have anyway.
func TestBundleRights(t *testing.T) {
	with, without := render(t, standard, bundled(nil)), render(t, standard, nil)
	for name, object := range with.objects {
		if kind := object.GetKind(); strings.HasSuffix(kind, "Role") || strings.HasSuffix(kind, "RoleBinding") {
			if diff := cmp.Diff(without.objects[name], object); diff != "" {
				t.Errorf("%s changes (-without +with):\n%s", name, diff)
			}
		}
	}
}

// By default, nothing of it exists.
func TestBundleDisabled(t *testing.T) {
	result := render(t, standard, nil)
	if result.objects["Service istiod-agent-bundle"] != nil || configuration(t, result).Server.BundleEndpoint.Enabled() {
		t.Error("the endpoint is enabled")
	}
}
