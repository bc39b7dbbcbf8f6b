// SPDX-License-Identifier: Apache-2.0

package rotate

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/cli/renew"
	"github.com/istiod-agent/istiod-agent/cli/verify"
	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

const resource = "virtualmeshes.networking.mesh.gloo.solo.io"

// readPlace reads how far the change is. whole has what istiods publish read too, which does not change how far it is.
func readState(ctx context.Context, cluster *clusters.Cluster, key types.NamespacedName, whole bool) (ClusterState, error) {
	state := ClusterState{Context: cluster.Context, Mesh: key}
	object := untyped()
	switch err := cluster.Client.Get(ctx, key, object); {
	case client.IgnoreNotFound(err) == nil && err != nil:
		return state, fmt.Errorf("there is no VirtualMesh %s; %s get virtualmeshes -A lists those that are there", key, cluster.Kubectl())
	case err != nil:
		return state, cluster.Explain("reading VirtualMesh "+key.String(), "get", resource, err)
	}
	state.annotations(object.GetAnnotations())
	var status networkingv1.VirtualMeshStatus
	stored, _, _ := unstructured.NestedMap(object.Object, "status")
	if runtime.DefaultUnstructuredConverter.FromUnstructured(stored, &status) == nil { // else it is another's
		state.State, state.Errors, state.Rotation = status.State, status.Errors, status.RootRotation
	}
	for _, mesh := range slices.Sorted(maps.Keys(status.Meshes)) {
		made := status.Meshes[mesh].IssuedCertificate
		if made == nil {
			continue
		}
		issued := types.NamespacedName{Namespace: made.Namespace, Name: made.Name}
		certificate, err := renew.Get(ctx, cluster, issued)
		if err != nil {
			return state, err
		}
		state.Certificates = append(state.Certificates, issued)
		state.Replicas = append(state.Replicas, certificate.Status.Certificates...)
	}
	if !whole {
		return state, nil
	}
	mesh, _, errs := networkingv1.FromObject(object.Object)
	if len(errs) > 0 {
		return state, fmt.Errorf("VirtualMesh %s: %w", key, errs.ToAggregate())
	}
	return state, state.read(ctx, cluster, mesh.Spec.Meshes)
}

// annotations takes those that change the root. Roots that cannot be read are none.
func (s *ClusterState) annotations(targets map[string]string) {
	s.Requested = networkingv1.RootRotation(targets[networkingv1.RootRotationAnnotation])
	s.FromSecret = targets[networkingv1.RotateFromSecretAnnotation]
	s.Roots, _ = pemcerts.ParseRoots([]byte(targets[networkingv1.TrustedRootsAnnotation]))
}

// read reads what the istiods of the meshes publish, each in its own namespace: what others publish is not to be trusted.
func (s *ClusterState) read(ctx context.Context, cluster *clusters.Cluster, meshes []networkingv1.MeshRef) error {
	deployments := &metav1.PartialObjectMetadataList{}
	deployments.SetGroupVersionKind(schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "DeploymentList"})
	if err := cluster.Client.List(ctx, deployments, client.MatchingLabels(istio.IstiodLabels)); err != nil {
		return cluster.Explain("listing istiod's Deployments", "list", "deployments.apps", err)
	}
	var namespaces []string
	for _, deployment := range deployments.Items {
		if slices.ContainsFunc(meshes, func(m networkingv1.MeshRef) bool { return refersTo(m, deployment.Name, deployment.Namespace) }) && !slices.Contains(namespaces, deployment.Namespace) {
			namespaces = append(namespaces, deployment.Namespace)
		}
	}
	if len(namespaces) == 0 {
		return errors.New("no Deployment of istiod (label app=istiod) is there that the VirtualMesh names in spec.meshes")
	}
	bundles, err := verify.ReadPublished(ctx, cluster, namespaces)
	if err != nil {
		return err
	}
	for _, namespace := range slices.Sorted(maps.Keys(bundles)) {
		roots, err := pemcerts.ParseRoots([]byte(bundles[namespace]))
		if err != nil {
			return fmt.Errorf("reading the roots in ConfigMap istio-ca-root-cert of namespace %s: %w; has istiod started?", namespace, err)
		}
		s.Published = append(s.Published, roots)
	}
	return nil
}

// names reports whether a reference names an istiod, of whatever cluster, or matches it by a pattern.
func refersTo(mesh networkingv1.MeshRef, deployment, namespace string) bool {
	if prefix, suffix, pattern := mesh.Pattern(); pattern {
		return strings.HasPrefix(deployment, prefix) && strings.HasPrefix(suffix, "-"+namespace+"-")
	}
	return strings.HasPrefix(mesh.Name, deployment+"-"+namespace+"-")
}

func untyped() *unstructured.Unstructured {
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(networkingv1.GroupVersion.WithKind(networkingv1.Kind))
	return object
}

func encodePEM(roots []*x509.Certificate) string {
	var text strings.Builder
	for _, root := range roots {
		_ = pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: root.Raw}) // to memory
	}
	return text.String()
}
