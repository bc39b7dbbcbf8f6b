// SPDX-License-Identifier: Apache-2.0

package patches

import "fmt"

// Reason is the one key of an outcome, used alike in logs, metrics, events,
// audit annotations, warnings and the troubleshooting page.
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
	removed           Reason = "Removed"
	notInjected       Reason = "NotInjected"
)

// sentences say each reason; %s is filled in by the decision.
var sentences = map[Reason]string{
	Injected:          "istiod gets its intermediate CA from the agent: %s",
	AlreadyInjected:   "the %s carries the agent as configured",
	OptedOut:          `the %s says istiod-agent.io/inject: "false"`,
	NoBuiltInCA:       "not injected: istiod runs without its built-in CA (%s), so it has no use for an intermediate CA",
	BeingDeleted:      "the %s is being deleted",
	NotTheTarget:      "a %s is left as it is: the configuration's target is the other kind",
	NoIstiodContainer: `cannot inject: looked for a container that mounts /etc/cacerts, else one called "discovery", and found %s`,
	CACertsElsewhere:  "cannot inject: istiod would not read the agent's files: %s",
	Malformed:         "cannot read the %s: expected a JSON object with a pod spec",
	removed:           "the agent is removed: %s",
	notInjected:       "the %s holds nothing of the agent",
}

// Report says why a decision was taken.
type Report struct {
	Reason Reason
	// Message is the reason as one sentence, with what it was found on.
	Message string
	// Warnings are for the person who made the request.
	Warnings []string
}

// Denied tells whether the object must not be stored as it is.
func (r Report) Denied() bool {
	switch r.Reason {
	case NoIstiodContainer, CACertsElsewhere, Malformed:
		return true
	default:
		return false
	}
}

func report[T ~string](reason Reason, on T) Report {
	return Report{Reason: reason, Message: fmt.Sprintf(sentences[reason], on)}
}
