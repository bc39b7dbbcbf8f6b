// SPDX-License-Identifier: Apache-2.0

package checkup

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/version"

	"github.com/istiod-agent/istiod-agent/cli/terminal"
	"github.com/istiod-agent/istiod-agent/internal/helm"
	"github.com/istiod-agent/istiod-agent/patches"
	"github.com/istiod-agent/istiod-agent/policy"
)

// minimum is the first version of Kubernetes with ValidatingAdmissionPolicy v1.
const minimum = "1.30.0"

// decide returns the findings, in the order in which a person would fix them. kubectl begins the commands in them.
func decide(kubectl string, facts *clusterFacts, now time.Time) []finding {
	d := &decision{facts: facts, kubectl: kubectl, now: now}
	if facts.Version.Err != nil {
		d.add(levelUnknown, "Kubernetes", "reading the API server's version: "+facts.Version.Err.Error(), kubectl+" version; check the cluster's address and your login")
		return d.lines
	}
	d.version()
	d.definitions()
	d.form()
	d.webhook()
	d.policy()
	d.probe()
	d.guard()
	d.namespaces()
	d.istiods()
	d.rights()
	d.servers()
	d.meshes()
	d.certManager()
	d.ambient()
	d.bundle()
	d.certificates()
	d.remotes()
	d.deciders()
	return d.lines
}

type decision struct {
	facts   *clusterFacts
	kubectl string
	now     time.Time
	lines   []finding
}

func (d *decision) add(status level, subject, detail, next string) {
	d.lines = append(d.lines, finding{status, subject, detail, next})
}

// unknown adds a failed request; a missing permission has its own advice.
func (d *decision) unknown(subject, doing, verb, resource string, err error) {
	next := "try again; the API server returned an unexpected error"
	if apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) {
		next = fmt.Sprintf("get the right to %s %s (%s auth can-i %s %s -A)", verb, resource, d.kubectl, verb, resource)
	}
	d.add(levelUnknown, subject, doing+": "+err.Error(), next)
}

// installed reports whether the chart or its kustomization is installed.
func (d *decision) installed() bool {
	return d.facts.Webhook.Value != nil || d.facts.Policy.ofChart()
}

// release returns the command that sets values of the chart: an upgrade where there is a release.
func (d *decision) release(flags ...string) string {
	if d.installed() {
		return helm.Upgrade(flags...)
	}
	return helm.Install(flags...)
}

func (d *decision) version() {
	parsed, err := version.ParseGeneric(d.facts.Version.Value)
	switch {
	case err != nil:
		d.add(levelUnknown, "Kubernetes", fmt.Sprintf("its version %q does not parse", d.facts.Version.Value), d.kubectl+" version")
	case parsed.LessThan(version.MustParseGeneric(minimum)):
		d.add(levelFail, "Kubernetes", d.facts.Version.Value+" is older than 1.30, which the guard policy needs", "upgrade the cluster")
	case d.policyTooOld(parsed):
		d.add(levelFail, "Kubernetes", fmt.Sprintf("%s is older than 1.%d, which injection.by=policy needs", d.facts.Version.Value, policy.OldestMinor), "upgrade the cluster, or "+d.release("--set injection.by=webhook"))
	default:
		d.add(levelOK, "Kubernetes", d.facts.Version.Value, "")
	}
}

func (d *decision) definitions() {
	for _, definition := range crds {
		crd, subject := d.facts.CRDs[definition.name], "CRD "+definition.name
		if crd.Err != nil {
			d.unknown(subject, "reading it", "get", "customresourcedefinitions", crd.Err)
			continue
		}
		if crd.Value == nil {
			d.add(levelFail, subject, "is not installed", d.release("--set crds.install=true"))
			continue
		}
		served := strings.Join(crd.Value.Served, ", ")
		switch {
		case !slices.Contains(crd.Value.Served, "v1"):
			d.add(levelFail, subject, fmt.Sprintf("serves %s, but not v1", cmp.Or(served, "nothing")), "install the CRDs of this release: "+d.release("--set crds.install=true"))
		case !crd.Value.Established:
			d.add(levelFail, subject, "is not established: the API server does not serve it", d.kubectl+" describe crd "+definition.name)
		case !crd.Value.Ours:
			d.add(levelOK, subject, "is of Gloo Mesh or another project, serves "+served+"; it works, but without this project's columns and status details", "")
		default:
			d.add(levelOK, subject, "serves "+served, "")
		}
	}
}

func (d *decision) labelled(namespace string) bool {
	return slices.ContainsFunc(d.facts.Namespaces.Value, func(n namespaceState) bool { return n.Name == namespace && n.Labelled })
}

