// SPDX-License-Identifier: Apache-2.0

// Command vault is Vault's own packages, with no more linked in than the tests and the demo use: PKI, the auth methods of
// package agent/ca/vault, storage in memory or in files, and Vault's whole command line. The Vault that is shipped is the same
// core, the same HTTP API and the same command line with every other plugin beside them, and takes four times as long to build.
//
// `vault server` is this file's. With --dev-root-token it is what `vault server -dev` is: in memory, initialized, unsealed, with
// that token for root. With --storage it starts as any Vault does, sealed, to be initialized through its API.
// Every other command is Vault's.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	jwt "github.com/hashicorp/vault-plugin-auth-jwt"
	kubernetes "github.com/hashicorp/vault-plugin-auth-kubernetes"
	"github.com/hashicorp/vault/audit"
	"github.com/hashicorp/vault/builtin/credential/approle"
	"github.com/hashicorp/vault/builtin/credential/cert"
	"github.com/hashicorp/vault/builtin/logical/pki"
	"github.com/hashicorp/vault/command"
	"github.com/hashicorp/vault/helper/namespace"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical"
	"github.com/hashicorp/vault/sdk/physical/file"
	"github.com/hashicorp/vault/sdk/physical/inmem"
	"github.com/hashicorp/vault/vault"
)

func main() {
	if len(os.Args) < 2 || os.Args[1] != "server" {
		os.Exit(command.Run(os.Args[1:]))
	}
	var o options
	flag.StringVar(&o.address, "address", "127.0.0.1:8200", "`HOST:PORT` to listen on")
	flag.StringVar(&o.storage, "storage", "", "`FOLDER` to keep everything in (default: in memory)")
	flag.StringVar(&o.devRootToken, "dev-root-token", "", "start initialized and unsealed, with this `TOKEN` for root")
	flag.StringVar(&o.certificate, "tls-cert", "", "`FILE` with the serving certificate (default: plain HTTP)")
	flag.StringVar(&o.key, "tls-key", "", "`FILE` with the serving certificate's key")
	_ = flag.CommandLine.Parse(os.Args[2:]) // exits with 2 itself

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := serve(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "vault:", err)
		os.Exit(1)
	}
}

type options struct {
	address, storage, devRootToken string
	certificate, key               string
}

func serve(ctx context.Context, o options) error {
	logger := hclog.New(&hclog.LoggerOptions{Name: "vault", Level: hclog.Info, Output: os.Stderr})
	storage, err := open(o.storage, logger)
	if err != nil {
		return err
	}
	core, err := vault.NewCore(&vault.CoreConfig{
		Physical:           storage,
		BuiltinRegistry:    builtin{},
		LogicalBackends:    secrets,
		CredentialBackends: credentials,
		AuditBackends:      map[string]audit.Factory{"file": audit.NewFileBackend},
		DisableMlock:       true,
		Logger:             logger,
	})
	if err != nil {
		return err
	}
	defer func() { _ = core.Shutdown() }()
	if o.devRootToken != "" {
		if err := initialize(core, o.devRootToken); err != nil {
			return err
		}
	}

	listener, err := net.Listen("tcp", o.address)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: vaulthttp.Handler.Handler(&vault.HandlerProperties{
			Core:           core,
			ListenerConfig: &configutil.Listener{Type: "tcp", Address: o.address},
		}),
		ReadHeaderTimeout: 10 * time.Second,
		// As `vault server` does: clients may show a certificate, and the auth method cert verifies it.
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, ClientAuth: tls.RequestClientCert},
	}
	served := make(chan error, 1)
	go func() {
		if o.certificate != "" {
			served <- server.ServeTLS(listener, o.certificate, o.key)
		} else {
			served <- server.Serve(listener)
		}
	}()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
		return server.Close()
	}
}

func open(folder string, logger hclog.Logger) (physical.Backend, error) {
	if folder == "" {
		return inmem.NewInmem(nil, logger)
	}
	return file.NewFileBackend(map[string]string{"path": folder}, logger)
}

// initialize does what the dev mode of `vault server` does: one unseal key, used at once, and a root token of one's choice.
func initialize(core *vault.Core, rootToken string) error {
	ctx := namespace.RootContext(context.Background())
	made, err := core.Initialize(ctx, &vault.InitParams{
		BarrierConfig: &vault.SealConfig{SecretShares: 1, SecretThreshold: 1, StoredShares: 1},
	})
	if err != nil {
		return err
	}
	if unsealed, err := core.Unseal(made.SecretShares[0]); err != nil || !unsealed {
		return errors.Join(errors.New("unseal"), err)
	}
	_, err = core.HandleRequest(ctx, &logical.Request{
		ID:          "root",
		Operation:   logical.UpdateOperation,
		ClientToken: made.RootToken,
		Path:        "auth/token/create",
		Data: map[string]any{
			"id": rootToken, "policies": []string{"root"}, "no_parent": true, "no_default_policy": true,
		},
	})
	return err
}

// The plugins that are linked in.
var (
	secrets     = map[string]logical.Factory{"pki": pki.Factory}
	credentials = map[string]logical.Factory{
		"approle": approle.Factory, "cert": cert.Factory, "jwt": jwt.Factory, "kubernetes": kubernetes.Factory,
	}
)

func linked(kind consts.PluginType) map[string]logical.Factory {
	switch kind {
	case consts.PluginTypeSecrets:
		return secrets
	case consts.PluginTypeCredential:
		return credentials
	default:
		return nil
	}
}

// builtin says which plugins are linked in (plugincatalog.BuiltinRegistry).
type builtin struct{}

func (builtin) Contains(name string, kind consts.PluginType) bool { return linked(kind)[name] != nil }

func (builtin) Get(name string, kind consts.PluginType) (func() (any, error), bool) {
	factory := linked(kind)[name]
	return func() (any, error) { return factory, nil }, factory != nil
}

func (builtin) Keys(kind consts.PluginType) []string { return slices.Sorted(maps.Keys(linked(kind))) }

func (b builtin) DeprecationStatus(name string, kind consts.PluginType) (consts.DeprecationStatus, bool) {
	return consts.Supported, b.Contains(name, kind)
}

func (builtin) IsBuiltinEntPlugin(string, consts.PluginType) bool { return false }
