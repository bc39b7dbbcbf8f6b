// SPDX-License-Identifier: Apache-2.0

package docs_test

// Classes of text that no test of this project can show.
const (
	// advice tells a person what to do.
	advice = "advice"
	// definition introduces what follows, or names a thing.
	definition = "definition"
	// limit is what is not promised: a right or a leak that stays.
	limit = "limit"
	// kubernetes is a property of Kubernetes, with the page that says so.
	kubernetes = "Kubernetes"
)

const (
	kubernetesRights      = kubernetes + ": https://kubernetes.io/docs/reference/access-authn-authz/rbac/#referring-to-resources"
	kubernetesTokens      = kubernetes + ": https://kubernetes.io/docs/concepts/security/rbac-good-practices/#workload-creation"
	kubernetesWebhookAuth = kubernetes + ": https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/#authenticate-apiservers"
	kubernetesFailure     = kubernetes + ": https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/#failure-policy"
)

const (
	chartRights = "e2e/tests/chart.TestRightsFollowTheConfiguration"
	governs     = "controllers/meshes.TestWhoGovernsAMesh"
	hostileSpec = "e2e/tests/attacks.TestWhatASpecificationCannotHaveSent e2e/tests/attacks.TestRandomSpecifications"
	slowClients = "internal/serve.TestServerClosesSlowConnections docs.TestBounds"
)

