// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/istiod-agent/istiod-agent/agent/ca"
	"github.com/istiod-agent/istiod-agent/agent/ca/vault/client"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// permit returns an error for a server that is not an allowed one, and for each Secret and service account of another namespace
// than istiod's. It bounds what the author of a specification can have sent, and where to.
func (o Options) permit(spec *certificatesv1.VaultCA) (errs field.ErrorList) {
	path := field.NewPath("spec", "agentCa", "vault")
	if len(o.AllowedServers) > 0 {
		server, err := NormalServer(spec.Server)
		if err != nil || !slices.ContainsFunc(o.AllowedServers, func(allowed string) bool { same, err := NormalServer(allowed); return err == nil && same == server }) {
			errs = append(errs, field.Forbidden(path.Child("server"),
				fmt.Sprintf("expected one of the allowed servers, %s (injection.agent.allowedServers)", strings.Join(o.AllowedServers, ", "))))
		}
	}
	for _, ref := range spec.References(path) {
		errs = append(errs, ca.OwnNamespace(ref.Path, ref.Namespace, o.Namespace)...)
	}
	return errs
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
