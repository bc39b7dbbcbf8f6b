// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"

	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/patches"
)

// volumesOf the pod: what they become.
func volumesOf() []admissionv1.Variable {
	const emptyDirOnly = "has(v.emptyDir) && v.all(k, k in ['name', 'emptyDir'])"
	token := quote(patches.VaultTokenVolume)
	// As it was rendered, or with the API server's default.
	const projects = "v.all(k, k in ['name', 'projected']) && has(v.projected) && v.projected.?sources.orValue([]) == params.spec.tokenVolume.projected.sources && v.projected.?defaultMode.orValue(420) == 420"
	member := func(value string) string {
		return "(type(" + value + ") == string ? '\"' + " + value + " + '\"' : string(" + value + "))"
	}
	return []admissionv1.Variable{
		// The name of the volume that holds istiod's CA (patches, caVolume).
		{Name: "volume", Expression: "variables.istiodVolume != '' ? variables.istiodVolume : (variables.agentsVolumes + ['cacerts' in variables.mounted ? " +
			quote(patches.OwnCACertsVolume) + " : 'cacerts'])[0]"},
		{Name: "volumeAt", Expression: "variables.volumeNames.indexOf(variables.volume)"},
		{Name: "stored", Expression: "variables.volumeAt < 0 ? dyn({}) : dyn(variables.volumes[variables.volumeAt])"},
		{Name: "istiodMount", Expression: "{'name': dyn(variables.volume), 'mountPath': dyn(" + quote(patches.CACertsPath) + "), 'readOnly': dyn(true)}"},
		{Name: "inMemory", Expression: "{'name': dyn(variables.volume), 'emptyDir': dyn(params.spec.volume.emptyDir)}"},

		// Whether the stored volume is an earlier injection's (patches, isInjected).
		{Name: "isInjected", Expression: "[variables.stored].exists(v, " + emptyDirOnly + " && (v == variables.inMemory || v.name in variables.agentsVolumes || " +
			"!variables.agentsVolumes.exists(n, n in variables.volumeNames) && (size(variables.agents) > 0 || variables.annotated)))"},
		// What its owner wrote: a server-side apply merges that with the emptyDir of an injection.
		{Name: "replaced", Expression: "variables.stored.transformMap(k, v, k != 'emptyDir' || size(variables.stored) < 3, v)"},
		// The chart's volume is restored without a note, and one like the injection's own is never noted.
		{Name: "isUnnoted", Expression: "variables.replaced == " + chartVolume("'cacerts'") + " || (variables.replaced.?emptyDir.?medium.orValue('') == 'Memory' && 'sizeLimit' in variables.replaced.emptyDir)"},
		// Whether it can be noted: CEL has no JSON, so only a source of plain values can.
		{Name: "isFlat", Expression: "size(variables.replaced) == 2 && variables.replaced.all(k, k == 'name' || (type(variables.replaced[k]) == map && " +
			"variables.replaced[k].all(m, type(variables.replaced[k][m]) == bool || type(variables.replaced[k][m]) == int || (type(variables.replaced[k][m]) == string && " +
			"string(variables.replaced[k][m]).matches(" + raw("^"+flatText+"$") + ")))))"},
		{Name: "newNotedVolume", Expression: "variables.volumeAt < 0 ? 'null' : variables.isInjected ? variables.notedVolume : variables.isUnnoted ? '' : " +
			"'{' + variables.replaced.map(k, string(k)).sort().map(k, '\"' + k + '\":' + (k == 'name' ? '\"' + variables.volume + '\"' : '{' + " +
			"variables.replaced[k].map(m, string(m)).sort().map(m, '\"' + m + '\":' + " + member("variables.replaced[k][m]") + ").join(',') + '}')).join(',') + '}'"},
		{Name: "cannotNote", Expression: "variables.volumeAt >= 0 && !variables.isInjected && !variables.isUnnoted && (!variables.isFlat || size(variables.newNotedVolume) > " + maxNotedVolume + ")"},

		// The noted volume, read back.
		{Name: "notedName", Expression: `variables.notedVolume in ['', 'null'] ? '' : (variables.notedVolume.find(r'^\{"name":"[^"]*"|"name":"[^"]*"\}$') + '""""').split('"')[3]`},
		{Name: "isNotedFlat", Expression: "variables.notedVolume.matches(" + raw(flatForm) + ")"},
		{Name: "notedSource", Expression: `variables.notedVolume.find(r'"[A-Za-z]+":\{').split('"')[1]`},
		{Name: "notedMembers", Expression: `[variables.notedVolume.find(r'\{[^{}]*\}')].map(s, s == '{}' ? [] : s.substring(1, size(s) - 1).split(','))[0]` +
			`.map(p, p.split(':')).transformMapEntry(i, p, {p[0].split('"')[1]: p[1].startsWith('"') ? dyn(p[1].split('"')[1]) : p[1] in ['true', 'false'] ? dyn(p[1] == 'true') : dyn(int(p[1]))})`},

		// Volumes of earlier injections that istiod does not mount any more, and with a removal the one that it mounts.
		{Name: "staleVolumes", Expression: "variables.volumes.filter(v, has(v.emptyDir) && v.name != " + token + " && (v.name == variables.volume ? variables.removing : v.name in variables.agentsVolumes))"},
		// Those that nobody had or uses.
		{Name: "dropped", Expression: "variables.staleVolumes.filter(v, " + emptyDirOnly + " && (v.name == variables.volume ? variables.notedVolume == 'null' : !(v.name in variables.mounted))).map(v, v.name) + " +
			"(variables.volume != " + token + " && (variables.removing || !has(params.spec.tokenVolume)) ? [" + token + "] : [])"},
		// Those that become their owner's again.
		{Name: "restored", Expression: "variables.staleVolumes.filter(v, !(v.name in variables.dropped) && !(" + emptyDirOnly + " && variables.notedVolume == 'null')).map(v, v.name)"},
		{Name: "cannotRestore", Expression: "!(variables.notedVolume in ['', 'null']) && variables.volumes.exists(v, v.name in variables.restored && " + emptyDirOnly + " && variables.notedName == v.name && !variables.isNotedFlat)"},

		// What the policy cannot do and the webhook can, in words; empty for nothing.
		{Name: "problem", Expression: "variables.injecting && variables.cannotNote ? " + problemNoting + " : (variables.injecting || variables.removing) && variables.cannotRestore ? " + problemRestoring + " : ''"},

		// The names of the volumes that may change.
		{Name: "concerned", Expression: "variables.dropped + variables.restored + [" + token + "] + (variables.injecting ? [variables.volume] : [])"},
		// The operations, the last volume first, so that the indices before it stay true.
		{Name: "volumeEdits", Expression: "lists.range(size(variables.volumes)).filter(i, variables.volumeNames[i] in variables.concerned).reverse().map(i, [variables.volumes[i]].map(v, " +
			"v.name in variables.dropped ? [" + remove("'/volumes/' + string(i)") + "] : " +
			"variables.injecting && v.name == variables.volume ? (v == variables.inMemory ? [] : [" + replace("'/volumes/' + string(i)", "variables.inMemory") + "]) : " +
			"variables.injecting && v.name == " + token + " ? (" + projects + " ? [] : [" + replace("'/volumes/' + string(i)", "params.spec.tokenVolume") + "]) : " +
			"!(v.name in variables.restored) ? [] : " +
			"!(" + emptyDirOnly + ") ? [" + remove("'/volumes/' + string(i) + '/emptyDir'") + "] : " +
			"[" + replace("'/volumes/' + string(i)", "variables.notedName == v.name ? dyn({'name': dyn(v.name), variables.notedSource: dyn(variables.notedMembers)}) : dyn("+chartVolume("v.name")+")") + "])[0]).flatten()"},
		{Name: "volumesAdded", Expression: "(variables.volumeAt < 0 ? [dyn(variables.inMemory)] : []) + " +
			"(has(params.spec.tokenVolume) && !(" + token + " in variables.volumeNames) ? [dyn(params.spec.tokenVolume)] : [])"},
	}
}

