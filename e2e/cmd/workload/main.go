// SPDX-License-Identifier: Apache-2.0

// Command workload stands for a mesh's workload with its sidecar: it gets its certificate from istiod, and talks to
// others by mutual TLS, each trusting what its own istiod has told it to. It runs in the clusters that the tests start,
// where no proxy can: Envoy is not built from Go modules.
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

// Where Istio's injection mounts what a sidecar has.
const (
	tokenFile = "/var/run/secrets/tokens/istio-token"
	rootFile  = "/var/run/secrets/istio/root-cert.pem"
)

const usage = `workload pause                      waits
workload serve                      serves mutual TLS at port 8443 and answers with whom it talks
workload call ADDRESS [SECONDS]     calls one, by a clock that is so many seconds fast, and prints its answer
workload kill PROGRAM               kills all of this node's processes of that name that run in Pods
workload clock SECONDS PROGRAM...   has those processes see a clock that is so many seconds fast

ISTIOD is istiod's address, istiod.istio-system.svc:15012 by default; CLUSTER_ID what it calls this cluster.`

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

// serve gets a certificate for each connection anew, so that its answer always shows what istiod signs now.
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
	// A workload's certificate has no name of a host, but its identity. Its chain is verified here instead.
	roots := config.RootCAs
	config.InsecureSkipVerify = true
	var peer *x509.Certificate
	config.VerifyConnection = func(state tls.ConnectionState) error {
		peer = state.PeerCertificates[0]
		between := x509.NewCertPool()
		for _, certificate := range state.PeerCertificates[1:] {
			between.AddCert(certificate)
		}
		_, err := peer.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
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
	const most = 1 << 10
	body, err := io.ReadAll(io.LimitReader(answer.Body, most))
	if err != nil {
		return err
	}
	fmt.Printf("I talk to %s, whose certificate is from %s.\nIt talks to %s.\n", identity(peer), peer.Issuer, strings.TrimSpace(string(body)))
	return nil
}

// configuration has a certificate that istiod has just signed, and the roots that it has published.
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
		return nil, fmt.Errorf("getting a certificate from istiod at %s: %w", istiod, err)
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
		return "somebody without an identity"
	}
	return certificate.URIs[0].String()
}
