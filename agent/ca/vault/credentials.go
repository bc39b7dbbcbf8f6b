// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/istiod-agent/istiod-agent/agent/ca/vault/client"
	"github.com/istiod-agent/istiod-agent/agent/token"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/internal/regular"
)

// Reasons besides those of package client.
//
//reasons:page vault
const (
	// CAUnavailable: The CA of `caSecretRef` or `caLocalPath`, which verifies Vault's server, cannot be read, or is no
	// list of certificates: the message contains the cause.
	//
	// Remedy: correct the Secret or the file.
	CAUnavailable = "VaultCAUnavailable"
)

// maxCredential bounds a secret id, a client certificate with its chain and a key.
const maxCredential = 64 << 10

// defaultCAKeys are the keys of a CA in a Secret: Istio's and Gloo Mesh's, and that of kubernetes.io/tls Secrets.
var defaultCAKeys = []string{"root-cert.pem", "ca.crt"}

// caBundle reads the CA of Vault's server. No error contains what was read, so that it tells nothing of a Secret or file that
// holds something else.
func (s *source) caBundle(ctx context.Context) ([]byte, error) {
	var bundle []byte
	var err error
	from := "file " + s.spec.CALocalPath
	if ref := s.spec.CASecretRef; ref != nil {
		keys := defaultCAKeys
		if ref.Key != "" {
			keys = []string{ref.Key}
		}
		from = s.secretName(ref.Name)
		bundle, err = s.secret(ctx, "caSecretRef", "the CA of Vault's server", ref.Name, keys...)
	} else {
		bundle, err = s.file("the CA of Vault's server", s.spec.CALocalPath, certificatesv1.TokenRoot, certificatesv1.MaxCABundle)
	}
	if err != nil {
		return nil, err
	}
	if len(bundle) > certificatesv1.MaxCABundle {
		return nil, fmt.Errorf("reading the CA of Vault's server from %s: expected at most %d bytes", from, certificatesv1.MaxCABundle)
	}
	if problems := certificatesv1.CABundleProblems(bundle); len(problems) > 0 {
		return nil, fmt.Errorf("reading the CA of Vault's server from %s: it %s", from, strings.TrimPrefix(problems[0], "it "))
	}
	return bundle, nil
}

// appRole returns the login with a secret id.
func (s *source) appRole(auth *certificatesv1.AppRoleAuth) *client.AppRoleAuth {
	login := &client.AppRoleAuth{MountPath: auth.MountPath, RoleID: auth.RoleID, From: "file " + auth.SecretIDLocalPath}
	if ref := auth.SecretIDSecretRef; ref != nil {
		login.From = s.secretName(ref.Name)
	}
	if auth.Wrapped {
		if login.Unwrapped = s.Unwrapped; login.Unwrapped == nil {
			login.Unwrapped = &client.Unwrapped{}
		}
	}
	login.SecretID = func(ctx context.Context) (string, error) {
		secretID, err := s.secretID(ctx, auth, login.From)
		return secretID, unavailable(err)
	}
	return login
}

// secretID reads a secret id or a wrapping token. It refuses service account tokens, keys and everything else that is not one
// short word: the server of the specification gets it.
func (s *source) secretID(ctx context.Context, auth *certificatesv1.AppRoleAuth, from string) (string, error) {
	const what = "the secret id"
	var content []byte
	var err error
	if ref := auth.SecretIDSecretRef; ref != nil {
		content, err = s.secret(ctx, "appRoleAuth.secretIdSecretRef", what, ref.Name, ref.Key)
	} else {
		content, err = s.file(what, auth.SecretIDLocalPath, certificatesv1.CredentialRoot, maxCredential)
	}
	if err != nil {
		return "", err
	}
	value := strings.TrimSpace(string(content))
	switch {
	case isJWT(value):
		return "", fmt.Errorf("reading the secret id from %s: it is a JWT, such as a service account's token; expected a secret id", from)
	case len(value) > client.MaxSecretID || strings.ContainsAny(value, " \t\r\n") || strings.HasPrefix(value, "-----"):
		return "", fmt.Errorf("reading the secret id from %s: it is longer than %d bytes, or more than one word; expected a secret id", from, client.MaxSecretID)
	}
	return value, nil
}

// isJWT reports whether a value is a JWT of any kind (RFC 7519, section 3): its header is a JSON object in base64url. A wrapping
// token of Vault's old JWT format is one too, and no longer in use.
func isJWT(value string) bool {
	_, err := token.Parse([]byte(value))
	return err == nil || strings.HasPrefix(value, "eyJ") && strings.Count(value, ".") >= 2
}

