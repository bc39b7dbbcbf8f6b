// SPDX-License-Identifier: Apache-2.0

// Package patches decides what happens to an istiod Deployment or Pod and
// writes it as a JSON patch: the injection of the agent, and its exact inverse.
//
// It takes values and returns values: no cluster, no clock, no file. The
// operations are made by hand on named places, never by comparing whole
// objects, so a field that is newer than this program's API types survives.
//
// The decision, in this order (DESIGN, "Injection"):
//
//	being deleted                                      BeingDeleted      allow, untouched
//	the other kind is injected                         NotTheTarget      allow, untouched
//	says istiod-agent.io/inject: "false"               OptedOut          allow, injection removed
//	no container of istiod's                           NoIstiodContainer deny
//	a second container that runs istiod                CACertsElsewhere  deny
//	istiod runs without its built-in CA                NoBuiltInCA       allow, untouched, warning
//	istiod does not read its CA from /etc/cacerts      CACertsElsewhere  deny
//	already exactly as rendered                        AlreadyInjected   allow, untouched
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
	// InjectKey set to "false", as annotation or label of the object itself,
	// opts one istiod out.
	InjectKey = "istiod-agent.io/inject"
	// InjectedAnnotation of the pod template holds a digest of what was rendered.
	InjectedAnnotation = "istiod-agent.io/injected"
	// OriginalAnnotation of the object itself, where a change restarts nothing, holds
	// what a removal restores: what the injection replaced, where that is not what
	// Istio's chart writes, and what it added to istiod's own container. Earlier
	// versions wrote it on a Deployment's pod template.
	OriginalAnnotation = "istiod-agent.io/original"

	// AgentContainer is the agent's container beside istiod.
	AgentContainer = "istiod-agent"
	// InitContainer gets the first intermediate CA before istiod starts.
	InitContainer = "istiod-agent-init"
	// IstiodContainer is what Istio's charts call istiod's own container.
	IstiodContainer = "discovery"
	// CACertsVolume is what Istio's charts call the volume at CACertsPath.
	CACertsVolume = istio.CACertsSecret
	// CACertsPath is where istiod looks for its intermediate CA
	// (ROOT_CA_DIR, pilot/pkg/bootstrap/istio_ca.go, Istio 1.9 to 1.31).
	CACertsPath = istio.CACertsDir
	// OwnCACertsVolume is the volume at CACertsPath where istiod mounts nothing there and something else is called cacerts.
	OwnCACertsVolume = "istiod-agent-cacerts"
	// TokenPath is where Kubernetes mounts a service account's token for the API server
	// (DefaultAPITokenMountPath, plugin/pkg/admission/serviceaccount/admission.go, Kubernetes 1.37).
	TokenPath = "/var/run/secrets/kubernetes.io/serviceaccount" //nolint:gosec // a directory
	// VaultTokenVolume is the volume with the agent's service account token for Vault, and VaultTokenPath where the
	// agent's containers mount it.
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
	// Changes says each change in a few words, in the order of the operations.
	Changes []string
	// ServiceAccount is the one whose rights the injected agent will have; empty where nothing is injected.
	ServiceAccount string
	Report
}

// Injector holds the injection as rendered from one configuration. It is
// immutable and safe for concurrent use.
type Injector struct {
	kind     Kind
	rendered rendering
}

// New renders a configuration that has been decoded and validated by
// v1alpha1.Decode, or v1alpha1.Default.
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

// Target is the kind of object that this injector injects.
func (i *Injector) Target() Kind { return i.kind }

// Digest identifies what is rendered: equal digests, equal injection.
func (i *Injector) Digest() string { return i.rendered.digest }

// Inject decides on a stored Deployment or Pod, given as well-formed JSON such
// as the API server sends.
func (i *Injector) Inject(kind Kind, object []byte) Result {
	o := read(kind, object)
	if o != nil && o.deleting {
		return Result{Report: report(BeingDeleted, kind)}
	}
	return i.decide(kind, o)
}

// InjectNew is Inject for an object that is being created. A deletionTimestamp
// means nothing there: the API server clears it (BeforeCreate,
// apiserver/pkg/registry/rest/create.go), but only after the webhooks have seen it.
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
		return Result{Report: report(CACertsElsewhere, fmt.Sprintf("container %s runs istiod beside container %s, which alone can be injected; remove it", o.secondIstiod, o.istiod.name))}
	}
	if off := o.istiod.builtInCAOff(); off != "" {
		r := Result{Report: report(NoBuiltInCA, off)}
		r.Warnings = append(r.Warnings, r.Message)
		return r
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
			fmt.Sprintf("container %s sets %s itself, to %q, which stays: the root of trust cannot change while istiod runs, though multiRootMesh is set", o.istiod.name, istio.MultiRootVariable, o.istiod.env[istio.MultiRootVariable].value))
	}
	if o.inject != "" && o.inject != "true" && o.inject != "enabled" {
		injection.Warnings = append(injection.Warnings,
			fmt.Sprintf("%s is %q, and only \"false\" opts out, so istiod is injected", InjectKey, o.inject))
	}
	return injection
}

// optOut takes out what was injected here. An agent that somebody else put
// there, as Gloo Mesh's guide does by hand, is theirs to remove.
func (i *Injector) optOut(o *object) Result {
	if !o.hasAgent() && !o.annotated() {
		return Result{Report: report(OptedOut, o.kind)}
	}
	if !o.annotated() && (i.rendered.annotate || !i.runsOurImage(o)) {
		r := Result{Report: report(OptedOut, o.kind)}
		r.Message += "; the agent in it was not put there by this webhook, and stays"
		r.Warnings = append(r.Warnings, r.Message)
		return r
	}
	removal := remove(o)
	removal.Report = report(OptedOut, o.kind)
	removal.Message += "; the agent is removed"
	removal.Warnings = append(removal.Warnings, "the agent is removed: "+o.describeRemoval())
	return removal
}

// runsOurImage tells whether the agent's containers run the configuration's image, or a mirror's.
func (i *Injector) runsOurImage(o *object) bool {
	for _, container := range slices.Concat(o.initContainers.items, o.containers.items) {
		var c corev1.Container
		if isAgent(container.name) && (json.Unmarshal(container.raw, &c) != nil || !isMirrorOf(c.Image, i.rendered.init.Image)) {
			return false
		}
	}
	return true
}

// Uninject takes out what was injected, whatever the object's annotations say,
// and restores what was replaced.
func Uninject(kind Kind, object []byte) Result {
	o := read(kind, object)
	if o == nil {
		return Result{Report: report(Malformed, kind)}
	}
	removal := remove(o)
	removal.Report = report(Removed, strings.Join(removal.Changes, ", "))
	if len(removal.Operations) == 0 {
		removal.Report = report(NotInjected, kind)
	} else if _, readable := o.parseNote(); !readable {
		removal.Warnings = append(removal.Warnings, o.describeRemoval())
	}
	return removal
}

// State of an istiod with respect to the injection.
type State string

// The states, as the istiods metric names them.
const (
	// StateInjected is as configured, but for what others have changed since.
	StateInjected State = "injected"
	// StateOutdated gets its CA from the agent, as an earlier configuration rendered it, or
	// somebody changed what the agent needs to work.
	StateOutdated State = "outdated"
	// StateMissing would start without the agent's CA.
	StateMissing State = "missing"
	// StateSkipped is left alone for a reason.
	StateSkipped State = "skipped"
)

// Inspect says in which state a stored object is, and what injecting it now
// would give.
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
