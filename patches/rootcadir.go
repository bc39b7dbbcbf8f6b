// SPDX-License-Identifier: Apache-2.0

package patches

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/istiod-agent/istiod-agent/internal/istio"
)

// rootCADirVariable is what istiod's container gets. Istio's default is the
// relative ./etc/cacerts, which depends on workingDir, and any envFrom of the
// container could set it; a variable in env overrides both.
var rootCADirVariable = corev1.EnvVar{Name: istio.RootCADirVariable, Value: CACertsPath}

// setsRootCADir tells whether istiod's container gets the variable. Without
// annotations the injection is what Gloo Mesh's guide makes of istiod.
func (r *rendering) setsRootCADir() bool { return r.annotate }

// rootCADirProblem says why istiod would look for its CA elsewhere than in
// CACertsPath, "" when it would not. injected tells whether the container gets
// the variable where it has none.
func (i *istiod) rootCADirProblem(injected bool) string {
	dir, set := i.env[istio.RootCADirVariable]
	inRoot := clean(i.workingDir) == "/"
	switch {
	case !set && injected:
		return ""
	case !set && i.envFrom:
		return fmt.Sprintf("container %s has envFrom, which may set %s; set %s=%s in its env", i.name, istio.RootCADirVariable, istio.RootCADirVariable, CACertsPath)
	case !set && !inRoot:
		return fmt.Sprintf("container %s looks for .%s in its workingDir %s; set %s=%s in its env", i.name, CACertsPath, i.workingDir, istio.RootCADirVariable, CACertsPath)
	case !set:
		return ""
	case !dir.plain:
		return istio.RootCADirVariable + " has no plain value, so where it leads is not known; unset it"
	case dir.value == "":
		return istio.RootCADirVariable + " is empty, which is istiod's working directory; unset it"
	case relate([]byte(dir.value)) != atCACerts:
		return istio.RootCADirVariable + " is " + dir.value + "; unset it"
	case !strings.HasPrefix(dir.value, "/") && !inRoot:
		return fmt.Sprintf("%s is %s, below workingDir %s; unset it", istio.RootCADirVariable, dir.value, i.workingDir)
	}
	return ""
}

// setVariables gives istiod's container the variables that the configuration
// asks for, and removes one that an earlier configuration asked for.
func (i *Injector) setVariables(p *patch, o *object) {
	remaining := o.istiod.envs
	if !i.rendered.multiRoot && o.note().MultiRootAdded {
		remaining = p.unset(o, istio.MultiRootVariable)
	}
	envs := list{at: o.containers.entry(o.istiod.index) + "/env", exists: o.istiod.hasEnv && (remaining > 0 || o.istiod.envs == 0)}
	for _, v := range []struct {
		corev1.EnvVar
		wanted bool
	}{
		{rootCADirVariable, i.rendered.setsRootCADir()},
		{multiRootVariable, i.rendered.multiRoot},
	} {
		if !v.wanted || o.istiod.has(v.Name) {
			continue
		}
		raw, _ := json.Marshal(v.EnvVar) // a fixed value of an API type
		p.insert(&envs, false, raw, "set "+v.Name+" in container "+o.istiod.name)
		envs.exists = true
	}
}

// unsetVariables removes what an injection has set, by its note.
func (p *patch) unsetVariables(o *object, was original) {
	var names []string
	if was.RootCADirAdded && o.istiod.plainly(istio.RootCADirVariable) == CACertsPath {
		names = append(names, istio.RootCADirVariable)
	}
	if was.MultiRootAdded {
		names = append(names, istio.MultiRootVariable)
	}
	p.unset(o, names...)
}

// unset removes variables from istiod's container, and returns how many remain.
func (p *patch) unset(o *object, names ...string) (remaining int) {
	names = slices.DeleteFunc(names, func(name string) bool { return !o.istiod.has(name) })
	envs := list{at: o.containers.entry(o.istiod.index) + "/env"}
	if len(names) > 0 && len(names) == o.istiod.envs {
		p.add("remove", envs.at, nil, "unset "+strings.Join(names, ", ")+" in container "+o.istiod.name)
		return 0
	}
	// The last one first, so that the indices before it stay true.
	slices.SortFunc(names, func(a, b string) int { return o.istiod.env[b].index - o.istiod.env[a].index })
	for _, name := range names {
		p.add("remove", envs.entry(o.istiod.env[name].index), nil, "unset "+name+" in container "+o.istiod.name)
	}
	return o.istiod.envs - len(names)
}

// relation of a path in istiod's container to CACertsPath.
type relation int

const (
	elsewhere relation = iota
	atCACerts
	belowCACerts
	aboveCACerts
	unclear // a component "..", whose target depends on links
)

// relate reads a path as the kubelet mounts it: relative paths from the root,
// empty components and "." without a meaning.
func relate(path []byte) relation {
	depth, aside := 0, false
	for component := range bytes.SplitSeq(path, []byte{'/'}) {
		switch string(component) {
		case "", ".":
		case "..":
			return unclear
		default:
			aside = aside || (depth == 0 && string(component) != "etc") || (depth == 1 && string(component) != "cacerts")
			depth++
		}
	}
	switch {
	case aside:
		return elsewhere
	case depth < 2:
		return aboveCACerts
	case depth == 2:
		return atCACerts
	default:
		return belowCACerts
	}
}

// hides says what a mount at such a path does.
func (r relation) hides(path []byte) string {
	if r == unclear {
		return fmt.Sprintf("mounts something at %s; write that path without %q", path, "..")
	}
	return fmt.Sprintf("mounts something at %s, which hides the agent's files; remove that mount", path)
}
