// SPDX-License-Identifier: Apache-2.0

// Package ca is the seam between the agent and the CAs that istiod's certificate can come from. A Source is one of them, as a
// specification names it; each kind has a room below this package. Package agent chooses the source, and does everything else
// without knowing it: verification, publication, renewal, confirmation, status.
//
// Nothing here verifies a certificate or writes a file.
package ca

import (
	"time"

	"github.com/istiod-agent/istiod-agent/agent/cacerts"
)

// Request is what a certificate must be.
type Request struct {
	// Hosts are the certificate's URI names, and its only ones.
	Hosts []string
	// Organization is the subject's organization and its common name.
	Organization string
	// TTL is the requested validity; a CA may shorten it.
	TTL time.Duration
	Key cacerts.Key
}