// maxNotedVolume bounds a recorded volume (patches, maxNotedVolume).
const maxNotedVolume = "32768"

// What only the engine can do, as an admission policy has neither a JSON encoder nor a decoder.
const (
	problemNoting = "'volume ' + variables.volume + ' (' + variables.replaced.map(k, string(k)).filter(k, k != 'name').join(', ') + '), which the injection replaces, cannot be recorded for a later removal by an admission policy: " +
		"run kubectl istiod-agent inject on the manifest, or replace that volume by a Secret volume'"
	problemRestoring = "'annotation " + patches.OriginalAnnotation + " records a volume that an admission policy cannot restore: run kubectl istiod-agent uninject on the manifest'"
)

// environmentOf istiod's container: which variables it gets, and which it loses.
func environmentOf() []admissionv1.Variable {
	rootCADir, multiRoot := quote(istio.RootCADirVariable), quote(istio.MultiRootVariable)
	return []admissionv1.Variable{
		{Name: "unsetting", Expression: "((variables.injecting ? !params.spec.multiRootMesh : true) && variables.multiRootAdded ? [" + multiRoot + "] : []) + " +
			"(variables.removing && variables.rootCADirAdded && " + plainly(istio.RootCADirVariable) + " == " + quote(istio.CACertsDir) + " ? [" + rootCADir + "] : [])"},
		// The last of each name, the highest index first.
		{Name: "unsetAt", Expression: "variables.unsetting.map(n, lists.range(size(variables.istiod.env)).filter(i, variables.istiod.env[i].name == n).reverse()[0]).sort().reverse()"},
		{Name: "setting", Expression: "(params.spec.annotate && !" + istiodSets(istio.RootCADirVariable) + " ? [{'name': " + rootCADir + ", 'value': " + quote(istio.CACertsDir) + "}] : []) + " +
			"(params.spec.multiRootMesh && !" + istiodSets(istio.MultiRootVariable) + " ? [{'name': " + multiRoot + ", 'value': 'true'}] : [])"},
		{Name: "unmountAt", Expression: "variables.mountAdded ? lists.range(size(" + mountsOf("variables.istiod") + ")).filter(i, variables.istiod.volumeMounts[i].name == variables.volume && " +
			atCACerts("variables.istiod.volumeMounts[i].mountPath") + ") : []"},
	}
}

