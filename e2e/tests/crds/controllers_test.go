// SPDX-License-Identifier: Apache-2.0

package crds

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/controlplane"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

// older is the schema of an older Gloo Mesh with fewer fields in the status. The API server drops the others.
const older = `
type: object
properties:
  spec: {type: object, x-kubernetes-preserve-unknown-fields: true}
  status:
    type: object
    properties:
      observedGeneration: {type: integer}
      state: {type: string}
      errors: {type: array, items: {type: string}}
      meshes:
        type: object
        additionalProperties:
          type: object
          properties: {state: {type: string}, acceptanceOrder: {type: integer}, errors: {type: array, items: {type: string}}}
      destinations: {type: object, x-kubernetes-preserve-unknown-fields: true}
`

// gloos are objects that a Gloo Mesh stored before the chart was installed: an invalid VirtualMesh, one for Gloo Mesh alone, and
// an IssuedCertificate that Gloo Mesh created.
const gloos = `
apiVersion: networking.mesh.gloo.solo.io/v1
kind: VirtualMesh
metadata: {name: bad, namespace: gloo-mesh}
spec: {meshes: [{name: istiod-bad-cluster-1}], mtlsConfig: {shared: {intermediateCertificateAuthority: {vault: {server: 8200}}}}}
---
apiVersion: networking.mesh.gloo.solo.io/v1
kind: VirtualMesh
metadata: {name: theirs, namespace: gloo-mesh}
spec: {meshes: [{name: istiod-elsewhere-cluster-1}], mtlsConfig: {shared: {rootCertificateAuthority: {generated: {}}}}}
---
apiVersion: certificates.mesh.gloo.solo.io/v1
kind: IssuedCertificate
metadata: {name: istiod-elsewhere-cluster-1, namespace: gloo-mesh}
spec: {hosts: ["spiffe://cluster.local/ns/elsewhere/sa/istiod"], org: gloo, unheardOf: {a: 1}}
`

