// SPDX-License-Identifier: Apache-2.0

// Package vaultside configures Vault for a VirtualMesh: the desired configuration for the agents' certificates as shell
// commands, as differences from the present configuration, and as changes.
//
// It never creates, replaces or removes a root CA, and never reads or prints a token or a key of Vault.
package vaultside

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/istiod-agent/istiod-agent/agent/ca/vault/client"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/internal/istio"
)

// Defaults of Options.
const (
	DefaultServiceAccount = "istiod"
	DefaultNamespace      = "istio-system"
	DefaultTokenTTL       = 10 * time.Minute
)

// roleName is the format of role names in Vault (sdk/framework, GenericNameRegex).
var roleName = regexp.MustCompile(`^\w([\w.-]*\w)?$`)

// Options complete a VirtualMesh.
type Options struct {
	// ServiceAccounts and Namespaces of istiods: each service account may log in from each namespace.
	ServiceAccounts, Namespaces []string
	// TrustDomain is of the signed SPIFFE IDs.
	TrustDomain string
	// Policy is the policy's name; by default derived from the role's.
	Policy string
	// Audience is the required audience of tokens; by default the VirtualMesh's.
	Audience string
	// TokenTTL is the lifetime of a login.
	TokenTTL time.Duration
	// SkipAuthConfig keeps the auth method's configuration. Otherwise Reviewer sets it for Kubernetes, Keys for JWT.
	SkipAuthConfig bool
	Reviewer       Reviewer
	Keys           Keys
	// Auth is the login, one of kubernetes, jwt, approle, cert and token; by default the VirtualMesh's.
	Auth string
	// Role is the role's name where the VirtualMesh names none.
	Role string
	// SecretIDTTL is the validity of secret ids, CIDRs are the addresses that may use them: any by default.
	SecretIDTTL time.Duration
	CIDRs       []string
	// ClientCAFile holds the CA of client certificates in PEM, ClientCA is its content.
	ClientCAFile, ClientCA string
}

// Reviewer configures the reviews of service account tokens. The zero value is for a Vault in a Pod of the same cluster, which
// uses its own service account.
type Reviewer struct {
	// Host is the address of the API server.
	Host string
	// CAFile holds the API server's CA in PEM, TokenFile the reviewer's token; CA and Token are their contents. Printed commands
	// name the files.
	CAFile, CA, TokenFile, Token string
}

// isDefault reports whether no flag is set.
func (r *Reviewer) isDefault() bool { return *r == Reviewer{} }

// inCluster is the address of the API server in any Pod.
const inCluster = "https://kubernetes.default.svc"

func (r *Reviewer) host() string { return cmp.Or(r.Host, inCluster) }

// Desired is the desired configuration of Vault.
type Desired struct {
	// Server and Namespace are the agents' address and namespace of Vault.
	Server, Namespace string
	// Auth is nil where the agents log in with the token of a Secret.
	Auth *Auth
	// Mounts are secrets engines, the signing engine first.
	Mounts []Mount
	// Policies are for signing and, if Vault generates the keys, for that.
	Policies []Policy
	// Notes are for the person to read.
	Notes []string
}

// Auth is an auth method.
type Auth struct {
	// Method is its type.
	Method string
	// Mount is its path below auth/.
	Mount string
	// Assumed is set for a role whose name neither the VirtualMesh nor a flag contains.
	Assumed bool
	// Configure includes the configuration: Reviewer for Kubernetes, Keys for JWT.
	Configure bool
	Reviewer  Reviewer
	Keys      Keys
	Role      Role
}

func (a *Auth) rolePath() string {
	if a.Method == certAuth {
		return "auth/" + a.Mount + "/certs/" + a.Role.Name
	}
	return "auth/" + a.Mount + "/role/" + a.Role.Name
}

// hasConfig reports whether the auth method has a configuration.
func (a *Auth) hasConfig() bool { return a.Method == kubernetesAuth || a.Method == jwtAuth }

// Role binds istiods to policies.
type Role struct {
	Name                        string
	ServiceAccounts, Namespaces []string
	// Audience is the required audience of tokens; empty for the API server's.
	Audience string
	Policies []string
	TokenTTL time.Duration
	// Hosts are the URI names of client certificates.
	Hosts []string
	// ClientCAFile, ClientCA, SecretIDTTL and CIDRs are those of Options.
	ClientCAFile, ClientCA string
	SecretIDTTL            time.Duration
	CIDRs                  []string
}

// Mount is a secrets engine of type pki.
type Mount struct {
	Path string
	// Signs is true for an engine with a CA, which signs for MaxLease.
	Signs    bool
	MaxLease time.Duration
}

// Policy is a policy of Vault.
type Policy struct {
	// Name is in lower case, as Vault stores it.
	Name string
	// Text begins with the marker.
	Text string
	// Comment explains it in the script.
	Comment string
}

