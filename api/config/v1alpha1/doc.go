// SPDX-License-Identifier: Apache-2.0

// Package v1alpha1 is the one configuration file of istiod-agent's injection:
// what is injected into istiod, and how the webhook that injects it is served.
// The webhook and `kubectl istiod-agent inject` read the same file.
//
// The package decodes, defaults and validates; it reads no file and no cluster.
package v1alpha1