// containersOf the agent as this istiod gets them (patches, adapted).
func containersOf(kind patches.Kind) []admissionv1.Variable {
	multiRoot := "{'name': " + quote(istio.MultiRootVariable) + ", 'value': 'true'}"
	at := func(entry string) string { return clean(entry + ".mountPath") }
	keeps := "variables.podAnnotations[?" + quote(patches.InjectedAnnotation) + "].orValue('') == params.spec.digest ? 'changes' : !params.spec.annotate"
	if kind == patches.Pod {
		keeps += " || " + quote(patches.InjectedAnnotation) + " in variables.podAnnotations"
	}
	return []admissionv1.Variable{
		// The init container, and the container unless the form is the native one.
		{Name: "rendered", Expression: "[params.spec.initContainer] + (has(params.spec.container) ? [params.spec.container] : [])"},

		// Whether istiod takes other roots of trust while it runs (patches, multiRootEnabled).
		{Name: "multiRootEnabled", Expression: "!" + istiodSets(istio.MultiRootVariable) + " || variables.multiRootAdded ? params.spec.multiRootMesh : " +
			"variables.istiodEnv.filter(e, e.name == " + quote(istio.MultiRootVariable) + ").reverse()[0].?value.orValue('') in " + trueTexts},
		{Name: "workloadTTL", Expression: "variables.istiodEnv.filter(e, e.name == " + quote(istio.WorkloadTTLVariable) + ").reverse().map(e, e.?value.orValue('').contains('$(') ? [] : " +
			"[e.transformMap(k, v, k == 'valueFrom' ? dyn(v.transformMap(s, ref, ref.transformMap(m, x, x))) : v)])"},
		// The first four variables, what istiod has of the two that the agent reads, and the others.
		{Name: "otherEnv", Expression: "variables.rendered.map(c, c.env.slice(4, size(c.env))).map(e, " +
			"variables.multiRootEnabled ? (e.exists(v, v.name == " + quote(istio.MultiRootVariable) + ") ? e : [" + multiRoot + "] + e) : " +
			"size(e) > 0 && e[0] == " + multiRoot + " ? e.slice(1, size(e)) : e)"},
		{Name: "desiredEnv", Expression: "lists.range(size(variables.rendered)).map(n, variables.rendered[n].env.slice(0, 4) + " +
			"(size(variables.workloadTTL) == 0 || (variables.rendered[n].env.slice(0, 4) + variables.otherEnv[n]).exists(v, v.name == " + quote(istio.WorkloadTTLVariable) + ") ? [] : variables.workloadTTL[0]) + variables.otherEnv[n])"},
		// istiod's volume, and istiod's mount of a token for the API server. The plain test first takes a tenth of the time.
		{Name: "token", Expression: mountsOf("variables.istiod") + ".filter(m, m.mountPath.contains('serviceaccount') && " + at("m") + " == " + cleaned(patches.TokenPath) + ").reverse().map(m, m.transformMap(k, v, v))"},
		{Name: "desiredMounts", Expression: "variables.rendered.map(c, c.volumeMounts.map(m, m.transformMap(k, v, k == 'name' && v == 'cacerts' ? variables.volume : v)) + " +
			"(size(variables.token) == 0 || c.volumeMounts.exists(m, " + at("m") + " == " + cleaned(patches.TokenPath) + ") ? [] : [variables.token[0]]))"},
		{Name: "desiredSecurity", Expression: "variables.rendered.map(c, [c.?securityContext.orValue({})].map(s, (s.map(k, string(k)) + variables.ids.map(k, string(k)).filter(k, !(k in s)))" +
			".transformMapEntry(i, k, {k: k in s ? s[k] : variables.ids[k]}))[0])"},
		// The pod's own resources, which no container's may exceed.
		{Name: "podLimits", Expression: "variables.pod.?resources.?limits.orValue({})"},
		{Name: "podResources", Expression: "variables.pod.?resources.?requests.orValue({}).map(k, string(k)) + variables.podLimits.map(k, string(k))"},
		{Name: "desiredResources", Expression: "variables.rendered.map(c, " + limitToPod("c.?resources.orValue({})") + ")"},
		// Whether this istiod gets other containers than the rendered ones.
		{Name: "adapts", Expression: "variables.volume != 'cacerts' || size(variables.token) > 0 || size(variables.ids) > 0 || size(variables.podResources) > 0 || " +
			"size(variables.workloadTTL) > 0 || variables.multiRootEnabled || variables.rendered.exists(c, " + multiRoot + " in c.env)"},
		{Name: "desired", Expression: "!variables.adapts ? variables.rendered : lists.range(size(variables.rendered)).map(n, variables.rendered[n].transformMap(k, v, " +
			"k == 'env' ? dyn(variables.desiredEnv[n]) : k == 'volumeMounts' ? dyn(variables.desiredMounts[n]) : " +
			"k == 'securityContext' ? dyn(variables.desiredSecurity[n]) : k == 'resources' ? dyn(variables.desiredResources[n]) : dyn(v)))"},

		// How much of a stored container of the agent's stays (patches, preserves).
		{Name: "preserves", Expression: keeps + " ? 'additions' : 'nothing'"},
		{Name: "agentsInitAt", Expression: "lists.range(size(variables.initContainers)).filter(i, variables.initContainers[i].name in " + agentNames + ")"},
		{Name: "agentsAt", Expression: "lists.range(size(variables.containers)).filter(i, variables.containers[i].name in " + agentNames + ")"},
		{Name: "preservesInit", Expression: "variables.preserves != 'nothing' && size(variables.agentsInitAt) == 1 && [variables.initContainers[variables.agentsInitAt[0]]].all(have, " +
			"have.name == variables.desired[0].name && " + startsAs("variables.desired[0]") + ")"},
		{Name: "preservesContainer", Expression: "variables.preserves != 'nothing' && size(variables.desired) > 1 && size(variables.agentsAt) == 1 && [variables.containers[variables.agentsAt[0]]].all(have, " +
			"have.name == variables.desired[1].name && " + startsAs("variables.desired[1]") + ")"},
	}
}

