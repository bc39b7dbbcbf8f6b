// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istio"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/manifest"
)

// The population is that of one cluster of a large fleet with Gloo Mesh beside, whose VirtualMeshes are all applied to
// every cluster:
//
//   - 300 istiods of two Pods, each in a namespace of its own with its ConfigMap, as each of 300 tenants has one;
//   - 1,000 VirtualMeshes of three meshes: 300 name an istiod of this cluster and one of each of two others, 700 name
//     meshes of other clusters alone, about which there is nothing but a status to write;
//   - 3,000 IssuedCertificates in the end: the 300 that are to be made here, and 2,700 that Gloo Mesh has made, which
//     are seen and not touched;
//   - 1,000 Deployments, 2,000 Pods and 1,000 ConfigMaps of others, 30 MiB altogether, which no cache may hold.
const (
	istiods            = 300
	replicasOfIstiod   = 2
	virtualMeshes      = 1000
	issuedCertificates = 3000
	otherDeployments   = 1000
	podsOfOthers       = 2 // of each Deployment
	othersBytes        = 20_000
	// atOnce is how many objects are created at a time.
	atOnce = 8
)

func tenant(i int) string { return fmt.Sprintf("tenant-%03d", i) }

// mesh is the name of an istiod's mesh in a cluster.
func mesh(i, of int) string { return fmt.Sprintf("istiod-%s-cluster-%d", tenant(i), of) }

// populate makes all that is there before the controllers start.
func populate(ctx context.Context, c *cluster.Cluster) error {
	manifests, err := istio.Manifests(ctx, tenant(0), istio.Values(tenant(0), "1.31.0"))
	if err != nil {
		return err
	}
	var istiod []*unstructured.Unstructured
	for _, object := range manifests {
		if object.GetKind() == "Deployment" || object.GetKind() == "ConfigMap" && object.GetName() == "istio" {
			istiod = append(istiod, object)
		}
	}
	if len(istiod) != 2 {
		return fmt.Errorf("rendering Istio's chart: %d objects where istiod and its ConfigMap were looked for", len(istiod))
	}
	sample, err := sampleVirtualMesh()
	if err != nil {
		return err
	}
	return errors.Join(
		each(ctx, istiods, func(ctx context.Context, i int) error { return createIstiod(ctx, c, istiod, tenant(i)) }),
		create(ctx, c, namespace("gloo-mesh"), namespace("others"), serviceAccount("others", "default")),
		create(ctx, c, agentRights()...),
		each(ctx, issuedCertificates-istiods, func(ctx context.Context, i int) error { return create(ctx, c, glooCertificate(i)) }),
		each(ctx, virtualMeshes, func(ctx context.Context, i int) error {
			object, err := virtualMesh(sample, i)
			return errors.Join(err, create(ctx, c, object))
		}),
		each(ctx, otherDeployments, func(ctx context.Context, i int) error { return create(ctx, c, others(i)...) }),
		// From now on they are to be injected.
		each(ctx, istiods, func(ctx context.Context, i int) error { return c.SetInjection(ctx, tenant(i), true) }),
	)
}

// each calls for numbers up to n, several at a time.
func each(ctx context.Context, n int, call func(context.Context, int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i := range n {
		group.Go(func() error { return call(ctx, i) })
	}
	return group.Wait()
}

func create(ctx context.Context, c *cluster.Cluster, objects ...ctrlclient.Object) error {
	for _, object := range objects {
		if err := c.Create(ctx, object, ctrlclient.FieldOwner("kubectl")); err != nil {
			return err
		}
	}
	return nil
}

// agentRights gives every service account the rights of the agent, as a correct installation gives them to istiods'.
func agentRights() []ctrlclient.Object {
	const name = "agents"
	group := []string{"certificates.mesh.gloo.solo.io"}
	return []ctrlclient.Object{
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: []rbacv1.PolicyRule{
			{APIGroups: group, Resources: []string{"issuedcertificates"}, Verbs: []string{"get", "list", "watch"}},
			{APIGroups: group, Resources: []string{"issuedcertificates/status"}, Verbs: []string{"patch"}},
		}},
		&rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: "system:serviceaccounts"}},
		},
	}
}

func namespace(name string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

func serviceAccount(namespace, name string) *corev1.ServiceAccount {
	return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}}
}

