// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/istiod-agent/istiod-agent/agent/ca/vault/client"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// permit implements source: the server must be an allowed one, and each Secret, service account and ConfigMap one of istiod's own
// namespace. It bounds what the author of a specification can have sent, and where to.
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
				fmt.Sprintf("expected one of the allowed servers, %s (injection.agent.allowedServers)", strings.Join(i.AllowedServers, ", "))))
		}
	}
	inNamespace := func(path *field.Path, namespace string) {
		if namespace != "" && namespace != i.Identity.Namespace {
			errs = append(errs, field.Forbidden(path.Child("namespace"), fmt.Sprintf("expected none, or istiod's own namespace, %s", i.Identity.Namespace)))
		}
	}
	if ref := source.TokenSecretRef; ref != nil {
		inNamespace(path.Child("tokenSecretRef"), ref.Namespace)
	}
	if auth := source.KubernetesAuth; auth != nil && auth.ServiceAccountRef != nil {
		inNamespace(path.Child("kubernetesAuth", "serviceAccountRef"), auth.ServiceAccountRef.Namespace)
	}
	if roots := certificate.Spec.AgentCA.TrustedRoots; roots != nil && roots.ConfigMapRef != nil {
		inNamespace(field.NewPath("spec", "agentCa", "trustedRoots", "configMapRef"), roots.ConfigMapRef.Namespace)
	}
	if len(errs) == 0 {
		return nil
	}
	return &SpecificationError{Certificate: certificate, Err: errs.ToAggregate()}
}

// NormalServer returns a server's URL in one normal form, such as https://gateway.example.com:443/vault: scheme, host, port,
// and the prefix of its paths if any. It returns an error for a URL with more or less than these.
func NormalServer(server string) (string, error) {
	address, err := url.Parse(server)
	if err != nil || (address.Scheme != "https" && address.Scheme != "http") || address.Hostname() == "" ||
		address.User != nil || !certificatesv1.IsServerPrefix(address.EscapedPath()) || strings.ContainsAny(server, "?#") {
		return "", fmt.Errorf("expected https://<host>[:<port>][/<prefix>]")
	}
	return client.Origin(address) + client.Prefix(address), nil
}
