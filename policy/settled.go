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

// notSettled is a match condition that ends an evaluation that changes nothing. Match conditions see no variables.
func notSettled() admissionv1.MatchCondition {
	return admissionv1.MatchCondition{Name: "not-settled", Expression: "!(" + asRendered() + " && " + ordinary() + " && " +
		noneNamed("ENABLE_CA_SERVER", "EXTERNAL_CA", istio.MultiRootVariable, istio.WorkloadTTLVariable) + ")"}
}

// notSilent is a match condition that ends an evaluation that warns of nothing. It relies on the policy that injects, which
// leaves no Deployment ordinary whose istiod has no built-in CA.
func notSilent() admissionv1.MatchCondition {
	return admissionv1.MatchCondition{Name: "not-silent", Expression: "!(" + ordinary() + " && !params.spec.multiRootMesh && " + settledPod + ".?automountServiceAccountToken.orValue(true) && " +
		settledPod + ".?securityContext.?runAsUser.orValue(1) != 0 && " + settledIstiod + ".?securityContext.?runAsUser.orValue(1) != 0)"}
}

// ordinary reports whether the Deployment is one of Istio's chart after its injection, so that it need not be refused. That
// does not depend on its agent, nor on whether istiod has its built-in CA.
func ordinary() string {
	names := list(patches.IstiodContainer, patches.AgentContainer, patches.InitContainer)
	return strings.Join([]string{
		"object.metadata.?annotations[?" + quote(patches.OriginalAnnotation) + "].orValue('') == " + freshNote,
		ofTheChart(),
		"(" + settledPod + ".containers + " + settledPod + ".?initContainers.orValue([])).all(c, c.name in " + names + ")",
		inMemoryVolume + " in " + settledPod + ".?volumes.orValue([])",
		// Of several variables with a name the last counts.
		settledIstiod + ".env[size(" + settledIstiod + ".env) - 1] == " + variableIs(istio.RootCADirVariable, istio.CACertsDir),
	}, " && ")
}

// freshNote is what the injection notes about a Deployment of Istio's chart.
const freshNote = `'{"rootCADirAdded":true}'`

// inMemoryVolume is the volume of Istio's chart as the injection leaves it.
const inMemoryVolume = "{'name': dyn('cacerts'), 'emptyDir': dyn(params.spec.volume.emptyDir)}"

// ofTheChart reports whether the Deployment neither opts out nor has a note on its pod template, and its first container is
// istiod with the mounts of Istio's chart and a variable.
func ofTheChart() string {
	key, original := quote(patches.InjectKey), quote(patches.OriginalAnnotation)
	mount := "{'name': dyn('cacerts'), 'mountPath': dyn(" + quote(patches.CACertsPath) + "), 'readOnly': dyn(true)}"
	return strings.Join([]string{
		"!(" + key + " in object.metadata.?annotations.orValue({})) && !(" + key + " in object.metadata.?labels.orValue({}))",
		"!(" + original + " in object.spec.template.?metadata.?annotations.orValue({}))",
		settledPod + ".containers != null && size(" + settledPod + ".containers) > 0 && " + settledIstiod + ".name == " + quote(patches.IstiodContainer) + " && has(" + settledIstiod + ".env)",
		// Nothing else is near /etc/cacerts, or mounts a token for the API server.
		"!has(" + settledIstiod + ".volumeDevices) && " + settledIstiod + ".?volumeMounts.orValue([]).filter(m, !m.mountPath.matches(r'^/var/[A-Za-z0-9/_-]*$')) == [" + mount + "]",
	}, " && ")
}

// rendersAsIs reports whether the agent's containers in a Deployment of Istio's chart are the rendered ones, unless one of
// istiod's variables says otherwise.
func rendersAsIs() string {
	multiRoot := variableIs(istio.MultiRootVariable, "true")
	return strings.Join([]string{
		"params.spec.annotate && !params.spec.multiRootMesh && !has(" + settledPod + ".resources)",
		"!" + settledIstiod + ".?securityContext.?runAsUser.hasValue() && !" + settledIstiod + ".?securityContext.?runAsGroup.hasValue()",
		"!(" + multiRoot + " in params.spec.initContainer.env) && !(has(params.spec.container) && " + multiRoot + " in params.spec.container.env)",
	}, " && ")
}

