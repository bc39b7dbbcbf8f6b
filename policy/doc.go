// SPDX-License-Identifier: Apache-2.0

// Package policy writes the injection of package patches as objects that the API server evaluates itself: a
// MutatingAdmissionPolicy with its parameter, and ValidatingAdmissionPolicies that refuse what must not be stored, and warn. No
// server of this project takes part in an admission. It needs Kubernetes 1.36. The package takes a configuration and
// returns objects; it never asks a cluster.
//
// # Parameter
//
// The policy of a target is the same text for every configuration. What a configuration renders stands in an object of
// kind Injection, whole, so that no template repeats package patches. The values of a built-in kind cannot be used: the
// API server hands them to CEL as Go structs, which no JSON patch takes.
//
// Whoever may write the object decides what istiod's Pods run, like whoever writes the configuration: image, variables,
// resources and security context are free within bounds. The schema pins the rest: names, subcommands, the first four
// variables, mounts, volumes and the probe. Fields that it does not know are not stored. What passes the schema and no API
// server takes in a Pod refuses istiod's change, with the name of the field in istiod.
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
// The validating policies evaluate the same variables on the mutated object. A refusal leaves an object as it was, so they
// see the same decision. One policy refuses and another warns: the actions of a binding hold for all validations of its
// policy, and the action Audit writes failures, not words.
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
// # Cost and upkeep
//
// The API server evaluates a policy again that has changed the object, or not: twice for each request; and each validating
// policy apart for its match conditions, validations, messages and annotations. For a Deployment like that of Istio's chart,
// a few comparisons stand in for the variables (settled.go); for others, the second time nothing changes, which the
// expressions report by a test that fails (mutation). An evaluation costs 5,000 to 64,000 of the 10,000,000 units that the
// API server allows (TestCost); it estimates none before. The benchmark's section admission measures what a client waits,
// beside policies of one literal patch. Of that, the parameter takes a part: the API server writes and reads its JSON again
// for each evaluation. Keep it small.
//
// Package controllers/injections keeps the parameter. The definition is embedded here, for the command line; the chart has
// the same text among its CRDs, and the policies' specs as files (internal/generate). The validating policies match no
// more than the mutating one: the guard refuses what is no Deployment and what shares the key, and stays
// beside them.
//
// # Differences
//
// The stored objects are those of the webhook, but for these:
//
//   - A volume that the injection replaces is recorded only if it is a source of plain values (a Secret or ConfigMap
//     without items, a hostPath, an emptyDir, a CSI volume without attributes): CEL writes no JSON. Any other is refused
//     with reason PolicyCannot.
//   - A removal that must restore a recorded volume of another form is refused with reason PolicyCannot.
//   - A record (annotation istiod-agent.io/original) that is not in the form in which this project writes it counts as
//     unreadable, though it may be valid JSON.
//   - An agent's container that differs from the rendered one in more than 16 fields or entries is completed, where the
//     webhook replaces it.
//
// The words are those of the webhook, with the same reason keys, but for these:
//
//   - The API server puts the policy's name before each message. Text of the object's that is long or unprintable is not
//     shown.
//   - The reason is Injected where the webhook's is AlreadyInjected: a validating policy sees the object after the injection.
//     It is PolicyCannot where the policy cannot do what the webhook does. An object that a policy does not match has none:
//     BeingDeleted, NotTheTarget and PodIsImmutable are the webhook's alone, and the API server itself refuses what is
//     Malformed.
//   - A replaced volume is warned about once, when it is recorded: not again if its owner applies it again, and again if an
//     object is created with the record of another. One of more than 32 KiB is refused (PolicyCannot), not replaced with a
//     warning.
//   - The removal of the agent is warned about where it was in the stored object, not where it is only in the request's. The
//     warning describes the volume as it is afterwards.
//   - There is no warning about the rights of istiod's service account, for which the webhook asks the API server: an
//     authorizer's check costs 350,000 of the 10,000,000 units of an evaluation. The controllers report them by an Event.
package policy
