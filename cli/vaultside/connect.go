// SPDX-License-Identifier: Apache-2.0

package vaultside

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/istiod-agent/istiod-agent/agent/ca/vault/client"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/cli/shell"
)

// Vault is a client of one Vault.
type Vault struct {
	client *api.Client
	// sendsToken is false for a server that only a VirtualMesh in a cluster names.
	sendsToken bool
}

// Connect returns a client for VAULT_ADDR, or else for the server of the VirtualMesh. It sends VAULT_TOKEN, VAULT_NAMESPACE,
// VAULT_HEADERS and VAULT_CLIENT_CERT only to an address from the person: VAULT_ADDR, or the server of a VirtualMesh in the
// person's file (fromFile). Otherwise every author of a VirtualMesh in a cluster could collect tokens. Connect sends no request.
func Connect(mesh *networkingv1.VirtualMesh, fromFile bool, timeout time.Duration) (*Vault, error) {
	ca := mesh.Spec.IntermediateCA()
	if ca == nil || ca.Vault == nil {
		return nil, errNoVault(ca)
	}
	config := api.DefaultConfig()
	if config.Error != nil {
		return nil, fmt.Errorf("reading the environment variables VAULT_*: %w", config.Error)
	}
	transport, ok := config.HttpClient.Transport.(*http.Transport)
	if !ok {
		return nil, fmt.Errorf("unexpected transport of Vault's client: %T", config.HttpClient.Transport)
	}
	sendsToken := true
	if os.Getenv(api.EnvVaultAddress) == "" && os.Getenv(api.EnvVaultAgentAddr) == "" {
		config.Address, sendsToken = ca.Vault.Server, fromFile
	}
	if len(ca.Vault.CABundle) > 0 && os.Getenv(api.EnvVaultCACert) == "" && os.Getenv(api.EnvVaultCAPath) == "" && os.Getenv(api.EnvVaultCACertBytes) == "" {
		if err := config.ConfigureTLS(&api.TLSConfig{
			CACertBytes: ca.Vault.CABundle, ClientCert: os.Getenv(api.EnvVaultClientCert), ClientKey: os.Getenv(api.EnvVaultClientKey),
			TLSServerName: os.Getenv(api.EnvVaultTLSServerName),
		}); err != nil {
			return nil, fmt.Errorf("reading caBundle: %w", err)
		}
	}
	config.MaxRetries, config.Timeout = 0, timeout
	connection, err := api.NewClient(config)
	if err != nil {
		return nil, fmt.Errorf("reading Vault's address and the environment variables VAULT_*: %w", err)
	}
	connection.SetMaxRetries(0)
	namespace := strings.Trim(ca.Vault.Namespace, "/")
	if sendsToken {
		namespace = cmp.Or(os.Getenv(api.EnvVaultNamespace), namespace)
	} else {
		connection.ClearToken()
		connection.SetHeaders(http.Header{api.RequestHeaderName: {"true"}})
		transport.TLSClientConfig.GetClientCertificate = nil
	}
	if namespace != "" {
		connection.SetNamespace(namespace)
	}
	config.HttpClient.Transport = sameServer{transport, connection.Address()}
	return &Vault{connection, sendsToken}, nil
}

// CheckToken returns an error unless requests carry a token.
func (v *Vault) CheckToken() error {
	switch {
	case v.client.Token() != "":
		return nil
	case !v.sendsToken:
		return fmt.Errorf("VAULT_ADDR is not set, and VAULT_TOKEN is not sent to a server that only a VirtualMesh in a cluster names; if %s is your Vault: export VAULT_ADDR=%s", v.Address(), shell.Quote(v.Address()))
	default:
		return errors.New("VAULT_TOKEN is not set; export a token that may read and write policies, mounts and auth methods")
	}
}

// Address returns the address without secrets.
func (v *Vault) Address() string {
	address, err := url.Parse(v.client.Address())
	if err != nil {
		return "the given address"
	}
	return address.Redacted()
}

// maxResponse limits a response body, in bytes.
const maxResponse = 16 << 20

// sameServer refuses redirects to other hosts and, where the server has a path prefix, to paths outside it: Vault's client
// would follow them with the token. It also limits responses.
type sameServer struct {
	transport *http.Transport
	address   string
}

func (s sameServer) RoundTrip(request *http.Request) (*http.Response, error) {
	server, err := url.Parse(s.address)
	if err != nil {
		return nil, err
	}
	response, err := s.transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode >= 300 && response.StatusCode < 400 {
		to, err := response.Location()
		if err != nil || !client.Within(server, to) {
			_ = response.Body.Close()
			if err == nil {
				err = fmt.Errorf("it redirects to %s, where no token is sent; if that is your Vault: export VAULT_ADDR=%s", to.Host, shell.Quote(to.Scheme+"://"+to.Host))
			}
			return nil, err
		}
	}
	response.Body = http.MaxBytesReader(nil, response.Body, maxResponse)
	return response, nil
}
