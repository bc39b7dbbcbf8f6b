// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/url"
	slashpath "path"
	"regexp"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

const (
	exampleServer  = "https://vault.example.com:8200"
	expectedCAPath = "<mount>/root/sign-intermediate or <mount>/issuer/<issuer>/sign-intermediate, such as pki/root/sign-intermediate"
	// Vault's other ways to generate a key do not export it.
	expectedCSRPath = "<mount>/intermediate/generate/exported or <mount>/issuers/generate/intermediate/exported, such as pki_int/intermediate/generate/exported"
)

// Formats of paths in Vault, without the leading /v1/.
var (
	signIntermediate = regexp.MustCompile(`^.+/(root|issuer/[^/]+)/sign-intermediate$`)
	signLeaf         = regexp.MustCompile(`/(sign|sign-verbatim|issue)(/[^/]+)?$`)
	generateKey      = regexp.MustCompile(`^.+/(intermediate/generate|issuers/generate/intermediate)/([^/]+)$`)
	authMount        = regexp.MustCompile(`^auth/.+$`)
	// roleName is the format of role names in Vault (sdk/framework, GenericNameRegex).
	roleName = regexp.MustCompile(`^\w([\w.-]*\w)?$`)
)

// Validate returns every mistake in a CA with defaults; path is its position. Neither errors nor warnings contain a
// token, a password or a key.
func (v *VaultCA) Validate(path *field.Path) (warnings []string, errs field.ErrorList) {
	if errs := v.bounds(path); len(errs) > 0 {
		return nil, errs
	}
	server, errs := validateServer(path.Child("server"), v.Server)
	errs = append(errs, v.validateCA(path)...)
	errs = append(errs, validateCAPath(path.Child("caPath"), v.CAPath)...)
	if v.CSRPath != "" {
		errs = append(errs, validateCSRPath(path.Child("csrPath"), v.CSRPath)...)
	}
	if v.Namespace != "" && !segments(strings.Trim(v.Namespace, "/")) {
		errs = append(errs, field.Invalid(path.Child("namespace"), v.Namespace,
			"expected a Vault namespace such as admin/mesh, without spaces and without .. between its slashes"))
	}
	if server != nil && server.Scheme == "http" {
		exposed := "the login token"
		if v.CSRPath != "" {
			exposed = "the login token and, because csrPath is set, istiod's CA key (the root's key stays in Vault)"
		}
		warnings = append(warnings, fmt.Sprintf("%s: http:// is not encrypted: anyone who can read the network between istiod and Vault reads %s; use https://", path.Child("server"), exposed))
		if len(v.CABundle) > 0 {
			warnings = append(warnings, fmt.Sprintf("%s: is not used, since the server is an http:// one; use https://", path.Child("caBundle")))
		}
	}

	loginWarnings, loginErrs := v.validateLogin(path, server)
	return append(warnings, loginWarnings...), append(errs, loginErrs...)
}

// validateServer returns the address, nil without a scheme. It quotes no address, which may contain a password.
func validateServer(path *field.Path, server string) (*url.URL, field.ErrorList) {
	if server == "" {
		return nil, field.ErrorList{field.Required(path, "expected Vault's address, such as "+exampleServer)}
	}
	invalid := func(why string) field.ErrorList {
		return field.ErrorList{field.Invalid(path, field.OmitValueType{}, fmt.Sprintf("%s; expected https://<host>[:<port>][/<prefix>], such as %s", why, exampleServer))}
	}
	address, err := url.Parse(server)
	switch {
	case err != nil:
		return nil, invalid("is not a URL")
	case address.Scheme != "https" && address.Scheme != "http":
		return nil, invalid("does not start with https://")
	case address.User != nil:
		return address, invalid("contains a user name or a password")
	case strings.ContainsAny(server, "?#"):
		return address, invalid("contains a query or a fragment")
	case address.Hostname() == "" || address.Opaque != "":
		return address, invalid("has no host")
	case !IsServerPrefix(address.EscapedPath()):
		return address, invalid("contains a path that is no prefix: letters, digits, - . _ and ~ between single slashes, without v1 or ui, which are Vault's own (paths of Vault belong in caPath, csrPath and mountPath)")
	}
	port, err := strconv.ParseUint(address.Port(), 10, 16)
	if (err != nil || port == 0) && (address.Port() != "" || strings.HasSuffix(address.Host, ":")) {
		return address, invalid("has no port from 1 to 65535 after its colon")
	}
	return address, nil
}

// serverSegment matches a part of a prefix that every proxy interprets alike (RFC 3986, section 2.3).
var serverSegment = regexp.MustCompile(`^[A-Za-z0-9._~-]+$`)

// IsServerPrefix reports whether the escaped path of a server's URL is empty or a prefix below which a gateway may
// serve Vault, such as /vault. A URL below such a prefix has only one form, and one below /v1 or /ui belongs to Vault.
func IsServerPrefix(escaped string) bool {
	trimmed := strings.TrimSuffix(escaped, "/")
	if trimmed == "" {
		return true
	}
	for segment := range strings.SplitSeq(strings.TrimPrefix(trimmed, "/"), "/") {
		if !serverSegment.MatchString(segment) || segment == "." || segment == ".." || segment == "v1" || segment == "ui" {
			return false
		}
	}
	return strings.HasPrefix(trimmed, "/")
}

