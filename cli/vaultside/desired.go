// SPDX-License-Identifier: Apache-2.0

// Package vaultside is the Vault side of a VirtualMesh: what must be in Vault for istiod's agents to get their
// certificates, as shell commands to read and run, as differences from what is there, and as the changes themselves.
//
// It never makes, replaces or removes a root CA, and never reads or prints a token or a key of Vault's.
package vaultside

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/istiod-agent/istiod-agent/agent/vault"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/internal/istio"
)

// What counts where nothing else is said.
const (
	DefaultServiceAccount = "istiod"
	DefaultNamespace      = "istio-system"
	DefaultTrustDomain    = "cluster.local"
	DefaultTokenTTL       = 10 * time.Minute
)

// Options are what a VirtualMesh does not say.
type Options struct {
	// ServiceAccounts and Namespaces of istiods: each service account may log in from each namespace.
	ServiceAccounts, Namespaces []string
	// TrustDomain is in the SPIFFE IDs that are signed.
	TrustDomain string
	// Policy is the policy's name; by default it is derived from the role's.
	Policy string
	// Audience that a token must be for; the VirtualMesh's by default.
	Audience string
	// TokenTTL is how long a login lives.
	TokenTTL time.Duration
	// SkipAuthConfig leaves alone how Vault reviews tokens.
	SkipAuthConfig bool
	// Reviewer is how Vault reviews tokens.
	Reviewer Reviewer
}

// Reviewer is how Vault has service account tokens reviewed. The zero value is for a Vault in a Pod of the same cluster,
// which then uses its own service account.
type Reviewer struct {
	// Host is the API server's address.
	Host string
	// CAFile holds the API server's CA in PEM, CA its content; TokenFile holds the token that reviews others, Token its
	// content. What is printed names the files.
	CAFile, CA, TokenFile, Token string
}

// own says whether nothing is written about it.
func (r *Reviewer) isDefault() bool { return *r == Reviewer{} }

// inCluster is the API server's address in any Pod.
const inCluster = "https://kubernetes.default.svc"

func (r *Reviewer) host() string { return cmp.Or(r.Host, inCluster) }

// Wanted is what must be in Vault.
type Desired struct {
	// Server and Namespace are where the agents look for it.
	Server, Namespace string
	// Auth is nil when the agents have another's token.
	Auth *Auth
	// Mounts are secrets engines, the signing one first.
	Mounts []Mount
	// Policies are the signing one and, when Vault makes the keys, the one for that.
	Policies []Policy
	// Notes are about what the person should look at, each one sentence.
	Notes []string
}

// Auth is how istiod's service account logs in.
type Auth struct {
	// Mount is below auth/.
	Mount string
	// Configure says whether Vault's access to the API server is looked after.
	Configure bool
	Reviewer  Reviewer
	Role      Role
}

func (a *Auth) rolePath() string { return "auth/" + a.Mount + "/role/" + a.Role.Name }

// Role binds service accounts to policies.
type Role struct {
	Name                        string
	ServiceAccounts, Namespaces []string
	// Audience that a token must be for; empty: the API server's own.
	Audience string
	Policies []string
	TokenTTL time.Duration
}

// Mount is a secrets engine of type pki.
type Mount struct {
	Path string
	// Signs says that it must have a CA, whose certificates may be valid for Longest.
	Signs    bool
	MaxLease time.Duration
}

// Policy is a policy's text.
type Policy struct {
	// Name is in lower case, as Vault stores it.
	Name string
	// Text begins with a comment, by which this command recognizes what it made.
	Text string
	Why  string
}

