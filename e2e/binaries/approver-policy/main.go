// SPDX-License-Identifier: Apache-2.0

// Command approver-policy is cert-manager's approver-policy, of its own package.
package main

import "github.com/cert-manager/approver-policy/pkg/cmd"

func main() { cmd.ExecutePolicyApprover() }