// certificate returns the login with a client certificate.
func (s *source) certificate(auth *certificatesv1.CertAuth) *client.CertAuth {
	login := &client.CertAuth{MountPath: auth.MountPath, Role: auth.Role, From: "directory " + auth.CertLocalPath}
	if ref := auth.CertSecretRef; ref != nil {
		login.From = s.secretName(ref.Name)
	}
	login.Certificate = func(ctx context.Context) (*tls.Certificate, error) {
		certificate, err := s.clientCertificate(ctx, auth, login.From)
		return certificate, unavailable(err)
	}
	return login
}

func (s *source) clientCertificate(ctx context.Context, auth *certificatesv1.CertAuth, from string) (*tls.Certificate, error) {
	var parts [2][]byte
	for i, name := range []string{"tls.crt", "tls.key"} { // k8s.io/api core/v1, TLSCertKey and TLSPrivateKeyKey
		what := []string{"the client certificate", "the key of the client certificate"}[i]
		var err error
		if ref := auth.CertSecretRef; ref != nil {
			parts[i], err = s.secret(ctx, "certAuth.certSecretRef", what, ref.Name, name)
		} else {
			parts[i], err = s.file(what, filepath.Join(auth.CertLocalPath, name), certificatesv1.CredentialRoot, maxCredential)
		}
		if err != nil {
			return nil, err
		}
	}
	defer clear(parts[1])
	if len(parts[0])+len(parts[1]) > 2*maxCredential {
		return nil, fmt.Errorf("reading the client certificate from %s: expected at most %d bytes", from, 2*maxCredential)
	}
	pair, err := tls.X509KeyPair(parts[0], parts[1])
	if err != nil { // its text may quote what was read
		return nil, fmt.Errorf("reading the client certificate from %s: expected a certificate in PEM in tls.crt, and its own key in tls.key", from)
	}
	return &pair, nil
}

// secretName names a Secret of istiod's namespace in messages.
func (s *source) secretName(name string) string { return "Secret " + s.Namespace + "/" + name }

// secret reads the first of these keys that a Secret of istiod's namespace has. field is the specification's, what names the
// value in errors.
func (s *source) secret(ctx context.Context, field, what, name string, keys ...string) ([]byte, error) {
	if s.APIServer == nil {
		return nil, fmt.Errorf("%s: reading the Secret needs an API server; run in a cluster or set --kubeconfig", field)
	}
	values, err := s.APIServer.Secret(ctx, s.Namespace, name)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", what, err)
	}
	for _, key := range keys {
		if value := values[key]; len(value) > 0 {
			return value, nil
		}
	}
	return nil, fmt.Errorf("reading %s from %s: it has no key \"%s\"", what, s.secretName(name), strings.Join(keys, `" or "`))
}

// file reads a file below a directory of certificatesv1.TokenRoot. No link on the way leads out of the directory (os.Root).
func (s *source) file(what, path, below string, limit int64) ([]byte, error) {
	within, ok := strings.CutPrefix(filepath.Clean(path), below+"/")
	if !ok {
		return nil, fmt.Errorf("reading %s from file %s: expected a file below %s", what, path, below)
	}
	content, err := readBelow(filepath.Join(s.Tokens.Root, strings.TrimPrefix(below, certificatesv1.TokenRoot)), within, limit)
	if err != nil {
		return nil, fmt.Errorf("reading %s from file %s: %w", what, path, err)
	}
	return content, nil
}

// readBelow leaves the path out of its errors.
func readBelow(root, path string, limit int64) ([]byte, error) {
	directory, err := os.OpenRoot(root)
	if err == nil {
		defer func() { _ = directory.Close() }()
		var file *os.File
		// A FIFO would otherwise keep the caller waiting for a writer.
		if file, err = directory.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0); err == nil {
			content, err := regular.Content(file, limit)
			if err != nil {
				return nil, fmt.Errorf("expected a regular file of at most %d bytes", limit)
			}
			return content, nil
		}
	}
	failed, ok := errors.AsType[*os.PathError](err)
	switch {
	case ok && strings.Contains(failed.Err.Error(), "escapes"):
		return nil, errors.New("a symbolic link leads out of the directory that it must stay in")
	case ok:
		return nil, failed.Err
	}
	return nil, err
}
