// SPDX-License-Identifier: Apache-2.0

package checkup

import (
	"cmp"
	"context"
	"slices"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
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
	"github.com/istiod-agent/istiod-agent/patches"
)

// fact is the result of a request to a cluster.
type fact[T any] struct {
	Value T
	Err   error
}

func factOf[T any](value T, err error) fact[T] { return fact[T]{value, err} }

// clusterFacts are the results of all requests to a cluster.
type clusterFacts struct {
	Version fact[string]
	CRDs    map[string]fact[*crdState]
	Webhook fact[*admissionregistrationv1.MutatingWebhookConfiguration]
	// Policy is the state of injection.by=policy.
	Policy policyState
	// Probe is the result of creating an istiod in a dry run; nil where no namespace is labelled.
	Probe        *probeResult
	Namespaces   fact[[]namespaceState]
	Policies     fact[[]admissionregistrationv1.ValidatingAdmissionPolicy]
	Bindings     fact[[]admissionregistrationv1.ValidatingAdmissionPolicyBinding]
	Istiods      fact[[]istiodState]
	Meshes       fact[[]unstructured.Unstructured]
	Certificates fact[[]unstructured.Unstructured]
	// Configuration is the program's; the default where it cannot be read.
	Configuration fact[*v1alpha1.InjectionConfiguration]
	// Controllers are the service accounts of the program, as namespace/name.
	Controllers []string
	// Grants are the grants of caRights, and of the right to approve requests to cert-manager.
	Grants fact[[]grant]
	// CertManager is nil where no specification names an issuer of cert-manager.
	CertManager *certManagerState
	// Ambient is nil where no specification has name constraints.
	Ambient *ambientState
	Remotes remoteState
	// Bundle is what istiods publish for the bundle endpoint; nil where it is not enabled.
	Bundle []fact[string]
}

type crdState struct {
	Served []string
	// Ours is true for this project's CRD, false for Gloo Mesh's.
	Ours, Established bool
}

