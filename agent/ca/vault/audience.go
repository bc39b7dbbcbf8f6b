// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/istiod-agent/istiod-agent/agent/ca"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// Reasons of the condition TokenAudienceBound.
//
//reasons:page condition
const (
	// reasonAudienceSet: The agent logs in with a token for one audience, so the receiver cannot use it elsewhere.
	//
	// Remedy: none.
	reasonAudienceSet = "AudienceSet"
	// reasonNoAudience: The token that the agent sends to Vault is accepted by the API server too: Vault's server
	// could act as istiod's service account.
	//
	// Remedy: set the audience `vault` in Vault's role and in
	// [`kubernetesAuth.audience`](agent.md#what-it-sends-and-where-to).
	reasonNoAudience = "NoAudience"
)

// Conditions implements ca.Source.
func (s *source) Conditions() []metav1.Condition { return []metav1.Condition{s.audienceBound()} }

// audienceBound returns the condition that the receiver of the agent's token cannot use it elsewhere.
func (s *source) audienceBound() metav1.Condition {
	condition := metav1.Condition{Type: certificatesv1.TokenAudienceBoundCondition, Status: metav1.ConditionTrue}
	auth := s.spec.KubernetesAuth
	if auth == nil {
		auth = (*certificatesv1.KubernetesAuth)(s.spec.JWTAuth)
	}
	switch {
	case s.spec.AppRoleAuth != nil:
		condition.Reason, condition.Message = ca.NoServiceAccountToken, "The agent logs in with a secret id."
	case s.spec.CertAuth != nil:
		condition.Reason, condition.Message = ca.NoServiceAccountToken, "The agent logs in with a client certificate."
	case auth == nil:
		condition.Reason, condition.Message = ca.NoServiceAccountToken, "The agent logs in with a Vault token."
	case auth.Audience != "":
		condition.Reason, condition.Message = reasonAudienceSet, fmt.Sprintf("The agent logs in with a token for audience %s alone.", auth.Audience)
	default:
		condition.Status, condition.Reason = metav1.ConditionFalse, reasonNoAudience
		account := s.ServiceAccount
		if auth.ServiceAccountRef != nil {
			account = auth.ServiceAccountRef.Name
		}
		condition.Message = fmt.Sprintf("The agent sends a token to %s that the API server accepts too: that server can act as service account %s/%s until the token expires, and read the Secrets that it may read. "+
			"To end that, set audience=vault in Vault's role and kubernetesAuth.audience: vault in the VirtualMesh.", s.spec.Server, s.Namespace, account)
	}
	return condition
}
