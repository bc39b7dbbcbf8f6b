// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"

	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/patches"
)

// The API server evaluates each policy several times for a request, most of them on an object that the injection has just
// changed. For a Deployment like that of Istio's chart, the expressions here find out with a few comparisons that nothing
// is left to change, to refuse or to warn about. They may miss such a Deployment, which then costs a full evaluation. They
// must never report one of which the policy's variables would find otherwise. They write paths out, as a binding takes
// longer.
//
// A Pod never is settled: the API server adds a token's volume to its containers between the evaluations.
const (
	settledPod    = "object.spec.template.spec"
	settledIstiod = settledPod + ".containers[0]"
)

// settledCondition is a match condition that ends the evaluation where an injection of the parameter has left the Deployment
// like this, and there is nothing to warn about. Match conditions see no variables.
func settledCondition() admissionv1.MatchCondition {
	return admissionv1.MatchCondition{Name: "not-settled", Expression: "!(" + asRendered() + " && " + ordinary() + " && " +
		noneNamed(settledIstiod+".env", "ENABLE_CA_SERVER", "EXTERNAL_CA", istio.MultiRootVariable, istio.WorkloadTTLVariable) + ")"}
}

// ordinary reports whether the Deployment is one of Istio's chart after its injection, so that it need not be refused. That
// does not depend on its agent, nor on whether istiod has its built-in CA.
func ordinary() string {
	key, original := quote(patches.InjectKey), quote(patches.OriginalAnnotation)
	names := list(patches.IstiodContainer, patches.AgentContainer, patches.InitContainer)
	mount := "{'name': dyn('cacerts'), 'mountPath': dyn(" + quote(patches.CACertsPath) + "), 'readOnly': dyn(true)}"
	return strings.Join([]string{
		"object.metadata.?annotations[?" + original + "].orValue('') == " + quote(`{"rootCADirAdded":true}`),
		"!(" + key + " in object.metadata.annotations) && !(" + key + " in object.metadata.?labels.orValue({}))",
		"!(" + original + " in object.spec.template.?metadata.?annotations.orValue({}))",
		settledPod + ".containers != null && " + settledIstiod + ".name == " + quote(patches.IstiodContainer),
		"(" + settledPod + ".containers + " + settledPod + ".?initContainers.orValue([])).all(c, c.name in " + names + ")",
		"{'name': dyn('cacerts'), 'emptyDir': dyn(params.spec.volume.emptyDir)} in " + settledPod + ".volumes",
		// Of several variables with a name the last counts.
		"has(" + settledIstiod + ".env) && " + settledIstiod + ".env[size(" + settledIstiod + ".env) - 1] == " + variableIs(istio.RootCADirVariable, istio.CACertsDir),
		// Nothing else is near /etc/cacerts, or mounts a token for the API server.
		"!has(" + settledIstiod + ".volumeDevices) && " + settledIstiod + ".volumeMounts.filter(m, !m.mountPath.matches(r'^/var/[A-Za-z0-9/_-]*$')) == [" + mount + "]",
	}, " && ")
}

// asRendered reports whether an ordinary Deployment has the agent as it is rendered, so that nothing is left to change,
// unless one of istiod's variables says otherwise.
func asRendered() string {
	mark, token := quote(patches.InjectedAnnotation), quote(patches.VaultTokenVolume)
	projected := func(mode string) string {
		return "{'name': dyn(" + token + "), 'projected': dyn({'sources': dyn(params.spec.tokenVolume.projected.sources)" + mode + "})}"
	}
	container := func(have, want string) string {
		return strings.NewReplacer("HAVE", have, "WANT", want).Replace("has(WANT.resources) && has(WANT.securityContext) && !has(HAVE.command) && !has(HAVE.envFrom) && !has(HAVE.volumeDevices) && " +
			"has(WANT.restartPolicy) == has(HAVE.restartPolicy) && has(WANT.startupProbe) == has(HAVE.startupProbe) && " +
			"WANT.all(k, v, k in HAVE && HAVE[k] == v) && !(" + variableIs(istio.MultiRootVariable, "true") + " in WANT.env)")
	}
	return strings.Join([]string{
		"object.spec.template.?metadata.?annotations[?" + mark + "].orValue('') == params.spec.digest && params.spec.annotate && !params.spec.multiRootMesh",
		settledPod + ".containers != null && size(" + settledPod + ".containers) == (has(params.spec.container) ? 2 : 1) && size(" + settledPod + ".?initContainers.orValue([])) == 1",
		"!has(" + settledPod + ".resources) && " + settledPod + ".?automountServiceAccountToken.orValue(true)",
		"!" + settledIstiod + ".?securityContext.?runAsUser.hasValue() && !" + settledIstiod + ".?securityContext.?runAsGroup.hasValue()",
		// The token's volume, which the API server gives a mode.
		"(has(params.spec.tokenVolume) ? " + projected(", 'defaultMode': dyn(420)") + " in " + settledPod + ".volumes || " + projected("") + " in " + settledPod + ".volumes : !" + settledPod + ".volumes.exists(v, v.name == " + token + "))",
		container(settledPod+".initContainers[0]", "params.spec.initContainer"),
		"(!has(params.spec.container) || " + container(settledPod+".containers[1]", "params.spec.container") + ")",
	}, " && ")
}

func variableIs(name, value string) string {
	return "{'name': " + quote(name) + ", 'value': " + quote(value) + "}"
}

// noneNamed reports whether a list of variables has none of some names. It takes a hundred at a time: the API server
// searches among all that a loop has seen, so that the time would grow with the square of their number (cel-go,
// interpreter/runtimecost.go, drop).
func noneNamed(env string, names ...string) string {
	absent := make([]string, len(names))
	for i, name := range names {
		absent[i] = "!(" + quote(name) + " in names)"
	}
	return "lists.range((size(" + env + ") + 99) / 100).all(i, [" + env + ".slice(i * 100, [i * 100 + 100, size(" + env + ")].min()).map(e, e.name)].all(names, " + strings.Join(absent, " && ") + "))"
}