// validateCA requires one source of Vault's CA.
func (v *VaultCA) validateCA(path *field.Path) (errs field.ErrorList) {
	const one = "expected none together with %s: Vault's CA comes from one place"
	if len(v.CABundle) > 0 {
		for _, problem := range CABundleProblems(v.CABundle) {
			errs = append(errs, field.Invalid(path.Child("caBundle"), field.OmitValueType{}, problem))
		}
	}
	secret, file := path.Child("caSecretRef"), path.Child("caLocalPath")
	switch {
	case v.CASecretRef != nil && len(v.CABundle) > 0:
		errs = append(errs, field.Forbidden(secret, fmt.Sprintf(one, "caBundle")))
	case v.CASecretRef != nil:
		errs = append(errs, v.CASecretRef.validate(secret)...)
	}
	switch {
	case v.CALocalPath == "":
	case len(v.CABundle) > 0:
		errs = append(errs, field.Forbidden(file, fmt.Sprintf(one, "caBundle")))
	case v.CASecretRef != nil:
		errs = append(errs, field.Forbidden(file, fmt.Sprintf(one, "caSecretRef")))
	case !below(TokenRoot, v.CALocalPath):
		errs = append(errs, field.Invalid(file, v.CALocalPath, "expected the absolute path of a file below "+TokenRoot+", such as "+DefaultMountedSAPath+"/ca.crt"))
	}
	return errs
}

// CABundleProblems returns what makes a CA bundle unusable, without its content. Text around the certificates is accepted,
// as in RFC 7468, but no unreadable block: that certificate would be missing silently.
func CABundleProblems(bundle []byte) (problems []string) {
	invalid := func(format string, args ...any) {
		problems = append(problems, fmt.Sprintf(format, args...)+"; expected PEM certificates")
	}
	blocks := 0
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		blocks++
		switch {
		case strings.Contains(block.Type, "PRIVATE KEY"):
			invalid("block %d is a private key: remove it, and consider that key compromised", blocks)
		case block.Type != "CERTIFICATE":
			invalid("block %d is not a CERTIFICATE", blocks)
		default:
			if _, err := x509.ParseCertificate(block.Bytes); err != nil {
				invalid("block %d is damaged (%s)", blocks, pemcerts.Unreadable(err))
			}
		}
	}
	switch begun := bytes.Count(bundle, []byte("-----BEGIN ")); {
	case begun > blocks:
		invalid("%d of %d blocks are damaged", begun-blocks, begun)
	case blocks == 0:
		invalid("contains no certificate")
	}
	return problems
}

func validateCAPath(path *field.Path, caPath string) field.ErrorList {
	bare := endpoint(caPath)
	switch {
	case caPath == "":
		return field.ErrorList{field.Required(path, "expected "+expectedCAPath)}
	case segments(bare) && signIntermediate.MatchString(bare):
		return nil
	case signLeaf.MatchString(bare):
		return field.ErrorList{field.Invalid(path, quotable(caPath), "signs leaf certificates, and istiod needs a CA; expected "+expectedCAPath)}
	default:
		return field.ErrorList{field.Invalid(path, quotable(caPath), "expected "+expectedCAPath)}
	}
}

func validateCSRPath(path *field.Path, csrPath string) field.ErrorList {
	bare := endpoint(csrPath)
	shape := generateKey.FindStringSubmatch(bare)
	switch {
	case shape == nil || !segments(bare):
		return field.ErrorList{field.Invalid(path, quotable(csrPath), "expected "+expectedCSRPath)}
	case shape[2] != "exported":
		return field.ErrorList{field.Invalid(path, quotable(csrPath),
			"the key would never leave Vault, and istiod could not use it; expected "+expectedCSRPath+", or no csrPath: the agent then makes the key")}
	}
	return nil
}

// below reports whether a path is normalized, absolute and below a root.
func below(root, path string) bool {
	return strings.HasPrefix(path, root+"/") && slashpath.Clean(path) == strings.TrimSuffix(path, "/") && segments(strings.Trim(path, "/"))
}

// validate requires a name in a reference. It quotes none, since a person may have written the token in its place.
func (r *ObjectRef) validate(path *field.Path) field.ErrorList {
	if r == nil {
		return nil
	}
	var errs field.ErrorList
	invalid := func(name string, problems []string) {
		for _, problem := range problems {
			errs = append(errs, field.Invalid(path.Child(name), field.OmitValueType{}, problem))
		}
	}
	if r.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), "expected the object's name"))
	} else {
		invalid("name", validation.IsDNS1123Subdomain(r.Name))
	}
	if r.Namespace != "" {
		invalid("namespace", validation.IsDNS1123Label(r.Namespace))
	}
	return errs
}

// endpoint removes the leading /v1/ from a path in Vault.
func endpoint(path string) string {
	return strings.TrimPrefix(strings.TrimPrefix(path, "/"), "v1/")
}

// segments reports whether a path keeps its meaning in a URL: no segment is empty, . or .., and no character is
// special.
func segments(path string) bool {
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return false
		}
	}
	return printable(path) && !strings.ContainsAny(path, ` ?#%\`)
}

// quotable returns a path that an error can quote; its query might contain a token.
func quotable(path string) any {
	if strings.Contains(path, "?") {
		return field.OmitValueType{}
	}
	return path
}
