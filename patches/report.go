// SPDX-License-Identifier: Apache-2.0

package patches

import "fmt"

// Reason is the key of an outcome, used in logs, metrics, events, audit annotations, warnings and the troubleshooting page.
type Reason string

// The reasons.
const (
	Injected          Reason = "Injected"
	AlreadyInjected   Reason = "AlreadyInjected"
	OptedOut          Reason = "OptedOut"
	NoBuiltInCA       Reason = "NoBuiltInCA"
	BeingDeleted      Reason = "BeingDeleted"
	NotTheTarget      Reason = "NotTheTarget"
	NoIstiodContainer Reason = "NoIstiodContainer"
	CACertsElsewhere  Reason = "CACertsElsewhere"
	Malformed         Reason = "Malformed"
	Removed           Reason = "Removed"
	notInjected       Reason = "NotInjected"
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