// startsAs reports whether a stored container has the wanted one's form (patches, starts).
func startsAs(want string) string {
	return "(has(" + want + ".restartPolicy) ? have.?restartPolicy.orValue('') == " + want + ".restartPolicy : !has(have.restartPolicy) && !has(have.startupProbe))"
}

// limitToPod is a container's resources within those of its pod (patches, limitToPod).
func limitToPod(own string) string {
	return "[" + own + "].map(r, size(variables.podResources) == 0 ? r : [r.?limits.orValue({}).transformMap(k, v, " +
		"!(k in variables.podLimits && quantity(string(v)).isGreaterThan(quantity(string(variables.podLimits[k])))), v)].map(limits, " +
		"(r.map(k, string(k)) + ['limits', 'requests']).distinct().transformMapEntry(i, k, {k: k == 'limits' ? dyn(limits) : k != 'requests' ? r[k] : " +
		"dyn((r.?requests.orValue({}).map(q, string(q)) + limits.map(q, string(q)).filter(q, q in variables.podResources)).distinct()" +
		".transformMapEntry(j, q, {q: q in variables.podResources ? '0' : string(r.requests[q])}))}))[0])[0]"
}

// completionOf the agent's stored containers that stay: what others changed stays, and what the agent needs to work is put
// right (patches, complete).
func completionOf(kind patches.Kind) []admissionv1.Variable {
	own := func(name string) string {
		return "(" + name + " in " + list("PILOT_CERT_PROVIDER", "POD_NAME", "POD_NAMESPACE", "SERVICE_ACCOUNT", "ISSUED_CERTIFICATE_NAMESPACE", "KUBECONFIG",
			istio.MultiRootVariable, istio.WorkloadTTLVariable) + " || " + name + ".startsWith('ISTIOD_AGENT_'))"
	}
	env := func(of string) string { return of + ".?env.orValue([])" }
	const additions = "variables.preserves == 'additions'"

	// Which wanted mount a stored one is (patches, isMounted).
	is := func(have, want string) string {
		return "(" + clean(have+".mountPath") + " == " + clean(want+".mountPath") + " && (" + clean(want+".mountPath") + " == " + cleaned(patches.TokenPath) +
			" ? " + have + ".name in variables.volumeNames : " + have + ".name == " + want + ".name && " + have + ".?subPath.orValue('') + " + have + ".?subPathExpr.orValue('') == '' && (!" +
			have + ".?readOnly.orValue(false) || " + want + ".?readOnly.orValue(false)) && (" + want + ".mountPath != " + quote(patches.CACertsPath) + " || " + have + ".mountPath == " + quote(patches.CACertsPath) + ")))"
	}
	// Whether one that is none of the wanted ones stands in the way.
	inTheWay := "(" + nearCACerts("m.mountPath") + " || [" + clean("m.mountPath") + "].exists(p, p.startsWith(" + cleaned(patches.VaultTokenPath) + ") || " + cleaned(patches.VaultTokenPath) + ".startsWith(p)) || " +
		"m.name == " + quote(patches.VaultTokenVolume) + " || (!(m.name in variables.volumeNames) && !m.name.startsWith('kube-api-access-')) || " +
		"c.want.volumeMounts.exists(w, " + clean("m.mountPath") + " == " + clean("w.mountPath") + "))"

	merged := "[]"
	if kind != patches.Pod { // a Pod's are a VerticalPodAutoscaler's to change
		both := func(list string) string { return union("have.?"+list+".orValue({})", "want.?"+list+".orValue({})") }
		exceeds := "[" + both("limits") + "].exists(limits, [" + both("requests") + "].exists(requests, requests.exists(q, q in limits && " +
			"quantity(string(requests[q])).isGreaterThan(quantity(string(limits[q]))))))"
		merged = "(" + additions + " ? [c.want.?resources.orValue({})].map(want, size(want) > 0 && size(have) == 0 || " + exceeds + " ? [" + add("c.at + '/resources'", "want") + "] : " +
			merge("c.at + '/resources'") + ")[0] : [])"
	}
	bare := func(of string) string {
		return "[" + of + ".?limits.orValue({}), " + of + ".?requests.orValue({})]"
	}

	// Most are as wanted: that is found out at once, where the operations below take a tenth of a policy's time.
	const asWanted = "(has(c.want.resources) && has(c.want.securityContext) && !has(c.have.command) && !has(c.have.envFrom) && !has(c.have.volumeDevices) && c.want.all(k, k in c.have && c.have[k] == c.want[k]))"

	at := func(field string) string { return "c.at + '/" + field + "'" }
	has := func(field string) string {
		return "(has(c.have." + field + ") ? [" + remove(at(field)) + "] : [])"
	}
	return []admissionv1.Variable{
		// The stored containers that stay, with what is wanted and where they are.
		{Name: "completing", Expression: "((variables.preservesInit ? [{'at': dyn('/initContainers/' + string(variables.agentsInitAt[0])), 'have': dyn(variables.initContainers[variables.agentsInitAt[0]]), 'want': dyn(variables.desired[0])}] : []) + " +
			"(variables.preservesContainer ? [{'at': dyn('/containers/' + string(variables.agentsAt[0])), 'have': dyn(variables.containers[variables.agentsAt[0]]), 'want': dyn(variables.desired[1])}] : [])).filter(c, !" + asWanted + ")"},
		// The command is the image's own, with the wanted subcommand. Where no digest tells which configuration rendered it,
		// what the configuration says must be there as well.
		{Name: "commands", Expression: "variables.completing.map(c, " + has("command") + " + " + has("envFrom") + " + " + has("volumeDevices") + " + [" + add(at("args"), "c.want.args") + "] + " +
			"[c.have.?image.orValue('')].filter(image, " + additions + " ? !" + isMirror("image") + " : " + anothersAgent("image") + ").map(image, " + add(at("image"), "variables.image") + ") + " +
			"(" + additions + " && c.have.?imagePullPolicy.orValue('') != 'Always' ? [" + add(at("imagePullPolicy"), "c.want.imagePullPolicy") + "] : []) + " +
			"(has(c.want.startupProbe) && !" + asksTheSame("c.have", "c.want") + " ? [" + add(at("startupProbe"), "c.want.startupProbe") + "] : [])).flatten()"},
		// The agent's own variables are as wanted, each once; of the configuration's others those that are missing are added.
		{Name: "environments", Expression: "variables.completing.map(c, [" + env("c.have") + "].map(have, " +
			"[lists.range(size(have)).filter(i, " + own("have[i].name") + " && (!c.want.env.exists(w, w.name == have[i].name) || have.slice(i + 1, size(have)).exists(e, e.name == have[i].name)))].map(surplus, " +
			"lists.range(size(have)).filter(i, !(i in surplus) && (" + own("have[i].name") + " || " + additions + " && !have.slice(i + 1, size(have)).exists(e, e.name == have[i].name)) && c.want.env.exists(w, w.name == have[i].name))" +
			".map(i, " + replace("c.at + '/env/' + string(i)", "c.want.env.filter(w, w.name == have[i].name)[0]") + ") + " +
			"[c.want.env.filter(w, !have.exists(e, e.name == w.name))].map(missing, size(have) == 0 ? [" + add(at("env"), "missing") + "] : missing.map(w, " + add("c.at + '/env/-'", "w") + "))[0] + " +
			"surplus.reverse().map(i, " + remove("c.at + '/env/' + string(i)") + "))[0])[0]).flatten()"},
		// Each wanted mount is there, and nothing in its way.
		{Name: "mounts", Expression: "variables.completing.map(c, [" + mountsOf("c.have") + "].map(have, lists.range(size(have)).filter(i, [have[i]].exists(m, " +
			"!c.want.volumeMounts.exists(w, " + is("m", "w") + " && !have.slice(0, i).exists(e, " + is("e", "w") + ")) && " + inTheWay + ")).reverse().map(i, " + remove("c.at + '/volumeMounts/' + string(i)") + ") + " +
			"[c.want.volumeMounts.filter(w, !have.exists(m, " + is("m", "w") + "))].map(missing, size(have) == 0 ? [" + add(at("volumeMounts"), "missing") + "] : missing.map(w, " + add("c.at + '/volumeMounts/-'", "w") + "))[0])[0]).flatten()"},
		// istiod's ids, where its container sets any, and not any more where it does not.
		{Name: "securityContexts", Expression: "variables.completing.map(c, [c.have.?securityContext.orValue({})].map(have, [c.want.?securityContext.orValue({})].map(want, " +
			"size(have) == 0 && size(want) > 0 && (" + additions + " || 'runAsUser' in want || 'runAsGroup' in want) || " + additions + " && size(want) > 0 && have.?privileged.orValue(false) ? [" + add(at("securityContext"), "want") + "] : " +
			"(" + additions + " ? " + merge("c.at + '/securityContext'") + " : []) + ['runAsUser', 'runAsGroup'].map(k, k in want ? [" + add("c.at + '/securityContext/' + k", "want[k]") + "] : " +
			"k in have && variables.noteFlags.find(k == 'runAsUser' ? '\"user\":-?[0-9]+' : '\"group\":-?[0-9]+') == (k == 'runAsUser' ? '\"user\":' : '\"group\":') + string(have[k]) ? " +
			"[" + remove("c.at + '/securityContext/' + k") + "] : []).flatten())[0])[0]).flatten()"},
		{Name: "resources", Expression: "variables.completing.map(c, [c.have.?resources.orValue({})].map(have, [" + limitToPod("have") + "].map(within, " + bare("within") + " != " + bare("have") + " ? " +
			"[" + add(at("resources/limits"), "within.?limits.orValue({})") + ", " + add(at("resources/requests"), "within.?requests.orValue({})") + "] : " + merged + ")[0])[0]).flatten()"},
	}
}

