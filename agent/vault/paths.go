// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"fmt"
	"strings"
)

// paths are the API's, without /v1/ in front.
type paths struct {
	login           string
	sign, signMount string
	issuer          string // the endpoint of the issuer that signs, empty for the mount's default
	generate        string // empty when keys are made here
	keyMount        string
}

func parsePaths(config Config) (p paths, err error) {
	if p.sign, p.signMount, err = signer(config.CAPath); err != nil {
		return p, err
	}
	if issuer := strings.TrimSuffix(p.sign, "/sign-intermediate"); issuer != p.signMount+"/root" {
		p.issuer = issuer
	}
	if config.CSRPath != "" {
		if p.generate, p.keyMount, err = generator(config.CSRPath); err != nil {
			return p, err
		}
	}
	if config.Kubernetes != nil {
		p.login = loginPath(config.Kubernetes.MountPath)
	}
	return p, nil
}

// signer checks an endpoint that signs intermediate CAs: <mount>/root/sign-intermediate or
// <mount>/issuer/<issuer>/sign-intermediate (Vault builtin/logical/pki/path_root.go, path_issuers.go).
func signer(path string) (clean, mount string, err error) {
	clean = trim(path)
	parts := strings.Split(clean, "/")
	n := len(parts)
	switch {
	case n >= 4 && parts[n-1] == "sign-intermediate" && parts[n-3] == "issuer" && parts[n-2] != "": // which may be named root
		return clean, strings.Join(parts[:n-3], "/"), nil
	case n >= 3 && parts[n-1] == "sign-intermediate" && parts[n-2] == "root":
		return clean, strings.Join(parts[:n-2], "/"), nil
	case n >= 3 && parts[n-2] == "sign":
		return "", "", fmt.Errorf("CA path %q signs leaf certificates; expected <mount>/root/sign-intermediate or <mount>/issuer/<issuer>/sign-intermediate", path)
	}
	return "", "", fmt.Errorf("CA path %q: expected <mount>/root/sign-intermediate or <mount>/issuer/<issuer>/sign-intermediate", path)
}

// generator checks an endpoint that makes a key and hands it out.
func generator(path string) (clean, mount string, err error) {
	clean = trim(path)
	for _, end := range []string{"/intermediate/generate/exported", "/issuers/generate/intermediate/exported"} {
		if mount, ok := strings.CutSuffix(clean, end); ok && mount != "" {
			return clean, mount, nil
		}
	}
	return "", "", fmt.Errorf("CSR path %q: expected <mount>/intermediate/generate/exported or <mount>/issuers/generate/intermediate/exported", path)
}

// loginPath gives the login endpoint of a mount, which may be written as /v1/auth/<mount>, auth/<mount> or <mount>.
func loginPath(mount string) string {
	return "auth/" + strings.TrimPrefix(trim(mount), "auth/") + "/login"
}

func trim(path string) string {
	return strings.TrimPrefix(strings.Trim(path, "/"), "v1/")
}
