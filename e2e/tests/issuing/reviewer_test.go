// SPDX-License-Identifier: Apache-2.0

package issuing

import (
	"fmt"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/serviceaccount"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/vaultserver"
)

// The guide's token_reviewer_jwt becomes invalid with Vault's Pod; here with its service account. Vault then answers each
// login as if it were wrong, and the agent names the cause.
func TestTokenReviewerGone(t *testing.T) {
	s := newSetting(t, vaultserver.Options{})
	s.specify(t, nil)
	s.issues(t)
	must(t, s.Empty())
	clients, err := kubernetes.NewForConfig(shared.Plane.Config)
	must(t, err)
	const name = "vault-of-a-pod"
	must(t, serviceaccount.Ensure(t.Context(), clients, s.Namespace, name))
	token, err := serviceaccount.Token(t.Context(), clients, s.Namespace, name)
	must(t, err)
	must(t, shared.Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name + "-" + s.Namespace},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:auth-delegator"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: s.Namespace, Name: name}},
	}))
	config, err := s.vault.Client.Logical().ReadWithContext(t.Context(), "auth/kubernetes/config")
	must(t, err)
	s.write(t, "auth/kubernetes/config", map[string]any{
		"kubernetes_host": config.Data["kubernetes_host"], "kubernetes_ca_cert": config.Data["kubernetes_ca_cert"], "token_reviewer_jwt": token,
	})
	s.issues(t)
	must(t, s.Empty())
	must(t, shared.Delete(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: s.Namespace}}))
	gone := rest.AnonymousClientConfig(shared.Plane.Config)
	gone.BearerToken = token
	as, err := kubernetes.NewForConfig(gone)
	must(t, err)
	cluster.Eventually(t, "the API server has noticed", func() error {
		if _, err := as.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{}); !apierrors.IsUnauthorized(err) {
			return fmt.Errorf("it answers %w", err)
		}
		return nil
	})
	s.refused(t, "VaultNotAuthorized", "the token_reviewer_jwt in auth/kubernetes/config has probably expired")
}
