// SPDX-License-Identifier: Apache-2.0

package rotate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

// readState reads the state of a root change. withPublished includes the published trust bundles, which only trust-both needs.
func readState(ctx context.Context, cluster *clusters.Cluster, key types.NamespacedName, withPublished bool) (clusterState, error) {
	state := clusterState{Context: cluster.Context, Mesh: key}
	object, err := cluster.Get(ctx, clusters.VirtualMeshKind, key)
	switch {
	case client.IgnoreNotFound(err) == nil && err != nil:
		return state, fmt.Errorf("there is no VirtualMesh %s; list them by %s get virtualmeshes -A", key, cluster.Kubectl())
	case err != nil:
		return state, cluster.Explain("reading VirtualMesh "+key.String(), "get", clusters.VirtualMeshes, err)
	}
	annotations := object.GetAnnotations()
	state.Requested = networkingv1.RootRotation(annotations[networkingv1.RootRotationAnnotation])
	state.FromSecret = annotations[networkingv1.RotateFromSecretAnnotation]
	state.Roots, _ = pemcerts.ParseRoots([]byte(annotations[networkingv1.TrustedRootsAnnotation])) // mistakes count as absent
	var status networkingv1.VirtualMeshStatus
	if clusters.DecodeStatus(object, &status) {
		state.State, state.Errors, state.Rotation = status.State, status.Errors, status.RootRotation
	}
	for _, mesh := range slices.Sorted(maps.Keys(status.Meshes)) {
		ref := status.Meshes[mesh].IssuedCertificate
		if ref == nil {
			continue
		}
		certificateKey := types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}
		certificate, err := renew.Get(ctx, cluster, certificateKey)
		if err != nil {
			return state, err
		}
		state.Certificates = append(state.Certificates, certificateKey)
		state.Replicas = append(state.Replicas, certificate.Status.Certificates...)
	}
	if !withPublished {
		return state, nil
	}
	mesh, _, errs := networkingv1.FromObject(object.Object)
	if len(errs) > 0 {
		return state, fmt.Errorf("VirtualMesh %s: %w", key, errs.ToAggregate())
	}
	return state, state.readPublished(ctx, cluster, mesh.Spec.Meshes)
}

// readPublished reads the trust bundles of the meshes' istiods, each from its own namespace: others may write elsewhere.
func (s *clusterState) readPublished(ctx context.Context, cluster *clusters.Cluster, meshes []networkingv1.MeshRef) error {
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
		return errors.New("spec.meshes of the VirtualMesh names no Deployment of istiod (label app=istiod) in this cluster")
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

// refersTo reports whether a reference names or matches an istiod, of any cluster.
func refersTo(mesh networkingv1.MeshRef, deployment, namespace string) bool {
	if prefix, suffix, pattern := mesh.Pattern(); pattern {
		return strings.HasPrefix(deployment, prefix) && strings.HasPrefix(suffix, "-"+namespace+"-")
	}
	return strings.HasPrefix(mesh.Name, deployment+"-"+namespace+"-")
}
