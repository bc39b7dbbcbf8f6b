// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"

	admissionv1 "k8s.io/api/admissionregistration/v1"

	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/patches"
)

// Guard specifies a ValidatingAdmissionPolicy that refuses an istiod that would start without the agent, and therefore with
// a root of its own, and other containers that could read the key. It needs no injection to be installed: neither webhook,
// nor policy, nor parameter. Kubernetes 1.30 and later evaluate it.
//
// kind is what the injection changes. remedy tells what to check where an istiod of that kind has not been injected; the
// message continues after it with "; to exclude …".
func Guard(kind patches.Kind, remedy string) admissionv1.ValidatingAdmissionPolicySpec {
	guard := guardOf{kind: kind, template: "dyn(object)"}
	if kind == patches.Deployment {
		guard.template = "(request.kind.kind == 'Pod' ? dyn(object) : request.kind.kind == 'CronJob' ? dyn(object).spec.jobTemplate.spec.template : dyn(object).spec.template)"
	}
	constraints := matchResources(kind)
	// istiods are those of the match condition: a label is easy to remove.
	constraints.ObjectSelector = nil
	constraints.ResourceRules = guard.rules()
	return admissionv1.ValidatingAdmissionPolicySpec{
		FailurePolicy:    new(admissionv1.Fail),
		MatchConstraints: constraints,
		MatchConditions:  append(matchConditions(), guard.conditions()...),
		Variables:        guard.variables(remedy),
		Validations:      guard.validations(),
	}
}

// guardOf is the guard for one kind, with CEL text for the pod template of each kind that it checks.
type guardOf struct {
	kind     patches.Kind
	template string
}

func (g guardOf) rules() []admissionv1.NamedRuleWithOperations {
	rule := func(group string, operations []admissionv1.OperationType, resources ...string) admissionv1.NamedRuleWithOperations {
		return admissionv1.NamedRuleWithOperations{RuleWithOperations: admissionv1.RuleWithOperations{Operations: operations, Rule: admissionv1.Rule{
			APIGroups: []string{group}, APIVersions: []string{"v1"}, Resources: resources, Scope: new(admissionv1.NamespacedScope),
		}}}
	}
	create, update := []admissionv1.OperationType{admissionv1.Create}, []admissionv1.OperationType{admissionv1.Update}
	both := []admissionv1.OperationType{admissionv1.Create, admissionv1.Update}
	pods := []admissionv1.NamedRuleWithOperations{rule("", create, "pods"), rule("", update, "pods/ephemeralcontainers")}
	if g.kind == patches.Pod {
		return pods
	}
	// The injection changes only Deployments. The guard refuses an istiod of another kind, and a Pod without a Deployment.
	return append([]admissionv1.NamedRuleWithOperations{
		rule("apps", both, "deployments", "statefulsets", "daemonsets", "replicasets"),
		rule("batch", both, "jobs", "cronjobs"),
		rule("", both, "replicationcontrollers"),
	}, pods...)
}

func (g guardOf) conditions() []admissionv1.MatchCondition {
	metadata := g.template + ".?metadata.orValue({})"
	excluded := metadata
	if g.kind == patches.Deployment {
		excluded = "request.kind.kind == 'Deployment' ? dyn(object).metadata : " + metadata
	}
	says := func(member string) string {
		return "m.?" + member + "[" + quote(patches.InjectKey) + "].orValue('') != 'false'"
	}
	conditions := []admissionv1.MatchCondition{
		// By its labels or its command.
		{Name: "istiod", Expression: "[dyn(object).metadata, " + metadata + "].exists(m, " +
			"m.?labels['app'].orValue('') == 'istiod' || m.?labels['app.kubernetes.io/name'].orValue('') == 'istiod') || " +
			"(" + g.template + ".spec.containers + " + g.template + ".spec.?initContainers.orValue([])).exists(c, " + runsIstiod("c") + ")"},
		// On the object itself for the target kind, otherwise on its pod template.
		{Name: "not-opted-out", Expression: "[" + excluded + "].all(m, " + says("annotations") + " && " + says("labels") + ")"},
	}
	if g.kind == patches.Pod {
		return conditions
	}
	return append(conditions,
		// Kubernetes' own controllers scale, adopt and orphan their objects.
		admissionv1.MatchCondition{Name: "changes-its-pods", Expression: "request.kind.kind in ['Deployment', 'Pod'] || request.operation == 'CREATE' || (request.kind.kind == 'CronJob' ? " +
			"dyn(object).spec.jobTemplate != dyn(oldObject).spec.jobTemplate : dyn(object).spec.template != dyn(oldObject).spec.template)"},
		// The decision about a Deployment covers its ReplicaSets and Pods: it may have opted out, or be older than the namespace's
		// label, and its Pods are needed until the rollout ends. A Pod with an agent is checked anyway.
		admissionv1.MatchCondition{Name: "not-of-a-deployment", Expression: "!(request.kind.kind in ['Pod', 'ReplicaSet'] && request.userInfo.username in ['system:kube-controller-manager', " +
			"'system:serviceaccount:kube-system:deployment-controller', 'system:serviceaccount:kube-system:replicaset-controller'] && " +
			"dyn(object).metadata.?ownerReferences.orValue([]).exists(o, o.?controller.orValue(false) && o.apiVersion == 'apps/v1' && " +
			"o.kind == (request.kind.kind == 'Pod' ? 'ReplicaSet' : 'Deployment'))) || (request.kind.kind == 'Pod' && " +
			"(dyn(object).spec.containers + dyn(object).spec.?initContainers.orValue([])).exists(c, c.name in " + agentNames + "))"})
}

