// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"

	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/patches"
)

// Words of the webhook's answers: refusals, warnings and the reason for the audit log. The API server drops a message of
// more than 5 KiB or of several lines (MaxEvaluatedMessageExpressionSizeBytes, apiserver/pkg/apis/cel/config.go, Kubernetes
// 1.37), and a warning with control characters. It validates the object first, so the names of containers, volumes and
// variables in a message are short and plain; other text goes through shown.

// shownLength is the most characters of the object's own text in a message.
const shownLength = "200"

// shown is a text of the object's, if a terminal shows it as it is.
func shown(text string) string {
	return "(" + text + ".matches(r'^[ -~]{0," + shownLength + "}$') ? " + text + " : '(long or unprintable)')"
}

// quoted is shown between quotation marks, if Go quotes it likewise.
func quoted(text string) string {
	return "(" + text + `.matches(r'^[ !#-\[\]-~]{0,` + shownLength + "}$') ? '\"' + " + text + " + '\"' : '(long or unprintable)')"
}

// words begin with the project's name and the reason key, as in the webhook's answers.
func words(reason, text string) string { return "'istiod-agent: ' + " + reason + " + ': ' + " + text }

// where a validation fails, its message: the API server evaluates each, whether it fails or not
// (admission/plugin/policy/validating/validator.go, Kubernetes 1.37).
func where(condition, message string) string { return condition + " ? " + message + " : ''" }

const maxContainers = "12" // in a message; each name has at most 63 characters

// refusals are the outcomes that must not be stored.
func refusals() []admissionv1.Validation {
	var all []admissionv1.Validation
	refuse := func(condition, reason, text string) {
		all = append(all, admissionv1.Validation{Expression: "!(" + condition + ")", MessageExpression: where(condition, words(reason, text))})
	}
	refuse("variables.decision == "+quote(string(patches.NoIstiodContainer)), "variables.decision",
		`'cannot inject: expected a container called "discovery" or one that mounts /etc/cacerts, found ' + `+
			"(size(variables.containers) == 0 ? 'no containers' : 'containers ' + lists.range(size(variables.containers)).filter(i, i < "+maxContainers+").map(i, string(variables.containers[i].name)).join(', ')"+
			" + (size(variables.containers) > "+maxContainers+" ? ', …' : ''))")
	refuse("variables.decision == "+quote(string(patches.CACertsElsewhere)), "variables.decision",
		"'cannot inject: istiod would not read the agent\\'s files: ' + ("+strings.Join([]string{
			"size(variables.second) > 0 ? 'container ' + variables.second.reverse()[0] + ' runs istiod beside container ' + variables.istiod.name + ', but only one istiod can be injected; remove container ' + variables.second.reverse()[0]",
			"!variables.readsCACerts ? variables.caDirProblem",
			"variables.istiodVolume == " + quote(patches.VaultTokenVolume) + " ? 'container ' + variables.istiod.name + ' mounts volume ' + variables.istiodVolume + ' at /etc/cacerts, but that volume is reserved for the agent\\'s token; give the volume another name'",
			"'container ' + variables.istiod.name + ' ' + variables.hiddenBy",
		}, " : ")+")")
	refuse("variables.problem != ''", quote(policyCannot), "variables.problem")
	return all
}

// unlessOrdinary makes the validations and annotations of a Deployment's policy come to the same with less. They stand in
// for its match condition too, which the API server would evaluate apart.
func unlessOrdinary(spec *admissionv1.ValidatingAdmissionPolicySpec) {
	spec.MatchConditions = nil
	spec.Variables = append(spec.Variables,
		admissionv1.Variable{Name: "ordinary", Expression: ordinary()},
		admissionv1.Variable{Name: "deleted", Expression: "request.operation != 'CREATE' && has(oldObject.metadata.deletionTimestamp)"})
	for i := range spec.Validations {
		v := &spec.Validations[i]
		v.Expression = "variables.ordinary || variables.deleted || " + v.Expression
		v.MessageExpression = "variables.ordinary ? '' : " + v.MessageExpression
	}
	for i := range spec.AuditAnnotations {
		a := &spec.AuditAnnotations[i]
		a.ValueExpression = "variables.deleted ? '' : variables.ordinary ? " + quote(injected) + " : " + a.ValueExpression
	}
}

