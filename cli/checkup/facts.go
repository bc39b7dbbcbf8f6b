// SPDX-License-Identifier: Apache-2.0

package checkup

import (
	"context"
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/internal/agentrights"
	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/patches"
)

// injectionLabel of a namespace asks for its istiods to be injected.
const injectionLabel = "istiod-agent.io/injection"

// Fact is something that was asked of a cluster, or why there is no answer.
type Fact[T any] struct {
	Value T
	Err   error
}

func known[T any](value T, err error) Fact[T] { return Fact[T]{value, err} }

// Facts are what a cluster was asked.
type Facts struct {
	Version Fact[string]
	CRDs    map[string]Fact[*CRD]
	Webhook Fact[*admissionregistrationv1.MutatingWebhookConfiguration]
	// Probe is the answer to creating an istiod, dry run; nil where no namespace is labelled.
	Probe        *Probe
	Namespaces   Fact[[]Namespace]
	Policies     Fact[[]admissionregistrationv1.ValidatingAdmissionPolicy]
	Bindings     Fact[[]admissionregistrationv1.ValidatingAdmissionPolicyBinding]
	Istiods      Fact[[]Istiod]
	Meshes       Fact[[]unstructured.Unstructured]
	Certificates Fact[[]unstructured.Unstructured]
	// Configuration is the webhook's, the default where it cannot be read.
	Configuration Fact[*v1alpha1.InjectionConfiguration]
	// Controllers are the service accounts of the webhook's program, as namespace/name.
	Controllers []string
	// Grants are the rights that RBAC gives, as far as they concern istiod's CA.
	Grants Fact[[]grant]
}

// CRD is what counts of one.
type CRD struct {
	Served []string
	// Ours says that it is this project's and not Gloo Mesh's.
	Ours, Established bool
}

// Namespace is what counts of one.
type Namespace struct {
	Name               string
	Labelled, Deleting bool
}

// Istiod is what counts of an istiod's Deployment.
type Istiod struct {
	Name, Namespace, ServiceAccount string
	// State is that of the Deployment or, where Pods are injected, the worst of its Pods.
	State   patches.State
	Reason  patches.Reason
	Message string
	// Lacking are rights of the agent's that the service account does not have.
	Lacking Fact[[]string]
}

// Probe is an istiod that was created in a dry run.
type Probe struct {
	Namespace string
	Injected  bool
	Err       error
}

// crds are the CRDs, and where each has a field in its schema that the public API does not have.
var crds = []struct {
	name string
	own  []string
}{
	{networkingv1.VirtualMeshes.GroupResource().String(), []string{"status", "notActedOn"}},
	{certificatesv1.IssuedCertificates.GroupResource().String(), []string{"status", "certificates"}},
	{certificatesv1.PodBounceDirectives.GroupResource().String(), []string{"status", "restarting"}},
}

// gather asks a cluster. Only a version that cannot be asked for ends it: then nothing can.
func gather(ctx context.Context, cluster *clusters.Cluster) *Facts {
	facts := &Facts{CRDs: map[string]Fact[*CRD]{}}
	version, err := cluster.Discovery.ServerVersion()
	if facts.Version.Err = err; err != nil {
		return facts
	}
	facts.Version.Value = version.GitVersion
	for _, each := range crds {
		facts.CRDs[each.name] = known(readCRD(ctx, cluster.Client, each.name, each.own))
	}
	facts.Webhook = known(readWebhook(ctx, cluster.Client))
	var policies admissionregistrationv1.ValidatingAdmissionPolicyList
	var bindings admissionregistrationv1.ValidatingAdmissionPolicyBindingList
	err = cluster.Client.List(ctx, &policies)
	facts.Policies = known(policies.Items, err)
	err = cluster.Client.List(ctx, &bindings)
	facts.Bindings = known(bindings.Items, err)
	facts.Namespaces = known(readNamespaces(ctx, cluster.Client))
	target := v1alpha1.TargetDeployments
	if facts.Webhook.Value != nil && injecting(facts.Webhook.Value, "pods") != nil {
		target = v1alpha1.TargetPods
	}
	facts.Istiods = known(readIstiods(ctx, cluster.Client, target))
	facts.Meshes = known(list(ctx, cluster.Client, networkingv1.GroupVersion.WithKind(networkingv1.Kind)))
	facts.Certificates = known(list(ctx, cluster.Client, certificatesv1.GroupVersion.WithKind(certificatesv1.Kind)))
	facts.Configuration = known(readConfiguration(ctx, cluster.Client, facts.Webhook.Value))
	facts.Controllers = readControllers(ctx, cluster.Client, facts.Webhook.Value)
	facts.Grants = known(readGrants(ctx, cluster.Client))
	if namespace := probedNamespace(facts); namespace != "" && facts.Webhook.Value != nil {
		facts.Probe = probe(ctx, cluster.Client, namespace, target)
	}
	return facts
}