func (g guardOf) variables(remedy string) []admissionv1.Variable {
	runs := func(container, command string) string {
		return "c.name == " + quote(container) + " && c.?args.orValue([]) == " + list(command)
	}

	all := []admissionv1.Variable{
		// A debug container is added to a running Pod.
		{Name: "debugged", Expression: "has(request.subResource) && request.subResource == 'ephemeralcontainers'"},
	}
	all = append(all, podOf(g.template)...)
	all = append(all,
		admissionv1.Variable{Name: "all", Expression: "variables.containers + variables.initContainers + variables.pod.?ephemeralContainers.orValue([])"},
		admissionv1.Variable{Name: "others", Expression: "variables.all.filter(c, !(c.name in " + agentNames + "))"},
	)
	all = append(all, istiodOf("")...)
	return append(all, []admissionv1.Variable{
		// The API server allows only one source per volume.
		{Name: "inMemory", Expression: "variables.volumes.exists(v, v.name == variables.istiodVolume && v.?emptyDir.?medium.orValue('') == 'Memory' && !has(v.secret))"},

		// Containers that write only to istiod's volume.
		{Name: "agents", Expression: "variables.containers.filter(c, " + intact("c") + ")"},
		{Name: "initAgents", Expression: "variables.initContainers.filter(c, " + intact("c") + ")"},
		// The agent, in one of its two forms. The init container of the first ends before istiod starts. The startup probe of the
		// second delays istiod.
		{Name: "containerForm", Expression: "variables.agents.exists(c, " + runs(patches.AgentContainer, "sidecar") + ") && " +
			"variables.initAgents.exists(c, " + runs(patches.InitContainer, "init-container") + " && c.?restartPolicy.orValue('') != 'Always')"},
		{Name: "nativeForm", Expression: "variables.initAgents.exists(c, " + runs(patches.AgentContainer, "sidecar") + " && c.?restartPolicy.orValue('') == 'Always' && " +
			fmt.Sprintf("c.?startupProbe.?httpGet.?path.orValue('') == '/readyz' && c.startupProbe.httpGet.port == %d && c.startupProbe.httpGet.?host.orValue('') == '')", patches.HealthPort)},

		// Containers that may read the key: istiod and the agent.
		{Name: "readers", Expression: "(variables.istiodAt < 0 ? [] : [variables.istiod.name]) + (variables.initContainers.exists(c, c.name == " + quote(patches.AgentContainer) + ") ? " +
			list(patches.AgentContainer) + " : " + agentNames + ")"},
		{Name: "guarded", Expression: "!variables.noBuiltInCA && variables.all.exists(c, c.name in " + agentNames + ")"},
		{Name: "strangers", Expression: "variables.all.filter(c, !(c.name in variables.readers) && variables.istiodVolume != '' && " +
			mountsOf("c") + ".exists(m, m.name == variables.istiodVolume)).map(c, c.name)"},
		{Name: "sharesProcesses", Expression: "variables.pod.?shareProcessNamespace.orValue(false) || variables.pod.?hostPID.orValue(false) || " +
			"variables.pod.?ephemeralContainers.orValue([]).exists(c, c.?targetContainerName.orValue('') in variables.readers)"},

		{Name: "optOut", Expression: g.optOut()},
		{Name: "remedy", Expression: g.remedy(remedy)},
	}...)
}

