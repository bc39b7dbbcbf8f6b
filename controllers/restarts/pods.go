// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/internal/istio"
)

// Labels and annotations of Istio's proxies (manifests/charts/istio-control/istio-discovery/files: injection-template,
// gateway-injection-template, kube-gateway, waypoint; manifests/charts/gateways and gateway;
// pkg/kube/inject/webhook.go).
const (
	// proxyLabel is on each Pod with an Envoy proxy, injected or not.
	proxyLabel = "service.istio.io/canonical-name"
	// revisionKey is an annotation with the revision of the injecting istiod; as a label it may hold a revision tag.
	revisionKey = istio.RevisionLabel
	// statusAnnotation is JSON with the revision.
	statusAnnotation = "sidecar.istio.io/status"
	// templatesAnnotation lists the injection templates; charts/gateway uses gateway.
	templatesAnnotation = "inject.istio.io/templates"
	// istioLabel is ingressgateway, eastwestgateway and so on.
	istioLabel = "istio"
)

// gatewayLabels are on the Pods of gateways that istiod deploys; the second is Istio 1.20's.
var gatewayLabels = []string{"gateway.networking.k8s.io/gateway-name", "istio.io/gateway-name"}

// nodeProxyLabels select ztunnel, which holds the certificates of all workloads of its node in ambient mode.
var nodeProxyLabels = labels.Set{"app": "ztunnel"}

// podSet is a set of Pods that restart together.
type podSet struct {
	name string
	kind setKind
	// selector is set for selectedPods.
	selector certificatesv1.PodSelector
}

type setKind int

const (
	istiodPods setKind = iota
	gatewayPods
	workloadPods
	selectedPods // by spec.podsToBounce
)

// meshSets are the sets of a whole mesh, in order.
var meshSets = []podSet{{name: "istiod", kind: istiodPods}, {name: "gateways", kind: gatewayPods}, {name: "workloads", kind: workloadPods}}

func podSetsOf(directive *certificatesv1.PodBounceDirective) []podSet {
	if directive.Annotations[certificatesv1.RestartAnnotation] == certificatesv1.RestartMesh {
		return meshSets
	}
	var sets []podSet
	for _, selector := range directive.Spec.PodsToBounce {
		name := selector.Namespace
		if len(selector.Labels) > 0 {
			name += ": " + labels.Set(selector.Labels).String()
		}
		sets = append(sets, podSet{name: name, kind: selectedPods, selector: selector})
	}
	return sets
}

// contains reports whether a Pod is in the set. revisions are those of the mesh's istiods.
func (s podSet) contains(pod *metav1.ObjectMeta, revisions []string) bool {
	if s.kind == selectedPods {
		return !isIstiod(pod) && s.selects(pod.Namespace, pod.Labels)
	}
	if isIstiod(pod) || !hasProxy(pod) || !slices.Contains(revisions, revisionOf(pod)) {
		return false
	}
	return (s.kind == gatewayPods) == isGateway(pod)
}

func (s podSet) selects(namespace string, of map[string]string) bool {
	return namespace == s.selector.Namespace && labels.SelectorFromSet(s.selector.Labels).Matches(labels.Set(of))
}

// hasProxy reports whether istiod injected a proxy: a user can write proxyLabel on any Pod.
func hasProxy(pod *metav1.ObjectMeta) bool {
	return pod.Annotations[revisionKey] != "" || pod.Annotations[statusAnnotation] != "" || isGateway(pod)
}

func isIstiod(pod *metav1.ObjectMeta) bool {
	return istio.IstiodLabels.AsSelector().Matches(labels.Set(pod.Labels))
}

// isGateway reports whether a proxy serves other workloads than its own Pod's.
func isGateway(pod *metav1.ObjectMeta) bool {
	return slices.ContainsFunc(gatewayLabels, labels.Set(pod.Labels).Has) ||
		strings.HasSuffix(pod.Labels[istioLabel], "gateway") ||
		slices.Contains(strings.Split(pod.Annotations[templatesAnnotation], ","), "gateway") ||
		nodeProxyLabels.AsSelector().Matches(labels.Set(pod.Labels))
}

// revisionOf is the revision of a proxy's istiod.
func revisionOf(pod *metav1.ObjectMeta) string {
	var status struct {
		Revision string `json:"revision"`
	}
	_ = json.Unmarshal([]byte(pod.Annotations[statusAnnotation]), &status) // absent on older Pods
	return cmp.Or(pod.Annotations[revisionKey], status.Revision, pod.Labels[revisionKey], istio.DefaultRevision)
}

// ownerPods are the old Pods of one owner.
type ownerPods struct {
	owner     metav1.OwnerReference
	namespace string
	pods      []string
	since     time.Time
}

// candidates are the Pods of a set that need a restart, by owner.
type candidates struct {
	owners map[string]*ownerPods
	// closed are the gates that delay restarts; skipped are Pods that cannot be restarted, and why.
	closed  map[string]bool
	skipped []string
}