// The controllers work with a Gloo Mesh's CRDs: a status with fewer fields, and an IssuedCertificate without a schema.
func TestControllersWithForeignCRDs(t *testing.T) {
	c := emptyCluster(t)
	ctx := t.Context()
	var narrow map[string]any
	must(t, yaml.Unmarshal([]byte(older), &narrow))
	for kind := range resources {
		openAPI := map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}
		if kind.Kind == networkingv1.Kind {
			openAPI = narrow
		}
		must(t, c.Create(ctx, othersCRD(kind, openAPI)))
	}
	for _, namespace := range []string{"gloo-mesh", "istio-system"} {
		must(t, c.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}))
	}
	for manifest := range strings.SplitSeq(gloos, "---") {
		made := object(t, manifest, "gloo-mesh")
		cluster.Eventually(t, "what Gloo Mesh has made is there", func() error {
			return client.IgnoreAlreadyExists(c.Create(t.Context(), made.DeepCopy()))
		})
	}
	must(t, c.Install(ctx, webhookserver.Options{Values: helm.Values{"clusterName": "cluster-1", "crds": helm.Values{"install": false}}}))
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(c.Webhook.Replicas[0].Log())
		}
	})
	must(t, c.Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "istio", Namespace: "istio-system", Labels: map[string]string{"istio.io/rev": "default"}},
		Data:       map[string]string{"mesh": "trustDomain: cluster.local"},
	}))
	c.MustApply(t, cluster.Istiod(t, "istio-system"))
	must(t, c.SetInjection(ctx, "istio-system", true))
	mesh := object(t, guide, "gloo-mesh")
	must(t, c.Create(ctx, mesh.DeepCopy()))
	made := named(t, certificate, "istio-system", "istiod-istio-system-cluster-1")

	server := func(want string) func() error {
		return func() error {
			if err := c.Get(ctx, client.ObjectKeyFromObject(made), made); err != nil {
				return err
			}
			if found, _, _ := unstructured.NestedString(made.Object, "spec", "agentCa", "vault", "server"); found != want {
				return fmt.Errorf("its Vault is %q", found)
			}
			return nil
		}
	}
	cluster.Eventually(t, "the IssuedCertificate is made", server("http://vault.vault:8200"))
	wantState(t, c, "virtual-mesh", networkingv1.Accepted, "")
	wantState(t, c, "bad", networkingv1.Invalid, "spec.mtlsConfig.shared.intermediateCertificateAuthority.vault.server")
	wantState(t, c, "theirs", networkingv1.Accepted, "")

	// A mistake is refused by the webhook alone, and a change is followed.
	err := c.Create(ctx, with(mesh, map[string]any{"metadata.name": "more", "spec.mtlsConfig.autoRestartPods": "yes"}), client.DryRunAll)
	if !apierrors.IsInvalid(err) || !slices.ContainsFunc(causes(err), func(s string) bool { return strings.HasPrefix(s, "spec.mtlsConfig.autoRestartPods: ") }) {
		t.Errorf("want a refusal, got: %v", err)
	}
	must(t, c.Patch(ctx, mesh.DeepCopy(), client.RawPatch("application/merge-patch+json",
		[]byte(`{"spec":{"mtlsConfig":{"shared":{"intermediateCertificateAuthority":{"vault":{"server":"https://other:8200"}}}}}}`))))
	cluster.Eventually(t, "the change is followed", server("https://other:8200"))

	// Where the stage of a change of the root cannot be kept, it does not begin.
	roots := ""
	for range 2 {
		roots += string(testca.Root("my-org").PEM())
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{
		networkingv1.RootRotationAnnotation: "drop-old", networkingv1.TrustedRootsAnnotation: roots,
	}}})
	must(t, err)
	wrote := func() int { return statusWrites(t, c)[mesh.GetName()] }
	before := wrote()
	must(t, c.Patch(ctx, mesh.DeepCopy(), client.RawPatch("application/merge-patch+json", patch)))
	cluster.Eventually(t, "the controller has tried to keep the stage", func() error {
		if now := wrote(); now == before {
			return fmt.Errorf("it has written %d times", now)
		}
		return nil
	})
	must(t, server("https://other:8200")())
	if _, begun := made.GetAnnotations()[certificatesv1.TrustedRootsAnnotation]; begun {
		t.Error("the change of the root has begun, and nobody would know how far it is")
	}

	// What the API server drops is not written again and again.
	for name, n := range statusWrites(t, c) {
		if n > 10 {
			t.Errorf("the status of %s was written %d times", name, n)
		}
	}

	must(t, c.Delete(ctx, mesh.DeepCopy()))
	cluster.Eventually(t, "the IssuedCertificate is gone", func() error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(made), made); !apierrors.IsNotFound(err) {
			return errors.Join(errors.New("it is there"), err)
		}
		return nil
	})
	theirs := named(t, certificate, "gloo-mesh", "istiod-elsewhere-cluster-1")
	must(t, c.Get(ctx, client.ObjectKeyFromObject(theirs), theirs))
	if theirs.GetResourceVersion() == "" || theirs.GetGeneration() != 1 || theirs.Object["status"] != nil {
		t.Errorf("Gloo Mesh's own IssuedCertificate was changed: %v", theirs.Object)
	}
}

// statusWrites returns the number of the program's status writes by object name.
func statusWrites(t *testing.T, c *cluster.Cluster) map[string]int {
	t.Helper()
	user, _ := controlplane.ServiceAccount(webhookserver.Release.Namespace, webhookserver.Name)
	requests, err := c.Plane.Requests(user)
	must(t, err)
	writes := map[string]int{}
	for _, each := range requests {
		if each.Write() && each.ObjectRef.Subresource == "status" {
			writes[each.ObjectRef.Name]++
		}
	}
	return writes
}

func named(t *testing.T, manifest, namespace, name string) *unstructured.Unstructured {
	t.Helper()
	read := object(t, manifest, namespace)
	read.SetName(name)
	return read
}

// wantState waits until a VirtualMesh has a state and an error that holds a text.
func wantState(t *testing.T, c *cluster.Cluster, name string, state networkingv1.ApprovalState, says string) {
	t.Helper()
	stored := object(t, guide, "gloo-mesh")
	cluster.Eventually(t, fmt.Sprintf("VirtualMesh %s is %s", name, state), func() error {
		if err := c.Get(t.Context(), client.ObjectKey{Namespace: "gloo-mesh", Name: name}, stored); err != nil {
			return err
		}
		found, _, _ := unstructured.NestedString(stored.Object, "status", "state")
		if errs, _, _ := unstructured.NestedStringSlice(stored.Object, "status", "errors"); found != string(state) || !strings.Contains(strings.Join(errs, "; "), says) {
			return fmt.Errorf("its status is %v", stored.Object["status"])
		}
		return nil
	})
}
