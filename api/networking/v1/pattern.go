// SPDX-License-Identifier: Apache-2.0

package v1

import "strings"

// MaxMatches is the most istiods of a cluster that the patterns of one VirtualMesh match.
const MaxMatches = 100

// Pattern splits a name with a star, such as istiod-*-istio-system-cluster-1, into what the name of istiod's Deployment
// begins with and what follows the star, -<its namespace>-<cluster>. ok is false for a name without a star.
func (r *MeshRef) Pattern() (prefix, suffix string, ok bool) { return strings.Cut(r.Name, "*") }