// union of two maps, the second one's members first.
func union(have, want string) string {
	return "[" + have + "].map(h, [" + want + "].map(w, (h.map(k, string(k)) + w.map(k, string(k))).distinct().transformMapEntry(i, k, {k: k in w ? w[k] : h[k]}))[0])[0]"
}

// merge is the operations that put members of the map "have" right, which stands at a path, as the map "want" has them, and
// leave what it has besides (patches, merge).
func merge(path string) string {
	escaped := func(key string) string { return key + ".replace('~', '~0').replace('/', '~1')" }
	return "want.map(k, type(want[k]) == map && k in have && size(have[k]) > 0 ? want[k].map(m, " + add(path+" + '/' + "+escaped("k")+" + '/' + "+escaped("m"), "want[k][m]") + ") : " +
		"[" + add(path+" + '/' + "+escaped("k"), "want[k]") + "]).flatten()"
}

// Operations of a JSON patch as data: a variable cannot hold a JSONPatch.
func add(path, value string) string     { return operation("add", path, value) }
func replace(path, value string) string { return operation("replace", path, value) }
func remove(path string) string         { return "{'op': dyn('remove'), 'path': dyn(" + path + ")}" }

func operation(op, path, value string) string {
	return "{'op': dyn('" + op + "'), 'path': dyn(" + path + "), 'value': dyn(" + value + ")}"
}

