// SPDX-License-Identifier: Apache-2.0

package checkup

import (
	"context"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/cli/clusters"
)

// injectionLabel of a namespace asks for its istiods to be injected.
const injectionLabel = "istiod-agent.io/injection"

// Fact is the result of a request to a cluster.
type Fact[T any] struct {
	Value T
	Err   error
}

func fact[T any](value T, err error) Fact[T] { return Fact[T]{value, err} }

// Facts are the results of all requests to a cluster.
type Facts struct {
	Version Fact[string]
	CRDs    map[string]Fact[*CRD]
	Webhook Fact[*admissionregistrationv1.MutatingWebhookConfiguration]
	// Probe is the result of creating an istiod in a dry run; nil where no namespace is labelled.
	Probe        *Probe
	Namespaces   Fact[[]Namespace]
	Policies     Fact[[]admissionregistrationv1.ValidatingAdmissionPolicy]
	Bindings     Fact[[]admissionregistrationv1.ValidatingAdmissionPolicyBinding]
	Istiods      Fact[[]Istiod]
	Meshes       Fact[[]unstructured.Unstructured]
	Certificates Fact[[]unstructured.Unstructured]
	// Configuration is the webhook's; the default where it cannot be read.
	Configuration Fact[*v1alpha1.InjectionConfiguration]
	// Controllers are the service accounts of the webhook, as namespace/name.
	Controllers []string
	// Grants are the grants of caRights.
	Grants Fact[[]grant]
}

// CRD is the state of a CustomResourceDefinition.
type CRD struct {
	Served []string
	// Ours is true for this project's CRD, false for Gloo Mesh's.
	Ours, Established bool
}

// Namespace is the state of a namespace.
type Namespace struct {
	Name               string
	Labelled, Deleting bool
}

// crds are the CRDs, each with the path of a schema field that Gloo Mesh's CRD does not have.
var crds = []struct {
	name string
	own  []string
}{
	{networkingv1.VirtualMeshes.GroupResource().String(), []string{"status", "notActedOn"}},
	{certificatesv1.IssuedCertificates.GroupResource().String(), []string{"status", "certificates"}},
	{certificatesv1.PodBounceDirectives.GroupResource().String(), []string{"status", "restarting"}},
}

// gather reads all facts. Without a version it stops: then every request would fail.
func gather(ctx context.Context, cluster *clusters.Cluster) *Facts {
	facts := &Facts{CRDs: map[string]Fact[*CRD]{}}
	version, err := cluster.Discovery.ServerVersion()
	if facts.Version.Err = err; err != nil {
		return facts
	}
	facts.Version.Value = version.GitVersion
	for _, definition := range crds {
		facts.CRDs[definition.name] = fact(readCRD(ctx, cluster.Client, definition.name, definition.own))
	}
	facts.Webhook = fact(readWebhook(ctx, cluster.Client))
	var policies admissionregistrationv1.ValidatingAdmissionPolicyList
	var bindings admissionregistrationv1.ValidatingAdmissionPolicyBindingList
	err = cluster.Client.List(ctx, &policies)
	facts.Policies = fact(policies.Items, err)
	err = cluster.Client.List(ctx, &bindings)
	facts.Bindings = fact(bindings.Items, err)
	facts.Namespaces = fact(readNamespaces(ctx, cluster.Client))
	target := v1alpha1.TargetDeployments
	if facts.Webhook.Value != nil && injecting(facts.Webhook.Value, "pods") != nil {
		target = v1alpha1.TargetPods
	}
	facts.Istiods = fact(readIstiods(ctx, cluster.Client, target))
	facts.Meshes = fact(list(ctx, cluster.Client, networkingv1.GroupVersion.WithKind(networkingv1.Kind)))
	facts.Certificates = fact(list(ctx, cluster.Client, certificatesv1.GroupVersion.WithKind(certificatesv1.Kind)))
	facts.Configuration = fact(readConfiguration(ctx, cluster.Client, facts.Webhook.Value))
	facts.Controllers = readControllers(ctx, cluster.Client, facts.Webhook.Value)
	facts.Grants = fact(readGrants(ctx, cluster.Client))
	if namespace := probedNamespace(facts); namespace != "" && facts.Webhook.Value != nil {
		facts.Probe = probe(ctx, cluster.Client, namespace, target)
	}
	return facts
}

// readCRD returns nil without a CRD.
func readCRD(ctx context.Context, reader client.Reader, name string, own []string) (*CRD, error) {
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"})
	if err := reader.Get(ctx, client.ObjectKey{Name: name}, object); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	crd := &CRD{}
	versions, _, _ := unstructured.NestedSlice(object.Object, "spec", "versions")
	for _, item := range versions {
		version, _ := item.(map[string]any)
		if served, _, _ := unstructured.NestedBool(version, "served"); !served {
			continue
		}
		name, _, _ := unstructured.NestedString(version, "name")
		crd.Served = append(crd.Served, name)
		path := []string{"schema", "openAPIV3Schema"}
		for _, step := range own {
			path = append(path, "properties", step)
		}
		_, exists, _ := unstructured.NestedMap(version, path...)
		crd.Ours = crd.Ours || exists
	}
	conditions, _, _ := unstructured.NestedSlice(object.Object, "status", "conditions")
	for _, item := range conditions {
		condition, _ := item.(map[string]any)
		crd.Established = crd.Established || condition["type"] == "Established" && condition["status"] == "True"
	}
	return crd, nil
}

func readNamespaces(ctx context.Context, reader client.Reader) ([]Namespace, error) {
	var all corev1.NamespaceList
	if err := reader.List(ctx, &all); err != nil {
		return nil, err
	}
	var namespaces []Namespace
	for _, namespace := range all.Items {
		namespaces = append(namespaces, Namespace{namespace.Name, namespace.Labels[injectionLabel] == "enabled", namespace.DeletionTimestamp != nil})
	}
	return namespaces, nil
}

// list returns no object of a kind that the API server does not serve.
func list(ctx context.Context, reader client.Reader, kind schema.GroupVersionKind, options ...client.ListOption) ([]unstructured.Unstructured, error) {
	all := &unstructured.UnstructuredList{}
	all.SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
	err := reader.List(ctx, all, options...)
	if meta.IsNoMatchError(err) || apierrors.IsNotFound(err) {
		return nil, nil
	}
	return all.Items, err
}
