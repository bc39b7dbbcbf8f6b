// SPDX-License-Identifier: Apache-2.0

package restarts

import (
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
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/internal/istio"
)

// What Istio writes on the Pods of its proxies (manifests/charts/istio-control/istio-discovery/files: injection-template,
// gateway-injection-template, kube-gateway, waypoint; manifests/charts/gateways and gateway; pkg/kube/inject/webhook.go).
const (
	// proxyLabel is on each Pod with a proxy of Envoy's, injected or not.
	proxyLabel = "service.istio.io/canonical-name"
	// revisionKey is an annotation with the revision of the istiod that injected; as a label it may be a revision's tag.
	revisionKey = istio.RevisionLabel
	// statusAnnotation is JSON, and has the revision too.
	statusAnnotation = "sidecar.istio.io/status"
	// templatesAnnotation names the injection's templates; charts/gateway has gateway.
	templatesAnnotation = "inject.istio.io/templates"
	// istioLabel is ingressgateway, eastwestgateway and so on.
	istioLabel = "istio"
)

// gatewayLabels are on Pods of gateways that istiod deploys itself, today's and Istio 1.20's.
var gatewayLabels = []string{"gateway.networking.k8s.io/gateway-name", "istio.io/gateway-name"}

// nodeProxyLabels are those of ztunnel's Pods, which hold the certificates of all workloads of their node in ambient mode.
var nodeProxyLabels = labels.Set{"app": "ztunnel"}

// set is the Pods whose turn comes together.
type podSet struct {
	name string
	kind setKind
	// selector is that of a selected set.
	selector certificatesv1.PodSelector
}

type setKind int

const (
	istiodPods setKind = iota
	gatewayPods
	workloadPods
	selectedPods // by spec.podsToBounce
)

// meshSets are those of a whole mesh, in their order.
var meshSets = []podSet{{name: "istiod", kind: istiodPods}, {name: "gateways", kind: gatewayPods}, {name: "workloads", kind: workloadPods}}

// podSetsOf are the sets of a directive.
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

// has says whether a Pod is in the set. revisions are those of the mesh's istiods.
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

// hasProxy says whether istiod gave the Pod a proxy: a person may write proxyLabel on any Pod.
func hasProxy(pod *metav1.ObjectMeta) bool {
	return pod.Annotations[revisionKey] != "" || pod.Annotations[statusAnnotation] != "" || isGateway(pod)
}

func isIstiod(pod *metav1.ObjectMeta) bool {
	return istio.IstiodLabels.AsSelector().Matches(labels.Set(pod.Labels))
}

// isGateway says whether a Pod's proxy is others' way in or out, not its own workload's.
func isGateway(pod *metav1.ObjectMeta) bool {
	for _, label := range gatewayLabels {
		if _, is := pod.Labels[label]; is {
			return true
		}
	}
	return strings.HasSuffix(pod.Labels[istioLabel], "gateway") ||
		slices.Contains(strings.Split(pod.Annotations[templatesAnnotation], ","), "gateway") ||
		nodeProxyLabels.AsSelector().Matches(labels.Set(pod.Labels))
}

// revisionOf is the revision of the istiod that a Pod's proxy belongs to.
func revisionOf(pod *metav1.ObjectMeta) string {
	var status struct {
		Revision string `json:"revision"`
	}
	_ = json.Unmarshal([]byte(pod.Annotations[statusAnnotation]), &status) // older ones have none
	for _, revision := range []string{pod.Annotations[revisionKey], status.Revision, pod.Labels[revisionKey]} {
		if revision != "" {
			return revision
		}
	}
	return istio.DefaultRevision
}

// owned are old Pods of one owner.
type ownerPods struct {
	owner     metav1.OwnerReference
	namespace string
	pods      []string
	since     time.Time
}

// found is what there is to restart of a set.
type candidates struct {
	owners map[string]*ownerPods
	// closed are the gates that keep Pods from being restarted; left are Pods that nobody would start again.
	closed map[string]bool
	left   []string
}

func newCandidates() *candidates {
	return &candidates{owners: map[string]*ownerPods{}, closed: map[string]bool{}}
}

