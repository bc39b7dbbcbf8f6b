// SPDX-License-Identifier: Apache-2.0

package patches

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/istiod-agent/istiod-agent/internal/istio"
)

// multiRootVariable is set in istiod's container and in the agent's.
var multiRootVariable = corev1.EnvVar{Name: istio.MultiRootVariable, Value: "true"}

// multiRootEnabled reports whether istiod accepts other roots of trust while it runs: by its own variable, or else by the
// configuration.
func (i *Injector) multiRootEnabled(o *object) bool {
	if !o.istiod.has(istio.MultiRootVariable) || o.multiRootAdded() {
		return i.rendered.multiRoot
	}
	on, err := strconv.ParseBool(o.istiod.env[istio.MultiRootVariable].value)
	return err == nil && on
}

// multiRootAdded reports whether istiod's variable is still an injection's: its owner may have set another value since.
func (o *object) multiRootAdded() bool {
	return o.storedNote().MultiRootAdded && o.istiod.plainValue(istio.MultiRootVariable) == multiRootVariable.Value
}

// setMultiRoot gives the agent's container istiod's setting, unless the agent's configuration sets it.
func setMultiRoot(c *corev1.Container, on bool) {
	if on {
		insertVariable(c, multiRootVariable)
		return
	}
	if at := slices.IndexFunc(c.Env, func(e corev1.EnvVar) bool { return e == multiRootVariable }); at == guideVariables {
		c.Env = slices.Delete(c.Env, at, at+1)
	}
}

// setVariables sets the configured variables in istiod's container, and removes one that an earlier configuration set.
func (i *Injector) setVariables(p *patch, o *object) {
	remaining := o.istiod.envs
	if !i.rendered.multiRoot && o.multiRootAdded() {
		remaining = p.unset(o, istio.MultiRootVariable)
	}
	envs := list{path: o.containers.entry(o.istiod.index) + "/env", exists: o.istiod.hasEnv && (remaining > 0 || o.istiod.envs == 0)}
	for _, v := range []struct {
		corev1.EnvVar
		enabled bool
	}{
		{rootCADirVariable, i.rendered.addsRootCADir()},
		{multiRootVariable, i.rendered.multiRoot},
	} {
		if !v.enabled || o.istiod.has(v.Name) {
			continue
		}
		raw, _ := json.Marshal(v.EnvVar) // a fixed value of an API type
		p.insert(&envs, false, raw, "set "+v.Name+" in container "+o.istiod.name)
		envs.exists = true
	}
}

// unsetVariables removes the variables that the note lists, unless their owner has set other values since.
func (p *patch) unsetVariables(o *object, note originalNote) {
	var names []string
	if note.RootCADirAdded && o.istiod.plainValue(istio.RootCADirVariable) == CACertsPath {
		names = append(names, istio.RootCADirVariable)
	}
	if o.multiRootAdded() {
		names = append(names, istio.MultiRootVariable)
	}
	p.unset(o, names...)
}

// unset removes variables from istiod's container and returns how many remain.
func (p *patch) unset(o *object, names ...string) (remaining int) {
	names = slices.DeleteFunc(names, func(name string) bool { return !o.istiod.has(name) })
	envs := list{path: o.containers.entry(o.istiod.index) + "/env"}
	if len(names) > 0 && len(names) == o.istiod.envs {
		p.add("remove", envs.path, nil, "unset "+strings.Join(names, ", ")+" in container "+o.istiod.name)
		return 0
	}
	// The last one first, so that the other indices stay valid.
	slices.SortFunc(names, func(a, b string) int { return o.istiod.env[b].index - o.istiod.env[a].index })
	for _, name := range names {
		p.add("remove", envs.entry(o.istiod.env[name].index), nil, "unset "+name+" in container "+o.istiod.name)
	}
	return o.istiod.envs - len(names)
}

// guideVariables is the number of variables that the guide sets in the agent's containers.
const guideVariables = 4

// isOwnVariable reports whether the agent itself reads a variable (cmd/istiod-agent/command.go): others must not change it.
func isOwnVariable(name string) bool {
	switch name {
	case "PILOT_CERT_PROVIDER", "POD_NAME", "POD_NAMESPACE", "SERVICE_ACCOUNT", "ISSUED_CERTIFICATE_NAMESPACE", "KUBECONFIG",
		istio.MultiRootVariable, istio.WorkloadTTLVariable:
		return true
	}
	return strings.HasPrefix(name, "ISTIOD_AGENT_")
}

// insertVariable adds a variable of istiod's after the guide's, unless the agent's configuration sets it.
func insertVariable(c *corev1.Container, v corev1.EnvVar) {
	if !slices.ContainsFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == v.Name }) {
		c.Env = slices.Insert(c.Env, guideVariables, v)
	}
}