type namespaceState struct {
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
func gather(ctx context.Context, cluster *clusters.Cluster) *clusterFacts {
	facts := &clusterFacts{CRDs: map[string]fact[*crdState]{}}
	version, err := cluster.Discovery.ServerVersion()
	if facts.Version.Err = err; err != nil {
		return facts
	}
	facts.Version.Value = version.GitVersion
	for _, definition := range crds {
		facts.CRDs[definition.name] = factOf(readCRD(ctx, cluster.Client, definition.name, definition.own))
	}
	facts.Webhook = factOf(readWebhook(ctx, cluster.Client))
	var policies admissionregistrationv1.ValidatingAdmissionPolicyList
	var bindings admissionregistrationv1.ValidatingAdmissionPolicyBindingList
	err = cluster.Client.List(ctx, &policies)
	facts.Policies = factOf(policies.Items, err)
	err = cluster.Client.List(ctx, &bindings)
	facts.Bindings = factOf(bindings.Items, err)
	facts.Policy = readPolicy(ctx, cluster.Client, facts.Policies.Value, facts.Bindings.Value)
	facts.Policy.SwitchedOff = facts.Policy.Served && featureOff(ctx, cluster.Discovery.RESTClient(), "MutatingAdmissionPolicy")
	facts.Namespaces = factOf(readNamespaces(ctx, cluster.Client))
	target := v1alpha1.TargetDeployments
	if facts.Webhook.Value != nil && injects(facts.Webhook.Value, "pods") || facts.Policy.matches("pods") {
		target = v1alpha1.TargetPods
	}
	facts.Istiods = factOf(readIstiods(ctx, cluster.Client, target))
	facts.Meshes = factOf(list(ctx, cluster.Client, networkingv1.GroupVersion.WithKind(networkingv1.Kind)))
	facts.Certificates = factOf(list(ctx, cluster.Client, certificatesv1.GroupVersion.WithKind(certificatesv1.Kind)))
	facts.Configuration = factOf(readConfiguration(ctx, cluster.Client, facts.program()))
	facts.Controllers = readControllers(ctx, cluster.Client, facts.program())
	facts.Grants = factOf(readGrants(ctx, cluster.Client))
	facts.CertManager = readCertManager(ctx, cluster.Client, facts)
	facts.Ambient = readAmbient(ctx, cluster.Client, facts)
	facts.Remotes = readRemotes(ctx, cluster.Client, facts.Istiods.Value, facts.Namespaces.Value)
	facts.Bundle = readBundle(ctx, cluster.Client, facts)
	if namespace := probedNamespace(facts); namespace != "" {
		facts.Probe = probe(ctx, cluster.Client, namespace, target)
	}
	return facts
}

// readCRD returns nil without a CRD.
func readCRD(ctx context.Context, reader client.Reader, name string, own []string) (*crdState, error) {
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"})
	if err := reader.Get(ctx, client.ObjectKey{Name: name}, object); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	crd := &crdState{}
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

func readNamespaces(ctx context.Context, reader client.Reader) ([]namespaceState, error) {
	var all corev1.NamespaceList
	if err := reader.List(ctx, &all); err != nil {
		return nil, err
	}
	var namespaces []namespaceState
	for _, namespace := range all.Items {
		namespaces = append(namespaces, namespaceState{namespace.Name, namespace.Labels[patches.InjectionLabel] == patches.InjectionEnabled, namespace.DeletionTimestamp != nil})
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

// readWebhook returns nil without a configuration. It is found by the names of its webhooks, since a release may have any name.
func readWebhook(ctx context.Context, reader client.Reader) (*admissionregistrationv1.MutatingWebhookConfiguration, error) {
	var all admissionregistrationv1.MutatingWebhookConfigurationList
	if err := reader.List(ctx, &all); err != nil {
		return nil, err
	}
	for i := range all.Items {
		if injects(&all.Items[i], "deployments") || injects(&all.Items[i], "pods") {
			return &all.Items[i], nil
		}
	}
	return nil, nil
}

// program returns the namespace and name of the program's Service, Deployment and ConfigMap; nil where neither the webhook
// configuration nor the policy's binding names them or their release.
func (f *clusterFacts) program() *client.ObjectKey {
	if f.Webhook.Value != nil {
		for i := range f.Webhook.Value.Webhooks {
			if service := f.Webhook.Value.Webhooks[i].ClientConfig.Service; service != nil {
				return &client.ObjectKey{Namespace: service.Namespace, Name: service.Name}
			}
		}
	}
	if injection := f.Policy.Key; injection != nil {
		return &client.ObjectKey{Namespace: injection.Namespace, Name: injection.Name + "-webhook"} // as in the chart
	}
	// Behind a URL there is no Service. Helm's annotation is on an object that only administrators of the cluster write.
	if f.Webhook.Value != nil {
		if namespace := f.Webhook.Value.Annotations[releaseNamespace]; namespace != "" {
			return &client.ObjectKey{Namespace: namespace, Name: f.Webhook.Value.Name + "-webhook"} // as in the chart
		}
	}
	return nil
}

// releaseNamespace is the annotation with the namespace of an object's release (Helm pkg/action/validate.go).
const releaseNamespace = "meta.helm.sh/release-namespace"

// readConfiguration reads the program's configuration.
func readConfiguration(ctx context.Context, reader client.Reader, program *client.ObjectKey) (*v1alpha1.InjectionConfiguration, error) {
	if program == nil {
		return v1alpha1.Default(), nil
	}
	var stored corev1.ConfigMap
	if err := reader.Get(ctx, *program, &stored); err != nil {
		return v1alpha1.Default(), err
	}
	config, err := v1alpha1.Decode([]byte(stored.Data["config.yaml"]))
	return cmp.Or(config, v1alpha1.Default()), err
}

// readControllers returns the service account of the program's Deployment and, since that may not be readable, the one with
// its name, as in the chart.
func readControllers(ctx context.Context, reader client.Reader, program *client.ObjectKey) []string {
	if program == nil {
		return nil
	}
	accounts := []string{program.String()}
	var deployment appsv1.Deployment
	if reader.Get(ctx, *program, &deployment) == nil {
		accounts = append(accounts, program.Namespace+"/"+deployment.Spec.Template.Spec.ServiceAccountName)
	}
	return accounts
}

func injects(configuration *admissionregistrationv1.MutatingWebhookConfiguration, resource string) bool {
	return slices.ContainsFunc(configuration.Webhooks, func(hook admissionregistrationv1.MutatingWebhook) bool {
		return hook.Name == resource+".istiod-agent.io"
	})
}