// fresh reports whether the Deployment is one of Istio's chart before its injection.
func fresh() string {
	token := quote(patches.VaultTokenVolume)
	return strings.Join([]string{
		"!(" + quote(patches.OriginalAnnotation) + " in object.metadata.?annotations.orValue({})) && !(" + quote(patches.InjectedAnnotation) + " in object.spec.template.?metadata.?annotations.orValue({}))",
		ofTheChart(),
		"size(" + settledPod + ".containers) == 1 && !has(" + settledPod + ".initContainers) && has(object.spec.template.metadata) && has(object.spec.template.metadata.annotations)",
		rendersAsIs(),
		chartVolume("'cacerts'") + " in " + settledPod + ".?volumes.orValue([]) && !(" + token + " in variables.volumeNames)",
		noneNamed("ENABLE_CA_SERVER", "EXTERNAL_CA", istio.MultiRootVariable, istio.WorkloadTTLVariable, istio.RootCADirVariable),
	}, " && ")
}

// freshMutation is the JSON patch of a fresh Deployment.
func freshMutation() string {
	const pod = "/spec/template/spec"
	patch := func(op, path, value string) string {
		return "JSONPatch{op: '" + op + "', path: " + path + ", value: " + value + "}"
	}
	annotation := func(path, key, value string) string {
		return patch("add", quote(path+"/annotations/"+strings.ReplaceAll(key, "/", "~1")), value)
	}
	return "[" + strings.Join([]string{
		patch("add", quote(pod+"/containers/0/env/-"), variableIs(istio.RootCADirVariable, istio.CACertsDir)),
		patch("add", quote(pod+"/initContainers"), "[params.spec.initContainer]"),
		patch("replace", quote(pod+"/volumes/")+" + string(variables.volumeNames.indexOf('cacerts'))", inMemoryVolume),
		"has(object.metadata.annotations) ? " + annotation("/metadata", patches.OriginalAnnotation, freshNote) + " : " +
			patch("add", "'/metadata/annotations'", "{"+quote(patches.OriginalAnnotation)+": "+freshNote+"}"),
		annotation("/spec/template/metadata", patches.InjectedAnnotation, "params.spec.digest"),
	}, ", ") + "] + (has(params.spec.container) ? [" + patch("add", quote(pod+"/containers/-"), "params.spec.container") + "] : []) + " +
		"(has(params.spec.tokenVolume) ? [" + patch("add", quote(pod+"/volumes/-"), "params.spec.tokenVolume") + "] : [])"
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
			"WANT.all(k, v, k in HAVE && HAVE[k] == v)")
	}
	return strings.Join([]string{
		"object.spec.template.?metadata.?annotations[?" + mark + "].orValue('') == params.spec.digest",
		rendersAsIs(),
		settledPod + ".containers != null && size(" + settledPod + ".containers) == (has(params.spec.container) ? 2 : 1) && size(" + settledPod + ".?initContainers.orValue([])) == 1",
		// The token's volume, which the API server gives a mode.
		"(has(params.spec.tokenVolume) ? " + projected(", 'defaultMode': dyn(420)") + " in " + settledPod + ".?volumes.orValue([]) || " + projected("") + " in " + settledPod + ".?volumes.orValue([]) : !" + settledPod + ".?volumes.orValue([]).exists(v, v.name == " + token + "))",
		container(settledPod+".initContainers[0]", "params.spec.initContainer"),
		"(!has(params.spec.container) || " + container(settledPod+".containers[1]", "params.spec.container") + ")",
	}, " && ")
}

func variableIs(name, value string) string {
	return "{'name': " + quote(name) + ", 'value': " + quote(value) + "}"
}

// noneNamed reports whether istiod has no variable of some names. It takes some of the variables at a time: the API server
// searches among all that a loop has seen, so that the time would grow with the square of their number (cel-go,
// interpreter/runtimecost.go, drop). A list of truth values is searched faster than one of names, for any number of names.
func noneNamed(names ...string) string {
	const env, slice = settledIstiod + ".env", "150"
	return "lists.range((size(" + env + ") + " + slice + " - 1) / " + slice + ").all(i, [" + env + ".slice(i * " + slice + ", [i * " + slice + " + " + slice + ", size(" + env + ")].min())]" +
		".all(some, !(true in some.map(e, e.name in " + list(names...) + "))))"
}