// add looks at one Pod of the set.
func (f *candidates) add(pod *metav1.ObjectMeta, of gate) {
	switch {
	case pod.DeletionTimestamp != nil:
		return
	case !of.open:
		f.closed[of.waiting] = true
		return
	case pod.CreationTimestamp.After(of.since):
		return // it started with what it needs
	}
	owner := metav1.GetControllerOf(pod)
	if why := notRestartable(owner); why != "" {
		f.left = append(f.left, fmt.Sprintf("Pod %s/%s: %s", pod.Namespace, pod.Name, why))
		return
	}
	id := pod.Namespace + "/" + owner.Kind + "/" + owner.Name + "/" + string(owner.UID)
	if f.owners[id] == nil {
		f.owners[id] = &ownerPods{owner: *owner, namespace: pod.Namespace, since: of.since}
	}
	f.owners[id].pods = append(f.owners[id].pods, pod.Name)
}

// notRestartable says why Pods of an owner are left, empty when they are not.
func notRestartable(owner *metav1.OwnerReference) string {
	switch {
	case owner == nil:
		return "nothing would start it again; delete it and start it yourself"
	case owner.Kind == "Node":
		return "it is static; the kubelet starts it from a file"
	case owner.Kind == "Job":
		return "its Job's work would be lost, and it ends by itself"
	case !validOwner(*owner):
		return "no object can be the owner that it names; replace it yourself"
	}
	return ""
}

// validOwner reports whether an object may exist that an owner reference names, in the bounds of the CRD's status. A user who
// creates a Pod writes its references, and the API server hardly checks them: a request for such an owner would fail, not find
// nothing, and hold up all restarts.
func validOwner(owner metav1.OwnerReference) bool {
	switch {
	case len(owner.APIVersion) > 317, len(owner.Kind) > 253, len(owner.UID) > 128:
		return false
	case owner.APIVersion == apps && owner.Kind != "ReplicaSet" && !rollsOut(owner):
		return false
	}
	return len(validation.IsDNS1123Subdomain(owner.Name)) == 0
}

// inOrder are the owners, by namespace, kind and name.
func (f *candidates) sorted() []*ownerPods {
	var all []*ownerPods
	for _, id := range slices.Sorted(maps.Keys(f.owners)) {
		all = append(all, f.owners[id])
	}
	return all
}

// page is how many Pods are read at a time.
const page = 500

// running leaves out Pods that have ended.
var running = client.MatchingFieldsSelector{Selector: fields.AndSelectors(
	fields.OneTermNotEqualSelector("status.phase", string(corev1.PodSucceeded)),
	fields.OneTermNotEqualSelector("status.phase", string(corev1.PodFailed)),
)}

// eachPod goes through the metadata of the Pods that may be in a set.
func (c *reconciler) forEachPod(ctx context.Context, s podSet, call func(*metav1.ObjectMeta) error) error {
	var selections [][]client.ListOption
	switch s.kind {
	case selectedPods:
		selections = [][]client.ListOption{{client.InNamespace(s.selector.Namespace), client.MatchingLabels(s.selector.Labels)}}
	case gatewayPods:
		selections = [][]client.ListOption{{client.MatchingLabelsSelector{Selector: withProxy}}, {client.MatchingLabels(nodeProxyLabels)}}
	default:
		selections = [][]client.ListOption{{client.MatchingLabelsSelector{Selector: withProxy}}}
	}
	for _, options := range selections {
		list := &metav1.PartialObjectMetadataList{}
		list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("PodList"))
		for {
			if err := c.live.List(ctx, list, append(slices.Clone(options), running, client.Limit(page), client.Continue(list.Continue))...); err != nil {
				return err
			}
			for i := range list.Items {
				if err := call(&list.Items[i].ObjectMeta); err != nil {
					return err
				}
			}
			if list.Continue == "" {
				break
			}
		}
	}
	return nil
}

var withProxy = exists(proxyLabel)

func exists(label string) labels.Selector {
	requirement, err := labels.NewRequirement(label, selection.Exists, nil)
	if err != nil {
		panic(err) // it is a constant
	}
	return labels.NewSelector().Add(*requirement)
}