// anothersAgent reports whether an image is of another publisher: the rendered one's name elsewhere, with another tag
// (completion.image of package patches).
func anothersAgent(image string) string {
	base, want := image+".split('@', 2)[0]", "variables.image.split('@', 2)[0]"
	name := func(of string) string { return of + ".find('[^/]*$').split(':', 2)[0]" }
	tag := func(of string) string { return of + ".find(':[^/]*$')" }
	return "(" + name(base) + " == " + name(want) + " && " + tag(base) + " != " + tag(want) + " && !" + isMirror(image) + ")"
}

// asksTheSame reports whether a stored startup probe asks what the wanted one asks, and no less often (patches, isProbe).
func asksTheSame(have, want string) string {
	return "(has(" + have + ".startupProbe) && has(" + have + ".startupProbe.httpGet) && " + have + ".startupProbe.httpGet == " + want + ".startupProbe.httpGet && " +
		"!has(" + have + ".startupProbe.exec) && !has(" + have + ".startupProbe.tcpSocket) && !has(" + have + ".startupProbe.grpc) && " +
		have + ".startupProbe.?failureThreshold.orValue(0) >= " + want + ".startupProbe.failureThreshold)"
}

// annotationsOf the object and of the pod: what they become.
func annotationsOf(kind patches.Kind) []admissionv1.Variable {
	injectedKey, original := quote(patches.InjectedAnnotation), quote(patches.OriginalAnnotation)
	digest := "(params.spec.annotate ? params.spec.digest : '')"
	type annotation struct{ key, condition, value string }
	set := func(of, without string, added ...annotation) string {
		keys, value := "", of+"[k]"
		for _, a := range added {
			keys += " + (" + a.condition + " ? [" + a.key + "] : [])"
			value = "k == " + a.key + " ? " + a.value + " : " + value
		}
		return "(" + of + ".map(k, string(k)).filter(k, !(" + without + "))" + keys + ").transformMapEntry(i, k, {k: " + value + "})"
	}
	noted := annotation{original, "variables.injecting && variables.newNote != ''", "variables.newNote"}
	marked := annotation{injectedKey, "variables.injecting && params.spec.annotate", "params.spec.digest"}
	if kind == patches.Pod {
		return []admissionv1.Variable{newNoteOf(), {Name: "newAnnotations", Expression: set("variables.annotations", "k in ["+injectedKey+", "+original+"]", noted, marked)}}
	}
	return []admissionv1.Variable{
		newNoteOf(),
		{Name: "newAnnotations", Expression: set("variables.annotations", "k == "+original, noted)},
		// A note of an earlier version stays on the pod template until that changes anyway.
		{Name: "newPodAnnotations", Expression: set("variables.podAnnotations", "k == "+injectedKey+" || k == "+original+
			" && (variables.removing || variables.podAnnotations[?"+injectedKey+"].orValue('') != "+digest+")", marked)},
	}
}