func newCandidates() *candidates {
	return &candidates{owners: map[string]*ownerPods{}, closed: map[string]bool{}}
}

// add classifies one Pod of the set.
func (f *candidates) add(pod *metav1.ObjectMeta, of gate) {
	switch {
	case pod.DeletionTimestamp != nil:
		return
	case !of.open:
		f.closed[of.waiting] = true
		return
	case pod.CreationTimestamp.After(of.since):
		return // it started with the desired roots
	}
	owner := metav1.GetControllerOf(pod)
	if why := notRestartable(owner); why != "" {
		f.skipped = append(f.skipped, fmt.Sprintf("Pod %s/%s: %s", pod.Namespace, pod.Name, why))
		return
	}
	id := pod.Namespace + "/" + owner.Kind + "/" + owner.Name + "/" + string(owner.UID)
	if f.owners[id] == nil {
		f.owners[id] = &ownerPods{owner: *owner, namespace: pod.Namespace, since: of.since}
	}
	f.owners[id].pods = append(f.owners[id].pods, pod.Name)
}

// notRestartable is why Pods of an owner are skipped; empty when they are not.
func notRestartable(owner *metav1.OwnerReference) string {
	switch {
	case owner == nil:
		return "it has no owner that would recreate it; delete and recreate it yourself"
	case owner.Kind == "Node":
		return "it is a static Pod, which the kubelet starts from a file"
	case owner.Kind == "Job":
		return "its Job would lose its work, and ends by itself"
	case !validOwner(*owner):
		return "its owner reference is invalid; replace it yourself"
	}
	return ""
}

// validOwner reports whether an owner reference is within the bounds of the CRD's status and can name an object. A user who
// creates a Pod chooses its references, which the API server hardly checks: the lookup of an invalid one fails and would
// block all restarts.
func validOwner(owner metav1.OwnerReference) bool {
	switch {
	case len(owner.APIVersion) > 317, len(owner.Kind) > 253, len(owner.UID) > 128:
		return false
	case owner.APIVersion == apps && owner.Kind != "ReplicaSet" && !rollsOut(owner):
		return false
	}
	return len(validation.IsDNS1123Subdomain(owner.Name)) == 0
}

// sorted returns the owners by namespace, kind and name.
func (f *candidates) sorted() []*ownerPods {
	var all []*ownerPods
	for _, id := range slices.Sorted(maps.Keys(f.owners)) {
		all = append(all, f.owners[id])
	}
	return all
}

// page is the number of Pods per list request.
const page = 500

// running excludes Pods that have terminated.
var running = client.MatchingFieldsSelector{Selector: fields.AndSelectors(
	fields.OneTermNotEqualSelector("status.phase", string(corev1.PodSucceeded)),
	fields.OneTermNotEqualSelector("status.phase", string(corev1.PodFailed)),
)}

// forEachPod calls a function with the metadata of each Pod that may be in a set.
func (c *reconciler) forEachPod(ctx context.Context, s podSet, call func(*metav1.ObjectMeta) error) error {
	var selections [][]client.ListOption
	switch s.kind {
	case selectedPods:
		selections = [][]client.ListOption{{client.InNamespace(s.selector.Namespace), client.MatchingLabels(s.selector.Labels)}}
	case gatewayPods:
		selections = [][]client.ListOption{{client.HasLabels{proxyLabel}}, {client.MatchingLabels(nodeProxyLabels)}}
	default:
		selections = [][]client.ListOption{{client.HasLabels{proxyLabel}}}
	}
	if s.kind != selectedPods {
		selections = inEach(c.namespaces, selections)
	}
	for _, options := range selections {
		list := &metav1.PartialObjectMetadataList{}
		list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("PodList"))
		for more := true; more; more = list.Continue != "" {
			if err := c.live.List(ctx, list, append(slices.Clone(options), running, client.Limit(page), client.Continue(list.Continue))...); err != nil {
				return err
			}
			for i := range list.Items {
				if err := call(&list.Items[i].ObjectMeta); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// inEach repeats selections in each namespace; without any they stay selections in all namespaces.
func inEach(namespaces []string, selections [][]client.ListOption) [][]client.ListOption {
	if len(namespaces) == 0 {
		return selections
	}
	var each [][]client.ListOption
	for _, namespace := range namespaces {
		for _, options := range selections {
			each = append(each, append(slices.Clone(options), client.InNamespace(namespace)))
		}
	}
	return each
}

// covers reports whether Pods of a namespace restart.
func (c *reconciler) covers(namespace string) bool {
	return len(c.namespaces) == 0 || slices.Contains(c.namespaces, namespace)
}

// notCovered is why Pods of a namespace do not restart.
const notCovered = "its namespace is not in the chart's value rbac.namespaces; restart its Pods yourself"
