// SPDX-License-Identifier: Apache-2.0

// Package vaultserver runs a real Vault on loopback and sets it up as the Gloo Mesh guide does.
package vaultserver

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/process"
)

// Options configure Vault.
type Options struct {
	// Storage means file storage: after a restart Vault is sealed and keeps its data. Without it Vault runs in dev mode,
	// and a restart empties it.
	Storage bool
	// TLS means HTTPS, with a certificate of a CA made for this server.
	TLS bool
}

// Server is a Vault.
type Server struct {
	// Address is the URL without a path. A restart keeps it.
	Address string
	// CA is the certificate, in PEM, of the serving certificate's issuer; nil without TLS.
	CA []byte
	// RootToken is Vault's root token.
	RootToken string
	// Client uses the root token.
	Client *api.Client

	program   string
	arguments []string
	dir       string
	process   *process.Process
	unsealKey string // empty in dev mode
}

// timeout of each start, and of each seal and unseal.
const timeout = time.Minute

// Start starts Vault and returns once it is initialized, unsealed and answers. The caller must call Stop.
func Start(ctx context.Context, options Options) (*Server, error) {
	program, err := built.Vault()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "istiod-agent-vault-")
	if err != nil {
		return nil, err
	}
	s := &Server{program: program, dir: dir}
	if err := s.start(ctx, options); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

func (s *Server) start(ctx context.Context, options Options) error {
	ports, err := process.FreePorts(1)
	if err != nil {
		return err
	}
	listen := fmt.Sprintf("127.0.0.1:%d", ports[0])
	s.arguments = []string{"server", "--address", listen}
	s.Address = "http://" + listen
	if options.TLS {
		s.Address = "https://" + listen
		if err := s.serveTLS(); err != nil {
			return fmt.Errorf("making Vault's serving certificate: %w", err)
		}
	}
	if options.Storage {
		s.arguments = append(s.arguments, "--storage", filepath.Join(s.dir, "storage"))
	} else {
		s.RootToken = "root-" + rand.Text()
		s.arguments = append(s.arguments, "--dev-root-token", s.RootToken)
	}
	if s.Client, err = s.NewClient(s.RootToken); err != nil {
		return err
	}
	if err := s.run(ctx); err != nil {
		return err
	}
	if options.Storage {
		return s.initialize(ctx)
	}
	return nil
}

// NewClient returns a client with a token, which may be empty. It ignores the environment variables of Vault's clients.
func (s *Server) NewClient(token string) (*api.Client, error) {
	transport := &http.Transport{}
	if s.CA != nil {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(s.CA)
		transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	client, err := api.NewClient(&api.Config{Address: s.Address, HttpClient: &http.Client{Transport: transport}})
	if err != nil {
		return nil, err
	}
	client.SetHeaders(http.Header{api.RequestHeaderName: []string{"true"}})
	client.ClearNamespace()
	client.SetToken(token)
	return client, nil
}

// run starts the process and waits until Vault answers, sealed or not.
func (s *Server) run(ctx context.Context) (err error) {
	if s.process, err = process.Start("vault", exec.Command(s.program, s.arguments...)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return s.process.WaitUntil(ctx, "sys/health answers", func(ctx context.Context) error {
		_, err := s.Client.Sys().HealthWithContext(ctx)
		return err
	})
}

func (s *Server) initialize(ctx context.Context) error {
	made, err := s.Client.Sys().InitWithContext(ctx, &api.InitRequest{SecretShares: 1, SecretThreshold: 1})
	if err != nil {
		return err
	}
	s.unsealKey, s.RootToken = made.Keys[0], made.RootToken
	s.Client.SetToken(s.RootToken)
	return s.Unseal(ctx)
}

// Unseal unseals Vault and returns once it is active.
func (s *Server) Unseal(ctx context.Context) error {
	if s.unsealKey == "" {
		return errors.New("a Vault in dev mode cannot be unsealed; start it with Storage")
	}
	if _, err := s.Client.Sys().UnsealWithContext(ctx, s.unsealKey); err != nil {
		return err
	}
	return s.waitSealed(ctx, false)
}

// Seal seals Vault and returns once it is sealed.
func (s *Server) Seal(ctx context.Context) error {
	if err := s.Client.Sys().SealWithContext(ctx); err != nil {
		return err
	}
	return s.waitSealed(ctx, true)
}

func (s *Server) waitSealed(ctx context.Context, sealed bool) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return s.process.WaitUntil(ctx, fmt.Sprintf("sealed is %t", sealed), func(ctx context.Context) error {
		health, err := s.Client.Sys().HealthWithContext(ctx)
		if err == nil && health.Sealed != sealed {
			err = fmt.Errorf("sealed is %t", health.Sealed)
		}
		return err
	})
}

// Process returns Vault's current or last process.
func (s *Server) Process() *process.Process { return s.process }

// Kill kills Vault. Restart starts it again.
func (s *Server) Kill() error { return s.process.Kill() }

// Restart stops Vault if it runs, starts it at the same address, and returns once it answers: sealed with Storage, empty
// without.
func (s *Server) Restart(ctx context.Context) error {
	if err := s.process.StopIfRunning(30 * time.Second); err != nil {
		return err
	}
	return s.run(ctx)
}

// Stop stops Vault and removes its files.
func (s *Server) Stop() error {
	return errors.Join(s.process.StopIfRunning(30*time.Second), os.RemoveAll(s.dir))
}
