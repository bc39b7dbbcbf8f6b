// SPDX-License-Identifier: Apache-2.0

package v1

import "strings"

// MaxMatches is the number of istiods that the patterns of one VirtualMesh match in a cluster.
const MaxMatches = 100

// Pattern splits a name with a star, such as istiod-*-istio-system-cluster-1, into the start of the Deployment's name
// and the part after the star, -<namespace>-<cluster>. ok is false for a name without a star.
func (r *MeshRef) Pattern() (prefix, suffix string, ok bool) { return strings.Cut(r.Name, "*") }
