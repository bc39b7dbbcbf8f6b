// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/istiod-agent/istiod-agent/internal/bounded"
)

// Outcome is the result of calling a server.
type Outcome string

// The outcomes.
const (
	// Calls: the server answered by mutual TLS.
	Calls Outcome = "calls"
	// Another: another server answered than the target.
	Another Outcome = "another"
	// OtherRoot: one side's certificate leads to a root that the other does not trust.
	OtherRoot Outcome = "other-root"
	// Unknown: the client's istiod sends no such service, or no endpoint of it.
	Unknown Outcome = "unknown"
	// Unreachable: istiod sends endpoints, and no connection to them succeeds.
	Unreachable Outcome = "unreachable"
	// Plaintext: the server answered without mutual TLS.
	Plaintext Outcome = "plaintext"
	// Failed is any other failure.
	Failed Outcome = "failed"
)

var outcomes = []Outcome{Calls, Another, OtherRoot, Unknown, Unreachable, Plaintext, Failed}

// Result is the outcome for a target. Detail is the last error in one line, empty for Calls.
type Result struct {
	Target  string  `json:"t"`
	Outcome Outcome `json:"o"`
	Detail  string  `json:"d,omitempty"`
}

// maxReport is the kubelet's limit of a termination message (kubernetes pkg/kubelet/container, MaxPodTerminationMessageLogLength
// counts all containers; MaxContainerTerminationMessageLength is per container).
const maxReport = 4096

// Encode returns the results for a termination message. It cuts details, all alike, until the message fits.
func Encode(results []Result) ([]byte, error) {
	for limit := bounded.MaxMessage / 2; ; limit /= 2 {
		cut := make([]Result, len(results))
		for i, result := range results {
			if cut[i] = result; limit > 8 {
				cut[i].Detail = bounded.Text(bounded.Plain(result.Detail), limit)
			} else {
				cut[i].Detail = ""
			}
		}
		text, err := json.Marshal(cut)
		if err != nil || len(text) <= maxReport {
			return text, err
		}
		if limit <= 8 {
			return nil, fmt.Errorf("%d results do not fit into a termination message of %d bytes", len(results), maxReport)
		}
	}
}

// Decode reads the termination message of a Pod, which may be hostile: it must hold exactly one known outcome for each target.
// The results have the order of the targets.
func Decode(message string, targets []string) ([]Result, error) {
	if message == "" {
		return nil, errors.New("it ended without a result")
	}
	if len(message) > maxReport {
		return nil, fmt.Errorf("its result has %d bytes; expected at most %d", len(message), maxReport)
	}
	decoder := json.NewDecoder(bytes.NewReader([]byte(message)))
	decoder.DisallowUnknownFields()
	var found []Result
	if err := decoder.Decode(&found); err != nil {
		return nil, fmt.Errorf("its result is not of this program: %s", bounded.Text(bounded.Plain(message), 200))
	}
	results := make([]Result, len(targets))
	for i, target := range targets {
		at := slices.IndexFunc(found, func(r Result) bool { return r.Target == target })
		if at < 0 || !slices.Contains(outcomes, found[at].Outcome) {
			return nil, fmt.Errorf("its result has no outcome for %s", target)
		}
		results[i] = found[at]
		results[i].Detail = bounded.Message(bounded.Plain(results[i].Detail))
	}
	if len(found) != len(targets) {
		return nil, fmt.Errorf("its result holds %d outcomes; expected %d", len(found), len(targets))
	}
	return results, nil
}
