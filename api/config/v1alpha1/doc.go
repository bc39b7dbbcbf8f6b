// SPDX-License-Identifier: Apache-2.0

// Package v1alpha1 is the configuration file of the injection and of the webhook that serves it. The webhook and
// `kubectl istiod-agent inject` read the same file.
//
// The package decodes, defaults and validates; it reads no file and no cluster.
//
// +groupName=config.istiod-agent.io
package v1alpha1
