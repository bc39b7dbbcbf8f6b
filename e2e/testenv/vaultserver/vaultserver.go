// SPDX-License-Identifier: Apache-2.0

// Package vaultserver runs a real Vault on loopback, and sets it up as the
// public guide does.
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

// Options say how Vault runs.
type Options struct {
	// Storage keeps everything in files: after a restart Vault is sealed and has
	// all that it had. Without it Vault is in its dev mode: in memory, and empty
	// after a restart.
	Storage bool
	// TLS serves with a certificate of a CA of its own instead of plain HTTP.
	TLS bool
}

// Server is a Vault, running unless it was killed.
type Server struct {
	// Address is the URL without a path; it stays the same for good.
	Address string
	// CA is the certificate, in PEM, that the serving one is signed by; nil without TLS.
	CA []byte
	// RootToken may do everything.
	RootToken string
	// Client has the root token.
	Client *api.Client

	program   string
	arguments []string
	dir       string
	process   *process.Process
	unsealKey string // none in dev mode
}

// timeout is how long each start, and each change of the seal, may take.
const timeout = time.Minute

// Start returns once Vault is initialized, unsealed and answers. Stop must be
// called, also after a failed test.
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
	s.arguments = []string{"--address", listen}
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

// NewClient gives a client with a token, or with none. The environment variables
// of Vault's own clients have no say.
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

// run starts the process and waits until it answers, sealed or not.
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

// Unseal returns once Vault is unsealed and works.
func (s *Server) Unseal(ctx context.Context) error {
	if s.unsealKey == "" {
		return errors.New("a Vault in dev mode cannot be unsealed; start it with Storage")
	}
	if _, err := s.Client.Sys().UnsealWithContext(ctx, s.unsealKey); err != nil {
		return err
	}
	return s.waitSealed(ctx, false)
}

// Seal returns once Vault is sealed.
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

// Process is the one that runs, or ran last.
func (s *Server) Process() *process.Process { return s.process }

// Kill crashes Vault; Restart brings it back.
func (s *Server) Kill() error { return s.process.Kill() }

// Restart starts Vault again at the same address, ending it first when it runs.
// It returns once Vault answers: sealed with Storage, empty without.
func (s *Server) Restart(ctx context.Context) error {
	if err := s.process.StopIfRunning(30 * time.Second); err != nil {
		return err
	}
	return s.run(ctx)
}

// Stop ends Vault and removes its files.
func (s *Server) Stop() error {
	return errors.Join(s.process.StopIfRunning(30*time.Second), os.RemoveAll(s.dir))
}