// Reasons besides those of package patches.
//
//reasons:page injection
const (
	// policyCannot: Denied by the policy `istiod-agent-decision` (`injection.by=policy`): the webhook could do this,
	// and a policy cannot.
	//
	// Remedy: by the message:
	//
	//   - `volume … cannot be recorded`: the volume at `/etc/cacerts` is of a kind that CEL cannot write down, such
	//     as a Secret with `items` or a projected volume. Replace it by a Secret without `items`, which the
	//     injection replaces anyway. Or [commit the injected form](gitops.md#commit-the-injected-form).
	//   - `annotation istiod-agent.io/original records a volume …`: a removal must restore such a volume, which
	//     the webhook recorded earlier. Run `kubectl istiod-agent uninject` on the manifest, and apply the result.
	policyCannot = "PolicyCannot"
)

// reason is the audit annotation. After the injection nothing distinguishes an object that was injected before.
func reason() []admissionv1.AuditAnnotation {
	return []admissionv1.AuditAnnotation{{Key: "reason", ValueExpression: "variables.problem != '' ? " + quote(policyCannot) + " : " + reasonKey}}
}

// reasonKey of the mutated object. One that leaves something to remove was refused.
const reasonKey = "(variables.decision != 'Removed' ? variables.decision : variables.optedOut ? 'OptedOut' : 'NoBuiltInCA')"