// operationsOf the decision, with paths below the pod's spec: istiod's container first, by its index, before the lists around
// it change.
func operationsOf() []admissionv1.Variable {
	const istiodPath = "'/containers/' + string(variables.istiodAt) + "
	drop := func(list, indices string) string {
		return indices + ".reverse().map(i, " + remove("'/"+list+"/' + string(i)") + ")"
	}
	mounts := "size(" + mountsOf("variables.istiod") + ") > 0"
	unset := "variables.unsetAt.map(i, " + remove(istiodPath+"'/env/' + string(i)") + ")"
	return []admissionv1.Variable{
		{Name: "injection", Expression: strings.Join([]string{
			"(variables.istiodVolume != '' ? [] : " + mounts + " ? [" + add(istiodPath+"'/volumeMounts/-'", "variables.istiodMount") + "] : [" + add(istiodPath+"'/volumeMounts'", "[variables.istiodMount]") + "])",
			unset,
			"(size(variables.setting) == 0 || size(variables.istiod.?env.orValue([])) > 0 ? variables.setting.map(e, " + add(istiodPath+"'/env/-'", "e") + ") : [" + add(istiodPath+"'/env'", "variables.setting") + "])",
			"variables.commands + variables.environments + variables.mounts + variables.securityContexts + variables.resources",
			"(variables.preservesInit ? [] : " + drop("initContainers", "variables.agentsInitAt") + " + [size(variables.initContainers) > 0 ? " +
				add("'/initContainers/0'", "variables.desired[0]") + " : " + add("'/initContainers'", "[variables.desired[0]]") + "])",
			"(variables.preservesContainer ? [] : " + drop("containers", "variables.agentsAt") + " + (size(variables.desired) > 1 ? [" + add("'/containers/-'", "variables.desired[1]") + "] : []))",
			"variables.volumeEdits",
			"(size(variables.volumes) == 0 && size(variables.volumesAdded) > 0 ? [" + add("'/volumes'", "variables.volumesAdded") + "] : variables.volumesAdded.map(v, " + add("'/volumes/-'", "v") + "))",
		}, " + ")},
		{Name: "removal", Expression: strings.Join([]string{
			"(size(variables.unmountAt) == 0 ? [] : [" + remove(istiodPath+"'/volumeMounts/' + string(variables.unmountAt[0])") + "])",
			unset, drop("initContainers", "variables.agentsInitAt"), drop("containers", "variables.agentsAt"), "variables.volumeEdits",
		}, " + ")},
	}
}

