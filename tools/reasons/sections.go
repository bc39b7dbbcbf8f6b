// SPDX-License-Identifier: Apache-2.0

package main

// section is a part of the page: the reasons that are seen in the same places.
type section struct {
	// name is that of the directive.
	name, title string
	// seen is where a person sees these reasons.
	seen string
}

const header = `<!-- Generated from the comments of the constants in the code by make generate. Change those instead. -->
# Reasons

Every answer, Event, condition and problem has a reason: one word that is the same in the log, in metrics, in statuses and in Events. This page explains each of them, and what to do. If you have no reason but another symptom, see [Troubleshooting](troubleshooting.md).

The findings of ` + "`kubectl istiod-agent check`" + ` have no reasons: each contains its next step. The states in the output of the other commands are on the page of [the command line](command-line.md).

Search this page for your key:

`

// sections are in the order of the page.
var sections = []section{
	{
		"injection", "Injection",
		"Where you see it: in refusals and warnings, as `istiod-agent: <reason>: <message>`; in the webhook's log and its metric `istiod_agent_webhook_admissions_total`; as annotation `reason` in the API server's audit log; in Events on istiod's Deployment; in the report of `kubectl istiod-agent inject`.\n\n" +
			"*Patched* and *allowed* mean that the API server stores the object; *denied* and *error*, that it does not.",
	},
	{
		"istiods", "Existing istiods",
		"Where you see it: in Events on istiod's Deployment, and in the webhook's log. The states are those of the metric `istiod_agent_istiods`.",
	},
	{
		"virtualmesh", "VirtualMesh",
		"Where you see it: in the webhook's answers, its log and its metric, as above; in the condition `Ready` of a `VirtualMesh`, and in Events on it.",
	},
	{
		"federation", "Federation",
		"Where you see it: in the condition `Federated` of a `VirtualMesh`, and as the state of each other cluster in `status.meshes`.",
	},
	{
		"restarts", "Restarts after a change of the root",
		"Where you see it: in Events, and in the webhook's log. [Restarts](restarts.md) describes the procedure.",
	},
	{
		"renewal", "Why the agent issues a CA",
		"Where you see it: in the agent's log, and in its metric `istiod_agent_renewals_total` with `outcome=\"success\"`. [When it renews](agent.md#when-it-renews) describes the times.",
	},
	{
		"success", "The agent's successes",
		"Where you see it: in the agent's log, and in Events on the `IssuedCertificate`.",
	},
	{
		"problem", "The agent's problems",
		"Where you see it: in the agent's log; in Events on the `IssuedCertificate`; in its status, as `reason` of the Pod and of the condition `Ready`; in the metric `istiod_agent_renewals_total` with `outcome=\"failure\"`. If the init container fails, also in the description of the Pod. The message beside the reason contains your remedy.",
	},
	{
		"vault", "Refused by Vault",
		"Where you see it: as for the agent's other problems. The message begins with `asking Vault at`.",
	},
	{
		"certmanager", "Refused by cert-manager",
		"Where you see it: as for the agent's other problems. The message names the `CertificateRequest`.",
	},
	{
		"refusal", "Refused answers of the CA",
		"Where you see it: as for the agent's other problems. The CA has answered, and the agent has published nothing of the answer: istiod keeps its CA.",
	},
	{
		"condition", "Conditions of an IssuedCertificate",
		"Where you see it: in the [conditions](agent.md#status-probes-and-metrics) of an `IssuedCertificate`, besides the reasons of the problems above.",
	},
}