// warnings are the webhook's, each a validation that fails where there is something to warn about.
func warnings(kind patches.Kind) []admissionv1.Validation {
	pod := "spec.template.spec"
	if kind == patches.Pod {
		pod = "spec"
	}
	const ownRoot = "creates its own root, which no other cluster trusts"
	value := func(name string) string {
		return lastOf("variables.istiodEnv.filter(e, e.name == "+quote(name)+").map(e, e.?value.orValue(''))", "''")
	}
	var all []admissionv1.Validation
	warn := func(condition, text string) {
		all = append(all, admissionv1.Validation{Expression: "!(" + condition + ")", MessageExpression: where(condition, words(reasonKey, text))})
	}
	warn("variables.decision == "+quote(string(patches.NoBuiltInCA)),
		"'not injected: istiod runs without its built-in CA (' + ("+plainly("ENABLE_CA_SERVER")+" in "+falseTexts+" ? 'ENABLE_CA_SERVER=' + "+plainly("ENABLE_CA_SERVER")+
			" : 'EXTERNAL_CA=' + "+shown(plainly("EXTERNAL_CA"))+" + ' with PILOT_CERT_PROVIDER=' + "+shown(plainly("PILOT_CERT_PROVIDER"))+") + '), so it needs no intermediate CA'")
	warn("variables.decision == "+quote(string(patches.NoBuiltInCA))+" && size(variables.agents) == 0 && request.operation == 'UPDATE' && variables.wasInjected",
		"'the agent is removed: istiod restarts without it'")
	warn("variables.decision == "+quote(string(patches.OptedOut))+" && size(variables.agents) > 0",
		`'the `+string(kind)+` sets `+patches.InjectKey+`: "false"; its agent stays, because this policy did not inject it'`)
	warn("variables.optedOut && size(variables.agents) == 0 && request.operation == 'UPDATE' && variables.wasInjected",
		"'the agent is removed: ' + ("+
			"variables.oldNoteText != '' && !"+readableNote("variables.oldNoteText")+" ? 'annotation "+patches.OriginalAnnotation+", which records the original volume, cannot be read: istiod restarts with the CA in Secret cacerts, as in Istio\\'s chart, or ' : "+
			"variables.volumeAt < 0 ? 'it had no volume at /etc/cacerts before: istiod restarts and ' : "+
			"variables.stored == "+chartVolume("'cacerts'")+" ? 'istiod restarts with the CA in Secret cacerts, or ' : "+
			"'istiod restarts with the CA in volume ' + variables.volume + ' (' + variables.stored.map(k, string(k)).filter(k, k != 'name').sort().join(', ') + '), or ') + '"+ownRoot+"'")
	warn("variables.injecting && !(variables.notedVolume in ['', 'null']) && (request.operation == 'CREATE' || !variables.oldNoteText.startsWith('{\"volume\":' + variables.notedVolume))",
		"'volume ' + variables.volume + ' (' + variables.notedSource + ') is not the Secret volume of Istio\\'s chart and is replaced: istiod no longer reads it'")
	warn("variables.injecting && variables.pod.?automountServiceAccountToken.orValue(true) == false && size(variables.token) == 0",
		"'"+pod+".automountServiceAccountToken is false and container ' + variables.istiod.name + ' mounts no token at "+patches.TokenPath+", so the agent has no token and cannot read its IssuedCertificate: "+
			"istiod will not start; mount a token in container ' + variables.istiod.name + ', or remove automountServiceAccountToken'")
	warn("variables.injecting && variables.inheritsRoot && variables.desiredSecurity[0].?runAsNonRoot.orValue(false)",
		"'"+pod+".securityContext.runAsUser is 0, and the agent\\'s containers must not run as root: they will not start, and neither will istiod; remove it, or set another runAsUser in container ' + variables.istiod.name")
	warn("variables.injecting && !variables.inheritsRoot && variables.desiredSecurity[0].?runAsUser.orValue(-1) != 0 && variables.istiod.?securityContext.?runAsUser.orValue(variables.podUser) == 0 && "+
		"[variables.istiod.?securityContext.?capabilities.?drop.orValue([])].exists(d, 'DAC_OVERRIDE' in d || 'ALL' in d && !('DAC_OVERRIDE' in variables.istiod.?securityContext.?capabilities.?add.orValue([])))",
		"'container ' + variables.istiod.name + ' runs as root (runAsUser is 0) without capability DAC_OVERRIDE, so it cannot read the agent\\'s key: istiod will not start with it; remove runAsUser, or add the capability'")
	warn("variables.injecting && params.spec.multiRootMesh && !variables.multiRootEnabled",
		"'container ' + variables.istiod.name + ' sets "+istio.MultiRootVariable+" to ' + "+quoted(value(istio.MultiRootVariable))+" + ' itself, which overrides multiRootMesh: the root of trust cannot change while istiod runs'")
	warn("variables.injecting && !(variables.inject in ['', 'true', 'enabled'])",
		"'"+patches.InjectKey+" is ' + "+quoted("variables.inject")+` + ', and only "false" opts out, so istiod is injected'`)
	return all
}

