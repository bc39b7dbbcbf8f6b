// SPDX-License-Identifier: Apache-2.0

// Package patches decides what happens to an istiod Deployment or Pod and writes it as a JSON patch: the injection of the
// agent, and its exact inverse.
//
// It takes values and returns values: no cluster, no clock, no file. It writes the operations for known paths and never
// compares whole objects, so fields newer than this program's API types survive.
//
// The decision, in this order:
//
//	being deleted                                      BeingDeleted      allow, unchanged
//	the other kind is injected                         NotTheTarget      allow, unchanged
//	istiod-agent.io/inject: "false"                    OptedOut          allow, injection removed
//	no istiod container                                NoIstiodContainer deny
//	a second container that runs istiod                CACertsElsewhere  deny
//	istiod runs without its built-in CA                NoBuiltInCA       allow, injection removed, warning
//	istiod does not read its CA from /etc/cacerts      CACertsElsewhere  deny
//	already exactly as rendered                        AlreadyInjected   allow, unchanged
//	else                                               Injected          allow, patched
package patches

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"gomodules.xyz/jsonpatch/v2"
	corev1 "k8s.io/api/core/v1"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/internal/istio"
)

// Names that the injection reads and writes.
const (
	// InjectionLabel of a namespace opts its istiods in, with the value InjectionEnabled.
	InjectionLabel   = "istiod-agent.io/injection"
	InjectionEnabled = "enabled"

	// InjectKey, set to "false" as annotation or label of the object itself, opts an istiod out.
	InjectKey = "istiod-agent.io/inject"
	// InjectedAnnotation of the pod template holds the digest of the rendered injection.
	InjectedAnnotation = "istiod-agent.io/injected"
	// OriginalAnnotation of the object itself, where a change restarts nothing, holds what a removal restores (originalNote).
	// Earlier versions wrote it on a Deployment's pod template.
	OriginalAnnotation = "istiod-agent.io/original"

	// AgentContainer is the agent's container beside istiod.
	AgentContainer = "istiod-agent"
	// InitContainer gets the first intermediate CA before istiod starts.
	InitContainer = "istiod-agent-init"
	// IstiodContainer is istiod's own container in Istio's charts.
	IstiodContainer = "discovery"
	// caCertsVolume is the volume at CACertsPath in Istio's charts.
	caCertsVolume = istio.CACertsSecret
	// CACertsPath is the directory of istiod's intermediate CA (ROOT_CA_DIR, pilot/pkg/bootstrap/istio_ca.go, Istio 1.9 to 1.31).
	CACertsPath = istio.CACertsDir
	// OwnCACertsVolume is the volume at CACertsPath if istiod mounts none there and caCertsVolume has another purpose.
	OwnCACertsVolume = "istiod-agent-cacerts"
	// TokenPath is the mount path of a service account's token for the API server
	// (DefaultAPITokenMountPath, plugin/pkg/admission/serviceaccount/admission.go, Kubernetes 1.37).
	TokenPath = "/var/run/secrets/kubernetes.io/serviceaccount" //nolint:gosec // a directory
	// VaultTokenVolume holds the agent's service account token for Vault; its containers mount it at VaultTokenPath.
	VaultTokenVolume = "istiod-agent-vault-token"               //nolint:gosec // the name of a volume
	VaultTokenPath   = "/var/run/secrets/istiod-agent.io/vault" //nolint:gosec // a directory
	vaultTokenFile   = "token"
)

// Kind is a kind of object that can be injected.
type Kind string

// The two kinds, as the API names them.
const (
	Deployment Kind = "Deployment"
	Pod        Kind = "Pod"
)

// Result is the decision on one object: what to change, and why.
type Result struct {
	// Operations is the JSON patch (RFC 6902); empty when nothing changes.
	Operations []jsonpatch.Operation
	// Changes describes each change, in the order of the operations.
	Changes []string
	// ServiceAccount is the account whose rights the injected agent has; empty if nothing is injected.
	ServiceAccount string
	Report
}