func (d *decision) namespaces() {
	const subject = "namespaces"
	switch {
	case d.facts.Namespaces.Err != nil:
		d.unknown(subject, "listing namespaces", "list", "namespaces", d.facts.Namespaces.Err)
		return
	case d.facts.Istiods.Err != nil:
		return // istiods has its line
	}
	d.notListed()
	var missing []string
	for _, istiod := range d.facts.Istiods.Value {
		if !d.labelled(istiod.Namespace) && !exempt(istiod) && !slices.Contains(missing, istiod.Namespace) {
			missing = append(missing, istiod.Namespace)
		}
	}
	for _, namespace := range missing {
		d.add(levelWarn, "namespace "+namespace, "has an istiod and is not labelled: the agent is not injected there", d.kubectl+" label namespace "+namespace+" "+patches.InjectionLabel+"="+patches.InjectionEnabled)
	}
	if len(missing) == 0 && len(d.facts.Istiods.Value) > 0 {
		d.add(levelOK, subject, "every namespace with an istiod is labelled", "")
	}
}

// notListed adds the labelled namespaces in which the controllers may not act.
func (d *decision) notListed() {
	configuration := d.facts.Configuration.Value
	for _, namespace := range d.facts.Namespaces.Value {
		if namespace.Labelled && configuration != nil && !configuration.Covers(namespace.Name) {
			listed := append(slices.Clone(configuration.Namespaces), namespace.Name)
			d.add(levelFail, "namespace "+namespace.Name, "is labelled, but not in the chart's value rbac.namespaces: istiod is injected there and waits in Init, since the controllers do not see it",
				helm.Upgrade("--set 'rbac.namespaces={"+strings.Join(listed, ",")+"}'"))
		}
	}
}

// exempt reports whether an istiod is intentionally not injected.
func exempt(istiod istiodState) bool {
	return istiod.State == patches.StateSkipped && (istiod.Reason == patches.OptedOut || istiod.Reason == patches.NoBuiltInCA || istiod.Reason == patches.BeingDeleted)
}

func (d *decision) istiods() {
	switch {
	case d.facts.Istiods.Err != nil:
		d.unknown("istiods", "listing Deployments and Pods labelled app=istiod", "list", "deployments.apps", d.facts.Istiods.Err)
		return
	case len(d.facts.Istiods.Value) == 0:
		d.add(levelOK, "istiods", "there is no istiod yet; install Istio", "")
		return
	}
	for _, istiod := range d.facts.Istiods.Value {
		subject := "istiod " + istiod.Namespace + "/" + istiod.Name
		restart := d.kubectl + " rollout restart -n " + istiod.Namespace + " deployment/" + istiod.Name
		switch {
		case istiod.State == patches.StateInjected, istiod.State == patches.StateOutdated:
			d.add(levelOK, subject, "has the agent", "")
		case exempt(istiod):
			d.add(levelOK, subject, "is not injected: "+string(istiod.Reason), "")
		case !d.labelled(istiod.Namespace):
			// namespaces has its line.
		case istiod.State == "":
			d.add(levelWarn, subject, "has no Pod", d.kubectl+" describe -n "+istiod.Namespace+" deployment/"+istiod.Name)
		case istiod.Reason == patches.NoIstiodContainer, istiod.Reason == patches.CACertsElsewhere:
			d.add(levelFail, subject, "cannot be injected: "+string(istiod.Reason)+": "+istiod.Message, "change it as described")
		default:
			d.add(levelFail, subject, "runs without the agent, and so with its own root", restart)
		}
	}
}

// servers warns where the author of a VirtualMesh chooses the server of the agents' login.
func (d *decision) servers() {
	const subject = "allowed servers"
	switch configuration := d.facts.Configuration; {
	case !d.installed(), configuration.Err != nil:
	case len(configuration.Value.Agent.AllowedServers) == 0:
		d.add(levelWarn, subject, "istiod's agents log in to any server that a VirtualMesh or IssuedCertificate names", helm.Upgrade("--set 'injection.agent.allowedServers={https://vault.example.com:8200}'")+", with your Vault's address; then restart istiod")
	default:
		d.add(levelOK, subject, "istiod's agents log in to "+terminal.Names(configuration.Value.Agent.AllowedServers, maxNames)+" only", "")
	}
}

func (d *decision) rights() {
	done := map[string]bool{}
	for _, istiod := range d.facts.Istiods.Value {
		account := istiod.Namespace + "/" + istiod.ServiceAccount
		if done[account] || exempt(istiod) {
			continue
		}
		done[account] = true
		subject := "rights of service account " + account
		switch {
		case istiod.Lacking.Err != nil:
			d.unknown(subject, "checking its permissions", "create", "subjectaccessreviews.authorization.k8s.io", istiod.Lacking.Err)
		case len(istiod.Lacking.Value) > 0:
			d.add(levelFail, subject, "it may not "+strings.Join(istiod.Lacking.Value, ", nor ")+"; istiod waits in Init until it has this permission",
				fmt.Sprintf("add {name: %s, namespace: %s} to istiodSidecar.serviceAccounts in your values, if it is missing, and run %s", istiod.ServiceAccount, istiod.Namespace, d.release("-f values.yaml")))
		default:
			d.add(levelOK, subject, "has the permissions of the agent", "")
		}
	}
}
