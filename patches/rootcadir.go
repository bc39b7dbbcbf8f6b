// SPDX-License-Identifier: Apache-2.0

package patches

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/istiod-agent/istiod-agent/internal/istio"
)

// rootCADirVariable is set in istiod's container. Istio's default is the relative ./etc/cacerts, which depends on
// workingDir, and envFrom could set another; a variable in env overrides both.
var rootCADirVariable = corev1.EnvVar{Name: istio.RootCADirVariable, Value: CACertsPath}

// addsRootCADir reports whether istiod's container gets the variable. Without annotations the result is Gloo Mesh's guide's.
func (r *rendering) addsRootCADir() bool { return r.annotate }

// rootCADirProblem explains why istiod would read its CA from another directory than CACertsPath, "" if it would not.
// injected is true if the container gets the variable where it has none.
func (i *istiod) rootCADirProblem(injected bool) string {
	dir, set := i.env[istio.RootCADirVariable]
	inRoot := clean(i.workingDir) == "/"
	switch {
	case !set && injected:
		return ""
	case !set && i.envFrom:
		return fmt.Sprintf("container %s has envFrom, which may set %s; set %s=%s in its env", i.name, istio.RootCADirVariable, istio.RootCADirVariable, CACertsPath)
	case !set && !inRoot:
		return fmt.Sprintf("container %s reads .%s below its workingDir %s; set %s=%s in its env", i.name, CACertsPath, i.workingDir, istio.RootCADirVariable, CACertsPath)
	case !set:
		return ""
	case !dir.plain:
		return istio.RootCADirVariable + " has no plain value, so its directory is unknown; unset it"
	case dir.value == "":
		return istio.RootCADirVariable + " is empty, which is istiod's working directory; unset it"
	case relate(dir.value) != atCACerts:
		return istio.RootCADirVariable + " is " + dir.value + "; unset it"
	case !strings.HasPrefix(dir.value, "/") && !inRoot:
		return fmt.Sprintf("%s is %s, below workingDir %s; unset it", istio.RootCADirVariable, dir.value, i.workingDir)
	}
	return ""
}

// caDirProblem explains why istiod would not read the agent's files, "" if it would. Such an istiod would create its own
// root.
func (i *Injector) caDirProblem(o *object) string {
	if problem := o.istiod.rootCADirProblem(i.rendered.addsRootCADir()); problem != "" {
		return problem
	}
	if o.istiod.volume == VaultTokenVolume {
		return fmt.Sprintf("container %s mounts volume %s at %s, but that volume is reserved for the agent's token; give the volume another name", o.istiod.name, VaultTokenVolume, CACertsPath)
	}
	if o.istiod.hiddenBy != "" {
		return fmt.Sprintf("container %s %s", o.istiod.name, o.istiod.hiddenBy)
	}
	return ""
}
