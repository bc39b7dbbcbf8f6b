// SPDX-License-Identifier: Apache-2.0

package client

import (
	"fmt"
	"strings"
)

// Endpoints are the paths of Vault's API that a configuration leads to, without /v1/ in front: what a policy must allow
// and which mounts must exist.
type Endpoints struct {
	// Login is the endpoint of the login; empty for a token from elsewhere.
	Login string
	// Sign signs, in the secrets engine at SignMount.
	Sign, SignMount string
	// Generate makes keys, in the secrets engine at KeyMount; both are empty when keys are made in istiod's Pod.
	Generate, KeyMount string

	issuer string // the endpoint of the issuer that signs, empty for the mount's default
}

// Endpoints returns those of a configuration, or an error for a path that the agent does not call.
func (c Config) Endpoints() (e Endpoints, err error) {
	if e.Sign, e.SignMount, err = signer(c.CAPath); err != nil {
		return e, err
	}
	if issuer := strings.TrimSuffix(e.Sign, "/sign-intermediate"); issuer != e.SignMount+"/root" {
		e.issuer = issuer
	}
	if c.CSRPath != "" {
		if e.Generate, e.KeyMount, err = generator(c.CSRPath); err != nil {
			return e, err
		}
	}
	if method := c.method(); method.name != "" {
		e.Login = loginPath(method.mountPath)
	}
	return e, nil
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

// generator checks an endpoint that generates a key and returns it.
func generator(path string) (clean, mount string, err error) {
	clean = trim(path)
	for _, end := range []string{"/intermediate/generate/exported", "/issuers/generate/intermediate/exported"} {
		if mount, ok := strings.CutSuffix(clean, end); ok && mount != "" {
			return clean, mount, nil
		}
	}
	return "", "", fmt.Errorf("CSR path %q: expected <mount>/intermediate/generate/exported or <mount>/issuers/generate/intermediate/exported", path)
}

// loginPath returns the login endpoint of a mount, given as /v1/auth/<mount>, auth/<mount> or <mount>.
func loginPath(mount string) string {
	return "auth/" + strings.TrimPrefix(trim(mount), "auth/") + "/login"
}

func trim(path string) string {
	return strings.TrimPrefix(strings.Trim(path, "/"), "v1/")
}