// wordsOf the object: what only messages and warnings need.
func wordsOf(kind patches.Kind) []admissionv1.Variable {
	key, original := quote(patches.InjectKey), quote(patches.OriginalAnnotation)
	const template = "oldObject.spec.template"
	old := []admissionv1.Variable{
		{Name: "oldNoteText", Expression: "oldObject.metadata.?annotations[" + original + "].orValue('') != '' ? oldObject.metadata.annotations[" + original + "] : " + template + ".?metadata.?annotations[" + original + "].orValue('')"},
		{Name: "wasInjected", Expression: "variables.oldNoteText != '' || " + template + ".?metadata.?annotations[" + quote(patches.InjectedAnnotation) + "].hasValue() || " +
			"(" + template + ".spec.?initContainers.orValue([]) + " + template + ".spec.containers).exists(c, c.name in " + agentNames + ")"},
	}
	if kind == patches.Pod { // injected when it is created
		old = []admissionv1.Variable{{Name: "oldNoteText", Expression: "''"}, {Name: "wasInjected", Expression: "false"}}
	}
	return append([]admissionv1.Variable{
		// The value that counts of annotation and label (patches, readMeta).
		{Name: "inject", Expression: "[variables.annotations[?" + key + "].orValue('')].map(a, [object.metadata.?labels[" + key + "].orValue('')].map(l, a == '' || l == 'false' ? l : a)[0])[0]"},
		// Whether the agent gets root's user from the pod (patches, warnRoot).
		{Name: "podUser", Expression: "variables.pod.?securityContext.?runAsUser.orValue(-1)"},
		{Name: "inheritsRoot", Expression: "variables.podUser == 0 && !('runAsUser' in variables.desiredSecurity[0])"},
		// Why istiod would read another directory (patches, rootCADirProblem).
		{Name: "caDirProblem", Expression: strings.Join([]string{
			"size(variables.rootCADirs) == 0 && size(variables.istiod.?envFrom.orValue([])) > 0 ? 'container ' + variables.istiod.name + ' has envFrom, which may set ROOT_CA_DIR; set ROOT_CA_DIR=/etc/cacerts in its env'",
			"size(variables.rootCADirs) == 0 ? 'container ' + variables.istiod.name + ' reads ./etc/cacerts below its workingDir ' + " + shown("variables.istiod.workingDir") + " + '; set ROOT_CA_DIR=/etc/cacerts in its env'",
			"[variables.rootCADirs.reverse()[0]].map(e, " + strings.Join([]string{
				"has(e.valueFrom) || e.?value.orValue('').contains('$(') ? 'ROOT_CA_DIR has no plain value, so its directory is unknown; unset it'",
				"e.?value.orValue('') == '' ? 'ROOT_CA_DIR is empty, which is istiod\\'s working directory; unset it'",
				"!" + atCACerts("e.value") + " ? 'ROOT_CA_DIR is ' + " + shown("e.value") + " + '; unset it'",
				"'ROOT_CA_DIR is ' + " + shown("e.value") + " + ', below workingDir ' + " + shown("variables.istiod.workingDir") + " + '; unset it'",
			}, " : ") + ")[0]",
		}, " : ")},
		// Why istiod's mounts do not show the agent's files: of several reasons the last (patches, readMounts).
		{Name: "hiddenBy", Expression: "[" + mountsOf("variables.istiod") + "].map(mounts, lists.range(size(mounts)).map(i, [mounts[i]].map(m, " + strings.Join([]string{
			atCACerts("m.mountPath") + " && mounts.slice(0, i).exists(e, " + atCACerts("e.mountPath") + ") ? 'mounts /etc/cacerts twice; remove one of the mounts'",
			atCACerts("m.mountPath") + " ? (m.?subPath.orValue('') + m.?subPathExpr.orValue('') == '' ? '' : 'mounts /etc/cacerts with subPath ' + " +
				shown("(m.?subPath.orValue('') + m.?subPathExpr.orValue(''))") + " + '; mount the whole volume')",
			hasDots("m.mountPath") + " ? 'mounts something at ' + " + shown("m.mountPath") + ` + '; write that path without ".."'`,
			nearCACerts("m.mountPath") + " ? 'mounts something at ' + " + shown("m.mountPath") + " + ', which hides the agent\\'s files; remove that mount'",
			"''",
		}, " : ") + ")[0]) + variables.istiod.?volumeDevices.orValue([]).map(d, " + nearCACerts("d.devicePath") +
			" ? 'has a device at ' + " + shown("d.devicePath") + " + ', which hides the agent\\'s files; remove that device' : ''))[0].filter(t, t != '').reverse()[0]"},
	}, old...)
}

// hasDots reports whether a path has a component "..".
func hasDots(path string) string { return path + `.matches(r'(^|/)\.\.(/|$)')` }

// readableNote reports whether a note has the form of one, and is not of an injection's own volume.
func readableNote(text string) string {
	return "(" + text + ".matches(" + raw(noteForm) + ") && !" + text + `.startsWith('{"volume":{"emptyDir":{"medium":"Memory","sizeLimit":'))`
}
