// SPDX-License-Identifier: Apache-2.0

// Package policy writes the injection of package patches as objects that the API server evaluates itself: a
// MutatingAdmissionPolicy with its parameter, and a ValidatingAdmissionPolicy that refuses what must not be stored. No
// server of this project takes part in an admission. It needs Kubernetes 1.36. The package takes a configuration and
// returns objects; it never asks a cluster.
//
// # Parameter
//
// The policy of a target is the same text for every configuration. What a configuration renders stands in an object of
// kind Injection, whole, so that no template repeats package patches. The values of a built-in kind cannot be used: the
// API server hands them to CEL as Go structs, which no JSON patch takes.
//
// # Expressions
//
// The variables follow the files of package patches and name the function that they repeat. They compute what the lists
// become; the mutation only places it. Kubernetes' CEL has no local bindings, so [x].map(name, …)[0] stands for one. The
// API server evaluates a variable at its first use only, and holds maps and lists of mixed types to be errors unless each
// value is wrapped in dyn().
//
// Writing a value that is there already changes nothing, so the expressions correct fields without asking whether they
// are wrong. That keeps them half as long as package patches.
//
// The validating policy evaluates the same variables on the mutated object. A refusal leaves an object as it was, so it
// sees the same decision.
//
// # Values
//
// A patch's values are the parameter's, constants, or maps made of plain values, never parts of the object: see mutation.
// For the same reason the agent's stored containers are completed by operations on their fields.
//
// # Guard
//
// The guard takes the finished object alone, and needs neither parameter nor injection. It shares the variables about istiod
// with the policies, and is older than they are: what it uses, Kubernetes 1.30 has.
//
// # Static policies
//
// An API server takes no parameters in the policies on its own disk. NewStatic puts the rendered values into the same
// variables as CEL literals: they are text of a configuration, so literal is the one place that writes them.
//
// # For those who go on
//
// The policy and the validating policy may be evaluated twice each for one request: the API server asks a policy again that
// has changed the object. An evaluation costs about 2 ms for Istio's chart and 8 ms for an istiod with 1,500 variables
// (BenchmarkPolicy in e2e/tests/policy), and 5,000 to 17,000 of the 10,000,000 units that the API server allows (TestCost).
//
// The controllers should keep the parameter by server-side apply of New's Parameter. The definition is embedded here, for
// the command line; the chart needs the same text among its CRDs. The validating policy has the match conditions of the
// mutating one and no more: the guard refuses what is no Deployment and what shares the key, and stays beside it.
// Warnings need a third policy with the action Warn over the same variables.
//
// # Differences
//
// The stored objects are those of the webhook, but for these:
//
//   - A volume that the injection replaces is recorded only if it is a source of plain values (a Secret or ConfigMap
//     without items, a hostPath, an emptyDir, a CSI volume without attributes): CEL writes no JSON. Any other is refused
//     with reason PolicyCannot.
//   - An opt-out that must restore a recorded volume of another form is refused with reason PolicyCannot.
//   - A record (annotation istiod-agent.io/original) that is not in the form in which this project writes it counts as
//     unreadable, though it may be valid JSON.
//   - An agent's container that differs from the rendered one in more than 16 fields or entries is completed, where the
//     webhook replaces it.
//   - There are no warnings, and messages are shorter than the webhook's. Reason keys are the same.
package policy
