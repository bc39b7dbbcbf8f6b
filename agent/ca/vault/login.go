// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/istiod-agent/istiod-agent/agent/ca"
	"github.com/istiod-agent/istiod-agent/agent/ca/vault/client"
	"github.com/istiod-agent/istiod-agent/agent/token"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// TokenFile is the service account token for Vault, as the injection mounts it (patches.VaultTokenPath).
const TokenFile = certificatesv1.TokenRoot + "/istiod-agent.io/vault/token"

// tokenSecretKey is the key of Vault's token in the Secret of tokenSecretRef; the public API has no field for it.
const tokenSecretKey = "token"

// Tokens are the service account tokens of istiod's Pod. Specifications can name no other files.
type Tokens struct {
	// Root is the directory below which all token files are, certificatesv1.TokenRoot in a Pod.
	Root string
	// File overrides the files that specifications name. The operator of istiod's Pod sets it.
	File string
	// FileAnywhere permits File to be outside of Root.
	FileAnywhere bool
}

// read reads the token at path, which is below certificatesv1.TokenRoot.
func (t Tokens) read(path string) (token.Token, error) {
	below, ok := strings.CutPrefix(filepath.Clean(path), certificatesv1.TokenRoot+"/")
	if !ok {
		return token.Token{}, fmt.Errorf("token file %s: expected a file below %s", path, certificatesv1.TokenRoot)
	}
	return token.Read(t.Root, filepath.Join(t.Root, below))
}

// fixed reads the operator's own token file.
func (t Tokens) fixed() (token.Token, error) {
	if t.FileAnywhere {
		return token.ReadAnywhere(t.File)
	}
	read, err := token.Read(t.Root, t.File)
	if err != nil {
		return read, fmt.Errorf("--token-file: %w; a file elsewhere needs --token-file-anywhere", err)
	}
	return read, nil
}

// config returns the connection to the specification's Vault, and the login there.
func (s *source) config(ctx context.Context) (client.Config, error) {
	v := s.spec
	config := client.Config{
		Server: v.Server, Namespace: v.Namespace, CABundle: v.CABundle,
		CAPath: v.CAPath, CSRPath: v.CSRPath, Timeout: s.Timeout,
	}
	switch ref := v.TokenSecretRef; {
	case ref != nil:
		config.TokenFrom = s.secretName(ref.Name)
		config.Token = func(ctx context.Context) (string, error) { return s.vaultToken(ctx, ref.Name) }
	case v.KubernetesAuth != nil:
		config.Kubernetes = s.serviceAccountAuth("kubernetesAuth", v.KubernetesAuth)
	case v.JWTAuth != nil:
		config.JWT = s.serviceAccountAuth("jwtAuth", (*certificatesv1.KubernetesAuth)(v.JWTAuth))
	case v.AppRoleAuth != nil:
		config.AppRole = s.appRole(v.AppRoleAuth)
	case v.CertAuth != nil:
		config.Cert = s.certificate(v.CertAuth)
	}
	if v.CASecretRef == nil && v.CALocalPath == "" {
		return config, nil
	}
	bundle, err := s.caBundle(ctx)
	if err != nil {
		return config, &ca.Error{Reason: CAUnavailable, Cause: err}
	}
	config.CABundle = bundle
	return config, nil
}

// serviceAccountAuth returns a login by the field of a specification.
func (s *source) serviceAccountAuth(field string, auth *certificatesv1.KubernetesAuth) *client.KubernetesAuth {
	return &client.KubernetesAuth{
		MountPath: auth.MountPath, Role: auth.Role,
		JWT: func(ctx context.Context) (string, error) {
			jwt, err := s.jwt(ctx, field, auth)
			return jwt, unavailable(err)
		},
	}
}

// unavailable returns an error with the reason that what the agent authenticates with cannot be read; nil for nil.
func unavailable(err error) error {
	if err == nil {
		return nil
	}
	return &ca.Error{Reason: ca.TokenUnavailable, Cause: err}
}

// vaultToken reads Vault's token from a Secret of istiod's own namespace. It refuses a service account's token, which would
// open the API server to its receiver.
func (s *source) vaultToken(ctx context.Context, name string) (string, error) {
	content, err := s.secret(ctx, "tokenSecretRef", "Vault's token", name, tokenSecretKey)
	if err != nil {
		return "", unavailable(err)
	}
	if _, err := token.Parse(content); err == nil {
		return "", unavailable(fmt.Errorf("reading Vault's token from %s: it is a service account's token; expected a token of Vault's", s.secretName(name)))
	}
	return string(content), nil
}

// jwt reads the service account token to log in with, anew each time, since the kubelet replaces it. With an audience, the
// token is for that audience alone. field is the specification's.
func (s *source) jwt(ctx context.Context, field string, auth *certificatesv1.KubernetesAuth) (string, error) {
	audience := auth.Audience
	if s.Tokens.File != "" {
		fixed, err := s.Tokens.fixed()
		if err == nil && audience != "" && !fixed.IsFor(audience) {
			return "", fmt.Errorf("--token-file %s: its token is for the audiences %q; expected %s.audience %q alone", s.Tokens.File, fixed.Audiences, field, audience)
		}
		return fixed.Raw, err
	}
	if audience != "" {
		own, err := s.Tokens.read(filepath.Join(certificatesv1.DefaultMountedSAPath, certificatesv1.DefaultSecretTokenKey))
		if err == nil && slices.Contains(own.Audiences, audience) {
			return "", fmt.Errorf("%s.audience %q is the API server's own: choose one that only Vault accepts, such as vault", field, audience)
		}
	}
	if ref := auth.ServiceAccountRef; ref != nil {
		return s.request(ctx, ref.Name, audience)
	}
	mounted := filepath.Join(auth.MountedSAPath, auth.SecretTokenKey)
	if audience == "" {
		own, err := s.Tokens.read(mounted)
		return own.Raw, err
	}
	for _, file := range []string{TokenFile, mounted} {
		if found, err := s.Tokens.read(file); err == nil && found.IsFor(audience) {
			return found.Raw, nil
		}
	}
	return s.request(ctx, s.ServiceAccount, audience)
}

// request requests a token of a service account in istiod's namespace from the API server.
func (s *source) request(ctx context.Context, serviceAccount, audience string) (string, error) {
	if s.APIServer == nil {
		return "", fmt.Errorf("no mounted token is for audience %q, and requesting one of service account %s/%s needs an API server; run in a cluster, set --kubeconfig, or name a --token-file",
			audience, s.Namespace, serviceAccount)
	}
	return s.APIServer.Token(ctx, s.Namespace, serviceAccount, audience)
}
