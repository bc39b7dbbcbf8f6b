// SPDX-License-Identifier: Apache-2.0

package patches

import (
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
)

// multiRootVariable is what istiod's container and the agent's get.
var multiRootVariable = corev1.EnvVar{Name: MultiRootVariable, Value: "true"}

// takesOtherRoots tells whether istiod will take other roots of trust while it runs: as its own variable says, or the
// configuration where it has none, or has it from an injection.
func (i *Injector) takesOtherRoots(o *object) bool {
	if !o.istiod.has(MultiRootVariable) || o.note().MultiRootAdded {
		return i.rendered.multiRoot
	}
	on, err := strconv.ParseBool(o.istiod.env[MultiRootVariable].value)
	return err == nil && on
}

// withMultiRoot tells the agent's container what istiod does, unless its own configuration does. The variable follows
// the four that every agent has.
func withMultiRoot(c *corev1.Container, on bool) {
	const first = 4
	has := len(c.Env) > first && c.Env[first] == multiRootVariable
	switch {
	case on && !slices.ContainsFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == MultiRootVariable }):
		c.Env = slices.Insert(c.Env, first, multiRootVariable)
	case !on && has:
		c.Env = slices.Delete(c.Env, first, first+1)
	}
}