// errNoVault names the field that is missing and, where the VirtualMesh has another CA, that one.
func errNoVault(ca *certificatesv1.IntermediateCertificateAuthority) error {
	const missing = "spec.mtlsConfig.shared.intermediateCertificateAuthority.vault is missing: this VirtualMesh does not use Vault"
	if ca == nil || ca.CertManager == nil {
		return errors.New(missing)
	}
	return fmt.Errorf("%s, but %s, and needs nothing in Vault; see docs/cert-manager.md", missing, ca)
}

// NewDesired returns the desired configuration for a valid VirtualMesh with its defaults.
func NewDesired(mesh *networkingv1.VirtualMesh, options Options) (*Desired, error) {
	ca := mesh.Spec.IntermediateCA()
	if ca == nil || ca.Vault == nil {
		return nil, errNoVault(ca)
	}
	options.setDefaults()
	if err := options.validate(); err != nil {
		return nil, err
	}
	certOptions := mesh.Spec.MTLSConfig.Shared.IntermediateCertOptions
	organization := certOptions.OrgName
	if strings.Contains(organization, "*") {
		return nil, fmt.Errorf("spec.mtlsConfig.shared.intermediateCertOptions.orgName: %q has a *, which matches any text in a policy of Vault; choose another name", organization)
	}

	config := client.Config{Server: ca.Vault.Server, CAPath: ca.Vault.CAPath, CSRPath: ca.Vault.CSRPath}
	login, err := options.login(ca.Vault)
	if err != nil {
		return nil, err
	}
	endpoints, err := config.Endpoints()
	if err != nil {
		return nil, err
	}
	for _, path := range []string{endpoints.Sign, endpoints.Generate} {
		if strings.Contains(path, "*") || slices.Contains(strings.Split(path, "/"), "+") {
			return nil, fmt.Errorf("path %q has a * or a +, which match any text in a policy of Vault; choose another mount", path)
		}
	}

	desired := &Desired{Server: ca.Vault.Server, Namespace: strings.Trim(ca.Vault.Namespace, "/")}
	name, owner := options.Policy, endpoints.Sign
	present := loginOf(ca.Vault)
	if login.method != tokenAuth {
		if err := options.validateLogin(login.method); err != nil {
			return nil, err
		}
		name = cmp.Or(name, login.policy())
		desired.Auth = &Auth{
			Method:    login.method,
			Assumed:   present.role == "" && options.Role == "",
			Mount:     strings.TrimPrefix(AuthPath(login.mountPath), "auth/"),
			Configure: !options.SkipAuthConfig,
			Reviewer:  options.Reviewer, Keys: options.Keys,
			Role: Role{
				Name: login.role, ServiceAccounts: options.ServiceAccounts, Namespaces: options.Namespaces,
				Audience: cmp.Or(options.Audience, login.audience), TokenTTL: options.TokenTTL, Hosts: options.hosts(),
				ClientCAFile: options.ClientCAFile, ClientCA: options.ClientCA, SecretIDTTL: options.SecretIDTTL, CIDRs: options.CIDRs,
			},
		}
		owner = desired.Auth.rolePath()
	}
	switch login.method {
	case kubernetesAuth:
		desired.noteAudience(login)
		desired.noteExpiry()
	case jwtAuth:
		desired.noteAudience(login)
	}
	desired.noteLogin(present, login)
	name = cmp.Or(name, derivedPrefix+"istiod")
	if err := validatePolicy(name); err != nil {
		return nil, err
	}
	desired.Mounts = []Mount{{Path: endpoints.SignMount, Signs: true, MaxLease: time.Duration(*certOptions.TTLDays) * 24 * time.Hour}}
	desired.Policies = []Policy{{
		Name: name, Text: marker(owner) + signingPolicy(endpoints.Sign, organization, options.hosts(), certOptions.PermittedURIDomains),
		Comment: "One request, with pinned parameters: a CA of path length 0, with only istiod's name.",
	}}
	if endpoints.Generate != "" {
		if endpoints.KeyMount != endpoints.SignMount {
			desired.Mounts = append(desired.Mounts, Mount{Path: endpoints.KeyMount})
		}
		desired.Policies = append(desired.Policies, Policy{
			Name: name + "-exported", Text: marker(owner) + exportingPolicy(endpoints.Generate, endpoints.KeyMount),
			Comment: "csrPath: Vault generates istiod's CA key and returns it. The second path lets the agent delete Vault's copy.",
		})
		desired.note("With csrPath, Vault generates the CA key and sends it to istiod. Without csrPath, which is safer, the key never leaves istiod's Pod.")
	}
	if desired.Auth != nil {
		for _, policy := range desired.Policies {
			desired.Auth.Role.Policies = append(desired.Auth.Role.Policies, policy.Name)
		}
	}
	if strings.HasPrefix(ca.Vault.Server, "http://") {
		desired.note("The server uses http://: logins and, with csrPath, CA keys are readable on the network; use https://.")
	}
	for _, ref := range mesh.Spec.Meshes {
		if !slices.ContainsFunc(options.Namespaces, func(namespace string) bool { return strings.Contains(ref.Name, "-"+namespace+"-") }) {
			desired.note("Mesh %s does not seem to be in namespace %s: name its namespace by --istiod-namespace.", ref.Name, strings.Join(options.Namespaces, " or "))
		}
	}
	return desired, nil
}

