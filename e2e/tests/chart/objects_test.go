// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	certmanagerv1 "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	"github.com/google/go-cmp/cmp"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/pod-security-admission/api"
	podsecurity "k8s.io/pod-security-admission/policy"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	meshv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
)

// No field has a wrong name or type: an API server would drop it.
func TestSchemas(t *testing.T) {
	known := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, certmanagerv1.AddToScheme, apiextensionsv1.AddToScheme, meshv1.AddToScheme} {
		if err := add(known); err != nil {
			t.Fatal(err)
		}
	}
	strict := json.NewSerializerWithOptions(json.DefaultMetaFactory, known, known, json.SerializerOptions{Strict: true})
	renderExamples(t, func(t *testing.T, r rendered) {
		for name, object := range r.objects {
			if object.GroupVersionKind().Group == "monitoring.coreos.com" {
				continue // their Go types are not worth a dependency
			}
			raw, err := object.MarshalJSON()
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := strict.Decode(raw, nil, nil); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// An upgrade or a change of the source must not overwrite a filled-in caBundle.
func TestCABundle(t *testing.T) {
	for name, values := range examples(t) {
		r := render(t, standard, values)
		if configuration(t, r).By == v1alpha1.ByPolicy {
			continue
		}
		configuration := r.one(t, "MutatingWebhookConfiguration")
		webhooks, _, err := unstructured.NestedSlice(configuration.Object, "webhooks")
		if err != nil || len(webhooks) != 2 {
			t.Fatalf("%s: there are %d webhooks (%v)", name, len(webhooks), err)
		}
		for _, webhook := range webhooks {
			_, found, _ := unstructured.NestedFieldNoCopy(webhook.(map[string]any), "clientConfig", "caBundle")
			if found {
				t.Errorf("%s: there is a caBundle, so that an apply conflicts with its writer", name)
			}
		}
	}
}

func TestPorts(t *testing.T) {
	r := render(t, standard, helm.Values{
		"server":  helm.Values{"port": 11001, "healthPort": 11002, "metricsPort": 11003},
		"service": helm.Values{"port": 11004, "metricsPort": 11005},
	})
	if left := regexp.MustCompile(`.*\b(443|9443|8080|8081)\b.*`).FindString(r.text); left != "" {
		t.Errorf("a default port is left in %q", left)
	}

	container := webhookPods(t, r).Spec.Containers[0]
	service := typed[corev1.Service](t, r.one(t, "Service"))
	webhook := typed[admissionregistrationv1.MutatingWebhookConfiguration](t, r.one(t, "MutatingWebhookConfiguration")).Webhooks[0]
	server := configuration(t, r).Server
	got := []string{fmt.Sprint("webhook calls ", *webhook.ClientConfig.Service.Port), fmt.Sprint("server ", server.Port, server.HealthPort, server.MetricsPort)}
	for _, port := range container.Ports {
		got = append(got, fmt.Sprint("container ", port.Name, port.ContainerPort))
	}
	for _, port := range service.Spec.Ports {
		got = append(got, fmt.Sprint("service ", port.Name, port.Port, " to ", port.TargetPort.String()))
	}
	got = append(got, "probes "+container.LivenessProbe.HTTPGet.Port.String()+" and "+container.ReadinessProbe.HTTPGet.Port.String())
	for _, rule := range typed[networkingv1.NetworkPolicy](t, r.one(t, "NetworkPolicy")).Spec.Ingress {
		for _, port := range rule.Ports {
			got = append(got, fmt.Sprintf("open %s to all: %t", port.Port, len(rule.From) == 0))
		}
	}
	want := []string{
		"webhook calls 11004", "server 11001 11002 11003",
		"container webhook11001", "container health11002", "container metrics11003",
		"service webhook11004 to webhook", "service metrics11005 to metrics",
		"probes health and health",
		"open 11001 to all: true", "open 11002 to all: true", "open 11003 to all: false",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// istiodsNamespaces are the examples' namespaces with istiods.
var istiodsNamespaces = map[string]bool{"istio-system": true, "mesh": true}

// docs/security.md names the clients of the webhook's ports.
func TestNetworkPolicy(t *testing.T) {
	from := []any{helm.Values{"ipBlock": helm.Values{"cidr": "10.0.0.0/8"}}}
	for name, test := range map[string]struct {
		values helm.Values
		want   string
	}{
		"default": {nil, "9443: all, 8081: all, 8080: any Pod"},
		"bundle":  {bundled(nil), "9443: all, 8081: all, 8080: any Pod, 8443: all"},
		"bundle for some": {
			bundled(helm.Values{"networkPolicy": helm.Values{"bundleFrom": from}}), "9443: all, 8081: all, 8080: any Pod, 8443: 10.0.0.0/8",
		},
		"narrowed": {helm.Values{"networkPolicy": helm.Values{"webhookFrom": from, "metricsFrom": from}}, "9443: 10.0.0.0/8, 8081: all, 8080: 10.0.0.0/8"},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, rule := range typed[networkingv1.NetworkPolicy](t, render(t, standard, test.values).one(t, "NetworkPolicy")).Spec.Ingress {
				peer := "all"
				for _, each := range rule.From {
					switch {
					case each.IPBlock != nil:
						peer = each.IPBlock.CIDR
					case each.NamespaceSelector != nil && len(each.NamespaceSelector.MatchLabels)+len(each.NamespaceSelector.MatchExpressions) == 0 && each.PodSelector == nil:
						peer = "any Pod"
					}
				}
				for _, port := range rule.Ports {
					got = append(got, port.Port.String()+": "+peer)
				}
			}
			if strings.Join(got, ", ") != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// With any release name and namespace, names are valid and references match.
func TestReleaseNames(t *testing.T) {
	for _, r := range []helm.Release{
		{Name: "x", Namespace: "default"},
		{Name: "mesh-istiod-agent", Namespace: "vault"},
		{Name: strings.Repeat("long", 13), Namespace: strings.Repeat("n", 63)},
	} {
		t.Run(r.Name, func(t *testing.T) {
			for name, values := range examples(t) {
				delete(values, "fullnameOverride")
				result := render(t, r, values)
				if strings.Contains(result.text, standard.Namespace) {
					t.Errorf("%s: %s is left in\n%s", name, standard.Namespace, result.text)
				}
				for _, object := range result.objects {
					if object.GetKind() == crdKind || object.GetKind() == meshv1.Kind {
						continue // its name is its API's, or the user's
					}
					// Rights in other namespaces, such as of istiod's service accounts, which may have long names, and the binding
					// whose name is a message.
					if istiodsNamespaces[object.GetNamespace()] || object.GetNamespace() == "gloo-mesh" || object.GetKind() == "MutatingAdmissionPolicyBinding" {
						if problems := validation.IsDNS1123Subdomain(object.GetName()); len(problems) > 0 {
							t.Errorf("%s: %s: %v", name, key(object), problems)
						}
						continue
					}
					// A Service's name is the narrowest of all.
					if problems := validation.IsDNS1035Label(object.GetName()); len(problems) > 0 {
						t.Errorf("%s: %s: %v", name, key(object), problems)
					}
					if namespace := object.GetNamespace(); namespace != "" && namespace != r.Namespace {
						t.Errorf("%s: %s is in namespace %s", name, key(object), namespace)
					}
				}
				wantReferencesKept(t, result)
			}
		})
	}
}

func wantReferencesKept(t *testing.T, r rendered) {
	t.Helper()
	config := configuration(t, r)
	server := config.Server
	service := webhookService(t, r)
	referred := []string{"ValidatingAdmissionPolicyBinding " + server.Injection + "-guard"}
	if config.By == v1alpha1.ByWebhook {
		called := typed[admissionregistrationv1.MutatingWebhookConfiguration](t, r.one(t, "MutatingWebhookConfiguration")).Webhooks[0].ClientConfig.Service
		if dnsName := called.Name + "." + called.Namespace + ".svc"; dnsName != server.ServingCertificate.DNSNames[0] {
			t.Errorf("the API server asks for %s, the certificate is for %v", dnsName, server.ServingCertificate.DNSNames)
		}
		referred = append(referred, "MutatingWebhookConfiguration "+server.WebhookConfiguration, "Service "+called.Name)
	} else {
		binding := typed[admissionregistrationv1.MutatingAdmissionPolicyBinding](t, r.one(t, "MutatingAdmissionPolicyBinding")).Spec
		if binding.ParamRef.Name != server.Injection || binding.ParamRef.Namespace != server.Namespace {
			t.Errorf("the policy's parameter is %s/%s, the program keeps %s/%s", binding.ParamRef.Namespace, binding.ParamRef.Name, server.Namespace, server.Injection)
		}
		referred = append(referred, "MutatingAdmissionPolicy "+binding.PolicyName, "ValidatingAdmissionPolicyBinding "+server.Injection+"-decision")
	}

	pods := webhookPods(t, r)
	selected := labels.SelectorFromSet(service.Spec.Selector)
	if !selected.Matches(labels.Set(pods.Labels)) {
		t.Errorf("the Service selects %v, the Pods have %v", selected, pods.Labels)
	}
	if selected.Matches(labels.Set(r.one(t, "Pod").GetLabels())) {
		t.Error("the Service sends admission reviews to the Pod of helm test")
	}

	for _, object := range r.objects {
		if object.GetKind() == "ValidatingAdmissionPolicyBinding" {
			referred = append(referred, "ValidatingAdmissionPolicy "+typed[admissionregistrationv1.ValidatingAdmissionPolicyBinding](t, object).Spec.PolicyName)
		}
	}
	for _, wanted := range append(referred, "ServiceAccount "+pods.Spec.ServiceAccountName, "ConfigMap "+pods.Spec.Volumes[0].ConfigMap.Name) {
		if r.objects[wanted] == nil {
			t.Errorf("something refers to %s, which is not there", wanted)
		}
	}
}

// webhookService returns the Service beside the bundle endpoint's.
func webhookService(t *testing.T, r rendered) *corev1.Service {
	t.Helper()
	for _, object := range r.objects {
		if object.GetKind() == "Service" && object.GetLabels()["app.kubernetes.io/component"] == "webhook" {
			return typed[corev1.Service](t, object)
		}
	}
	t.Fatal("the webhook has no Service")
	return nil
}

// Every object has the common annotations; its own values take precedence.
func TestCommonAnnotations(t *testing.T) {
	values := helm.Values{
		"commonAnnotations": helm.Values{"example.com/owner": "mesh"}, "autoscaling": helm.Values{"enabled": true},
		"service":        helm.Values{"annotations": helm.Values{"example.com/owner": "service"}},
		"serviceMonitor": helm.Values{"enabled": true}, "podMonitor": helm.Values{"enabled": true},
		"prometheusRule": helm.Values{"enabled": true}, "dashboard": helm.Values{"enabled": true},
		"servingCertificate": helm.Values{"source": "cert-manager"},
		"virtualMesh":        helm.Values{"spec": helm.Values{"meshes": []any{}}},
		"bundleEndpoint":     helm.Values{"enabled": true, "issuerRef": helm.Values{"name": "x"}, "dnsNames": []any{"x"}, "service": helm.Values{"annotations": helm.Values{"example.com/owner": "service"}}},
	}
	for name, object := range render(t, standard, values).objects {
		want := "mesh"
		if object.GetKind() == "Service" {
			want = "service"
		}
		if got := object.GetAnnotations()["example.com/owner"]; got != want {
			t.Errorf("%s has the annotation %q, want %q", name, got, want)
		}
	}
}

// With autoscaling, an upgrade of the chart must not set the number of Pods.
func TestAutoscaling(t *testing.T) {
	r := render(t, standard, nil)
	if replicas := typed[appsv1.Deployment](t, r.one(t, "Deployment")).Spec.Replicas; replicas == nil || *replicas != 2 {
		t.Errorf("by default there are %v replicas", replicas)
	}
	r = render(t, standard, helm.Values{"autoscaling": helm.Values{"enabled": true}})
	if replicas := typed[appsv1.Deployment](t, r.one(t, "Deployment")).Spec.Replicas; replicas != nil {
		t.Errorf("with autoscaling there are %d replicas", *replicas)
	}
	target := typed[autoscalingv2.HorizontalPodAutoscaler](t, r.one(t, "HorizontalPodAutoscaler")).Spec.ScaleTargetRef
	if r.objects[target.Kind+" "+target.Name] == nil {
		t.Errorf("%s %s is scaled, which is not there", target.Kind, target.Name)
	}
}

// The webhook's Pods and the Pod of helm test meet the restricted Pod Security Standard; hostNetwork needs a privileged
// namespace.
func TestPodSecurity(t *testing.T) {
	evaluator, err := podsecurity.NewEvaluator(podsecurity.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	restricted := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	renderExamples(t, func(t *testing.T, r rendered) {
		template := webhookPods(t, r)
		for name, pod := range map[string]*corev1.PodSpec{
			"webhook": &template.Spec, "helm test": &typed[corev1.Pod](t, r.one(t, "Pod")).Spec,
		} {
			result := podsecurity.AggregateCheckResults(evaluator.EvaluatePod(restricted, &template.ObjectMeta, pod))
			if result.Allowed == pod.HostNetwork {
				t.Errorf("%s: allowed=%t: %s", name, result.Allowed, result.ForbiddenDetail())
			}
		}
	})
}

func webhookPods(t *testing.T, r rendered) corev1.PodTemplateSpec {
	t.Helper()
	return typed[appsv1.Deployment](t, r.one(t, "Deployment")).Spec.Template
}
