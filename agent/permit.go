// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/istiod-agent/istiod-agent/agent/vault"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// permit reports what a specification asks for that this istiod's operator does not permit, each with its field's path:
// another server than the allowed ones, or a Secret, service account or ConfigMap of another namespace. It bounds what the author
// of a specification can have sent, and where to.
func (i *Issuer) permit(certificate *certificatesv1.IssuedCertificate) error {
	if certificate.Spec.AgentCA == nil || certificate.Spec.AgentCA.Vault == nil {
		return nil // Validate refuses it
	}
	source, path := certificate.Spec.AgentCA.Vault, field.NewPath("spec", "agentCa", "vault")
	var errs field.ErrorList
	if len(i.AllowedServers) > 0 {
		server, err := NormalServer(source.Server)
		if err != nil || !slices.ContainsFunc(i.AllowedServers, func(allowed string) bool { same, err := NormalServer(allowed); return err == nil && same == server }) {
			errs = append(errs, field.Forbidden(path.Child("server"),
				fmt.Sprintf("expected one of the servers that this istiod's agent may ask, %s (injection.agent.allowedServers)", strings.Join(i.AllowedServers, ", "))))
		}
	}
	refs := []struct {
		path *field.Path
		ref  *certificatesv1.ObjectRef
	}{{path.Child("tokenSecretRef"), source.TokenSecretRef}}
	if auth := source.KubernetesAuth; auth != nil {
		refs = append(refs, struct {
			path *field.Path
			ref  *certificatesv1.ObjectRef
		}{path.Child("kubernetesAuth", "serviceAccountRef"), auth.ServiceAccountRef})
	}
	for _, each := range refs {
		if each.ref != nil && each.ref.Namespace != "" && each.ref.Namespace != i.Identity.Namespace {
			errs = append(errs, field.Forbidden(each.path.Child("namespace"),
				fmt.Sprintf("expected none, or istiod's own namespace, %s: an agent uses nothing of other namespaces", i.Identity.Namespace)))
		}
	}
	if roots := certificate.Spec.AgentCA.TrustedRoots; roots != nil && roots.ConfigMapRef != nil && roots.ConfigMapRef.Namespace != "" && roots.ConfigMapRef.Namespace != i.Identity.Namespace {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "agentCa", "trustedRoots", "configMapRef", "namespace"),
			fmt.Sprintf("expected none, or istiod's own namespace, %s: an agent uses nothing of other namespaces", i.Identity.Namespace)))
	}
	if len(errs) == 0 {
		return nil
	}
	return &SpecificationError{Certificate: certificate, Err: errs.ToAggregate()}
}

// NormalServer is a server's URL in one normal form, such as https://vault.example.com:8200 or
// https://gateway.example.com:443/vault: scheme, host, port, and the prefix of its paths where there is one. It returns an
// error for anything that is more than these, or less.
func NormalServer(server string) (string, error) {
	address, err := url.Parse(server)
	if err != nil || (address.Scheme != "https" && address.Scheme != "http") || address.Hostname() == "" ||
		address.User != nil || !certificatesv1.IsServerPrefix(address.EscapedPath()) || strings.ContainsAny(server, "?#") {
		return "", fmt.Errorf("expected https://<host>[:<port>][/<prefix>]")
	}
	return vault.Origin(address) + vault.Prefix(address), nil
}
