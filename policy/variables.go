// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"

	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/patches"
)

// Parts of expressions. Each takes and gives CEL text.

// agentNames are the names of the agent's containers.
var agentNames = list(patches.AgentContainer, patches.InitContainer)

func quote(text string) string { return "'" + text + "'" }

func list(items ...string) string {
	quoted := make([]string, len(items))
	for i, item := range items {
		quoted[i] = quote(item)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// atCACerts reports whether a path is /etc/cacerts as the kubelet mounts it (patches, relate).
func atCACerts(path string) string {
	return path + `.matches(r'^(\.?/)*etc/(\.?/)*cacerts(/\.?)*$')`
}

// nearCACerts reports whether a path is at, above or below /etc/cacerts, or has a component "..", whose target is unknown.
func nearCACerts(path string) string {
	return path + `.matches(r'^(\.?/)*(\.?|etc(/\.?)*|etc/(\.?/)*cacerts(/(?s:.*))?)$|(^|/)\.\.(/|$)')`
}

// clean is a path from the root, each component followed by a slash: empty for the root (patches, clean).
func clean(path string) string {
	return path + ".split('/').filter(p, !(p in ['', '.'])).map(p, p + '/').join('')"
}

// cleaned is clean for a constant.
func cleaned(path string) string { return quote(strings.Trim(path, "/") + "/") }

// runsIstiod reports whether a container's command line has istiod's subcommand.
func runsIstiod(container string) string {
	return "(" + container + ".?command.orValue([]) + " + container + ".?args.orValue([])).exists(a, a == " + quote(patches.IstiodContainer) + ")"
}

func mountsOf(container string) string { return container + ".?volumeMounts.orValue([])" }

// lastOf is the last entry of a list, or the alternative.
func lastOf(list, alternative string) string {
	return "[[" + alternative + "] + " + list + "].map(l, l[size(l) - 1])[0]"
}

// plainly is the value of one of istiod's variables; of several with a name the last counts. It is empty where the value
// depends on more than the container's own text.
func plainly(name string) string {
	return lastOf("variables.istiodEnv.filter(e, e.name == "+quote(name)+
		").map(e, has(e.valueFrom) || e.?value.orValue('').contains('$(') ? '' : e.?value.orValue(''))", "''")
}

// istiodSets reports whether istiod's env has a variable.
func istiodSets(name string) string {
	return "variables.istiodEnv.exists(e, e.name == " + quote(name) + ")"
}

// chartVolume is the volume of Istio's chart as an API server stores it (patches, chartVolume).
func chartVolume(name string) string {
	return "{'name': dyn(" + name + "), 'secret': dyn({'secretName': dyn(" + quote(istio.CACertsSecret) + "), 'optional': dyn(true), 'defaultMode': dyn(420)})}"
}

// isMirror reports whether an image is the rendered one, has its path and tag in another registry, or is pinned there by
// its digest (patches, isMirrorOf).
func isMirror(image string) string {
	i, w := image+".split('@', 2)", "variables.image.split('@', 2)"
	digest := "(" + i + " + [''])[1]"
	return strings.NewReplacer("IMAGE", i+"[0]", "DIGEST", digest, "WANT_DIGEST", "("+w+" + [''])[1]", "WANT", w+"[0]").Replace(
		"(WANT_DIGEST in ['', DIGEST] && [DIGEST != '' && !IMAGE.matches(r':[^/]*$') ? variables.untaggedImage : WANT]" +
			".exists(w, IMAGE == w || w.matches('^[^/]*/.') && IMAGE.endsWith(w.substring(w.indexOf('/')))))")
}

// trueTexts and falseTexts are what strconv.ParseBool reads.
var (
	trueTexts  = list("1", "t", "T", "true", "TRUE", "True")
	falseTexts = list("0", "f", "F", "false", "FALSE", "False")
)

// The note's grammar: what json.Marshal makes of package patches. A flat volume has one source whose members are plain
// values, which CEL can write and read.
const (
	noteFlags  = `(,?"mountAdded":true)?(,?"multiRootAdded":true)?(,?"rootCADirAdded":true)?(,?"user":-?[0-9]+)?(,?"group":-?[0-9]+)?\}$`
	noteForm   = `^\{("volume":(null|\{.*\}))?` + noteFlags
	flatText   = `[A-Za-z0-9_./-]*`
	flatMember = `"[A-Za-z]+":("` + flatText + `"|true|false|[0-9]+)`
	flatForm   = `^\{("name":"[^"]*",)?"[A-Za-z]+":\{(` + flatMember + `(,` + flatMember + `)*)?\}(,"name":"[^"]*")?\}$`
)

func raw(regex string) string { return "r'" + regex + "'" }

// variables of the policy for one kind, in the order in which they use each other. The API server evaluates only those
// that a decision needs, each once.
func variables(kind patches.Kind) []admissionv1.Variable {
	template := "object.spec.template"
	if kind == patches.Pod {
		template = "object"
	}
	var all []admissionv1.Variable
	for _, group := range [][]admissionv1.Variable{
		{{Name: "template", Expression: template}},
		podOf("variables.template"), placesOf(),
		istiodOf("params.spec.annotate || "), noteOf(), decisionOf(), volumesOf(), environmentOf(), containersOf(kind), completionOf(kind), operationsOf(), annotationsOf(kind),
	} {
		all = append(all, group...)
	}
	return all
}

// podOf a pod template: its lists. The guard has these variables too.
func podOf(template string) []admissionv1.Variable {
	return []admissionv1.Variable{
		{Name: "pod", Expression: template + ".spec"},
		{Name: "initContainers", Expression: "variables.pod.?initContainers.orValue([])"},
		{Name: "containers", Expression: "variables.pod.containers == null ? [] : variables.pod.containers"},
		{Name: "volumes", Expression: "variables.pod.?volumes.orValue([])"},
	}
}

// placesOf an object: where things are.
func placesOf() []admissionv1.Variable {
	return []admissionv1.Variable{
		{Name: "annotations", Expression: "object.metadata.?annotations.orValue({})"},
		{Name: "podAnnotations", Expression: "variables.template.?metadata.?annotations.orValue({})"},
		{Name: "volumeNames", Expression: "variables.volumes.map(v, v.name)"},
		// The agent's containers, and everybody else's.
		{Name: "agents", Expression: "(variables.initContainers + variables.containers).filter(c, c.name in " + agentNames + ")"},
		{Name: "others", Expression: "(variables.initContainers + variables.containers).filter(c, !(c.name in " + agentNames + "))"},
		// The volumes that others mount.
		{Name: "mounted", Expression: "variables.others.map(c, " + mountsOf("c") + ".map(m, m.name)).flatten()"},
		// What the agent's containers mount at /etc/cacerts.
		{Name: "agentsVolumes", Expression: "variables.agents.map(c, " + mountsOf("c") + ".filter(m, " + atCACerts("m.mountPath") +
			")).filter(m, size(m) > 0).map(m, m[0].name)"},
	}
}

// istiodOf the object: its own container, and what the decision needs of it. The guard has these variables too, so they use
// only what Kubernetes 1.30 has: neither lists.range nor reverse nor comprehensions of two variables.
//
// setsRootCADir is CEL text before the condition under which an istiod without ROOT_CA_DIR reads /etc/cacerts: empty, or
// "condition || " where the injection sets the variable.
func istiodOf(setsRootCADir string) []admissionv1.Variable {
	mounts := mountsOf("variables.istiod")
	const env = "variables.istiod.?env.orValue([])"
	return []admissionv1.Variable{
		// The container called discovery, else the first that mounts /etc/cacerts; -1 for none.
		{Name: "discoveryAt", Expression: "variables.containers.map(c, c.name).indexOf(" + quote(patches.IstiodContainer) + ")"},
		{Name: "istiodAt", Expression: "variables.discoveryAt >= 0 ? variables.discoveryAt : variables.containers.map(c, !(c.name in " + agentNames + ") && " +
			mountsOf("c") + ".exists(m, " + atCACerts("m.mountPath") + ")).indexOf(true)"},
		{Name: "istiod", Expression: "variables.istiodAt < 0 ? dyn({}) : dyn(variables.containers[variables.istiodAt])"},
		// The names of other containers that run istiod too.
		{Name: "second", Expression: "variables.others.filter(c, c.name != variables.istiod.?name.orValue('') && " + runsIstiod("c") + ").map(c, c.name)"},

		// The variables of istiod's that the injection depends on, of several with a name the last, which counts. They are not
		// filtered: where a branch is not taken, the API server searches for its cost among all earlier elements (cel-go,
		// interpreter/runtimecost.go, drop), so that the time would grow with the square of their number.
		{Name: "istiodEnvNames", Expression: env + ".map(e, e.name)"},
		{Name: "istiodEnv", Expression: list("ENABLE_CA_SERVER", "EXTERNAL_CA", "PILOT_CERT_PROVIDER", istio.RootCADirVariable, istio.MultiRootVariable, istio.WorkloadTTLVariable) +
			".map(n, variables.istiodEnvNames.lastIndexOf(n)).filter(i, i >= 0).map(i, variables.istiod.env[i])"},
		// An istiod without its built-in CA (istio-csr, or Kubernetes signs) needs no agent.
		{Name: "noBuiltInCA", Expression: plainly("ENABLE_CA_SERVER") + " in " + falseTexts + " || (" + plainly("EXTERNAL_CA") + " != '' && " +
			plainly("PILOT_CERT_PROVIDER") + ".startsWith('k8s.io/'))"},

		// Whether istiod reads its CA from /etc/cacerts; its default is ./etc/cacerts (Istio, pilot/pkg/bootstrap/istio_ca.go).
		{Name: "runsInRoot", Expression: `variables.istiod.?workingDir.orValue('').matches(r'^(\.?/)*\.?$')`},
		{Name: "rootCADirs", Expression: "variables.istiodEnv.filter(e, e.name == " + quote(istio.RootCADirVariable) + ")"},
		{Name: "readsCACerts", Expression: "size(variables.rootCADirs) == 0 ? " + setsRootCADir + "(variables.runsInRoot && size(variables.istiod.?envFrom.orValue([])) == 0) : " +
			"[variables.rootCADirs[size(variables.rootCADirs) - 1]].all(e, !has(e.valueFrom) && " + atCACerts("e.?value.orValue('')") + " && (variables.runsInRoot || e.value.startsWith('/')))"},

		// What it mounts there, and whether something hides it.
		{Name: "mountsAtCACerts", Expression: mounts + ".filter(m, " + atCACerts("m.mountPath") + ")"},
		{Name: "istiodVolume", Expression: "size(variables.mountsAtCACerts) == 0 ? '' : variables.mountsAtCACerts[0].name"},
		{Name: "hidden", Expression: "size(variables.mountsAtCACerts) > 1 || " + mounts + ".exists(m, " + nearCACerts("m.mountPath") + " && (!" +
			atCACerts("m.mountPath") + " || m.?subPath.orValue('') + m.?subPathExpr.orValue('') != '')) || variables.istiod.?volumeDevices.orValue([]).exists(d, " +
			nearCACerts("d.devicePath") + ")"},
	}
}

// Decisions, named by the reason keys of package patches.
const (
	injected = string(patches.Injected)
	removed  = string(patches.Removed)
)

// decisionOf an object: the table of package patches, in its order. "Removed" is an opt-out, or an istiod without its
// built-in CA, from which there is something to take out.
func decisionOf() []admissionv1.Variable {
	return []admissionv1.Variable{
		{Name: "optedOut", Expression: "variables.annotations[?" + quote(patches.InjectKey) + "].orValue('') == 'false' || object.metadata.?labels[" + quote(patches.InjectKey) + "].orValue('') == 'false'"},
		// Whether an injection has left its mark.
		{Name: "annotated", Expression: quote(patches.InjectedAnnotation) + " in variables.podAnnotations || variables.noteText != ''"},
		// The rendered image, and the same without its tag.
		{Name: "image", Expression: "params.spec.initContainer.image"},
		{Name: "untaggedImage", Expression: "variables.image.split('@', 2)[0].substring(0, size(variables.image.split('@', 2)[0]) - size(variables.image.split('@', 2)[0].find(r':[^/]*$')))"},
		// Whether this policy or its webhook injected the object (patches, hasInjected).
		{Name: "hasInjected", Expression: "variables.annotated || size(variables.agents) > 0 && !params.spec.annotate && variables.agents.all(c, " + isMirror("c.?image.orValue('')") + ")"},
		{Name: "decision", Expression: "variables.optedOut ? (variables.hasInjected ? 'Removed' : 'OptedOut') : " +
			"variables.istiodAt < 0 ? 'NoIstiodContainer' : " +
			"size(variables.second) > 0 ? 'CACertsElsewhere' : " +
			"variables.noBuiltInCA ? (variables.hasInjected ? 'Removed' : 'NoBuiltInCA') : " +
			"!variables.readsCACerts || variables.hidden || variables.istiodVolume == " + quote(patches.VaultTokenVolume) + " ? 'CACertsElsewhere' : 'Injected'"},
		{Name: "injecting", Expression: "variables.decision == " + quote(injected)},
		{Name: "removing", Expression: "variables.decision == " + quote(removed)},
	}
}

// noteOf an object: the annotation that keeps what a removal restores. CEL has no JSON, so the text is read by its form;
// one of another form counts as unreadable.
func noteOf() []admissionv1.Variable {
	original := quote(patches.OriginalAnnotation)
	flag := func(name string) string { return "variables.noteFlags.contains('\"" + name + "\":true')" }
	return []admissionv1.Variable{
		{Name: "noteText", Expression: "variables.annotations[?" + original + "].orValue('') != '' ? variables.annotations[" + original + "] : variables.podAnnotations[?" + original + "].orValue('')"},
		// The note where it has the form of one, and is not of an injection's own volume.
		{Name: "note", Expression: readableNote("variables.noteText") + " ? variables.noteText : ''"},
		// Everything behind the volume.
		{Name: "noteFlags", Expression: `variables.note.startsWith('{"volume":') ? variables.note.find(` + raw(noteFlags) + ") : variables.note"},
		// The volume as JSON: null where there was none, empty for the chart's.
		{Name: "notedVolume", Expression: `variables.note.startsWith('{"volume":') ? variables.note.substring(10, size(variables.note) - size(variables.noteFlags)) : ''`},
		{Name: "mountAdded", Expression: flag("mountAdded")},
		// Its owner may have set another value since (patches, multiRootAdded).
		{Name: "multiRootAdded", Expression: flag("multiRootAdded") + " && " + plainly(istio.MultiRootVariable) + " == 'true'"},
		{Name: "rootCADirAdded", Expression: flag("rootCADirAdded")},

		// The user and group ids that the agent takes over from istiod's container. runAsNonRoot would refuse root's.
		{Name: "ids", Expression: "variables.istiod.?securityContext.orValue({}).transformMap(k, v, has(params.spec.initContainer.securityContext) && " +
			"(k == 'runAsUser' && v != 0 || k == 'runAsGroup'), v)"},
	}
}
