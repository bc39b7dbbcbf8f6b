// SPDX-License-Identifier: Apache-2.0

// Command envtest fetches a ready-made kube-apiserver with its etcd, which take ten minutes to build, from the index of
// setup-envtest (sigs.k8s.io/controller-runtime/tools/setup-envtest). It exits with 1 and the reason, and leaves nothing, where
// they cannot be had in seconds.
//
//	envtest --kubernetes 1.37.2 --apiserver .build/kubernetes-1.37.2/kube-apiserver --etcd .build/etcd-3.7.3/etcd
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/signal"
	"regexp"
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
	flags.StringVar(&r.index, "index", "", "`URL` of the index; by default that in $ENVTEST_INDEX, else setup-envtest's own")
	flags.StringVar(&r.apiserver, "apiserver", "", "`file` to write kube-apiserver to")
	flags.StringVar(&r.etcd, "etcd", "", "`file` to write etcd to")
	_ = flags.Parse(arguments) // ExitOnError

	version, err := concrete(*pinned)
	if err == nil && (r.apiserver == "" || r.etcd == "") {
		err = fmt.Errorf("--apiserver and --etcd are required")
	}
	var index *url.URL
	if err == nil {
		index, err = parseIndex(cmp.Or(r.index, os.Getenv("ENVTEST_INDEX"), remote.DefaultIndexURL))
	}
	if err == nil {
		r.index = index.String()                                               // as the library asks for it
		http.DefaultClient.Transport = limited{http.DefaultTransport, r.index} // the library uses this client
		r.kubernetes = version
		version, err = fetch(ctx, r, errs)
	}
	if err != nil {
		fmt.Fprintf(errs, "No ready-made kube-apiserver %s: %s.\n", *pinned, terminal.OneLine(hosts(err.Error())))
		return err
	}
	fmt.Fprintf(errs, "Using kube-apiserver %s and its etcd, ready-made, from %s.\n", version, index.Host)
	return nil
}

func concrete(text string) (versions.Concrete, error) {
	spec, err := versions.FromExpr(text)
	if err != nil || spec.AsConcrete() == nil {
		return versions.Concrete{}, fmt.Errorf("--kubernetes: expected a version such as 1.37.2, got %q", text)
	}
	return *spec.AsConcrete(), nil
}

// urls matches a URL, in quotes or parentheses or as a word. Its groups are what may be printed of it.
var urls = regexp.MustCompile(`(\w+://)(?:[^\s"/?#]*@)?([^\s"/?#)]*)[^\s"]*?(\)?:?(?:["\s]|$))`)

// hosts leaves of each URL in a text the scheme and host: the rest may hold a password or a token.
func hosts(text string) string { return urls.ReplaceAllString(text, "$1$2$3") }

// parseIndex returns the URL of the index. Its errors do not quote it.
func parseIndex(text string) (*url.URL, error) {
	index, err := url.Parse(text)
	if err != nil || index.Host == "" {
		return nil, errors.New("--index: expected a URL such as " + remote.DefaultIndexURL)
	}
	return index, protected(index)
}

// protected returns an error if somebody on the way can change what the server answers. The index has the checksum of what is
// run, so that the archive itself needs no protection.
func protected(asked *url.URL) error {
	address, err := netip.ParseAddr(asked.Hostname())
	if asked.Scheme == "https" || asked.Hostname() == "localhost" || err == nil && address.Unmap().IsLoopback() {
		return nil
	}
	return fmt.Errorf("the index needs https, unless it is on this machine: %s is asked over %s", asked.Host, asked.Scheme)
}

// The limits of what a server may answer, in bytes: twenty times the index of 2026, and six times its largest archive.
const (
	maxIndex   = 4 << 20
	maxArchive = 512 << 20
)

// limited cuts each answer at the limit of its kind: the library reads the whole index into memory. It asks nobody for the index
// who can be replaced on the way.
type limited struct {
	next http.RoundTripper
	// index is the URL of the index, as url.URL writes it.
	index string
}

func (l limited) RoundTrip(request *http.Request) (*http.Response, error) {
	asked := request
	for asked.Response != nil { // a redirection
		asked = asked.Response.Request
	}
	limit := int64(maxArchive)
	if asked.URL.String() == l.index {
		limit = maxIndex
		if err := protected(request.URL); err != nil {
			return nil, err
		}
	}
	response, err := l.next.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	response.Body = http.MaxBytesReader(nil, response.Body, limit)
	return response, nil
}
