// SPDX-License-Identifier: Apache-2.0

// Command envtest fetches a ready-made kube-apiserver with its etcd, which take ten minutes to build, from the index of
// setup-envtest (sigs.k8s.io/controller-runtime/tools/setup-envtest). It exits with 1 and the reason, and leaves nothing, where
// they cannot be had in seconds.
//
//	envtest --kubernetes 1.37.2 --apiserver .build/kubernetes-1.37.2/kube-apiserver --etcd .build/etcd-3.7.3/etcd
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"sigs.k8s.io/controller-runtime/tools/setup-envtest/remote"
	"sigs.k8s.io/controller-runtime/tools/setup-envtest/versions"

	"github.com/istiod-agent/istiod-agent/cli/terminal"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], terminal.NewWriter(os.Stderr))
	stop()
	if err != nil {
		os.Exit(1)
	}
}

func run(ctx context.Context, arguments []string, errs io.Writer) error {
	r := request{
		platform: versions.Platform{OS: runtime.GOOS, Arch: runtime.GOARCH},
		answer:   5 * time.Second, download: 2 * time.Minute, report: 5 * time.Second,
	}
	flags := flag.NewFlagSet("envtest", flag.ExitOnError)
	pinned := flags.String("kubernetes", "", "`version` that the tests are written for: this one, or an earlier patch release")
	flags.StringVar(&r.index, "index", remote.DefaultIndexURL, "`URL` of the index")
	flags.StringVar(&r.apiserver, "apiserver", "", "`file` to write kube-apiserver to")
	flags.StringVar(&r.etcd, "etcd", "", "`file` to write etcd to")
	_ = flags.Parse(arguments) // ExitOnError

	version, err := concrete(*pinned)
	if err == nil && (r.apiserver == "" || r.etcd == "") {
		err = fmt.Errorf("--apiserver and --etcd are required")
	}
	if err == nil {
		http.DefaultClient.Transport = limited{http.DefaultTransport, r.index} // the library uses this client
		r.kubernetes = version
		version, err = fetch(ctx, r, errs)
	}
	if err != nil {
		fmt.Fprintf(errs, "No ready-made kube-apiserver %s: %s.\n", *pinned, terminal.OneLine(err.Error()))
		return err
	}
	fmt.Fprintf(errs, "Using kube-apiserver %s and its etcd, ready-made, from %s.\n", version, r.index)
	return nil
}

func concrete(text string) (versions.Concrete, error) {
	spec, err := versions.FromExpr(text)
	if err != nil || spec.AsConcrete() == nil {
		return versions.Concrete{}, fmt.Errorf("--kubernetes: expected a version such as 1.37.2, got %q", text)
	}
	return *spec.AsConcrete(), nil
}

// The limits of what a server may answer, in bytes: twenty times the index of 2026, and six times its largest archive.
const (
	maxIndex   = 4 << 20
	maxArchive = 512 << 20
)

// limited cuts each answer at the limit of its kind: the library reads the whole index into memory.
type limited struct {
	next  http.RoundTripper
	index string
}

func (l limited) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := l.next.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	asked := request
	for asked.Response != nil { // a redirection
		asked = asked.Response.Request
	}
	limit := int64(maxArchive)
	if asked.URL.String() == l.index {
		limit = maxIndex
	}
	response.Body = http.MaxBytesReader(nil, response.Body, limit)
	return response, nil
}