// Injector is the rendered injection of one configuration. It is immutable and safe for concurrent use.
type Injector struct {
	kind     Kind
	rendered rendering
}

// New renders a configuration from v1alpha1.Decode or v1alpha1.Default.
func New(config *v1alpha1.InjectionConfiguration) (*Injector, error) {
	rendered, err := render(config)
	if err != nil {
		return nil, fmt.Errorf("rendering the injection: %w", err)
	}
	kind := Deployment
	if config.Target == v1alpha1.TargetPods {
		kind = Pod
	}
	return &Injector{kind: kind, rendered: rendered}, nil
}

// Target is the kind of object that this injector changes.
func (i *Injector) Target() Kind { return i.kind }

// Digest identifies the rendered injection.
func (i *Injector) Digest() string { return i.rendered.digest }

// Inject decides on a stored Deployment or Pod, in well-formed JSON as the API server sends it.
func (i *Injector) Inject(kind Kind, object []byte) Result {
	o := read(kind, object)
	if o != nil && o.deleting {
		return Result{Report: report(BeingDeleted, kind)}
	}
	return i.decide(kind, o)
}

// InjectNew is Inject for an object that is being created. It ignores a deletionTimestamp, which the API server clears
// only after the webhooks (BeforeCreate, apiserver/pkg/registry/rest/create.go).
func (i *Injector) InjectNew(kind Kind, object []byte) Result {
	return i.decide(kind, read(kind, object))
}

func (i *Injector) decide(kind Kind, o *object) Result {
	switch {
	case o == nil:
		return Result{Report: report(Malformed, kind)}
	case kind != i.kind:
		return Result{Report: report(NotTheTarget, kind)}
	case o.inject == "false":
		return i.optOut(o)
	}
	if o.istiod == nil {
		return Result{Report: report(NoIstiodContainer, containerNames(o))}
	}
	if o.secondIstiod != "" {
		return Result{Report: report(CACertsElsewhere, fmt.Sprintf("container %s runs istiod beside container %s, but only one istiod can be injected; remove container %s", o.secondIstiod, o.istiod.name, o.secondIstiod))}
	}
	if off := o.istiod.builtInCAOff(); off != "" {
		return i.withoutCA(o, off)
	}
	if elsewhere := i.caDirProblem(o); elsewhere != "" {
		return Result{Report: report(CACertsElsewhere, elsewhere)}
	}

	injection := i.inject(o)
	warnings := injection.Warnings
	injection.Report = report(Injected, strings.Join(injection.Changes, ", "))
	if len(injection.Operations) == 0 {
		injection.Report = report(AlreadyInjected, kind)
	}
	injection.Warnings = warnings
	if i.rendered.multiRoot && !i.multiRootEnabled(o) {
		injection.Warnings = append(injection.Warnings,
			fmt.Sprintf("container %s sets %s to %q itself, which overrides multiRootMesh: the root of trust cannot change while istiod runs", o.istiod.name, istio.MultiRootVariable, o.istiod.env[istio.MultiRootVariable].value))
	}
	if o.inject != "" && o.inject != "true" && o.inject != "enabled" {
		injection.Warnings = append(injection.Warnings,
			fmt.Sprintf("%s is %q, and only \"false\" opts out, so istiod is injected", InjectKey, o.inject))
	}
	return injection
}

// optOut removes what this webhook injected. An agent from another source, such as Gloo Mesh's guide, stays.
func (i *Injector) optOut(o *object) Result {
	if !i.hasInjected(o) {
		r := Result{Report: report(OptedOut, o.kind)}
		if o.hasAgent() {
			r.Message += "; its agent stays, because this webhook did not inject it"
			r.Warnings = append(r.Warnings, r.Message)
		}
		return r
	}
	removal := remove(o)
	removal.Report = report(OptedOut, o.kind)
	removal.Message += "; the agent is removed"
	removal.Warnings = append(removal.Warnings, "the agent is removed: "+o.describeRemoval())
	return removal
}

