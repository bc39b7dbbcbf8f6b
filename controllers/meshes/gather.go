// SPDX-License-Identifier: Apache-2.0

package meshes

import (
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/controller-runtime/pkg/client"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/controllers"
	"github.com/istiod-agent/istiod-agent/internal/istio"
)

func sourceOf(object *unstructured.Unstructured) storedMesh {
	mesh, unknown, errs := networkingv1.FromObject(object.Object)
	return storedMesh{VirtualMesh: mesh, Unknown: unknown, Unreadable: errs}
}

// gather reads the facts that a VirtualMesh is translated with.
func (c *reconciler) gather(ctx context.Context, object *unstructured.Unstructured) (clusterFacts, error) {
	facts := clusterFacts{
		Cluster: c.cluster, Allowed: c.allowed, Now: metav1.Now(),
		Istiods: map[string][]deployedIstiod{}, NotSelected: map[string][]unselected{}, Claims: map[string][]storedMesh{}, Owners: map[string]storedMesh{},
		Certificates: map[types.NamespacedName]storedCertificate{}, Directives: map[types.NamespacedName]bool{},
	}
	if !c.allowed.Allows(object.GetNamespace()) {
		orphans, err := c.list(ctx, issuedCertificateKind, client.MatchingFields{byVirtualMesh: client.ObjectKeyFromObject(object).String()})
		for i := range orphans {
			facts.Orphans = append(facts.Orphans, client.ObjectKeyFromObject(&orphans[i]).String())
		}
		slices.Sort(facts.Orphans)
		return facts, err
	}
	if restart, _, _ := unstructured.NestedBool(object.Object, "spec", "mtlsConfig", "autoRestartPods"); restart {
		lacking, err := c.rights.Lacking(ctx)
		if err != nil {
			return facts, err
		}
		facts.MissingRights = lacking
	}
	names, err := c.namedMeshes(ctx, object)
	if err != nil {
		return facts, fmt.Errorf("listing istiods: %w", err)
	}
	named := sets.New(names...)
	deployments, err := c.list(ctx, controllers.DeploymentKind)
	if err != nil {
		return facts, fmt.Errorf("listing istiods: %w", err)
	}
	for i := range deployments {
		mesh := istio.MeshName(deployments[i].GetName(), deployments[i].GetNamespace(), c.cluster)
		if !named.Has(mesh) || deployments[i].GetDeletionTimestamp() != nil {
			continue
		}
		why, err := controllers.NotSelected(ctx, c.client, &deployments[i], c.target)
		if err != nil {
			return facts, err
		}
		if why != "" {
			at := types.NamespacedName{Namespace: deployments[i].GetNamespace(), Name: mesh}
			facts.NotSelected[mesh] = append(facts.NotSelected[mesh], unselected{at.Namespace, deployments[i].GetName(), why})
			if err := c.readCertificate(ctx, at, facts.Certificates); err != nil {
				return facts, err
			}
			continue
		}
		if err := c.gatherIstiod(ctx, &deployments[i], mesh, &facts); err != nil {
			return facts, err
		}
	}
	for _, mesh := range statusOf(object).Meshes {
		if at := mesh.IssuedCertificate; at != nil {
			if err := c.readCertificate(ctx, types.NamespacedName{Namespace: at.Namespace, Name: at.Name}, facts.Certificates); err != nil {
				return facts, err
			}
		}
	}
	for mesh := range facts.Istiods {
		if facts.Claims[mesh], err = c.listClaims(ctx, mesh); err != nil {
			return facts, err
		}
	}
	return facts, nil
}

