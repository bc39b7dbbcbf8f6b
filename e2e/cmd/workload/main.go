// SPDX-License-Identifier: Apache-2.0

// Command workload replaces a workload and its proxy in the suite's clusters: it requests its certificate from istiod and
// talks to other workloads by mutual TLS with the root that istiod has published. Envoy itself cannot be built from Go
// modules. The command also kills processes in the node's Pods and moves their clocks, see clock_amd64.go.
package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/csr"
)

// Istio's injection mounts these files in a sidecar.
const (
	tokenFile = "/var/run/secrets/tokens/istio-token"
	rootFile  = "/var/run/secrets/istio/root-cert.pem"
)

const usage = `workload pause                      waits
workload serve                      serves mutual TLS on port 8443 and answers with the client's identity
workload call ADDRESS [SECONDS]     calls a workload, with a clock that is so many seconds fast, and prints the answer
workload kill PROGRAM               kills this node's processes of a program that run in Pods
workload clock SECONDS PROGRAM...   sets the clock of such processes so many seconds fast

The environment variable ISTIOD is istiod's address (istiod.istio-system.svc:15012 by default), CLUSTER_ID the cluster's name.`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	var err error
	switch arguments := os.Args[1:]; {
	case len(arguments) == 1 && arguments[0] == "pause":
		<-ctx.Done()
	case len(arguments) == 1 && arguments[0] == "serve":
		err = serve(ctx)
	case (len(arguments) == 2 || len(arguments) == 3) && arguments[0] == "call":
		if err = moveClock(append(arguments, "0")[2], os.Getpid()); err == nil {
			err = call(ctx, arguments[1])
		}
	case len(arguments) == 2 && arguments[0] == "kill":
		err = each(arguments[1], func(pid int) error { return syscall.Kill(pid, syscall.SIGKILL) })
	case len(arguments) > 2 && arguments[0] == "clock":
		for _, program := range arguments[2:] {
			err = errors.Join(err, each(program, func(pid int) error { return moveClock(arguments[1], pid) }))
		}
	default:
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func moveClock(seconds string, pid int) error {
	fast, err := strconv.ParseInt(seconds, 10, 32)
	if err != nil || fast == 0 && pid == os.Getpid() {
		return err
	}
	return setClock(pid, int32(fast))
}

// serve requests a new certificate for each connection, so that its answer shows istiod's current CA.
func serve(ctx context.Context) error {
	server := &http.Server{
		ReadHeaderTimeout: time.Minute,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s, whose certificate is from %s\n", identity(r.TLS.PeerCertificates[0]), r.TLS.PeerCertificates[0].Issuer)
		}),
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			config, err := configuration(hello.Context())
			if err == nil {
				config.ClientAuth = tls.RequireAndVerifyClientCert
			}
			return config, err
		}},
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", ":8443")
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	if err := server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func call(ctx context.Context, address string) error {
	config, err := configuration(ctx)
	if err != nil {
		return err
	}
	// A workload's certificate has an identity and no host name, so that VerifyConnection verifies the chain itself.
	roots := config.RootCAs
	config.InsecureSkipVerify = true
	var peer *x509.Certificate
	config.VerifyConnection = func(state tls.ConnectionState) error {
		peer = state.PeerCertificates[0]
		intermediates := x509.NewCertPool()
		for _, certificate := range state.PeerCertificates[1:] {
			intermediates.AddCert(certificate)
		}
		_, err := peer.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
		return err
	}
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: config}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address, nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	const limit = 1 << 10
	body, err := io.ReadAll(io.LimitReader(answer.Body, limit))
	if err != nil {
		return err
	}
	fmt.Printf("I talk to %s, whose certificate is from %s.\nIt talks to %s.\n", identity(peer), peer.Issuer, strings.TrimSpace(string(body)))
	return nil
}

// configuration returns a TLS configuration with a new certificate from istiod and the published roots.
func configuration(ctx context.Context) (*tls.Config, error) {
	token, err := os.ReadFile(tokenFile)
	if err != nil {
		return nil, err
	}
	root, err := os.ReadFile(rootFile)
	if err != nil {
		return nil, err
	}
	istiod := cmp.Or(os.Getenv("ISTIOD"), "istiod.istio-system.svc:15012")
	host, _, err := net.SplitHostPort(istiod)
	if err != nil {
		return nil, fmt.Errorf("ISTIOD: %w", err)
	}
	signed, err := csr.Get(ctx, csr.Request{
		Address: istiod, ServerName: host, Cluster: cmp.Or(os.Getenv("CLUSTER_ID"), "Kubernetes"), Token: string(token), Root: root,
	})
	if err != nil {
		return nil, fmt.Errorf("requesting a certificate from istiod at %s: %w", istiod, err)
	}
	certificate, err := signed.TLSCertificate()
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(root)
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate}, RootCAs: roots, ClientCAs: roots}, nil
}

func identity(certificate *x509.Certificate) string {
	if len(certificate.URIs) != 1 {
		return "a peer without an identity"
	}
	return certificate.URIs[0].String()
}
