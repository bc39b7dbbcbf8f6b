// SPDX-License-Identifier: Apache-2.0

package patches

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/istiod-agent/istiod-agent/internal/istio"
)

// rootCADirVariable is what istiod's container gets. Istio's default is the
// relative ./etc/cacerts, which depends on workingDir, and any envFrom of the
// container could set it; a variable in env overrides both.
var rootCADirVariable = corev1.EnvVar{Name: istio.RootCADirVariable, Value: CACertsPath}

// addsRootCADir tells whether istiod's container gets the variable. Without
// annotations the injection is what Gloo Mesh's guide makes of istiod.
func (r *rendering) addsRootCADir() bool { return r.annotate }

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

// caDirProblem says why istiod would not see the files that the agent
// publishes in its volume, "" when it would. Such an istiod would start with a
// root of its own.
func (i *Injector) caDirProblem(o *object) string {
	if problem := o.istiod.rootCADirProblem(i.rendered.addsRootCADir()); problem != "" {
		return problem
	}
	if o.istiod.volume == VaultTokenVolume {
		return fmt.Sprintf("container %s mounts volume %s at %s, which is that of the agent's token; give its volume another name", o.istiod.name, VaultTokenVolume, CACertsPath)
	}
	if o.istiod.hiddenBy != "" {
		return fmt.Sprintf("container %s %s", o.istiod.name, o.istiod.hiddenBy)
	}
	return ""
}