// mutation is the JSON patch.
//
// Values never come from the object as they are: where a policy with match conditions has looked at the object, its parts
// are Go structs, which the API server cannot write into a patch (admission/plugin/cel/activation.go, UseSchemalessTypeRef,
// Kubernetes 1.37). They are the parameter's, constants, or maps made of plain values.
//
// Where nothing changes, a test fails: then the API server leaves the object as it is, and does not decode it again
// (admission/plugin/policy/mutating/patch/json_patch.go, Kubernetes 1.37).
func mutation(kind patches.Kind) string {
	pod := "/spec/template/spec"
	if kind == patches.Pod {
		pod = "/spec"
	}
	annotations := func(path, have, want string) string {
		return "(" + have + " == " + want + " ? [] : [JSONPatch{op: 'add', path: '" + path + "/annotations', value: " + want + "}])"
	}
	metadata := annotations("/metadata", "variables.annotations", "variables.newAnnotations")
	if kind == patches.Deployment {
		metadata += " + (has(object.spec.template.metadata) ? [] : [JSONPatch{op: 'add', path: '/spec/template/metadata', value: {}}]) + " +
			annotations("/spec/template/metadata", "variables.podAnnotations", "variables.newPodAnnotations")
	}
	edits := "variables.problem != '' || !(variables.injecting || variables.removing) ? [] : (variables.injecting ? variables.injection : variables.removal)" +
		".map(o, o.op == 'remove' ? JSONPatch{op: 'remove', path: '" + pod + "' + string(o.path)} : JSONPatch{op: string(o.op), path: '" + pod + "' + string(o.path), value: o.value}) + " + metadata
	all := "[" + edits + "].map(edits, size(edits) > 0 ? edits : [JSONPatch{op: 'test', path: '/kind', value: 'unchanged'}])[0]"
	if kind == patches.Deployment {
		return "variables.fresh ? " + freshMutation() + " : " + all
	}
	return all
}

// newNoteOf an object: the note that the injection leaves. What is replaced stands in canonical JSON, as package patches
// writes it.
func newNoteOf() admissionv1.Variable {
	part := func(condition, text string) string { return condition + " ? '" + text + "' : ''" }
	number := func(id, key string) string {
		return quote(id) + " in variables.ids ? '\"" + key + "\":' + string(variables.ids." + id + ") : ''"
	}
	return admissionv1.Variable{Name: "newNote", Expression: "[[" + strings.Join([]string{
		`variables.newNotedVolume != '' ? '"volume":' + variables.newNotedVolume : ''`,
		part("variables.istiodVolume == '' || variables.mountAdded && (variables.volumeAt < 0 || variables.isInjected || variables.volume in variables.agentsVolumes)", `"mountAdded":true`),
		part("params.spec.multiRootMesh && (variables.multiRootAdded || !"+istiodSets(istio.MultiRootVariable)+")", `"multiRootAdded":true`),
		part("("+istiodSets(istio.RootCADirVariable)+" ? variables.rootCADirAdded : params.spec.annotate)", `"rootCADirAdded":true`),
		number("runAsUser", "user"), number("runAsGroup", "group"),
	}, ", ") + "].filter(p, p != '')].map(p, size(p) == 0 ? '' : '{' + p.join(',') + '}')[0]"}
}