// noteAudience compares the role's audience with the VirtualMesh's, which is the audience of the agents' tokens.
func (w *Desired) noteAudience(login login) {
	ofMesh := login.audience
	switch required := w.Auth.Role.Audience; {
	case required == "":
		w.note("The agents log in with a token that is also valid for the API server, where its receiver could use it. Two lines, changed together, prevent this: audience: vault below kubernetesAuth in the VirtualMesh, and audience=vault in the role, which this command then adds.")
	case required != ofMesh:
		w.note("The role accepts only tokens for the audience %s: until the VirtualMesh has the line audience: %s below %sAuth, Vault refuses every login.", required, required, login.method)
	}
}

func (w *Desired) note(format string, args ...any) {
	w.Notes = append(w.Notes, fmt.Sprintf(format, args...))
}

func (o *Options) setDefaults() {
	if len(o.ServiceAccounts) == 0 {
		o.ServiceAccounts = []string{DefaultServiceAccount}
	}
	if len(o.Namespaces) == 0 {
		o.Namespaces = []string{DefaultNamespace}
	}
	o.ServiceAccounts, o.Namespaces = sorted(o.ServiceAccounts), sorted(o.Namespaces)
	o.TrustDomain = cmp.Or(o.TrustDomain, istio.DefaultTrustDomain)
	o.TokenTTL = cmp.Or(o.TokenTTL, DefaultTokenTTL)
	o.SecretIDTTL = cmp.Or(o.SecretIDTTL, DefaultSecretIDTTL)
	o.CIDRs = sorted(o.CIDRs)
}

// validateLogin refuses a login whose configuration or role lacks what only the person can give.
func (o *Options) validateLogin(method string) error {
	switch keys := len(o.Keys.PEM) > 0 || o.Keys.URL != "" || o.Keys.Discovery != ""; {
	case o.SkipAuthConfig:
	case method == jwtAuth && !keys:
		return errors.New("--auth=jwt: expected the keys that verify service account tokens: --jwks-file, from kubectl get --raw /openid/v1/jwks, or --jwks-url or --oidc-discovery-url for a Vault that can reach them; or --skip-auth-config")
	case method == certAuth && o.ClientCAFile == "":
		return errors.New("--auth=cert: expected the CA of client certificates: --client-ca-file; or --skip-auth-config to keep it")
	}
	return nil
}

// validate refuses values that mean more than a name in a policy or a shell.
func (o *Options) validate() error {
	for _, input := range []struct {
		flag   string
		values []string
		check  func(string) []string
	}{
		{"service-account", o.ServiceAccounts, func(s string) []string { return validation.IsDNS1123Subdomain(s) }},
		{"istiod-namespace", o.Namespaces, func(s string) []string { return validation.IsDNS1123Label(s) }},
		{"trust-domain", []string{o.TrustDomain}, func(s string) []string { return validation.IsDNS1123Subdomain(s) }},
	} {
		for _, value := range input.values {
			if problems := input.check(value); len(problems) > 0 {
				return fmt.Errorf("--%s %q: %s", input.flag, value, strings.Join(problems, "; "))
			}
		}
	}
	if strings.ContainsFunc(o.Audience, func(r rune) bool { return r <= ' ' }) {
		return fmt.Errorf("--audience %q: expected a name or a URL without spaces, such as vault", o.Audience)
	}
	for _, cidr := range o.CIDRs {
		if _, err := netip.ParsePrefix(cidr); err != nil {
			return fmt.Errorf("--bound-cidr %q: expected addresses such as 10.0.0.0/8", cidr)
		}
	}
	for flag, address := range map[string]string{"jwks-url": o.Keys.URL, "oidc-discovery-url": o.Keys.Discovery} {
		if parsed, err := url.Parse(address); address != "" && (err != nil || parsed.Scheme != "https" && parsed.Scheme != "http" || parsed.Host == "" || parsed.User != nil) {
			return fmt.Errorf("--%s: expected an https:// URL without a user name", flag)
		}
	}
	if o.SecretIDTTL < time.Minute {
		return fmt.Errorf("--secret-id-ttl %s: expected a minute or more", o.SecretIDTTL)
	}
	if o.TokenTTL < time.Minute {
		return fmt.Errorf("--token-ttl %s: expected a minute or more: a login must last for the requests of one renewal", o.TokenTTL)
	}
	return nil
}

// hosts are the SPIFFE IDs of all istiods.
func (o *Options) hosts() []string {
	var hosts []string
	for _, namespace := range o.Namespaces {
		for _, account := range o.ServiceAccounts {
			hosts = append(hosts, istio.Identity{TrustDomain: o.TrustDomain, Namespace: namespace, ServiceAccount: account}.String())
		}
	}
	return hosts
}