// createIstiod makes a tenant's namespace with the objects of Istio's chart that count, and the Pods that would come
// of them.
func createIstiod(ctx context.Context, c *cluster.Cluster, chart []*unstructured.Unstructured, name string) error {
	objects := []ctrlclient.Object{namespace(name), serviceAccount(name, "istiod")}
	for _, object := range chart {
		object = object.DeepCopy()
		object.SetNamespace(name)
		objects = append(objects, object)
	}
	for i := range replicasOfIstiod {
		objects = append(objects, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Name: istiodPod(i), Namespace: name, Labels: map[string]string{"app": "istiod"},
				Annotations: map[string]string{"istiod-agent.io/inject": "false"}, // for the guard: it stands for an injected one
			},
			Spec: corev1.PodSpec{ServiceAccountName: "istiod", Containers: []corev1.Container{{Name: "discovery", Image: "registry.example/pilot"}}},
		})
	}
	return create(ctx, c, objects...)
}

func istiodPod(i int) string { return fmt.Sprintf("istiod-%d", i) }

func sampleVirtualMesh() (*unstructured.Unstructured, error) {
	root, err := built.Root()
	if err != nil {
		return nil, err
	}
	content, err := os.ReadFile(filepath.Join(root, "config", "samples", "virtualmesh.yaml"))
	if err != nil {
		return nil, err
	}
	objects, err := manifest.Parse(bytes.ReplaceAll(content, []byte("http://"), []byte("https://")))
	if err != nil {
		return nil, err
	}
	return objects[0], nil
}

// virtualMesh is one of the 1,000: the first name an istiod of cluster-1.
func virtualMesh(sample *unstructured.Unstructured, i int) (*unstructured.Unstructured, error) {
	first := 1
	if i >= istiods {
		first = 4
	}
	var meshes []any
	for other := range 3 {
		meshes = append(meshes, map[string]any{"name": mesh(i, first+other), "namespace": "gloo-mesh"})
	}
	object := sample.DeepCopy()
	object.SetName(fmt.Sprintf("virtual-mesh-%04d", i))
	return object, unstructured.SetNestedSlice(object.Object, meshes, "spec", "meshes")
}

// glooCertificate is an IssuedCertificate as Gloo Mesh makes them, of a mesh of another cluster.
func glooCertificate(i int) *unstructured.Unstructured {
	name := mesh(i, 9)
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "certificates.mesh.gloo.solo.io/v1", "kind": "IssuedCertificate",
		"metadata": map[string]any{"name": name, "namespace": "gloo-mesh", "labels": map[string]any{"agent.certificates.mesh.gloo.solo.io": "gloo-mesh", "cluster.multicluster.solo.io": "cluster-9"}},
		"spec": map[string]any{
			"hosts": []any{"spiffe://cluster.local/ns/" + tenant(i) + "/sa/istiod"}, "org": "gloo-mesh",
			"glooMeshCa":              map[string]any{"signingCertificateSecret": map[string]any{"name": "virtual-mesh.gloo-mesh", "namespace": "gloo-mesh"}},
			"issuedCertificateSecret": map[string]any{"name": "cacerts", "namespace": "istio-system"},
			"podBounceDirective":      map[string]any{"name": name, "namespace": "gloo-mesh"},
		},
	}}
}

// others are a Deployment with its Pods and its ConfigMap that have nothing to do with istiod.
func others(i int) []ctrlclient.Object {
	const of = "others"
	name := fmt.Sprintf("other-%04d", i)
	meta := metav1.ObjectMeta{Name: name, Namespace: of, Labels: map[string]string{"app": name}}
	template := corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: meta.Labels},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "registry.example/app", Env: []corev1.EnvVar{{Name: "MUCH", Value: strings.Repeat("x", othersBytes/4)}}}}},
	}
	objects := []ctrlclient.Object{
		&appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: meta.Labels}, Template: template}},
		&corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"much": strings.Repeat("x", othersBytes)}},
	}
	for replica := range podsOfOthers {
		pod := &corev1.Pod{ObjectMeta: meta, Spec: template.Spec}
		pod.Name = fmt.Sprintf("%s-%d", name, replica)
		objects = append(objects, pod)
	}
	return objects
}
