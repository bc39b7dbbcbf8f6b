// SPDX-License-Identifier: Apache-2.0

package vaultside

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/istiod-agent/istiod-agent/agent/ca/vault/client"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

// Health returns an error unless Vault responds, is initialized and unsealed.
func (v *Vault) Health(ctx context.Context) (version string, err error) {
	health, err := v.client.Sys().HealthWithContext(ctx)
	switch {
	case err != nil:
		return "", fmt.Errorf("asking Vault at %s whether it is sealed: %w; check the address, VAULT_ADDR and VAULT_CACERT", v.Address(), err)
	case !health.Initialized:
		return health.Version, fmt.Errorf("the Vault at %s is not initialized; run vault operator init", v.Address())
	case health.Sealed:
		return health.Version, fmt.Errorf("the Vault at %s is sealed; run vault operator unseal", v.Address())
	}
	return health.Version, nil
}

// root returns the root certificate of the CA that a VirtualMesh names, without a token. Inline trustedRoots count as the
// agent counts them: the root must be one of them, and they complete a chain without a root.
func (v *Vault) root(ctx context.Context, mesh *networkingv1.VirtualMesh) (*x509.Certificate, error) {
	ca := mesh.Spec.IntermediateCA().Vault
	endpoints, err := client.Config{Server: ca.Server, CAPath: ca.CAPath, CSRPath: ca.CSRPath, Token: noToken}.Endpoints()
	if err != nil {
		return nil, err
	}
	path := endpoints.SignMount + "/cert/ca_chain"
	if issuer, ok := strings.CutPrefix(endpoints.Sign, endpoints.SignMount+"/issuer/"); ok {
		name, _, _ := strings.Cut(issuer, "/")
		path = endpoints.SignMount + "/issuer/" + name + "/json"
	}
	response, err := v.read(ctx, "read the CA's chain", path)
	if err != nil {
		if strings.Contains(err.Error(), "no default issuer") {
			err = fmt.Errorf("%w; give the mount its CA first (kubectl istiod-agent vault prints the commands)", err)
		}
		return nil, err
	}
	var chain strings.Builder
	for _, key := range []string{"ca_chain", "certificate"} {
		switch value := response[key].(type) {
		case string:
			chain.WriteString(value + "\n")
		case []any:
			for _, certificate := range value {
				fmt.Fprintln(&chain, certificate)
			}
		}
	}
	certificates, err := pemcerts.Parse([]byte(chain.String()))
	if err != nil {
		return nil, fmt.Errorf("reading the CA's chain at %s from Vault at %s: %w; has the mount a CA?", path, v.Address(), err)
	}
	root, err := rootOf(certificates, mesh.Spec.IntermediateCA().TrustedRoots)
	if err != nil {
		return nil, fmt.Errorf("the CA's chain at %s of Vault at %s %w", path, v.Address(), err)
	}
	return root, nil
}

// rootOf returns the root of a chain. Trusted roots in a ConfigMap belong to one cluster, and do not count here.
func rootOf(chain []*x509.Certificate, trusted *certificatesv1.TrustedRoots) (*x509.Certificate, error) {
	var roots []*x509.Certificate
	if trusted != nil && trusted.PEM != "" {
		var err error
		if roots, err = certificatesv1.ParseTrustedRoots(trusted.PEM); err != nil {
			return nil, fmt.Errorf("cannot be compared with trustedRoots: %w", err)
		}
	}
	if i := slices.IndexFunc(chain, func(c *x509.Certificate) bool { return c.IsCA && pemcerts.SelfSigned(c) }); i >= 0 {
		if len(roots) > 0 && !slices.ContainsFunc(roots, chain[i].Equal) {
			return nil, fmt.Errorf("leads to %s, which is not one of trustedRoots: agents refuse it", pemcerts.Name(chain[i]))
		}
		return chain[i], nil
	}
	for _, root := range roots {
		if slices.ContainsFunc(chain, func(c *x509.Certificate) bool { return c.CheckSignatureFrom(root) == nil }) {
			return root, nil
		}
	}
	return nil, errors.New("does not reach a root; name the root by --root")
}

// noToken is for paths that need none.
func noToken(context.Context) (string, error) { return "", nil }

