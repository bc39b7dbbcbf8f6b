// SPDX-License-Identifier: Apache-2.0

package crds

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/agent"
	agentcluster "github.com/istiod-agent/istiod-agent/agent/cluster"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
)

var (
	crdKind = schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"}
	// resources by kind.
	resources = map[schema.GroupVersionKind]schema.GroupVersionResource{
		networkingv1.GroupVersion.WithKind(networkingv1.Kind):                       networkingv1.VirtualMeshes,
		certificatesv1.GroupVersion.WithKind(certificatesv1.Kind):                   certificatesv1.IssuedCertificates,
		certificatesv1.GroupVersion.WithKind(certificatesv1.PodBounceDirectiveKind): certificatesv1.PodBounceDirectives,
	}
)

// emptyCluster starts a cluster for one test, since CRDs are cluster-wide.
func emptyCluster(t *testing.T) *cluster.Cluster {
	t.Helper()
	c, err := cluster.Start()
	must(t, err)
	t.Cleanup(func() { must(t, c.Stop()) })
	return c
}

func TestInstallation(t *testing.T) {
	c := emptyCluster(t)
	root, err := built.Root()
	must(t, err)
	chart, err := loader.Load(filepath.Join(root, "charts", "istiod-agent"))
	must(t, err)
	release := helm.Release{Name: "istiod-agent", Namespace: "istiod-agent-system"}
	for _, namespace := range []string{release.Namespace, "istio-system"} {
		must(t, c.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}))
	}
	// An older version had fewer columns, fewer fields in the status, and no bound of the renewal ratio.
	older := func(crd *unstructured.Unstructured) error {
		if crd.GetKind() != crdKind.Kind {
			return nil
		}
		versions, _, err := unstructured.NestedSlice(crd.Object, "spec", "versions")
		if err != nil {
			return err
		}
		delete(versions[0].(map[string]any), "additionalPrinterColumns")
		if crd.GetName() == certificatesv1.IssuedCertificates.GroupResource().String() {
			properties := func(of any) map[string]any { return of.(map[string]any)["properties"].(map[string]any) }
			fields := properties(versions[0].(map[string]any)["schema"].(map[string]any)["openAPIV3Schema"])
			delete(fields["spec"].(map[string]any), "x-kubernetes-validations")
			status := properties(fields["status"])
			maps.DeleteFunc(status, func(name string, _ any) bool {
				return slices.Contains([]string{"notAfter", "root", "rootNotAfter"}, name)
			})
			maps.DeleteFunc(properties(status["certificates"].(map[string]any)["items"]), func(name string, _ any) bool {
				return slices.Contains([]string{"reason", "rootNotAfter", "limitedBy"}, name)
			})
		}
		return unstructured.SetNestedSlice(crd.Object, versions, "spec", "versions")
	}
	columns := func() int {
		t.Helper()
		crd := &unstructured.Unstructured{}
		crd.SetGroupVersionKind(crdKind)
		must(t, c.Get(t.Context(), client.ObjectKey{Name: "virtualmeshes.networking.mesh.gloo.solo.io"}, crd))
		versions, _, err := unstructured.NestedSlice(crd.Object, "spec", "versions")
		must(t, err)
		found, _ := versions[0].(map[string]any)["additionalPrinterColumns"].([]any)
		return len(found)
	}

	for _, clientSide := range []bool{false, true} {
		t.Run(fmt.Sprintf("client-side %t", clientSide), func(t *testing.T) {
			release.ClientSide = clientSide
			must(t, c.Helm.InstallPatched(t.Context(), release, chart, nil, older))
			if found := columns(); found != 0 {
				t.Fatalf("the older CRD has %d columns", found)
			}
			mesh := object(t, guide, "default")
			cluster.Eventually(t, "a VirtualMesh can be created", func() error {
				created := mesh.DeepCopy()
				return client.IgnoreAlreadyExists(c.Create(t.Context(), created))
			})
			stored := named(t, certificate, "default", "older")
			must(t, unstructured.SetNestedField(stored.Object, 0.95, "spec", "certOptions", "secretRotationGracePeriodRatio"))
			must(t, client.IgnoreAlreadyExists(c.Create(t.Context(), stored.DeepCopy())))
			wantReport(t.Context(), t, c, stored, false)
			must(t, c.Helm.Upgrade(t.Context(), release, chart, nil))
			cluster.Eventually(t, "the API server knows the bound of the ratio", func() error {
				err := c.Create(t.Context(), with(stored, map[string]any{"metadata.name": "newer"}), client.DryRunAll)
				if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.certOptions.secretRotationGracePeriodRatio: Invalid value: ") {
					return fmt.Errorf("want a refusal, got: %w", err)
				}
				return nil
			})
			// What is stored can be reported about, and changed elsewhere.
			wantReport(t.Context(), t, c, stored, true)
			must(t, c.Patch(t.Context(), stored.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"annotations":{"istiod-agent.io/renew":"now"}}}`))))
			if found := columns(); found != 5 {
				t.Errorf("after the upgrade the CRD has %d columns", found)
			}
			must(t, c.Helm.Uninstall(release))
			if err := c.Get(t.Context(), client.ObjectKeyFromObject(mesh), mesh); err != nil {
				t.Errorf("after the release the VirtualMesh is gone: %v", err)
			}
		})
	}

	t.Run("not kept", func(t *testing.T) {
		must(t, c.Helm.Install(t.Context(), release, chart, helm.Values{"crds": helm.Values{"keep": false}}))
		must(t, c.Helm.Uninstall(release))
		// Each is gone, or is going: how long the API server's own finalizer takes is not the chart's matter
		// (apiextensions-apiserver/pkg/controller/finalizer/crd_finalizer.go tries again with growing pauses).
		for kind, resource := range resources {
			crd := &unstructured.Unstructured{}
			crd.SetGroupVersionKind(crdKind)
			switch err := c.Get(t.Context(), client.ObjectKey{Name: resource.GroupResource().String()}, crd); {
			case apierrors.IsNotFound(err):
			case err != nil:
				t.Errorf("%s: %v", kind.Kind, err)
			case crd.GetDeletionTimestamp() == nil:
				t.Errorf("%s: the release is gone, and nobody deletes its CRD", kind.Kind)
			}
		}
	})
}

// wantReport runs an agent and expects its entry and its conditions in the status, even if the CRD does not define them.
func wantReport(ctx context.Context, t *testing.T, c *cluster.Cluster, about *unstructured.Unstructured, all bool) {
	t.Helper()
	api, err := agentcluster.New(c.Plane.Config, agent.Identity{Pod: "istiod-0", Namespace: about.GetNamespace()})
	must(t, err)
	end := metav1.NewTime(time.Now().Add(24 * time.Hour).Truncate(time.Second))
	object := &certificatesv1.IssuedCertificate{ObjectMeta: metav1.ObjectMeta{Name: about.GetName(), Namespace: about.GetNamespace()}}
	report := api.Reporter(testr.New(t))
	report.Status(object, certificatesv1.IssuedCertificateStatus{ObservedGeneration: 1, Certificates: []certificatesv1.CertificateStatus{{
		Pod: "istiod-0", SerialNumber: "01", Reason: "VaultSealed", Error: "sealed", NotAfter: &end, RootNotAfter: &end, LimitedBy: "the root",
	}}})
	ended, cancel := context.WithCancel(ctx)
	cancel()
	report.Run(ended)
	stored := about.DeepCopy()
	must(t, c.Get(ctx, client.ObjectKeyFromObject(about), stored))
	var status certificatesv1.IssuedCertificateStatus
	content, _, _ := unstructured.NestedMap(stored.Object, "status")
	must(t, runtime.DefaultUnstructuredConverter.FromUnstructured(content, &status))
	if len(status.Certificates) != 1 || status.Certificates[0].SerialNumber != "01" || !meta.IsStatusConditionTrue(status.Conditions, certificatesv1.ReadyCondition) {
		t.Errorf("the status is %v", content)
	}
	if known := status.NotAfter != nil && status.Certificates[0].Reason != "" && status.Certificates[0].LimitedBy != ""; known != all {
		t.Errorf("want all of the details: %t; the status is %v", all, content)
	}
}

// othersCRD returns Gloo Mesh's CRD of a kind.
func othersCRD(kind schema.GroupVersionKind, openAPI map[string]any) *unstructured.Unstructured {
	resource := resources[kind]
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": crdKind.GroupVersion().String(), "kind": crdKind.Kind,
		"metadata": map[string]any{"name": resource.GroupResource().String(), "labels": map[string]any{"app": "gloo-mesh"}},
		"spec": map[string]any{
			"group": kind.Group, "scope": "Namespaced",
			"names": map[string]any{"kind": kind.Kind, "listKind": kind.Kind + "List", "plural": resource.Resource, "singular": strings.ToLower(kind.Kind)},
			"versions": []any{map[string]any{
				"name": "v1", "served": true, "storage": true, "subresources": map[string]any{"status": map[string]any{}},
				"schema": map[string]any{"openAPIV3Schema": openAPI},
			}},
		},
	}}
}

// The CRDs may belong to an old Gloo Mesh: they validate nothing, and Gloo Mesh writes the status in its own form.
func TestObjectsInForeignCRDs(t *testing.T) {
	c := emptyCluster(t)
	ctx := t.Context()
	for kind := range resources {
		must(t, c.Create(ctx, othersCRD(kind, map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true})))
	}
	scheme := runtime.NewScheme()
	must(t, networkingv1.AddToScheme(scheme))
	must(t, certificatesv1.AddToScheme(scheme))
	typed, err := client.New(c.Plane.Config, client.Options{Scheme: scheme})
	must(t, err)

	sent := []*unstructured.Unstructured{object(t, guide, "default"), object(t, certificate, "default"), object(t, directive, "default")}
	for _, each := range sent {
		cluster.Eventually(t, "it can be created", func() error { return client.IgnoreAlreadyExists(c.Create(ctx, each.DeepCopy())) })
	}
	wantAll := func() {
		t.Helper()
		for _, each := range sent {
			stored := &unstructured.Unstructured{}
			stored.SetGroupVersionKind(each.GroupVersionKind())
			must(t, c.Get(ctx, client.ObjectKeyFromObject(each), stored))
			if diff := cmp.Diff(plain(t, each.Object["spec"]), plain(t, stored.Object["spec"])); diff != "" {
				t.Errorf("%s (-sent +stored):\n%s", each.GetKind(), diff)
			}
		}
	}
	wantAll()
	mesh := &networkingv1.VirtualMesh{}
	key := client.ObjectKeyFromObject(sent[0])
	must(t, typed.Get(ctx, key, mesh))
	mesh.Status = networkingv1.VirtualMeshStatus{ObservedGeneration: 1, State: networkingv1.Accepted, NotActedOn: []string{"spec.globalAccessPolicy"}}
	must(t, typed.Status().Update(ctx, mesh))
	if mesh.Status.State != networkingv1.Accepted || len(mesh.Status.NotActedOn) != 1 {
		t.Errorf("the status is kept as %+v", mesh.Status)
	}

	// Gloo Mesh writes numbers as text. Whoever reads by FromObject can read on.
	theirs := sent[0].DeepCopy()
	must(t, c.Get(ctx, key, theirs))
	theirs.Object["status"] = map[string]any{"observedGeneration": "1", "state": "ACCEPTED", "meshes": map[string]any{"a.b.": map[string]any{"state": "ACCEPTED"}}}
	must(t, c.Status().Update(ctx, theirs))
	broken := with(sent[0], map[string]any{"metadata.name": "broken", "spec.mtlsConfig.autoRestartPods": "yes", "spec.mtlsConfig.autoRestartPod": true})
	must(t, c.Create(ctx, broken))
	if _, warnings, errs := networkingv1.FromObject(theirs.Object); len(warnings) > 0 || len(errs) > 0 {
		t.Errorf("it does not read: %q, %v", warnings, errs)
	}
	if _, warnings, errs := networkingv1.FromObject(broken.Object); len(warnings) != 1 || len(errs) != 1 || errs[0].Field != "spec.mtlsConfig.autoRestartPods" {
		t.Errorf("want what is unknown and what does not fit: %q, %v", warnings, errs)
	}

	// Ours take their place: all that was there stays, and can be changed.
	for _, each := range sent {
		crd := &unstructured.Unstructured{}
		crd.SetGroupVersionKind(crdKind)
		crd.SetName(resources[each.GroupVersionKind()].GroupResource().String())
		must(t, c.Get(ctx, client.ObjectKeyFromObject(crd), crd))
		ours := ownCRD(t, crd.GetName())
		crd.Object["spec"] = ours.Object["spec"]
		must(t, c.Update(ctx, crd))
	}
	cluster.Eventually(t, "a mistake is refused", func() error {
		err := c.Create(ctx, with(broken, map[string]any{"metadata.name": "more"}), client.DryRunAll)
		if !apierrors.IsInvalid(err) {
			return fmt.Errorf("want a refusal, got: %w", err)
		}
		return nil
	})
	wantAll()
	must(t, c.Get(ctx, key, theirs))
	read, _, errs := networkingv1.FromObject(theirs.Object)
	if len(errs) > 0 {
		t.Errorf("it does not read: %v", errs)
	}
	read.Status = mesh.Status
	must(t, typed.Status().Update(ctx, read))
	if read.Status.ObservedGeneration != 1 {
		t.Errorf("the status is kept as %+v", read.Status)
	}
}

// ownCRD returns a CRD of config/crd.
func ownCRD(t *testing.T, name string) *unstructured.Unstructured {
	t.Helper()
	must(t, agents.Install(t.Context(), shared))
	crd := &unstructured.Unstructured{}
	crd.SetGroupVersionKind(crdKind)
	must(t, shared.Get(t.Context(), client.ObjectKey{Name: name}, crd))
	return crd
}
