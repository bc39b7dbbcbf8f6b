// SPDX-License-Identifier: Apache-2.0

// Package cluster is the agent's client of the API server: it watches the specification, and writes status and Events. It
// uses one dynamic client; the typed clientset is larger than the agent.
//
// Nothing here blocks the agent: without the API server it continues with the last specification.
package cluster

import (
	"context"
	"encoding/base64"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/istiod-agent/istiod-agent/agent"
	"github.com/istiod-agent/istiod-agent/agent/ca/certmanager"
	"github.com/istiod-agent/istiod-agent/agent/token"
)

// tokenSeconds is the shortest life that the API server gives a token (TokenRequest: 10 minutes).
const tokenSeconds = 600

// serviceAccountToken is the type of Secrets that hold a service account's token (k8s.io/api core/v1,
// SecretTypeServiceAccountToken).
const serviceAccountToken = "kubernetes.io/service-account-token" //nolint:gosec // the name of a type

// Client is the client of one API server.
type Client struct {
	client   dynamic.Interface
	identity agent.Identity
}

// New returns a Client. The identity is that of the agent's own pod.
func New(config *rest.Config, identity agent.Identity) (*Client, error) {
	config = rest.CopyConfig(config)
	config.QPS, config.Burst = 20, 30 // controller-runtime's; a renewal makes half a dozen requests, and client-go's 5 slow down the next
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return &Client{client: client, identity: identity}, nil
}

// PodUID returns the UID of the agent's Pod, from the claims of the token for the API server. It is empty where the token is not
// bound to this Pod.
func PodUID(config *rest.Config, identity agent.Identity) types.UID {
	if config.BearerTokenFile == "" {
		return ""
	}
	own, err := token.ReadAnywhere(config.BearerTokenFile)
	if err != nil || own.Pod.Namespace != identity.Namespace || own.Pod.Name != identity.Pod {
		return ""
	}
	return types.UID(own.Pod.UID)
}

// Token implements vault.APIServer by the TokenRequest API.
func (c *Client) Token(ctx context.Context, namespace, serviceAccount, audience string) (string, error) {
	spec := map[string]any{"expirationSeconds": int64(tokenSeconds)}
	if audience != "" {
		spec["audiences"] = []any{audience}
	}
	request := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
		"metadata": map[string]any{"name": serviceAccount, "namespace": namespace},
		"spec":     spec,
	}}
	answer, err := c.client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "serviceaccounts"}).
		Namespace(namespace).Create(ctx, request, metav1.CreateOptions{}, "token")
	if apierrors.IsForbidden(err) {
		return "", fmt.Errorf("no mounted token is for audience %q, and service account %s/%s may not request one of %s: set injection.agent.vaultToken.audience to that audience, or give the right with requestTokens: true in istiodSidecar.serviceAccounts",
			audience, c.identity.Namespace, c.identity.ServiceAccount, serviceAccount)
	}
	if err != nil {
		return "", fmt.Errorf("requesting a token of service account %s/%s to log in to Vault with: %w", namespace, serviceAccount, err)
	}
	issued, _, _ := unstructured.NestedString(answer.Object, "status", "token")
	if issued == "" {
		return "", fmt.Errorf("requesting a token of service account %s/%s: the API server returned none", namespace, serviceAccount)
	}
	return issued, nil
}

// Secret implements vault.APIServer and secret.Reader.
func (c *Client) Secret(ctx context.Context, namespace, name string) (map[string][]byte, error) {
	secret, err := c.client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "secrets"}).
		Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("reading Secret %s/%s: %w", namespace, name, err)
	}
	if kind, _, _ := unstructured.NestedString(secret.Object, "type"); kind == serviceAccountToken {
		return nil, fmt.Errorf("reading Secret %s/%s: it holds a service account's token, which the API server accepts; expected a Secret made for the agent", namespace, name)
	}
	data, _, _ := unstructured.NestedStringMap(secret.Object, "data")
	values := make(map[string][]byte, len(data))
	for key, encoded := range data {
		value, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			return nil, fmt.Errorf("reading Secret %s/%s: the value of key %q is not base64", namespace, name, key)
		}
		values[key] = value
	}
	return values, nil
}

// CertificateRequests are those of cert-manager in istiod's namespace.
func (c *Client) CertificateRequests() dynamic.ResourceInterface {
	return c.client.Resource(certmanager.Requests).Namespace(c.identity.Namespace)
}

// ConfigMapValue implements agent.APIServer.
func (c *Client) ConfigMapValue(ctx context.Context, namespace, name, key string, limit int) (string, error) {
	object, err := c.client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}).
		Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsForbidden(err) {
		return "", fmt.Errorf("service account %s/%s may not read ConfigMap %s/%s; grant it a Role that allows get on configmaps of this name (istiodSidecar.serviceAccounts in the chart)",
			c.identity.Namespace, c.identity.ServiceAccount, namespace, name)
	}
	if err != nil {
		return "", fmt.Errorf("reading ConfigMap %s/%s: %w", namespace, name, err)
	}
	value, found, _ := unstructured.NestedString(object.Object, "data", key)
	switch {
	case !found:
		return "", fmt.Errorf("reading ConfigMap %s/%s: it has no key %q", namespace, name, key)
	case len(value) > limit:
		return "", fmt.Errorf("reading ConfigMap %s/%s: key %q holds %d bytes, more than %d", namespace, name, key, len(value), limit)
	}
	return value, nil
}
