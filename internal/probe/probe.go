// SPDX-License-Identifier: Apache-2.0

// Package probe is the contract between `kubectl istiod-agent join` and the Pods that it starts before it writes: the endpoints
// that a Pod connects to, and the results.
package probe

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"

	"github.com/istiod-agent/istiod-agent/internal/bounded"
)

// Endpoint is where a Pod tries to connect to: an API server, or a TCP port.
type Endpoint struct {
	// Server is the URL of an API server. ServerName is the name in its certificate, by default the URL's host. CA is the PEM of
	// the certificate's authorities; without it, the certificate is not verified.
	Server     string `json:"server,omitempty"`
	ServerName string `json:"serverName,omitempty"`
	CA         []byte `json:"ca,omitempty"`
	// Address is HOST:PORT of a TCP port, for an Endpoint without a Server. The port must send Answer, unless that is empty.
	Address string `json:"address,omitempty"`
	Answer  string `json:"answer,omitempty"`
}

// MaxEndpoints is the most endpoints of a Pod: those of a hundred clusters. Their results fit into a termination message.
const MaxEndpoints = 200

// MaxAnswer is the most bytes of an Endpoint's Answer.
const MaxAnswer = 64

// Outcome is the result of connecting to an Endpoint.
type Outcome string

// The outcomes. Their names are short, for MaxEndpoints of them.
const (
	// Reached: the API server answered by HTTP, with any status, or the port sent the answer.
	Reached Outcome = "reached"
	// NoName: the host's name does not resolve.
	NoName Outcome = "no-name"
	// Timeout: there was no answer in time.
	Timeout Outcome = "timeout"
	// Refused: the host refuses connections to the port.
	Refused Outcome = "refused"
	// NoRoute: the network, or a host on the way, has no route.
	NoRoute Outcome = "no-route"
	// BadCertificate: the API server's certificate is not the expected one.
	BadCertificate Outcome = "bad-cert"
	// Another: the port sends something else than the answer.
	Another Outcome = "another"
	// Barred: no Pod of another cluster can have the address, which the probe does not connect to.
	Barred Outcome = "barred"
	// Failed is any other failure.
	Failed Outcome = "failed"
)

var outcomes = []Outcome{Reached, NoName, Timeout, Refused, NoRoute, BadCertificate, Another, Barred, Failed}

// Result is the outcome for an Endpoint. Detail is the cause in one line, and holds nothing that the endpoint sent but parts of
// its certificate.
type Result struct {
	Outcome Outcome `json:"o"`
	Detail  string  `json:"d,omitempty"`
}

// IsBarred reports whether an address is never that of another cluster's API server, gateway or Pod: a loopback, multicast or
// unspecified address, or a link-local one, where clouds serve their metadata.
func IsBarred(address netip.Addr) bool {
	address = address.Unmap()
	return !address.IsValid() || address.IsLoopback() || address.IsUnspecified() || address.IsMulticast() || address.IsLinkLocalUnicast()
}

// maxReport is the kubelet's limit of a termination message (Kubernetes pkg/kubelet/container, MaxContainerTerminationMessageLength).
const maxReport = 4096

// Encode returns the results, in the order of the endpoints, for a termination message. It cuts details, all alike, until the
// message fits.
func Encode(results []Result) ([]byte, error) {
	if len(results) > MaxEndpoints {
		return nil, fmt.Errorf("there are %d results; expected at most %d", len(results), MaxEndpoints)
	}
	for limit := bounded.MaxMessage / 2; ; limit /= 2 {
		cut := make([]Result, len(results))
		for i, result := range results {
			if cut[i].Outcome = result.Outcome; limit > 8 {
				cut[i].Detail = bounded.Text(bounded.Plain(result.Detail), limit)
			}
		}
		if text, err := json.Marshal(cut); err != nil || len(text) <= maxReport {
			return text, err
		}
		if limit <= 8 {
			return nil, fmt.Errorf("%d results do not fit into a termination message", len(results))
		}
	}
}

// Decode reads the termination message of a Pod, which may be hostile: it must hold a known outcome for each of n endpoints.
func Decode(message string, n int) ([]Result, error) {
	switch {
	case message == "":
		return nil, errors.New("it ended without a result")
	case len(message) > maxReport:
		return nil, fmt.Errorf("its result has %d bytes; expected at most %d", len(message), maxReport)
	}
	decoder := json.NewDecoder(bytes.NewReader([]byte(message)))
	decoder.DisallowUnknownFields()
	var results []Result
	if err := decoder.Decode(&results); err != nil {
		return nil, fmt.Errorf("its result is not of this program: %s", bounded.Text(bounded.Plain(message), 200))
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("its result is not of this program: there is more after it")
	}
	if len(results) != n {
		return nil, fmt.Errorf("its result holds %d outcomes; expected %d", len(results), n)
	}
	for i := range results {
		if !slices.Contains(outcomes, results[i].Outcome) {
			return nil, fmt.Errorf("its result holds an unknown outcome: %s", bounded.Text(bounded.Plain(string(results[i].Outcome)), 50))
		}
		results[i].Detail = bounded.Text(bounded.Plain(results[i].Detail), bounded.MaxMessage/2)
	}
	return results, nil
}
