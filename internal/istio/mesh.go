// SPDX-License-Identifier: Apache-2.0

package istio

import "strings"

var dashes = strings.NewReplacer(".", "-", "_", "-", ":", "-", "/", "-", " ", "-")

// MeshName returns the name of an istiod's mesh in the public API: <deployment>-<namespace>-<cluster>
// (Gloo Mesh 1.2, pkg/mesh-discovery/translation/utils/object_meta.go).
func MeshName(deployment, namespace, cluster string) string {
	return NormalMeshName(deployment + "-" + namespace + "-" + cluster)
}

// NormalMeshName returns a name in lower case, with dashes for characters that no object's name may contain.
func NormalMeshName(name string) string { return strings.ToLower(dashes.Replace(name)) }
