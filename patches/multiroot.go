// SPDX-License-Identifier: Apache-2.0

package patches

import (
	"encoding/json"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
)

// multiRootVariable is what istiod's container and the agent's get.
var multiRootVariable = corev1.EnvVar{Name: MultiRootVariable, Value: "true"}

// takesOtherRoots tells whether istiod will take other roots of trust while it runs: as its own variable says, or the
// configuration where it has none, or has it from an injection.
func (i *Injector) takesOtherRoots(o *object) bool {
	if o.istiod.multiRoot < 0 || o.note().MultiRootAdded {
		return i.rendered.multiRoot
	}
	on, err := strconv.ParseBool(o.istiod.env[MultiRootVariable])
	return err == nil && on
}

// setMultiRoot gives istiod's container the variable that the configuration asks for, and takes away one that an
// earlier configuration asked for.
func (i *Injector) setMultiRoot(p *patch, o *object) {
	switch added := o.note().MultiRootAdded; {
	case i.rendered.multiRoot && o.istiod.multiRoot < 0:
		raw, _ := json.Marshal(multiRootVariable) // a fixed value of an API type
		envs := list{at: o.containers.entry(o.istiod.index) + "/env", exists: o.istiod.hasEnv}
		p.insert(&envs, false, raw, "set "+MultiRootVariable+" in container "+o.istiod.name)
	case !i.rendered.multiRoot && added:
		p.unsetMultiRoot(o)
	}
}

// unsetMultiRoot takes away the variable of an injection.
func (p *patch) unsetMultiRoot(o *object) {
	if o.istiod.multiRoot < 0 {
		return
	}
	envs := list{at: o.containers.entry(o.istiod.index) + "/env"}
	at := envs.entry(o.istiod.multiRoot)
	if o.istiod.envs == 1 {
		at = envs.at
	}
	p.add("remove", at, nil, "unset "+MultiRootVariable+" in container "+o.istiod.name)
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
