// SPDX-License-Identifier: Apache-2.0

// Package k8s is named by Vault beside the other providers.
package k8s

// Provider does nothing.
type Provider struct{}