// gatherIstiod reads an istiod and its stored objects.
func (c *reconciler) gatherIstiod(ctx context.Context, deployment *unstructured.Unstructured, mesh string, facts *clusterFacts) error {
	istiod, err := readIstiod(ctx, c.client, c.live, deployment)
	if err != nil {
		return err
	}
	facts.Istiods[mesh] = append(facts.Istiods[mesh], istiod)
	at := types.NamespacedName{Namespace: istiod.Namespace, Name: mesh}
	if err := c.readCertificate(ctx, at, facts.Certificates); err != nil {
		return err
	}
	directive := podBounceDirective()
	if err := c.client.Get(ctx, at, directive); err == nil {
		facts.Directives[at] = ownersOf(directive) != nil
	} else if !apierrors.IsNotFound(err) {
		return err
	}
	owner := facts.Certificates[at].Owner
	key := keyOf(owner)
	if key.Name == "" || !c.allowed.Allows(key.Namespace) {
		return nil
	}
	object := virtualMesh()
	if err := c.client.Get(ctx, key, object); err != nil {
		return client.IgnoreNotFound(err)
	}
	if object.GetDeletionTimestamp() == nil {
		facts.Owners[owner] = sourceOf(object)
	}
	return nil
}

// listClaims returns the VirtualMeshes of allowed namespaces that name a CA, and the mesh by name or by a pattern.
func (c *reconciler) listClaims(ctx context.Context, mesh string) (claims []storedMesh, err error) {
	seen := map[types.NamespacedName]bool{}
	for _, key := range keysOf(mesh) {
		naming, err := c.list(ctx, virtualMeshKind, client.MatchingFields{byMesh: key})
		if err != nil {
			return nil, fmt.Errorf("listing VirtualMeshes of mesh %s: %w", mesh, err)
		}
		for i := range naming {
			at := client.ObjectKeyFromObject(&naming[i])
			if seen[at] || !c.allowed.Allows(at.Namespace) || naming[i].GetDeletionTimestamp() != nil {
				continue
			}
			seen[at] = true
			if source := sourceOf(&naming[i]); source.Spec.IntermediateCA() != nil {
				claims = append(claims, source)
			}
		}
	}
	return claims, nil
}

// claimedByOther reports whether another VirtualMesh claims an IssuedCertificate. A pattern claims those of existing
// Deployments only.
func (c *reconciler) claimedByOther(ctx context.Context, at, except types.NamespacedName) (bool, error) {
	claims, err := c.listClaims(ctx, at.Name)
	if err != nil {
		return false, err
	}
	strength := noClaim
	for _, claim := range claims {
		if claim.key() != except {
			strength = max(strength, claim.claimOn(at.Name, at.Namespace, c.cluster))
		}
	}
	if strength != patternClaim {
		return strength == nameClaim, nil
	}
	deployments, err := c.list(ctx, controllers.DeploymentKind, client.InNamespace(at.Namespace))
	return slices.ContainsFunc(deployments, func(d unstructured.Unstructured) bool {
		return istio.MeshName(d.GetName(), at.Namespace, c.cluster) == at.Name
	}), err
}

func (c *reconciler) readCertificate(ctx context.Context, at types.NamespacedName, into map[types.NamespacedName]storedCertificate) error {
	object := issuedCertificate()
	if err := c.client.Get(ctx, at, object); err != nil {
		return client.IgnoreNotFound(err)
	}
	stored := storedCertificate{}
	for _, key := range ownersOf(object) {
		stored.Owner = key
		if key == "" {
			stored.Owner = controllers.Manager // a person labelled it, so that a VirtualMesh takes it over
		}
	}
	state, _, _ := unstructured.NestedString(object.Object, "status", "state")
	stored.State = certificatesv1.State(state)
	stored.Error, _, _ = unstructured.NestedString(object.Object, "status", "error")
	stored.FromSecret = object.GetAnnotations()[certificatesv1.CAFromSecretAnnotation]
	var ca certificatesv1.IntermediateCertificateAuthority
	content, found, err := unstructured.NestedMap(object.Object, "spec", "agentCa")
	if err == nil && found && runtime.DefaultUnstructuredConverter.FromUnstructured(content, &ca) == nil {
		stored.AgentCA = &ca
	}
	entries, _, _ := unstructured.NestedSlice(object.Object, "status", "certificates")
	for _, entry := range entries {
		var report certificatesv1.CertificateStatus
		if fields, ok := entry.(map[string]any); ok && runtime.DefaultUnstructuredConverter.FromUnstructured(fields, &report) == nil && report.Pod != "" {
			stored.Replicas = append(stored.Replicas, report)
		}
	}
	into[at] = stored
	return nil
}