// withoutCA removes what this webhook injected before the setting turned istiod's CA off. An upgrade by istiod's owner that
// does so may leave a half of it, which the API server refuses or which does not start.
func (i *Injector) withoutCA(o *object, setting string) Result {
	r := Result{Report: report(NoBuiltInCA, setting)}
	notInjected := r.Message
	if i.hasInjected(o) {
		r = remove(o)
		r.Report = report(NoBuiltInCA, setting)
		r.Message += "; the agent is removed"
		r.Warnings = append(r.Warnings, "the agent is removed: istiod restarts without it")
	}
	r.Warnings = append(r.Warnings, notInjected)
	return r
}

// hasInjected reports whether this webhook injected the object.
func (i *Injector) hasInjected(o *object) bool {
	return o.annotated() || o.hasAgent() && !i.rendered.annotate && i.runsOurImage(o)
}

// runsOurImage reports whether the agent's containers run the configured image, or a mirror of it.
func (i *Injector) runsOurImage(o *object) bool {
	for _, container := range slices.Concat(o.initContainers.items, o.containers.items) {
		var c corev1.Container
		if isAgent(container.name) && (json.Unmarshal(container.raw, &c) != nil || !isMirrorOf(c.Image, i.rendered.init.Image)) {
			return false
		}
	}
	return true
}

// Uninject removes the injection, regardless of the object's annotations, and restores the replaced fields.
func Uninject(kind Kind, object []byte) Result {
	o := read(kind, object)
	if o == nil {
		return Result{Report: report(Malformed, kind)}
	}
	removal := remove(o)
	removal.Report = report(Removed, strings.Join(removal.Changes, ", "))
	if len(removal.Operations) == 0 {
		removal.Report = report(notInjected, kind)
	} else if _, readable := o.parseNote(); !readable {
		removal.Warnings = append(removal.Warnings, o.describeRemoval())
	}
	return removal
}

// State of an istiod with respect to the injection.
type State string

// The states, as the istiods metric names them.
const (
	// StateInjected has the current injection; others may have changed it since.
	StateInjected State = "injected"
	// StateOutdated has the injection of an earlier configuration, or a changed one.
	StateOutdated State = "outdated"
	// StateMissing would start without the agent's CA.
	StateMissing State = "missing"
	// StateSkipped must not be injected.
	StateSkipped State = "skipped"
)

// Inspect returns the state of a stored object, and the result of injecting it now.
func (i *Injector) Inspect(kind Kind, object []byte) (State, Result) {
	result := i.Inject(kind, object)
	switch result.Reason {
	case AlreadyInjected:
		return StateInjected, result
	case Injected:
		o := read(kind, object)
		switch {
		case !o.protected():
			return StateMissing, result
		case i.rendered.annotate && i.isCurrent(o) && !slices.ContainsFunc(result.Operations, func(operation jsonpatch.Operation) bool {
			return strings.HasPrefix(operation.Path, "/spec/")
		}):
			injected := Result{Report: report(AlreadyInjected, kind)} // the note moves at the next change
			injected.Warnings = result.Warnings
			return StateInjected, injected
		}
		return StateOutdated, result
	case NoIstiodContainer, CACertsElsewhere, Malformed:
		return StateMissing, result
	default:
		return StateSkipped, result
	}
}

func containerNames(o *object) string {
	names := make([]string, 0, len(o.containers.items))
	for _, c := range o.containers.items {
		names = append(names, c.name)
	}
	if len(names) == 0 {
		return "no containers"
	}
	return "containers " + strings.Join(names, ", ")
}

// RunsAgent reports whether a Pod has the agent's container beside istiod, in either form.
func RunsAgent(pod *corev1.PodSpec) bool {
	return slices.ContainsFunc(slices.Concat(pod.Containers, pod.InitContainers), func(c corev1.Container) bool { return c.Name == AgentContainer })
}
