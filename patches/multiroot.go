// SPDX-License-Identifier: Apache-2.0

package patches

import (
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"github.com/istiod-agent/istiod-agent/internal/istio"
)

// multiRootVariable is what istiod's container and the agent's get.
var multiRootVariable = corev1.EnvVar{Name: istio.MultiRootVariable, Value: "true"}

// takesOtherRoots tells whether istiod will take other roots of trust while it runs: as its own variable says, or the
// configuration where it has none, or has it from an injection.
func (i *Injector) takesOtherRoots(o *object) bool {
	if !o.istiod.has(istio.MultiRootVariable) || o.note().MultiRootAdded {
		return i.rendered.multiRoot
	}
	on, err := strconv.ParseBool(o.istiod.env[istio.MultiRootVariable].value)
	return err == nil && on
}

// withMultiRoot tells the agent's container what istiod does, unless its own configuration does.
func withMultiRoot(c *corev1.Container, on bool) {
	if on {
		insertVariable(c, multiRootVariable)
		return
	}
	if at := slices.IndexFunc(c.Env, func(e corev1.EnvVar) bool { return e == multiRootVariable }); at == alwaysSet {
		c.Env = slices.Delete(c.Env, at, at+1)
	}
}