// readCRD gives nil where there is none.
func readCRD(ctx context.Context, reader client.Reader, name string, own []string) (*CRD, error) {
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"})
	if err := reader.Get(ctx, client.ObjectKey{Name: name}, object); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	crd := &CRD{}
	versions, _, _ := unstructured.NestedSlice(object.Object, "spec", "versions")
	for _, each := range versions {
		version, _ := each.(map[string]any)
		if served, _, _ := unstructured.NestedBool(version, "served"); !served {
			continue
		}
		name, _, _ := unstructured.NestedString(version, "name")
		crd.Served = append(crd.Served, name)
		path := []string{"schema", "openAPIV3Schema"}
		for _, step := range own {
			path = append(path, "properties", step)
		}
		_, there, _ := unstructured.NestedMap(version, path...)
		crd.Ours = crd.Ours || there && own != nil
	}
	conditions, _, _ := unstructured.NestedSlice(object.Object, "status", "conditions")
	for _, each := range conditions {
		condition, _ := each.(map[string]any)
		crd.Established = crd.Established || condition["type"] == "Established" && condition["status"] == "True"
	}
	return crd, nil
}

// readWebhook gives nil where there is none. A release may have any name; the webhooks have theirs.
func readWebhook(ctx context.Context, reader client.Reader) (*admissionregistrationv1.MutatingWebhookConfiguration, error) {
	var all admissionregistrationv1.MutatingWebhookConfigurationList
	if err := reader.List(ctx, &all); err != nil {
		return nil, err
	}
	for i := range all.Items {
		if injecting(&all.Items[i], "deployments") != nil || injecting(&all.Items[i], "pods") != nil {
			return &all.Items[i], nil
		}
	}
	return nil, nil
}

// service is the webhook's, nil where it is called by a URL or is not there.
func service(configuration *admissionregistrationv1.MutatingWebhookConfiguration) *admissionregistrationv1.ServiceReference {
	if configuration == nil {
		return nil
	}
	for i := range configuration.Webhooks {
		if service := configuration.Webhooks[i].ClientConfig.Service; service != nil {
			return service
		}
	}
	return nil
}

// readConfiguration reads the webhook's configuration, which the chart names as it names the Service.
func readConfiguration(ctx context.Context, reader client.Reader, webhook *admissionregistrationv1.MutatingWebhookConfiguration) (*v1alpha1.InjectionConfiguration, error) {
	at := service(webhook)
	if at == nil {
		return v1alpha1.Default(), nil
	}
	var stored corev1.ConfigMap
	if err := reader.Get(ctx, client.ObjectKey{Namespace: at.Namespace, Name: at.Name}, &stored); err != nil {
		return v1alpha1.Default(), err
	}
	config, err := v1alpha1.Decode([]byte(stored.Data["config.yaml"]))
	if err != nil {
		return v1alpha1.Default(), err
	}
	return config, nil
}

// readControllers gives the service accounts of the webhook's Deployments, and without a right to read these the one
// that the chart names as it names the Service.
func readControllers(ctx context.Context, reader client.Reader, webhook *admissionregistrationv1.MutatingWebhookConfiguration) []string {
	at := service(webhook)
	if at == nil {
		return nil
	}
	accounts := []string{at.Namespace + "/" + at.Name}
	var deployments appsv1.DeploymentList
	labels := client.MatchingLabels{"app.kubernetes.io/part-of": "istiod-agent", "app.kubernetes.io/component": "webhook"}
	if reader.List(ctx, &deployments, client.InNamespace(at.Namespace), labels) == nil {
		for i := range deployments.Items {
			accounts = append(accounts, at.Namespace+"/"+deployments.Items[i].Spec.Template.Spec.ServiceAccountName)
		}
	}
	return accounts
}

