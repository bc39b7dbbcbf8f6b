// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"context"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/controllers"
	"github.com/istiod-agent/istiod-agent/internal/istio"
)

// mesh is the IssuedCertificates that name a directive, and their istiods.
type mesh struct {
	certificates []certificatesv1.IssuedCertificate
	istiods      []istiod
}

// istiod is a Deployment and those of its Pods that report.
type istiod struct {
	*unstructured.Unstructured
	reporting []string
}

// mesh reads the mesh of a directive; empty when its namespace has not opted in.
func (c *reconciler) mesh(ctx context.Context, directive types.NamespacedName) (*mesh, error) {
	if optedIn, err := controllers.OptedIn(ctx, c.client, directive.Namespace); err != nil || !optedIn {
		return &mesh{}, err
	}
	stored, err := controllers.List(ctx, c.client, certificatesv1.GroupVersion.WithKind(certificatesv1.Kind), client.MatchingFields{byDirective: directive.String()})
	if err != nil {
		return nil, fmt.Errorf("listing IssuedCertificates: %w", err)
	}
	m := &mesh{}
	for i := range stored {
		var certificate certificatesv1.IssuedCertificate
		if runtime.DefaultUnstructuredConverter.FromUnstructured(stored[i].Object, &certificate) != nil || certificate.DeletionTimestamp != nil {
			continue
		}
		m.certificates = append(m.certificates, certificate)
		for _, at := range identities(&certificate) {
			if err := c.istiods(ctx, at, &certificate, m); err != nil {
				return nil, err
			}
		}
	}
	return m, nil
}

func (c *reconciler) istiods(ctx context.Context, at types.NamespacedName, certificate *certificatesv1.IssuedCertificate, into *mesh) error {
	deployments, err := controllers.List(ctx, c.client, controllers.DeploymentKind, client.InNamespace(at.Namespace))
	if err != nil {
		return fmt.Errorf("listing istiods: %w", err)
	}
	for i := range deployments {
		deployment := &deployments[i]
		if istio.ServiceAccount(deployment) != at.Name || deployment.GetDeletionTimestamp() != nil {
			continue
		}
		found := istiod{Unstructured: deployment}
		for _, report := range certificate.Status.Certificates {
			found.reporting = append(found.reporting, report.Pod)
		}
		into.istiods = append(into.istiods, found)
	}
	return nil
}

// identities are the namespaces and service accounts in spec.hosts, limited to the namespace of the IssuedCertificate.
func identities(certificate *certificatesv1.IssuedCertificate) []types.NamespacedName {
	var all []types.NamespacedName
	for _, identity := range istio.Identities(certificate.Spec.Hosts) {
		if at := (types.NamespacedName{Namespace: identity.Namespace, Name: identity.ServiceAccount}); at.Namespace == certificate.Namespace && !slices.Contains(all, at) {
			all = append(all, at)
		}
	}
	return all
}

func (m *mesh) namespaces() []string {
	var all []string
	for i := range m.certificates {
		for _, identity := range identities(&m.certificates[i]) {
			all = append(all, identity.Namespace)
		}
	}
	return sorted(all)
}

func (m *mesh) replicas() []certificatesv1.CertificateStatus {
	var all []certificatesv1.CertificateStatus
	for i := range m.certificates {
		all = append(all, m.certificates[i].Status.Certificates...)
	}
	return all
}

// staged reports whether the root changes in stages.
func (m *mesh) staged() bool {
	return slices.ContainsFunc(m.certificates, func(c certificatesv1.IssuedCertificate) bool {
		return c.Annotations[certificatesv1.TrustedRootsAnnotation] != "" || c.Annotations[certificatesv1.CAFromSecretAnnotation] != ""
	})
}

func (m *mesh) revisions() []string {
	var all []string
	for _, istiod := range m.istiods {
		all = append(all, istio.Revision(istiod.Unstructured))
	}
	return all
}