// intact reports whether a container has the image's own command, no variable that points the agent to other files, and only
// istiod's volume at /etc/cacerts.
func intact(c string) string {
	return "size(" + c + ".?envFrom.orValue([])) == 0 && " +
		"!" + c + ".?env.orValue([]).exists(e, e.name in " + list("ISTIOD_AGENT_CACERTS_DIR", "ISTIOD_AGENT_SPEC", "KUBECONFIG") + ") && " +
		"size(" + c + ".?command.orValue([])) == 0 && size(" + c + ".?volumeDevices.orValue([])) == 0 && " +
		"size(" + mountsOf(c) + ".filter(m, " + nearCACerts("m.mountPath") + ")) == 1 && " +
		c + ".volumeMounts.exists(m, m.name == variables.istiodVolume && m.mountPath == " + quote(istio.CACertsDir) + " && " +
		"!m.?readOnly.orValue(false) && m.?subPath.orValue('') + m.?subPathExpr.orValue('') == '')"
}

// optOut is a remedy for every refusal.
func (g guardOf) optOut() string {
	if g.kind == patches.Pod {
		return literal(`to exclude this Pod, annotate the pod template of its Deployment with ` + patches.InjectKey + `: "false"`)
	}
	return "request.kind.kind == 'Deployment' ? " + literal(`to exclude this Deployment, annotate it with `+patches.InjectKey+`: "false"`) + " : " +
		"'to exclude this ' + request.kind.kind + " + literal(`, annotate its pod template with `+patches.InjectKey+`: "false"`)
}

// remedy for an istiod that has not been injected.
func (g guardOf) remedy(text string) string {
	next := literal(text) + " + '; ' + variables.optOut"
	if g.kind == patches.Pod {
		return next
	}
	return "request.kind.kind == 'Deployment' ? " + next + " : " +
		"'istiod-agent injects Deployments labelled app=istiod and nothing else: run istiod as such a Deployment; ' + variables.optOut"
}

func (guardOf) validations() []admissionv1.Validation {
	const ofIstiod = "variables.debugged || variables.noBuiltInCA || "
	return []admissionv1.Validation{
		{
			Expression: ofIstiod + "variables.istiodAt >= 0",
			MessageExpression: "'No container mounts /etc/cacerts and none is called discovery, so istiod cannot be identified: call " +
				"the container of istiod discovery, as the charts of Istio do; ' + variables.optOut",
		},
		{
			Expression:        "size(variables.second) == 0",
			MessageExpression: "'Container ' + variables.second[0] + ' runs istiod too, and istiod-agent supports only one istiod per Pod: remove it; ' + variables.optOut",
		},
		{
			Expression: ofIstiod + "variables.readsCACerts",
			MessageExpression: "'ROOT_CA_DIR makes istiod look for its CA elsewhere than in /etc/cacerts, the directory of istiod-agent, " +
				"or envFrom or workingDir may do so: set ROOT_CA_DIR to the plain value /etc/cacerts; ' + variables.optOut",
		},
		{
			Expression: ofIstiod + "!variables.hidden",
			MessageExpression: "'What istiod mounts hides the files of istiod-agent: mount the whole volume at /etc/cacerts once, " +
				"and nothing above it, below it or at a path with ..; ' + variables.optOut",
		},
		{
			Expression: ofIstiod + "variables.inMemory",
			MessageExpression: "(variables.istiodVolume == '' ? 'istiod mounts nothing at /etc/cacerts' : " +
				"'istiod would read its CA from volume ' + variables.istiodVolume + ', which is not an in-memory emptyDir') + '. ' + variables.remedy",
		},
		{
			Expression:        ofIstiod + "variables.containerForm || variables.nativeForm",
			MessageExpression: "'istiod would start without istiod-agent, and so with a root of its own. ' + variables.remedy",
		},
		{
			Expression: "!variables.guarded || size(variables.strangers) == 0",
			MessageExpression: "'Container ' + variables.strangers[0] + ' mounts volume ' + variables.istiodVolume + " +
				"', which holds the CA key and is for istiod and istiod-agent only: remove that mount'",
		},
		{
			Expression: "!variables.guarded || !variables.sharesProcesses",
			Message: "Other containers could read the CA key through the processes of istiod: remove " +
				"shareProcessNamespace and hostPID, and debug without a target container, which " +
				"shares the network of the Pod anyway",
		},
	}
}
