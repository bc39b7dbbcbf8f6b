// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/istiod-agent/istiod-agent/internal/bounded"
)

// FederatedCondition is true when, in each mesh of this cluster, istiod reads the services and endpoints of all other clusters of
// spec.meshes. It is absent where spec.federation requests nothing.
const FederatedCondition = "Federated"

// FederationState is whether an istiod reads the services and endpoints of another cluster.
// +kubebuilder:validation:Enum=Joined;NoAccess;NotSynced;Unknown
type FederationState string

// The states.
//
//reasons:page federation
const (
	// Joined: Every reporting istiod of the mesh reads it.
	//
	// Remedy: none.
	Joined FederationState = "Joined"
	// NoAccess: An istiod has no remote secret for it.
	//
	// Remedy: [join it](multicluster.md) with `kubectl istiod-agent join`, or correct its name in `spec.meshes`.
	NoAccess FederationState = "NoAccess"
	// NotSynced: An istiod has a remote secret for it, and does not read it, or not yet.
	//
	// Remedy: [A remote cluster is not synced](troubleshooting.md#a-remote-cluster-is-not-synced).
	NotSynced FederationState = "NotSynced"
	// FederationUnknown: No agent has reported it yet.
	//
	// Remedy: start istiod, or restart one whose agent is older than this release. Or the agent [cannot read istiod's
	// list](agent.md#remote-clusters): its entry in the `IssuedCertificate` contains the cause.
	FederationUnknown FederationState = "Unknown"
)

// FederatedCluster is another cluster of spec.meshes, as the istiods of a mesh see it.
type FederatedCluster struct {
	// Name of the cluster, or of its mesh where that does not show it.
	// +kubebuilder:validation:MaxLength=253
	Cluster string `json:"cluster"`

	// Whether istiod reads its services and endpoints: Joined, NoAccess, NotSynced or Unknown.
	State FederationState `json:"state"`

	// The reason and the next command; empty when it is Joined.
	// +kubebuilder:validation:MaxLength=32768
	Message string `json:"message,omitempty"`
}

// RequestsFederation reports whether spec.federation requests that meshes reach each other's services. In the public API, which
// allows selectors (permissive and restrictive before Gloo Mesh 1.1), no selector requests nothing
// (api/networking/v1/virtual_mesh.proto, VirtualMeshSpec.Federation).
func (s *VirtualMeshSpec) RequestsFederation() bool {
	federation, ok := fieldsOf(s.Federation)
	if !ok {
		return false
	}
	_, permissive := federation["permissive"].(map[string]any)
	_, restrictive := federation["restrictive"].(map[string]any)
	selectors, _ := federation["selectors"].([]any)
	return permissive || restrictive || len(selectors) > 0
}

// fieldsOf returns the fields of an object; ok is false for an absent one, and for another type.
func fieldsOf(raw *runtime.RawExtension) (fields map[string]any, ok bool) {
	if raw == nil || json.Unmarshal(raw.Raw, &fields) != nil {
		return nil, false
	}
	return fields, fields != nil
}

// federationParts are fields of spec.federation that Istio's own federation cannot express, and why: it merges a Service of the
// same name over all clusters whose API servers it reads.
var federationParts = map[string]string{
	"restrictive":                     "istiod reads every service of a joined cluster; limit who sees a service by its annotation networking.istio.io/exportTo",
	"hostnameSuffix":                  "a service has its own name in every cluster, such as web.default.svc.cluster.local",
	"eastWestIngressGatewaySelectors": "istiod finds the gateways of another network by their label topology.istio.io/network",
	"flatNetwork":                     "istiod compares the label topology.istio.io/network of the clusters",
	"tcpKeepalive":                    "set it in Istio's DestinationRules",
}

// maxParts and maxField limit what is named of a specification of any size: the number of fields, and the bytes of a name.
const maxParts, maxField = 10, 64

// federationNotActedOn returns the parts of spec.federation that are not acted on.
func federationNotActedOn(raw *runtime.RawExtension) (parts []string) {
	const path = "spec.federation"
	federation, ok := fieldsOf(raw)
	if !ok {
		return nil // absent, or null
	}
	for _, name := range slices.Sorted(maps.Keys(federation)) {
		if len(parts) >= maxParts {
			return append(parts, notActedOn(path, "further fields are neither"))
		}
		value := federation[name]
		switch why, known := federationParts[name]; {
		case name == "selectors":
			parts = append(parts, selectorsNotActedOn(path+".selectors", value)...)
		case name == "permissive", empty(value):
		case known:
			parts = append(parts, notActedOn(path+"."+name, why))
		default:
			parts = append(parts, unknownField(path, name))
		}
	}
	if len(parts) == 0 && !(&VirtualMeshSpec{Federation: raw}).RequestsFederation() {
		parts = append(parts, notActedOn(path, "it has no selectors, so it requests nothing; selectors: [{}] requests all services in all meshes"))
	}
	return parts
}

// selectorsNotActedOn names what limits the selectors, unless one of them means all services and meshes.
func selectorsNotActedOn(path string, value any) (parts []string) {
	selectors, ok := value.([]any)
	if !ok && value != nil {
		return []string{notActedOn(path, "expected a list of selectors, such as [{}]")}
	}
	if slices.ContainsFunc(selectors, allServices) {
		return nil
	}
	for i, selector := range selectors {
		at := path + "[" + strconv.Itoa(i) + "]"
		if len(parts) >= maxParts {
			return append(parts, notActedOn(at, "it and the following ones select only some services or meshes"))
		}
		fields, ok := selector.(map[string]any)
		if !ok {
			parts = append(parts, notActedOn(at, "expected a selector, such as {}"))
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(fields)) {
			switch {
			case empty(fields[name]):
			case name == "destinationSelectors":
				parts = append(parts, notActedOn(at+"."+name, "istiod reads every service of a joined cluster; limit who sees a service by its annotation networking.istio.io/exportTo, or use {}"))
			case name == "meshes":
				parts = append(parts, notActedOn(at+"."+name, "which clusters an istiod reads is decided by its remote secrets; join only those clusters, or use {}"))
			case len(parts) <= maxParts:
				parts = append(parts, unknownField(at, name))
			}
		}
	}
	return parts
}

func unknownField(path, name string) string {
	return notActedOn(path+"."+bounded.Text(bounded.Plain(name), maxField), "there is no such field; it may be misspelt")
}

// allServices reports whether a selector means every service in every mesh: one without any value.
func allServices(selector any) bool {
	fields, ok := selector.(map[string]any)
	if !ok {
		return false
	}
	for _, value := range fields {
		if !empty(value) {
			return false
		}
	}
	return true
}

// empty reports whether a value is what its field has by default.
func empty(value any) bool {
	switch value := value.(type) {
	case nil:
		return true
	case bool:
		return !value
	case string:
		return value == ""
	case []any:
		return len(value) == 0
	case map[string]any:
		return len(value) == 0
	default:
		return false
	}
}
