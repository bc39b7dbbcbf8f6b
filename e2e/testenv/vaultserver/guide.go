// SPDX-License-Identifier: Apache-2.0

package vaultserver

import (
	"bytes"
	"cmp"
	"context"
	"fmt"

	"github.com/hashicorp/vault/api"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/serviceaccount"
)

// Role is the name of the guide's role and policy.
const Role = "gen-int-ca-istio"

// policy is the guide's policy, verbatim.
const policy = `path "pki_int/*" {
capabilities = ["create", "read", "update", "delete", "list"]
}
path "pki/cert/ca" {
capabilities = ["read"]
}
path "pki/root/sign-intermediate" {
capabilities = ["create", "read", "update", "list"]
}
`

// GuideOptions hold what the guide leaves to its reader.
type GuideOptions struct {
	// Cluster reviews service account tokens. It has an administrator's rights.
	Cluster *rest.Config
	// ServiceAccount may log in; several are separated by commas. The default is the guide's istiod-service-account;
	// Istio's charts since 1.11 call it istiod.
	ServiceAccount string
	// Namespace of the service account; istio-system by default.
	Namespace string
	// Audience of the tokens; the API server's by default.
	Audience string
	// Root returns the root CA; GuideRoot by default.
	Root func() (*Root, error)
}

// Guide holds the guide's steps in Vault.
type Guide struct {
	// Steps in order.
	Steps []Step
	// Root is the root CA, which the first step makes.
	Root *Root
}

// Step is a step of the guide.
type Step struct {
	// Command is the guide's command.
	Command string
	// Run does what Command does, through Vault's API.
	Run func(context.Context) error
}

// Guide runs all steps of the guide and returns the root CA.
func (s *Server) Guide(ctx context.Context, options GuideOptions) (*Root, error) {
	guide, err := s.NewGuide(options)
	if err != nil {
		return nil, err
	}
	for _, step := range guide.Steps {
		if err := step.Run(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", step.Command, err)
		}
	}
	return guide.Root, nil
}

// NewGuide returns the steps, for a caller that shows each of them.
func (s *Server) NewGuide(options GuideOptions) (*Guide, error) {
	client, err := kubernetes.NewForConfig(options.Cluster)
	if err != nil {
		return nil, err
	}
	account := cmp.Or(options.ServiceAccount, "istiod-service-account")
	namespace := cmp.Or(options.Namespace, "istio-system")
	makeRoot := options.Root
	if makeRoot == nil {
		makeRoot = GuideRoot
	}

	guide := &Guide{}
	guide.Steps = []Step{
		{
			Command: `openssl req -new -newkey rsa:4096 -x509 -sha256 -days 3650 -nodes -out root-cert.pem -keyout root-key.pem -subj "/O=my-org"`,
			Run: func(context.Context) (err error) {
				guide.Root, err = makeRoot()
				return err
			},
		},
		{
			// Vault runs already. What remains of its chart is the service account that reviews tokens.
			Command: `helm install -n vault vault hashicorp/vault --set "injector.enabled=false" --set "server.dev.enabled=true" --create-namespace`, //nolint:dupword // the guide's words
			Run:     func(ctx context.Context) error { return allowReview(ctx, client) },
		},
		{
			Command: `vault auth enable kubernetes`,
			Run: func(ctx context.Context) error {
				return s.Client.Sys().EnableAuthWithOptionsWithContext(ctx, "kubernetes", &api.EnableAuthOptions{Type: "kubernetes"})
			},
		},
		{
			Command: `vault write auth/kubernetes/config token_reviewer_jwt="$(cat /var/run/secrets/kubernetes.io/serviceaccount/token)" ` +
				`kubernetes_host="https://$KUBERNETES_PORT_443_TCP_ADDR:443" ` +
				`kubernetes_ca_cert=@/var/run/secrets/kubernetes.io/serviceaccount/ca.crt`,
			Run: func(ctx context.Context) error {
				token, err := serviceaccount.Token(ctx, client, reviewer, reviewer)
				if err != nil {
					return err
				}
				return s.write(ctx, "auth/kubernetes/config", map[string]any{
					"token_reviewer_jwt": token,
					"kubernetes_host":    options.Cluster.Host,
					"kubernetes_ca_cert": string(options.Cluster.CAData),
				})
			},
		},
		{
			Command: `vault write auth/kubernetes/role/` + Role + ` bound_service_account_names=` + account +
				` bound_service_account_namespaces=` + namespace + ` policies=` + Role + ` ttl=2400h`,
			Run: func(ctx context.Context) error {
				role := map[string]any{
					"bound_service_account_names":      account,
					"bound_service_account_namespaces": namespace,
					"policies":                         Role,
					"ttl":                              "2400h",
				}
				if options.Audience != "" {
					role["audience"] = options.Audience
				}
				return s.write(ctx, "auth/kubernetes/role/"+Role, role)
			},
		},
		{
			Command: `vault secrets enable pki`,
			Run: func(ctx context.Context) error {
				return s.Client.Sys().MountWithContext(ctx, "pki", &api.MountInput{Type: "pki"})
			},
		},
		{
			Command: `vault write -format=json pki/config/ca pem_bundle="$(cat root-key.pem root-cert.pem)"`,
			Run: func(ctx context.Context) error {
				bundle := bytes.Join([][]byte{guide.Root.Key, guide.Root.Certificate}, nil)
				return s.write(ctx, "pki/config/ca", map[string]any{"pem_bundle": string(bundle)})
			},
		},
		{
			Command: `vault secrets enable -path pki_int pki`,
			Run: func(ctx context.Context) error {
				return s.Client.Sys().MountWithContext(ctx, "pki_int", &api.MountInput{Type: "pki"})
			},
		},
		{
			Command: "vault policy write " + Role + " - <<EOF\n" + policy + "EOF",
			Run: func(ctx context.Context) error {
				return s.Client.Sys().PutPolicyWithContext(ctx, Role, policy)
			},
		},
	}
	return guide, nil
}

func (s *Server) write(ctx context.Context, path string, data map[string]any) error {
	_, err := s.Client.Logical().WriteWithContext(ctx, path, data)
	return err
}

// reviewer is the name of Vault's namespace and service account in the guide.
const reviewer = "vault"

// allowReview creates Vault's service account and, as Vault's chart does, the binding that permits TokenReviews.
func allowReview(ctx context.Context, client kubernetes.Interface) error {
	if err := serviceaccount.Ensure(ctx, client, reviewer, reviewer); err != nil {
		return err
	}
	_, err := client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "vault-server-binding"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:auth-delegator"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: reviewer, Name: reviewer}},
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}