// injecting is the webhook that injects a resource, if there is one.
func injecting(configuration *admissionregistrationv1.MutatingWebhookConfiguration, resource string) *admissionregistrationv1.MutatingWebhook {
	for i := range configuration.Webhooks {
		if configuration.Webhooks[i].Name == resource+".istiod-agent.io" {
			return &configuration.Webhooks[i]
		}
	}
	return nil
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

func readIstiods(ctx context.Context, c client.Client, target v1alpha1.Target) ([]Istiod, error) {
	config := v1alpha1.Default()
	config.Target = target
	injector, err := patches.New(config)
	if err != nil {
		return nil, err
	}
	ofIstiod := client.MatchingLabels(istio.IstiodLabels)
	deployments, err := list(ctx, c, appsv1.SchemeGroupVersion.WithKind("Deployment"), ofIstiod)
	if err != nil {
		return nil, err
	}
	var pods []unstructured.Unstructured
	if target == v1alpha1.TargetPods && len(deployments) > 0 {
		if pods, err = list(ctx, c, corev1.SchemeGroupVersion.WithKind("Pod"), ofIstiod); err != nil {
			return nil, err
		}
	}
	var istiods []Istiod
	rights := map[string]Fact[[]string]{}
	for i := range deployments {
		deployment := &deployments[i]
		istiod := Istiod{Name: deployment.GetName(), Namespace: deployment.GetNamespace()}
		istiod.ServiceAccount = istio.ServiceAccount(deployment)
		istiod.inspect(injector, deployment, pods)
		key := istiod.Namespace + "/" + istiod.ServiceAccount
		if _, asked := rights[key]; !asked {
			rights[key] = known(agentrights.Lacking(ctx, c, istiod.Namespace, istiod.ServiceAccount))
		}
		istiod.Lacking = rights[key]
		istiods = append(istiods, istiod)
	}
	return istiods, nil
}

func (i *Istiod) inspect(injector *patches.Injector, deployment *unstructured.Unstructured, pods []unstructured.Unstructured) {
	checkContext := func(kind patches.Kind, object *unstructured.Unstructured) {
		raw, err := object.MarshalJSON()
		if err != nil {
			return
		}
		state, result := injector.Inspect(kind, raw)
		if worst := []patches.State{"", patches.StateSkipped, patches.StateInjected, patches.StateOutdated, patches.StateMissing}; slices.Index(worst, state) > slices.Index(worst, i.State) {
			i.State, i.Reason, i.Message = state, result.Reason, result.Message
		}
	}
	if injector.Target() == patches.Deployment {
		checkContext(patches.Deployment, deployment)
		return
	}
	selector, _, _ := unstructured.NestedStringMap(deployment.Object, "spec", "selector", "matchLabels")
	for p := range pods {
		if pods[p].GetNamespace() == i.Namespace && pods[p].GetDeletionTimestamp() == nil && contains(pods[p].GetLabels(), selector) {
			checkContext(patches.Pod, &pods[p])
		}
	}
}

func contains(labels, selector map[string]string) bool {
	for key, value := range selector {
		if labels[key] != value {
			return false
		}
	}
	return true
}

// list gives none where the kind is not known.
func list(ctx context.Context, reader client.Reader, kind schema.GroupVersionKind, options ...client.ListOption) ([]unstructured.Unstructured, error) {
	all := &unstructured.UnstructuredList{}
	all.SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
	err := reader.List(ctx, all, options...)
	if meta.IsNoMatchError(err) || apierrors.IsNotFound(err) {
		return nil, nil
	}
	return all.Items, err
}

// probedNamespace is a labelled one, with an istiod if possible.
func probedNamespace(facts *Facts) string {
	found := ""
	for _, namespace := range facts.Namespaces.Value {
		if !namespace.Labelled || namespace.Deleting || namespace.Name == metav1.NamespaceSystem {
			continue
		}
		hasIstiod := slices.ContainsFunc(facts.Istiods.Value, func(i Istiod) bool { return i.Namespace == namespace.Name })
		if found == "" || hasIstiod {
			found = namespace.Name
		}
	}
	return found
}

// probe has the API server call the webhook, by creating an istiod that it does not store.
func probe(ctx context.Context, writer client.Writer, namespace string, target v1alpha1.Target) *Probe {
	labels := istio.IstiodLabels
	about := metav1.ObjectMeta{Name: "istiod-agent-check", Namespace: namespace, Labels: labels}
	spec := corev1.PodSpec{Containers: []corev1.Container{{
		Name: patches.IstiodContainer, Image: "pilot",
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: new(false), RunAsNonRoot: new(true), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
	}}}
	answer := &Probe{Namespace: namespace}
	var stored *corev1.PodSpec
	if target == v1alpha1.TargetPods {
		pod := &corev1.Pod{ObjectMeta: about, Spec: spec}
		answer.Err = writer.Create(ctx, pod, client.DryRunAll)
		stored = &pod.Spec
	} else {
		deployment := &appsv1.Deployment{ObjectMeta: about, Spec: appsv1.DeploymentSpec{
			Replicas: new(int32(0)), Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: spec},
		}}
		answer.Err = writer.Create(ctx, deployment, client.DryRunAll)
		stored = &deployment.Spec.Template.Spec
	}
	for _, container := range slices.Concat(stored.Containers, stored.InitContainers) {
		answer.Injected = answer.Injected || container.Name == patches.AgentContainer
	}
	return answer
}

// isFor says whether a certificate names the identity of an istiod.
func isFor(certificate *unstructured.Unstructured, istiod *Istiod) bool {
	hosts, _, _ := unstructured.NestedStringSlice(certificate.Object, "spec", "hosts")
	return slices.ContainsFunc(hosts, func(host string) bool {
		return strings.HasSuffix(host, "/ns/"+istiod.Namespace+"/sa/"+istiod.ServiceAccount)
	})
}