// For gives what a VirtualMesh with its defaults filled in, and without mistakes, wants.
func NewDesired(mesh *networkingv1.VirtualMesh, options Options) (*Desired, error) {
	ca := mesh.Spec.IntermediateCA()
	if ca == nil || ca.Vault == nil {
		return nil, errors.New("spec.mtlsConfig.shared.intermediateCertificateAuthority.vault is absent: this VirtualMesh asks no Vault for certificates")
	}
	options.setDefaults()
	if err := options.validate(); err != nil {
		return nil, err
	}
	certOptions := mesh.Spec.MTLSConfig.Shared.IntermediateCertOptions
	organization := certOptions.OrgName
	if strings.Contains(organization, "*") {
		return nil, fmt.Errorf("spec.mtlsConfig.shared.intermediateCertOptions.orgName: %q has a *, which a policy of Vault's takes for any text; choose another name", organization)
	}

	config := vault.Config{Server: ca.Vault.Server, CAPath: ca.Vault.CAPath, CSRPath: ca.Vault.CSRPath}
	if ca.Vault.KubernetesAuth != nil {
		config.Kubernetes = &vault.KubernetesAuth{MountPath: ca.Vault.KubernetesAuth.MountPath, Role: ca.Vault.KubernetesAuth.Role}
	}
	endpoints, err := config.Endpoints()
	if err != nil {
		return nil, err
	}

	for _, path := range []string{endpoints.Sign, endpoints.Generate} {
		if strings.Contains(path, "*") || slices.Contains(strings.Split(path, "/"), "+") {
			return nil, fmt.Errorf("path %q has a * or a +, which a policy of Vault's takes for any text; choose another mount", path)
		}
	}

	desired := &Desired{Server: ca.Vault.Server, Namespace: strings.Trim(ca.Vault.Namespace, "/")}
	name, maker := options.Policy, endpoints.Sign
	if auth := ca.Vault.KubernetesAuth; auth != nil {
		name = cmp.Or(name, derivedPrefix+strings.ToLower(auth.Role))
		desired.Auth = &Auth{
			Mount:     strings.TrimSuffix(strings.TrimPrefix(endpoints.Login, "auth/"), "/login"),
			Configure: !options.SkipAuthConfig,
			Reviewer:  options.Reviewer,
			Role: Role{
				Name: auth.Role, ServiceAccounts: options.ServiceAccounts, Namespaces: options.Namespaces,
				Audience: cmp.Or(options.Audience, auth.Audience), TokenTTL: options.TokenTTL,
			},
		}
		desired.noteAudience(auth.Audience)
		desired.noteExpiry()
	} else {
		desired.note("The agents log in with the token of a Secret (tokenSecretRef), which is not looked after here: it needs the policies below.")
	}
	name = cmp.Or(name, derivedPrefix+"istiod")
	if err := validatePolicy(name); err != nil {
		return nil, err
	}
	if desired.Auth != nil {
		maker = desired.Auth.rolePath()
	}

	desired.Mounts = []Mount{{Path: endpoints.SignMount, Signs: true, MaxLease: time.Duration(*certOptions.TTLDays) * 24 * time.Hour}}
	desired.Policies = []Policy{{
		Name: name, Text: marker(maker) + signingPolicy(endpoints.Sign, organization, options.hosts()),
		Why: "One call, with pinned parameters: a CA of path length 0, of istiod's name alone.",
	}}
	if endpoints.Generate != "" {
		if endpoints.KeyMount != endpoints.SignMount {
			desired.Mounts = append(desired.Mounts, Mount{Path: endpoints.KeyMount})
		}
		desired.Policies = append(desired.Policies, Policy{
			Name: name + "-exported", Text: marker(maker) + exportingPolicy(endpoints.Generate, endpoints.KeyMount),
			Why: "csrPath: Vault makes istiod's CA key and hands it out. The second path lets the agent remove the copy that Vault keeps.",
		})
		desired.note("With csrPath the CA key is made in Vault and sent to istiod; safer: no csrPath, and the key never leaves istiod's Pod.")
	}
	if desired.Auth != nil {
		for _, policy := range desired.Policies {
			desired.Auth.Role.Policies = append(desired.Auth.Role.Policies, policy.Name)
		}
	}
	if strings.HasPrefix(ca.Vault.Server, "http://") {
		desired.note("The server is an http:// one: logins and, with csrPath, CA keys can be read on the network; use https://.")
	}
	for _, ref := range mesh.Spec.Meshes {
		if !slices.ContainsFunc(options.Namespaces, func(namespace string) bool { return strings.Contains(ref.Name, "-"+namespace+"-") }) {
			desired.note("Mesh %s does not look like one in namespace %s: name its namespace by --istiod-namespace.", ref.Name, strings.Join(options.Namespaces, " or "))
		}
	}
	return desired, nil
}

// noteAudience compares the role's audience with the VirtualMesh's, which is that of the agents' tokens.
func (w *Desired) noteAudience(sent string) {
	switch required := w.Auth.Role.Audience; {
	case required == "":
		w.note("The agents log in with a token that is valid for the API server too: its receiver can use it there. Two lines prevent that, changed together: audience: vault below kubernetesAuth in the VirtualMesh, and audience=vault in the role, which this command then adds.")
	case required != sent:
		w.note("The role accepts only tokens of audience %s: until the VirtualMesh has the line audience: %s below kubernetesAuth, Vault refuses every login.", required, required)
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
	o.TrustDomain = cmp.Or(o.TrustDomain, DefaultTrustDomain)
	o.TokenTTL = cmp.Or(o.TokenTTL, DefaultTokenTTL)
}

// validate lets nothing through that a policy or a shell would take for more than a name.
func (o *Options) validate() error {
	for _, each := range []struct {
		flag   string
		values []string
		check  func(string) []string
	}{
		{"service-account", o.ServiceAccounts, func(s string) []string { return validation.IsDNS1123Subdomain(s) }},
		{"istiod-namespace", o.Namespaces, func(s string) []string { return validation.IsDNS1123Label(s) }},
		{"trust-domain", []string{o.TrustDomain}, func(s string) []string { return validation.IsDNS1123Subdomain(s) }},
	} {
		for _, value := range each.values {
			if problems := each.check(value); len(problems) > 0 {
				return fmt.Errorf("--%s %q: %s", each.flag, value, strings.Join(problems, "; "))
			}
		}
	}
	if strings.ContainsFunc(o.Audience, func(r rune) bool { return r <= ' ' }) {
		return fmt.Errorf("--audience %q: expected a name or a URL without spaces, such as vault", o.Audience)
	}
	if o.TokenTTL < time.Minute {
		return fmt.Errorf("--token-ttl %s: expected a minute or more: a login must outlive the calls of one renewal", o.TokenTTL)
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
