// SPDX-License-Identifier: Apache-2.0

package patches

import "fmt"

// Reason is the key of an outcome, used in logs, metrics, events, audit annotations, warnings and docs/reasons.md.
type Reason string

// The reasons.
//
//reasons:page injection
const (
	// Injected: Patched: istiod gets the agent, or its agent is updated, and the message lists the changes. It also
	// occurs when an owner applies the same istiod server-side again: it replaces the owner's Secret volume once more,
	// and the stored object stays the same. As an Event: the controller injected an existing istiod, which restarts
	// it.
	//
	// Remedy: none, without a warning. A warning names a volume at `/etc/cacerts` that is not the Secret of Istio's
	// chart (CSI, `hostPath`, another Secret). istiod no longer reads it, and an opt-out restores it.
	Injected Reason = "Injected"
	// AlreadyInjected: Allowed, unchanged: the object has the agent as configured, including [the changes of other
	// webhooks](install.md#beside-other-webhooks). A newly installed istiod gets this Event too, because the
	// controller finds it injected. An istiod that existed before the controller started gets no Event.
	//
	// Remedy: none. If there is a warning about the value of `istiod-agent.io/inject`: only `"false"` opts out, and
	// istiod is injected.
	AlreadyInjected Reason = "AlreadyInjected"
	// OptedOut: The Deployment (with `target: pods`, the Pod) has `istiod-agent.io/inject: "false"`, as annotation or
	// label. Allowed; if the agent was injected, it is removed in the same write (patched). A warning then names the
	// next source of istiod's CA: the Secret `cacerts`, the original volume, or a root of its own. The state in the
	// metric is `skipped`. An agent that you added by hand remains, and the warning reports it.
	//
	// Remedy: none, if you want that; remove an agent of your own yourself. To inject istiod again, which restarts it:
	//
	//	kubectl annotate -n istio-system deployment istiod istiod-agent.io/inject-
	OptedOut Reason = "OptedOut"
	// NoBuiltInCA: Allowed, not injected, with a warning: istiod runs without its own CA (`ENABLE_CA_SERVER=false`, or
	// `EXTERNAL_CA` with `PILOT_CERT_PROVIDER=k8s.io/…`), so it cannot use an intermediate CA. This is right for
	// istio-csr and for certificates that Kubernetes signs. If the agent was injected earlier, it is removed in the
	// same write (patched), and another warning reports it. An agent that you added by hand remains.
	//
	// Remedy: if istiod should have its own CA, remove these settings. If you want no warning, opt out.
	NoBuiltInCA Reason = "NoBuiltInCA"
	// BeingDeleted: Allowed, unchanged: the object is being deleted.
	//
	// Remedy: none.
	BeingDeleted Reason = "BeingDeleted"
	// NotTheTarget: Allowed, unchanged: a Deployment while the target is Pods, or a Pod while the target is
	// Deployments. The API server still calls the webhook with an older configuration, as it does for some seconds
	// after a change of `injection.target`.
	//
	// Remedy: if it lasts, the webhook configuration and the configuration file differ. [Upgrade the
	// release](upgrade.md); with kustomize, restart the webhook.
	NotTheTarget Reason = "NotTheTarget"
	// NoIstiodContainer: Denied: the object has the label `app=istiod`, but no container mounts `/etc/cacerts` and
	// none is called `discovery`. The message lists its containers.
	//
	// Remedy: if it is istiod, rename its container to `discovery`, as in Istio's charts. If it is not, remove the
	// label `app=istiod`, or opt it out.
	NoIstiodContainer Reason = "NoIstiodContainer"
	// CACertsElsewhere: Denied: istiod would not read the agent's files, and would create a root of its own. The
	// message names the cause.
	//
	// Remedy: by the cause:
	//
	//   - `ROOT_CA_DIR` is another path, is empty, or has no plain value (`valueFrom`, a `$(reference)`): remove
	//     it.
	//   - With `annotate: false`, `envFrom` or `workingDir` may lead istiod to another path: set `ROOT_CA_DIR` to
	//     `/etc/cacerts` in the container's `env`. Otherwise, the injection sets it.
	//   - `/etc/cacerts` is mounted with a `subPath`: mount the whole volume. A `subPath` mount never sees renewed
	//     files.
	//   - `/etc/cacerts` is mounted twice, or there is a mount (or a device) above it, below it, or at a path with
	//     `..`: remove that mount.
	//   - A second container of the Pod runs istiod (its command line contains the argument `discovery`): remove
	//     it. One istiod is injected per Pod.
	CACertsElsewhere Reason = "CACertsElsewhere"
	// Malformed: Denied, or an error with HTTP status 400: the admission review is unreadable, has no Pod spec, or is
	// about another kind, operation or subresource. With the chart's webhook configuration, no API server sends this.
	// As an Event: the stored object is far larger than an istiod, so the controllers do not read it.
	//
	// Remedy: compare your webhook configuration with the chart's. If they are equal, please report it as a bug, with
	// the log line. For an Event: remove from the object what istiod does not need.
	Malformed Reason = "Malformed"
	// Removed: Only from `kubectl istiod-agent uninject`: the plugin removed the agent. The message lists the changes.
	//
	// Remedy: none.
	Removed Reason = "Removed"
	// notInjected: Only from `kubectl istiod-agent uninject`: there was no agent to remove.
	//
	// Remedy: none.
	notInjected Reason = "NotInjected"
)

// sentences explain the reasons; the decision supplies %s.
var sentences = map[Reason]string{
	Injected:          "istiod gets its intermediate CA from the agent: %s",
	AlreadyInjected:   "the %s carries the agent as configured",
	OptedOut:          `the %s sets istiod-agent.io/inject: "false"`,
	NoBuiltInCA:       "not injected: istiod runs without its built-in CA (%s), so it needs no intermediate CA",
	BeingDeleted:      "the %s is being deleted",
	NotTheTarget:      "the %s is not changed: the configuration's target is the other kind",
	NoIstiodContainer: `cannot inject: expected a container called "discovery" or one that mounts /etc/cacerts, found %s`,
	CACertsElsewhere:  "cannot inject: istiod would not read the agent's files: %s",
	Malformed:         "cannot read the %s: expected a JSON object with a pod spec",
	Removed:           "the agent is removed: %s",
	notInjected:       "the %s does not contain the agent",
}

// Report explains a decision.
type Report struct {
	Reason Reason
	// Message explains the reason for this object.
	Message string
	// Warnings are for the person who made the request.
	Warnings []string
}

// Denied reports whether the object must not be stored.
func (r Report) Denied() bool {
	return r.Reason == NoIstiodContainer || r.Reason == CACertsElsewhere || r.Reason == Malformed
}

func report[T ~string](reason Reason, on T) Report {
	return Report{Reason: reason, Message: fmt.Sprintf(sentences[reason], on)}
}
