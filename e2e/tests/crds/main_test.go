// SPDX-License-Identifier: Apache-2.0

// Package crds tests the CRDs in an API server: the fields that it stores, the mistakes that it rejects with their paths, and
// the installation by the chart.
package crds

import (
	"encoding/json"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/check"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
)

var must = check.Must

var shared *cluster.Cluster

func TestMain(m *testing.M) { cluster.Main(m, &shared, nil) }

// guide is the VirtualMesh of Gloo Mesh's Vault guide, verbatim.
const guide = `apiVersion: networking.mesh.gloo.solo.io/v1
kind: VirtualMesh
metadata:
  name: virtual-mesh
  namespace: gloo-mesh
spec:
  mtlsConfig:
    # Note: Do NOT use this autoRestartPods setting in production!!
    autoRestartPods: true
    shared:
      intermediateCertificateAuthority:
        vault:
          # Vault path to the CA endpoint
          caPath: "pki/root/sign-intermediate"
          # Vault path to the CSR endpoint
          csrPath: "pki_int/intermediate/generate/exported"
          # Vault server endpoint
          server: "http://vault.vault:8200"
          # Auth mechanism to use
          kubernetesAuth:
            role: "gen-int-ca-istio"
  federation:
    # federate all Destinations to all external meshes
    selectors:
    - {}
  meshes:
  - name: istiod-istio-system-cluster-1
    namespace: gloo-mesh
  - name: istiod-istio-system-cluster-2
    namespace: gloo-mesh
`

// certificate is a minimal IssuedCertificate.
const certificate = `apiVersion: certificates.mesh.gloo.solo.io/v1
kind: IssuedCertificate
metadata: {name: istiod-istio-system-cluster-1}
spec:
  hosts: [spiffe://cluster.local/ns/istio-system/sa/istiod]
  agentCa:
    vault: {server: "https://vault.vault:8200", caPath: pki/root/sign-intermediate, kubernetesAuth: {role: istiod}}
`

// directive is a PodBounceDirective as Gloo Mesh creates it for a gateway.
const directive = `apiVersion: certificates.mesh.gloo.solo.io/v1
kind: PodBounceDirective
metadata: {name: istiod-istio-system-cluster-1}
spec:
  podsToBounce:
  - namespace: istio-system
    labels: {istio: ingressgateway}
    waitForReplicas: 1
    rootCertSync:
      secretRef: {name: cacerts, namespace: istio-system}
      secretKey: root-cert.pem
      configMapRef: {name: istio-ca-root-cert, namespace: istio-system}
      configMapKey: root-cert.pem
  - namespace: bookinfo
`

// object parses a manifest and sets its namespace.
func object(t *testing.T, manifest, namespace string) *unstructured.Unstructured {
	t.Helper()
	asJSON, err := yaml.YAMLToJSONStrict([]byte(manifest))
	must(t, err)
	read := &unstructured.Unstructured{}
	must(t, read.UnmarshalJSON(asJSON))
	read.SetNamespace(namespace)
	return read
}

// with sets fields, by their path with dots, in a copy of an object; nil removes a field.
func with(original *unstructured.Unstructured, parts map[string]any) *unstructured.Unstructured {
	changed := original.DeepCopy()
	for path, part := range parts {
		fields := strings.Split(path, ".")
		if part == nil {
			unstructured.RemoveNestedField(changed.Object, fields...)
		} else if err := unstructured.SetNestedField(changed.Object, part, fields...); err != nil {
			panic(err)
		}
	}
	return changed
}

// plain converts a value to the types of JSON.
func plain(t *testing.T, value any) any {
	t.Helper()
	text, err := json.Marshal(value)
	must(t, err)
	var decoded any
	must(t, json.Unmarshal(text, &decoded))
	return decoded
}