// claims names, for each section of security.md, the sentences and table rows by their first words, and beside each the
// tests that show it, as directory.TestName or directory.TestName/case, or its class.
var claims = map[string]map[string]string{
	"Security": {
		"What webhook and agent may do": definition,
		"To report a weakness":          advice,
	},
	"What it may do": {
		"The chart's rights":      chartRights + " e2e/tests/chart.TestRightsAreExplained e2e/tests/chart.TestSecurityPageListsTheRights",
		"In the whole cluster":    definition,
		"namespaces: list":        chartRights,
		"apps: deployments: list": chartRights + " e2e/tests/existing.TestLabelBringsExistingIstiodIn e2e/tests/admission.TestOptOutAndBackIn",
		"pods: get":               chartRights + " e2e/tests/pods.TestExistingPodsAreReplaced e2e/tests/reports.TestReportsGoWithTheirPods",
		"networking.mesh.gloo.solo.io: virtualmeshes: list":                          chartRights + " e2e/tests/virtualmesh.TestTheGuidesVirtualMesh",
		"networking.mesh.gloo.solo.io: virtualmeshes/status":                         chartRights + " e2e/tests/virtualmesh.TestTheGuidesVirtualMesh",
		"certificates.mesh.gloo.solo.io: issuedcertificates: list":                   chartRights + " e2e/tests/virtualmesh.TestChangesAreFollowed",
		"certificates.mesh.gloo.solo.io: podbouncedirectives: get":                   chartRights + " controllers/meshes.TestThePodBounceDirective e2e/tests/restarts.TestAChangeOfTheRoot",
		"certificates.mesh.gloo.solo.io: podbouncedirectives/status":                 chartRights + " e2e/tests/restarts.TestAChangeOfTheRoot",
		"certificates.mesh.gloo.solo.io: issuedcertificates/status: patch | to take": chartRights + " e2e/tests/reports.TestReportsGoWithTheirPods",
		"configmaps `istio`":                                                                    chartRights + " e2e/tests/virtualmesh.TestTheTrustDomainIsIstiods",
		"configmaps `istio-ca-root-cert`: get | to know":                                        chartRights + " controllers/restarts.TestTheGateOfANamespace",
		"configmaps `istio-ca-root-cert`: get | to start":                                       chartRights + " e2e/tests/renewal.TestAnotherRootInVaultWaitsForAPerson",
		"events.k8s.io: events: create, patch":                                                  chartRights + " e2e/tests/admission.TestMissingRightsAreReported",
		"authorization.k8s.io: subjectaccessreviews":                                            chartRights + " e2e/tests/admission.TestMissingRightsAreReported",
		"admissionregistration.k8s.io: mutatingwebhookconfigurations `istiod-agent`: get, list": chartRights + " webhook/servingcert.TestTheKeeperWritesTheBundleOfEveryWebhook webhook/servingcert.TestGivenBundle",
		"admissionregistration.k8s.io: mutatingwebhookconfigurations `istiod-agent`: get |":     chartRights + "/certificate",
		"apps: deployments, statefulsets":                                                       chartRights + "/restarts e2e/tests/restarts.TestAChangeOfTheRoot e2e/tests/restarts.TestWithoutRights",
		"apps: replicasets":                                                                     chartRights + "/restarts e2e/tests/restarts.TestAChangeOfTheRoot",
		"pods/eviction: create":                                                                 chartRights + "/restarts e2e/tests/restarts.TestEvictionsRespectPodDisruptionBudgets",
		"In the webhook's own namespace":                                                        definition,
		"secrets: create":                                                                       chartRights + " webhook/servingcert.TestACAIsMadeWhereNoneIsGood",
		"secrets `istiod-agent-webhook-ca`":                                                     chartRights + " webhook/servingcert.TestTheCAIsMadeAgainWhenItIsTakenAway",
		"coordination.k8s.io: leases: create":                                                   chartRights + "/no_leader e2e/tests/existing.TestLeaderChange",
		"coordination.k8s.io: leases `istiod-agent-webhook`":                                    chartRights + "/no_leader e2e/tests/existing.TestLeaderChange",
		"events: create":                                                                        chartRights + "/no_leader",
		"In each namespace of `istiodSidecar`, the webhook":                                     definition,
		"configmaps: get":                                                                       "e2e/tests/chart.TestTheAgentsRights internal/istio.TestMeshConfigMap e2e/tests/virtualmesh.TestARevisionWhoseConfigMapMayNotBeRead",
		"rbac.authorization.k8s.io: rolebindings":                                               "e2e/tests/chart.TestTheAgentsRights/every_istiod_of_a_namespace e2e/tests/configurations.TestRevisionsByPattern",
		"rbac.authorization.k8s.io: roles":                                                      "e2e/tests/chart.TestTheAgentsRights/every_istiod_of_a_namespace e2e/tests/configurations.TestRevisionsByPattern",
		"In each namespace of `istiodSidecar`, the agent":                                       definition,
		"certificates.mesh.gloo.solo.io: issuedcertificates: get":                               "e2e/tests/chart.TestTheAgentsRights",
		"certificates.mesh.gloo.solo.io: issuedcertificates/status: patch | to say there":       "e2e/tests/chart.TestTheAgentsRights",
		"events.k8s.io: events: create |":                                                       "e2e/tests/chart.TestTheAgentsRights",
		"configmaps `mesh-roots`":                                                               "e2e/tests/chart.TestTheAgentsRights/an_account_that_reads_roots",
		"secrets `vault-token`":                                                                 "e2e/tests/chart.TestTheAgentsRights/a_revision_with_a_token",
		"serviceaccounts/token `istiod`":                                                        "e2e/tests/chart.TestTheAgentsRights/an_account_that_requests_tokens",
		"The admission answers themselves":                                                      "webhook.TestEachOutcomeIsToldAlike",
	},
	"What it cannot do": {
		"Read any Secret but":                           chartRights,
		"Create or delete workloads":                    chartRights,
		"(With `restarts.enabled` it may":               chartRights + "/restarts",
		"With `istiodSidecar.namespaces` it may change": "e2e/tests/chart.TestTheAgentsRights/every_istiod_of_a_namespace e2e/tests/configurations.TestRevisionsByPattern",
		"Be asked about anything but":                   "e2e/tests/chart.TestGolden e2e/tests/admission.TestNamespaceWithoutLabelIsLeftAlone controllers.TestNotSelected/in_kube-system webhook.TestVirtualMeshesAreAnswered",
		"The chart refuses to put":                      "e2e/tests/chart.TestMistakesInValuesAreRefusedByName/own_objects_labelled_as_istiods",
	},
	"What RBAC cannot narrow": {
		"`patch` on Deployments knows no labels":     kubernetesRights,
		"The program itself changes only":            "controllers.TestNotSelected e2e/tests/existing.TestIstiodsThatAreNotBroughtIn",
		"With `restarts.enabled` the same holds":     limit,
		"The program does so only after":             "controllers/restarts.TestWhenARoundBegins controllers/restarts.TestWhichPodsBelongToTheMesh e2e/tests/restarts.TestAChangeOfTheRoot",
		"A user who may write `PodBounceDirective`s": limit,
		"Leave it off in production.":                advice,
		"With `istiodSidecar.namespaces` that token": "e2e/tests/configurations.TestRevisionsByPattern",
		"The program names service accounts of":      "controllers/accounts.TestSubjects e2e/tests/configurations.TestRevisionsByPattern",
		"`patch` on a webhook configuration":         kubernetesRights,
		"With the certificate source `cert-manager`": chartRights + "/certificate",
		"Protect namespace `istiod-agent-system`":    kubernetesTokens,
	},
	"Who decides about the CA": {
		"A user who may write one of these":              definition,
		"Treat the right as you treat":                   advice,
		"`VirtualMesh` | the namespaces":                 "e2e/tests/chart.TestNamespacesOfVirtualMeshes controllers/meshes.TestTheGuide controllers/meshes.TestTheRootChangesInStages controllers/meshes.TestThePodBounceDirective",
		"`VirtualMesh`, its status | the same":           limit,
		"`IssuedCertificate`, its annotations too":       "e2e/tests/virtualmesh.TestChangesAreFollowed agent.TestTheCAOfUntilNowIsTakenOver agent.TestARootIsSignedUnderOnlyOnceItIsTrusted " + governs,
		"`IssuedCertificate`, its status":                limit,
		"`PodBounceDirective`, its status too":           limit,
		"`pods/exec`, `pods/ephemeralcontainers` |":      limit,
		"Deployments and Pods |":                         kubernetesTokens,
		"the label `istiod-agent.io/injection`":          "controllers.TestNotSelected",
		"Only these count":                               definition,
		"`VirtualMesh`es of the allowed namespaces, and": governs + " controllers/meshes.TestANamespaceThatIsNotAllowed",
		"Of several the one that":                        governs + " e2e/tests/virtualmesh.TestTwoVirtualMeshes",
		"A mistake in it takes nothing away":             governs + "/the_one_with_the_certificate_has_become_invalid",
		"Deployments labelled `app=istiod` that":         "controllers.TestNotSelected controllers/meshes.TestADeploymentThatIsNotInjected",
		"The name of a mesh":                             "controllers/meshes.TestMeshNamesThatCollide e2e/tests/virtualmesh.TestATenantsDeploymentTakesNoMeshsName",
		"References of a `VirtualMesh`":                  "controllers/meshes.TestReferencesStayInIstiodsNamespace agent.TestPermit",
		"For restarts, `IssuedCertificate`s":             "controllers/restarts.TestAnIssuedCertificateIsForItsNamespace controllers/restarts.TestOnlyLabelledNamespacesAreRestarted",
		"Kubernetes' `admin` and `edit` roles":           "e2e/tests/attacks.TestKubernetesRoles e2e/tests/chart.TestNoRightsAreAggregated",
		"Give the rights on the kinds":                   "docs.TestTrustAdmin e2e/tests/chart.TestNoRightsAreAggregated",
		"`kubectl istiod-agent check` names":             "cli/checkup.TestRightsThatDecide cli/checkup.TestDeciders",
		"It does not look for those":                     limit,
	},
	// Each row of the table names its own tests: see TestThreatModel.
	"Secrets": {
		"The webhook never sees a key": chartRights,
		"What it sets up is that":      "golden.TestManifests agent/cacerts.TestADirectoryThatIsNotMemoryIsRefused e2e/tests/issuing.TestTheSidecarGetsOverTrouble",
		"The webhook's own CA":         "webhook/servingcert.TestTheKeeperWritesTheBundleOfEveryWebhook webhook/servingcert.TestACAIsMadeWhereNoneIsGood",
		"Its keys stay in that Secret": chartRights + " webhook/servingcert.TestACAIsMadeWhereNoneIsGood",
		"If one may have leaked":       "webhook/servingcert.TestTheCAIsMadeAgainWhenItIsTakenAway webhook/servingcert.TestANewCAsLeafIsHeldUntilTheBundleHasHeldItForAWhile",
		"It would stay trusted":        "webhook/servingcert.TestMerge",
		"The log names objects":        "webhook.TestTheLogHoldsNoObject webhook.TestEachOutcomeIsToldAlike",
		"It never holds an object":     "webhook.TestTheLogHoldsNoObject",
	},
	"The agent": {
		"What is promised":                       definition,
		"The CA key is written to one place":     "agent/cacerts.TestWhatIsPublishedIsReadBack e2e/tests/issuing.TestTheSidecarGetsOverTrouble e2e/tests/issuing.TestLeaksAreFound",
		"A directory that is not in memory":      "agent/cacerts.TestADirectoryThatIsNotMemoryIsRefused",
		"(`--allow-disk` is for":                 limit,
		"Without `csrPath` the key":              "agent/vault.TestWhatIsSent/sign e2e/tests/issuing.TestTheMinimalPolicyIsEnoughAndNeeded",
		"What Vault answers is verified":         "agent/cacerts.TestEachWrongAnswerIsRefused agent/cacerts.TestVerifyRefusesNamesOfEveryOtherType agent/cacerts.TestVerifyBoundsTheLife agent/cacerts.TestVerifyBoundsTheKeys",
		"A workload certificate":                 "agent/cacerts.TestVerifyRefusesAnUnusableCA",
		"An answer that is wrong":                "agent/cacerts.TestEachWrongAnswerIsRefused e2e/tests/issuing.TestTheSidecarGetsOverTrouble",
		"Verification takes bounded time":        "agent/cacerts.TestVerifyBoundsTheKeys agent/cacerts.TestRefusalsAreShortAndPlain agent/vault.TestEachAnswerIsExplained/longer_than_any_answer docs.TestBounds",
		"The agent sends service account tokens": hostileSpec + " agent/token.TestParse agent/token.TestRead agent.TestJWT",
		"With `injection.agent.allowedServers`":  "agent.TestPermit e2e/tests/attacks.TestRandomSpecifications",
		"The root that istiod was started":       "agent.TestARootIsSignedUnderOnlyOnceItIsTrusted agent.TestRootsThatIstiodWouldNotTakeAreNotPublished e2e/tests/renewal.TestAnotherRootInVaultWaitsForAPerson",
		"Vault's certificate is always verified": "agent/vault.TestTheEnvironmentDoesNotWeakenTLS agent/vault.TestTheEnvironmentChangesNothing e2e/tests/issuing.TestTLSIsVerified",
		"Redirects are followed only":            "agent/vault.TestRedirects",
		"A login made for a renewal":             "agent/vault.TestOnlyOwnTokensAreRevoked",
		"Vault's words are repeated":             "agent/vault.TestNoErrorHoldsASecret agent/vault.TestNoWarningHoldsASecret agent/vault.TestQuotable",
		"The directory holds a complete":         "agent/cacerts.TestKilledAtAnyInstant agent/cacerts.TestNoStepLeavesAPart",
		"`kubectl istiod-agent` sends":           "cli.TestTheTokenGoesToThePersonsOwnAddressAlone",
	},
	"Copies of the key": {
		"The file in istiod's volume":                     "agent/cacerts.TestPublishForgetsTheKey",
		"After publishing, the agent":                     "agent/cacerts.TestPublishForgetsTheKey docs.TestBounds",
		"The agent clears the buffers":                    "agent/cacerts.TestPublishForgetsTheKey",
		"Go gives a program no way":                       limit,
		"They stay in the process's":                      limit,
		"Once istiod is seen to use":                      "agent.TestMemoryIsReturnedOnceConfirmed",
		"That memory does not leave":                      "cmd/istiod-agent.TestTheProcessCannotBeDumped e2e/tests/issuing.TestACrashLeavesNoSecret",
		"Its core limit is 0":                             "cmd/istiod-agent.TestTheProcessCannotBeDumped",
		"Root on the node":                                limit,
		"What is not promised":                            definition,
		"With `csrPath`":                                  limit,
		"Vault keeps a copy":                              "e2e/tests/issuing.TestAnExportedKeyTakesTwoLinesMore agent/vault.TestWhatIsSent/delete",
		"A sidecar shares istiod's":                       limit,
		"Whoever takes over istiod's Pod":                 limit,
		"[The policy](vault.md":                           "e2e/tests/issuing.TestTheMinimalPolicyIsEnoughAndNeeded",
		"An intermediate that was":                        limit,
		"Health and metrics on port 15085":                limit,
		"`injection.agent.allowedServers` bounds servers": limit,
		"Without `audience`, any service account token":   limit,
	},
	"Why failurePolicy is Fail": {
		"An istiod that starts without":    "e2e/tests/rotation.TestFromIstiodsOwnRootToVaults e2e/tests/outage.TestOutage/neither_webhook_nor_guard",
		"A change of istiod that waits":    advice,
		"It stays small because":           "e2e/tests/outage.TestOutage/webhook_down",
		"Deleting is never refused":        "e2e/tests/outage.TestOutage/deleting_is_no_problem e2e/tests/admission.TestDeleteWhileHalfInjected e2e/tests/guard.TestUpdates",
		"[The guard](install.md#the-guard": "e2e/tests/guard.TestWays e2e/tests/guard.TestKinds e2e/tests/guard.TestEphemeralContainers e2e/tests/outage.TestOutage/only_the_guard_left",
		"It needs no Pod":                  "e2e/tests/outage.TestOutage/only_the_guard_left",
		"[Its table](install.md":           "e2e/tests/guard.TestWays",
	},
	"Pods": {
		"user |":                    "tools/image.TestImagesOfThisProject patches.TestUserIDsOfIstiodAreCopied",
		"Pod Security |":            "e2e/tests/chart.TestPodsAreRestricted e2e/suite.TestRestrictedPodSecurity",
		"root file system |":        "e2e/tests/chart.TestGolden golden.TestManifests tools/image.TestImagesOfThisProject",
		"service account token |":   "e2e/tests/chart.TestGolden golden.TestManifests",
		"network |":                 "cmd/istiod-agent-webhook.TestNewTLS webhook.TestEachOutcomeIsToldAlike e2e/tests/issuing.TestTheSidecarGetsOverTrouble e2e/tests/configurations.TestNativeSidecar",
		"Set the level on":          advice,
		"The chart's NetworkPolicy": "e2e/tests/chart.TestNetworkPolicy",
	},
	"What strangers can do to the ports": {
		"By default, any client":            kubernetesWebhookAuth,
		"An answer changes nothing":         "webhook.TestEachOutcomeIsToldAlike",
		"These bounds keep":                 "e2e/tests/floods.TestFloods docs.TestOneServer",
		"TLS handshake, header |":           slowClients,
		"request with its body |":           slowClients + " internal/serve.TestBudgetLimit",
		"handler and answer |":              "docs.TestBounds",
		"idle connection |":                 "docs.TestBounds",
		"headers |":                         "internal/serve.TestServerBoundsHeaders docs.TestBounds",
		"new connections of an address":     "internal/serve.TestNewConnectionsOfOneSourceAreFew docs.TestBounds",
		"connections |":                     "internal/serve.TestOneConnectionTooMany internal/serve.TestServerKeepsNobodyOut docs.TestBounds",
		"HTTP/2 streams":                    "internal/serve.TestServerBoundsStreams docs.TestBounds",
		"an admission review |":             "webhook.TestALargeReviewIsRefusedUnread webhook.TestAMalformedReviewIsAnsweredWithAReason/a_hundred_times_the_values_of_an_istiod docs.TestBounds",
		"bodies of all reviews":             "internal/serve.TestBudgetLimit docs.TestBounds",
		"A source address is":               "internal/serve.TestSourceOf",
		"One address holds at most half":    "internal/serve.TestBudget internal/serve.TestASmallRequestDoesNotWaitForLargeOnes internal/serve.TestBudgetIsGrantedToWhoHoldsLeast",
		"A review without `Content-Length`": "internal/serve.TestBudgetLimit",
		"So a client with an address":       "e2e/tests/floods.TestFloods",
		"Clients behind the same address":   limit,
		"An API server repeats a call":      "e2e/tests/floods.TestFloods docs.TestBounds",
		"After that, `failurePolicy`":       kubernetesFailure,
		"What a review says of itself":      "webhook.TestTheLogHoldsNoObject",
		"Each message and each value":       "webhook.TestAForgedReviewWritesLittle webhook.TestForgedReviewsWriteFewLines internal/bounded.TestText docs.TestBounds",
		"The warning about missing rights":  "webhook.TestStrangersLearnNothingOfRights webhook.TestLookupsOfRightsAreBounded e2e/tests/admission.TestMissingRightsAreReported",
	},
	"Proof of the API server": {
		"With `server.clientCA`":    "e2e/tests/clientca.TestClientCA",
		"Use a CA for this purpose": advice,
		"You need access to":        limit,
		"Make a CA and":             advice,
		"Give every API server":     "e2e/tests/clientca.TestClientCA",
		"The kubeconfig names":      kubernetesWebhookAuth,
		"When all API servers run":  advice,
		"The readiness check":       "e2e/tests/clientca.TestClientCA",
		"`helm test` and `check`":   "e2e/tests/clientca.TestClientCA",
		"The Pods restart when":     "e2e/tests/chart.TestAChangedConfigurationRollsTheWebhook",
	},
}