// Read reads the configuration that the desired one is compared with.
func (v *Vault) Read(ctx context.Context, desired *Desired) (*Observed, error) {
	observed := &Observed{Mounts: map[string]ObservedMount{}, Policies: map[string]string{}}
	if desired.Auth != nil {
		if err := v.readAuth(ctx, desired.Auth, observed); err != nil {
			return nil, err
		}
	}
	mounts, err := v.client.Sys().ListMountsWithContext(ctx)
	if err != nil {
		return nil, v.explain("list the secrets engines", "read", "sys/mounts", err)
	}
	for _, desiredMount := range desired.Mounts {
		mount := mounts[desiredMount.Path+"/"]
		if mount == nil {
			continue
		}
		existing := ObservedMount{Type: mount.Type}
		if desiredMount.Signs && mount.Type == "pki" {
			if existing.MaxLease, existing.HasCA, err = v.readSigner(ctx, desiredMount.Path); err != nil {
				return nil, err
			}
		}
		observed.Mounts[desiredMount.Path] = existing
	}
	for _, policy := range desired.Policies {
		if err := v.readPolicy(ctx, policy.Name, observed); err != nil {
			return nil, err
		}
	}
	// wroteRole needs the policies of the role. This command writes two at most, and never one that the token may not read.
	const maxPolicies = 4
	if names := observed.rolePolicies(); len(names) <= maxPolicies {
		for _, name := range names {
			_ = v.readPolicy(ctx, name, observed)
		}
	}
	return observed, nil
}

func (v *Vault) readPolicy(ctx context.Context, name string, observed *Observed) error {
	if _, known := observed.Policies[name]; known {
		return nil
	}
	text, err := v.client.Sys().GetPolicyWithContext(ctx, name)
	if err == nil && text != "" {
		observed.Policies[name] = text
	}
	return v.explain("read the policy", "read", "sys/policies/acl/"+name, err)
}

func (v *Vault) readAuth(ctx context.Context, auth *Auth, observed *Observed) error {
	methods, err := v.client.Sys().ListAuthWithContext(ctx)
	if err != nil {
		return v.explain("list the auth methods", "read", "sys/auth", err)
	}
	method := methods[auth.Mount+"/"]
	if method == nil {
		return nil
	}
	if observed.AuthType = method.Type; method.Type != auth.Method {
		return nil
	}
	if auth.hasConfig() {
		if observed.Config, err = v.read(ctx, "read the configuration of the auth method", "auth/"+auth.Mount+"/config"); err != nil && auth.Configure {
			return err
		}
	}
	observed.Role, err = v.read(ctx, "read the role", auth.rolePath())
	return err
}

func (v *Vault) readSigner(ctx context.Context, path string) (maxLease time.Duration, hasCA bool, err error) {
	config, err := v.client.Sys().MountConfigWithContext(ctx, path)
	if err != nil {
		return 0, false, v.explain("read the longest lease", "read", "sys/mounts/"+path+"/tune", err)
	}
	issuers, err := v.client.Logical().ListWithContext(ctx, path+"/issuers")
	if err != nil {
		return 0, false, v.explain("list the issuers", "list", path+"/issuers", err)
	}
	return time.Duration(config.MaxLeaseTTL) * time.Second, issuers != nil, nil
}

// read returns nil for a path without data.
func (v *Vault) read(ctx context.Context, call, path string) (map[string]any, error) {
	response, err := v.client.Logical().ReadWithContext(ctx, path)
	if err != nil {
		return nil, v.explain(call, "read", path, err)
	}
	if response == nil {
		return nil, nil
	}
	return response.Data, nil
}

func (v *Vault) apply(ctx context.Context, change *change) error {
	_, err := v.client.Logical().WriteWithContext(ctx, change.path, change.data)
	return v.explain(change.call, "update", change.path, err)
}

// explain adds to an error what was requested, where, and what to do.
func (v *Vault) explain(call, capability, path string, err error) error {
	if err == nil {
		return nil
	}
	asked := fmt.Sprintf("asking Vault at %s to %s", v.Address(), call)
	response, answered := errors.AsType[*api.ResponseError](err)
	switch {
	case answered && response.StatusCode == http.StatusForbidden && (response.RawError || len(response.Errors) == 0):
		return fmt.Errorf("%s: 403, but not from Vault: a proxy, gateway or firewall refuses the request; set VAULT_ADDR to an address of Vault itself", asked)
	case answered && response.StatusCode == http.StatusForbidden:
		return fmt.Errorf("%s: permission denied; the token in VAULT_TOKEN has expired, or lacks path %q { capabilities = [%q] }, or sudo there", asked, path, capability)
	case answered:
		// Not the client's whole message: it quotes the body, which may be anything.
		reported := "status " + fmt.Sprint(response.StatusCode)
		if len(response.Errors) > 0 && !response.RawError {
			reported = strings.Join(response.Errors, "; ")
			if token := v.client.Token(); token != "" {
				reported = strings.ReplaceAll(reported, token, "<token>")
			}
		}
		if strings.Contains(reported, "/var/run/secrets/kubernetes.io/serviceaccount/") {
			reported += "; this Vault does not run in a Pod: set --kubernetes-host, --kubernetes-ca-file and --token-reviewer-jwt-file, or --skip-auth-config"
		}
		return fmt.Errorf("%s: %s: %s", asked, path, reported)
	default:
		return fmt.Errorf("%s: %w; check the address, VAULT_ADDR and VAULT_CACERT", asked, err)
	}
}
