// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/tools/setup-envtest/remote"
	"sigs.k8s.io/controller-runtime/tools/setup-envtest/versions"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/controlplane"
)

var platform = versions.Platform{OS: runtime.GOOS, Arch: runtime.GOARCH}

// published is what a server has: an index, and archives by name.
type published struct {
	index    string
	archives map[string][]byte
	// endless are paths whose answer does not end, silent those without any.
	endless, silent string
}

func (p *published) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch name := strings.TrimPrefix(r.URL.Path, "/"); {
	case name == p.silent:
		<-r.Context().Done()
	case name == p.endless:
		for r.Context().Err() == nil {
			if _, err := w.Write(bytes.Repeat([]byte("#"), 1<<20)); err != nil {
				return
			}
		}
	case name == "index.yaml" && p.index != "":
		fmt.Fprint(w, strings.ReplaceAll(p.index, "SERVER", "http://"+r.Host))
	case p.archives[name] != nil:
		_, _ = w.Write(p.archives[name])
	default:
		http.NotFound(w, r)
	}
}

// release is a part of an index with an archive.
func release(version, name string, archive []byte) string {
	sum := sha512.Sum512(archive)
	return fmt.Sprintf("  v%s:\n    %s:\n      hash: %s\n      selfLink: SERVER/%s\n", version, name, hex.EncodeToString(sum[:]), name)
}

func archiveName(version string) string {
	return fmt.Sprintf("envtest-v%s-%s-%s.tar.gz", version, platform.OS, platform.Arch)
}

// publish makes a server's content of an archive for each version.
func publish(archives map[string][]byte) *published {
	p := &published{index: "releases:\n", archives: map[string][]byte{}}
	for version, archive := range archives {
		p.index += release(version, archiveName(version), archive)
		p.archives[archiveName(version)] = archive
	}
	return p
}

// packed is an archive as the Kubernetes project lays it out.
func packed(t *testing.T, programs map[string]string) []byte {
	t.Helper()
	var archive bytes.Buffer
	zip, err := gzip.NewWriterLevel(&archive, gzip.BestSpeed)
	must(t, err)
	files := tar.NewWriter(zip)
	for _, name := range slices.Sorted(maps.Keys(programs)) {
		content := programs[name]
		must(t, files.WriteHeader(&tar.Header{Name: "controller-tools/envtest/" + name, Mode: 0o755, Size: int64(len(content)), Typeflag: tar.TypeReg}))
		_, err := io.WriteString(files, content)
		must(t, err)
	}
	must(t, files.Close())
	must(t, zip.Close())
	return archive.Bytes()
}

// scripts are programs that report versions, and do nothing else.
func scripts(t *testing.T, version string) []byte {
	t.Helper()
	return packed(t, map[string]string{
		"kube-apiserver": "#!/bin/sh\necho Kubernetes v" + version + "\n",
		"etcd":           "#!/bin/sh\necho etcd Version: 3.6.8\n",
		"kubectl":        "#!/bin/sh\n",
	})
}

// want returns a request to the server for Kubernetes 1.37.2.
func want(t *testing.T, server *httptest.Server) request {
	t.Helper()
	version, err := concrete("1.37.2")
	must(t, err)
	dir := t.TempDir()
	r := request{
		index: server.URL + "/index.yaml", kubernetes: version, platform: platform,
		apiserver: filepath.Join(dir, "kubernetes", "kube-apiserver"), etcd: filepath.Join(dir, "etcd", "etcd"),
		answer: time.Minute, download: time.Minute, report: time.Minute,
	}
	previous := http.DefaultClient.Transport
	http.DefaultClient.Transport = limited{http.DefaultTransport, r.index}
	t.Cleanup(func() { http.DefaultClient.Transport = previous })
	return r
}

func serve(t *testing.T, p *published) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)
	return server
}

// The API server and etcd of an archive run together.
func TestFetchedControlPlaneServes(t *testing.T) {
	apiserver, etcd, err := built.ControlPlane()
	must(t, err)
	programs := map[string]string{}
	for name, path := range map[string]string{"kube-apiserver": apiserver, "etcd": etcd} {
		content, err := os.ReadFile(path)
		must(t, err)
		programs[name] = string(content)
	}
	dir := t.TempDir()
	server := serve(t, publish(map[string][]byte{"1.37.2": packed(t, programs)}))
	var printed strings.Builder
	must(t, run(t.Context(), []string{
		"--kubernetes", "1.37.2", "--index", server.URL + "/index.yaml",
		"--apiserver", filepath.Join(dir, "kube-apiserver"), "--etcd", filepath.Join(dir, "etcd"),
	}, &printed))
	if want := "Using kube-apiserver 1.37.2 and its etcd, ready-made, from " + strings.TrimPrefix(server.URL, "http://") + ".\n"; printed.String() != want {
		t.Errorf("it printed %q, not %q", printed.String(), want)
	}
	t.Setenv("KUBEBUILDER_ASSETS", dir)
	plane, err := controlplane.Start()
	must(t, err)
	must(t, plane.Stop())
}

// make writes them where the tests look for the programs that it builds.
func TestMakeTarget(t *testing.T) {
	root, err := built.Root()
	must(t, err)
	dir := t.TempDir()
	command := func(index string) string {
		command := exec.CommandContext(t.Context(), "make", "-C", root, "--no-print-directory", "ready-made", "ENVTEST_INDEX="+index, "KUBERNETES=1.37.2",
			"APISERVER_BINARY="+filepath.Join(dir, "kube-apiserver"), "ETCD_BINARY="+filepath.Join(dir, "etcd"))
		command.Env = append(os.Environ(), "MAKEFLAGS=")
		output, err := command.CombinedOutput()
		if err != nil {
			t.Errorf("%v\n%s", err, output)
		}
		return string(output)
	}
	if output := command("http://127.0.0.1:1/"); !strings.HasSuffix(output, "\nkube-apiserver and etcd are built from source.\n") {
		t.Errorf("without a server it printed %q", output)
	}
	server := serve(t, publish(map[string][]byte{"1.37.0": scripts(t, "1.37.0")}))
	if output := command(server.URL + "/index.yaml"); !strings.HasPrefix(output, "Using kube-apiserver 1.37.0 and its etcd, ready-made") {
		t.Errorf("with a server it printed %q", output)
	}
	must(t, reports(t.Context(), filepath.Join(dir, "kube-apiserver"), "Kubernetes v1.37.0"))
	// It is no text for a shell.
	hostile := filepath.Join(dir, "hostile")
	must(t, os.Remove(filepath.Join(dir, "etcd")))
	if output := command(server.URL + "/index.yaml?;>" + hostile + ";`>" + hostile + "`'\""); !strings.HasPrefix(output, "Using kube-apiserver 1.37.0") {
		t.Errorf("with characters of a shell it printed %q", output)
	}
	if _, err := os.Stat(hostile); !os.IsNotExist(err) {
		t.Errorf("a shell ran a part of ENVTEST_INDEX: %v", err)
	}
	server.Close()
	if output := command(server.URL + "/index.yaml"); output != "" {
		t.Errorf("with both programs it printed %q", output)
	}
}

func TestFetchChoosesTheRelease(t *testing.T) {
	all := func(listed ...string) map[string][]byte {
		archives := map[string][]byte{}
		for _, version := range listed {
			archives[version] = scripts(t, version)
		}
		return archives
	}
	for name, test := range map[string]struct {
		published map[string][]byte
		want      string
	}{
		"the pinned version":                     {all("1.36.2", "1.37.0", "1.37.2", "1.37.3", "1.38.0"), "1.37.2"},
		"an earlier patch release":               {all("1.36.9", "1.37.0", "1.37.1", "1.37.3"), "1.37.1"},
		"never a later patch release":            {all("1.37.3"), ""},
		"never another minor release":            {all("1.36.2", "1.38.0"), ""},
		"an index without releases":              {all(), ""},
		"numbers are compared, not their digits": {all("1.37.10", "1.37.0"), "1.37.0"},
	} {
		t.Run(name, func(t *testing.T) {
			r := want(t, serve(t, publish(test.published)))
			version, err := fetch(t.Context(), r, io.Discard)
			if test.want == "" {
				wantNothing(t, r, err, "the index lists neither it nor an earlier 1.37")
				return
			}
			must(t, err)
			if version.String() != test.want {
				t.Errorf("version %s", version)
			}
			must(t, reports(t.Context(), r.apiserver, "Kubernetes v"+test.want))
			must(t, reports(t.Context(), r.etcd, "etcd Version: 3.6.8"))
			wantFiles(t, r, "etcd", "etcd/etcd", "kubernetes", "kubernetes/kube-apiserver")
		})
	}
}

// After a wrong answer, nothing of it is left.
func TestFetchRefuses(t *testing.T) {
	good, name := scripts(t, "1.37.2"), archiveName("1.37.2")
	of := func(archive []byte) *published { return publish(map[string][]byte{"1.37.2": archive}) }
	changed := func(change func(*published, *request)) func(*published, *request) { return change }
	for test, each := range map[string]struct {
		published *published
		change    func(*published, *request)
		want      string
	}{
		"no index":                {of(good), changed(func(p *published, _ *request) { p.index = "" }), "404 Not Found"},
		"no server":               {of(good), changed(func(_ *published, r *request) { r.index = "http://127.0.0.1:1/index.yaml" }), "connection refused"},
		"an index that is silent": {of(good), changed(func(p *published, r *request) { p.silent, r.answer = "index.yaml", 50*time.Millisecond }), "no answer within 50ms"},
		"an index without an end": {of(good), changed(func(p *published, _ *request) { p.endless = "index.yaml" }), "request body too large"},
		"an index of other text":  {of(good), changed(func(p *published, _ *request) { p.index = "<html>log in</html>" }), "unmarshal"},
		"another platform": {of(good), changed(func(p *published, _ *request) {
			p.index = "releases:\n" + release("1.37.2", "envtest-v1.37.2-plan9-mips.tar.gz", good)
		}), "the index lists neither it"},
		"no archive":                        {of(good), changed(func(p *published, _ *request) { delete(p.archives, name) }), "404 Not Found"},
		"an archive that is silent":         {of(good), changed(func(p *published, r *request) { p.silent, r.download = name, 50*time.Millisecond }), "the download took more than 50ms"},
		"an archive without an end":         {of(good), changed(func(p *published, _ *request) { p.endless = name }), "request body too large"},
		"an archive with another checksum":  {of(good), changed(func(p *published, _ *request) { p.archives[name] = scripts(t, "1.37.1") }), "checksum mismatch"},
		"an index without a checksum":       {of(good), changed(func(p *published, _ *request) { p.index = strings.ReplaceAll(p.index, "hash: ", "hash: ''\n      #") }), "checksum mismatch"},
		"an archive that is none":           {of([]byte("<html>log in</html>")), nil, "un-gz-ing"},
		"a part of an archive":              {of(good[:len(good)/2]), nil, "unable to"},
		"an archive without kube-apiserver": {of(packed(t, map[string]string{"etcd": "#!/bin/sh\n"})), nil, "kube-apiserver of the archive does not run"},
		"an archive without etcd":           {of(packed(t, map[string]string{"kube-apiserver": "#!/bin/sh\necho Kubernetes v1.37.2\n"})), nil, "etcd of the archive does not run"},
		"programs of another version":       {of(scripts(t, "1.36.0")), nil, `reports "Kubernetes v1.36.0", not "Kubernetes v1.37.2"`},
		"a longer version":                  {of(scripts(t, "1.37.20")), nil, `reports "Kubernetes v1.37.20"`},
		"a program that writes to the terminal": {
			of(packed(t, map[string]string{"kube-apiserver": "#!/bin/sh\nprintf '\\033[2J'\n"})), nil, `reports "\x1b[2J"`,
		},
	} {
		t.Run(test, func(t *testing.T) {
			r := want(t, serve(t, each.published))
			if each.change != nil {
				each.change(each.published, &r)
				http.DefaultClient.Transport = limited{http.DefaultTransport, r.index}
			}
			_, err := fetch(t.Context(), r, io.Discard)
			wantNothing(t, r, err, each.want)
		})
	}
}

// A redirection to another server is followed, within the limits of what was asked for.
func TestRedirectionsKeepTheLimit(t *testing.T) {
	other := serve(t, &published{endless: "index.yaml"})
	server := httptest.NewServer(http.RedirectHandler(other.URL+"/index.yaml", http.StatusFound))
	t.Cleanup(server.Close)
	r := want(t, server)
	_, err := fetch(t.Context(), r, io.Discard)
	wantNothing(t, r, err, "request body too large")
}

// Who can change an answer on the way cannot choose the programs: the index, with their checksums, is asked over HTTPS alone.
func TestIndexIsProtected(t *testing.T) {
	for name, test := range map[string]struct {
		index, redirected string
		refused           bool
	}{
		"HTTPS":                         {"https://a.test/i", "", false},
		"HTTP":                          {"http://a.test/i", "", true},
		"HTTP to this machine":          {"http://127.0.0.2:80/i", "", false},
		"HTTP to this machine, by IPv6": {"http://[::1]/i", "", false},
		"HTTP to this machine, by name": {"http://localhost:80/i", "", false},
		"HTTP to a name like that":      {"http://localhost.a.test/i", "", true},
		"HTTP to a name like 127.0.0.1": {"http://127.0.0.1.a.test/i", "", true},
		"HTTP to all addresses":         {"http://0.0.0.0/i", "", true},
		"redirected to HTTPS":           {"https://a.test/i", "https://b.test/i", false},
		"redirected to HTTP":            {"https://a.test/i", "http://b.test/i", true},
		"another scheme":                {"ftp://a.test/i", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			index, err := parseIndex(test.index)
			if err == nil {
				var response *http.Response
				client := http.Client{Transport: limited{answers(func(r *http.Request) *http.Response {
					if test.redirected == "" || r.URL.String() == test.redirected {
						return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}
					}
					return &http.Response{StatusCode: http.StatusFound, Header: http.Header{"Location": {test.redirected}}, Body: http.NoBody}
				}), index.String()}}
				if response, err = client.Get(index.String()); err == nil {
					must(t, response.Body.Close())
				}
			}
			if (err != nil) != test.refused || err != nil && !strings.Contains(err.Error(), "the index needs https") {
				t.Errorf("the error is %v", err)
			}
		})
	}
	// The archive has a checksum.
	client := http.Client{Transport: limited{answers(func(*http.Request) *http.Response {
		return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}
	}), "https://a.test/i"}}
	response, err := client.Get("http://a.test/archive")
	must(t, err)
	must(t, response.Body.Close())
}

type answers func(*http.Request) *http.Response

func (a answers) RoundTrip(r *http.Request) (*http.Response, error) {
	response := a(r)
	response.Request = r
	return response, nil
}

// The limit of an index does not depend on how its URL is written.
func TestLimitOfAnIndex(t *testing.T) {
	p := publish(map[string][]byte{"1.37.2": scripts(t, "1.37.2")})
	p.index = strings.Repeat("#", maxIndex) + "\n" + p.index
	address := strings.TrimPrefix(serve(t, p).URL, "http")
	for _, index := range []string{"http" + address + "/index.yaml", "HTTP" + address + "/index.yaml", "http" + address + "/index.yaml?a#", "http" + address + "/%69ndex.yaml"} {
		t.Chdir(t.TempDir())
		var printed strings.Builder
		if err := run(t.Context(), []string{"--kubernetes", "1.37.2", "--apiserver", "a", "--etcd", "e", "--index", index}, &printed); err == nil ||
			!strings.Contains(err.Error(), "request body too large") {
			t.Errorf("%s: the error is %v", index, err)
		}
	}
}

// A mirror's URL may have a password or a token.
func TestNoSecretOfTheIndexIsPrinted(t *testing.T) {
	server := serve(t, publish(map[string][]byte{"1.37.2": scripts(t, "1.37.2")}))
	address := strings.TrimPrefix(server.URL, "http://")
	for name, test := range map[string]struct{ index, want string }{
		"success":         {"http://user:SECRET@" + address + "/index.yaml?token=SECRET", "Using kube-apiserver 1.37.2 and its etcd, ready-made, from " + address + ".\n"},
		"no such file":    {"http://SECRET@" + address + "/SECRET?token=SECRET", "404"},
		"no server":       {"http://SECRET:SECRET@127.0.0.1:1/SECRET?token=SECRET'(SECRET)", "\": dial tcp"},
		"no HTTPS":        {"http://SECRET:SECRET@a.test/SECRET?token=SECRET", "a.test is asked over http"},
		"no URL":          {"http://SECRET:SECRET@a.test:SECRET/", "--index: expected a URL"},
		"without a host":  {"SECRET", "--index: expected a URL"},
		"an opaque one":   {"https:SECRET", "--index: expected a URL"},
		"a control in it": {"https://a.test/SECRET\x7f", "--index: expected a URL"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			t.Setenv("ENVTEST_INDEX", test.index)
			var printed strings.Builder
			_ = run(t.Context(), []string{"--kubernetes", "1.37.2", "--apiserver", "a", "--etcd", "e"}, &printed)
			if !strings.Contains(printed.String(), test.want) || strings.Contains(printed.String(), "SECRET") {
				t.Errorf("it printed %q, want %q", printed.String(), test.want)
			}
		})
	}
	if got := hosts("unable to fetch a (http://u:SECRET@a.test/SECRET?x=)SECRET): dial"); got != "unable to fetch a (http://a.test): dial" {
		t.Errorf("got %q", got)
	}
}

// Neither program is installed without the other.
func TestInstallBothOrNone(t *testing.T) {
	for _, blocked := range []string{"etcd", "kube-apiserver"} {
		t.Run(blocked, func(t *testing.T) {
			programs, dir := t.TempDir(), t.TempDir()
			r := request{apiserver: filepath.Join(dir, "kube-apiserver"), etcd: filepath.Join(dir, "etcd")}
			for name, version := range map[string]string{"kube-apiserver": "Kubernetes v1.37.2", "etcd": "etcd Version: 3.6.8"} {
				must(t, os.WriteFile(filepath.Join(programs, name), []byte("#!/bin/sh\necho "+version+"\n"), 0o700))
			}
			must(t, os.MkdirAll(filepath.Join(dir, blocked, "folder"), 0o700))
			version, err := concrete("1.37.2")
			must(t, err)
			if err := r.install(t.Context(), programs, version); err == nil {
				t.Error("no error")
			}
			left, err := os.ReadDir(dir)
			must(t, err)
			if len(left) != 1 || left[0].Name() != blocked {
				t.Errorf("there are %v", left)
			}
		})
	}
}

// The store does not look at the context.
func TestUnpackEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	version, err := concrete("1.37.2")
	must(t, err)
	client := interrupted{archive: scripts(t, "1.37.2"), cancel: cancel}
	dir := t.TempDir()
	t.Cleanup(func() { must(t, remove(dir)) })
	if _, err := unpack(ctx, client, dir, version, versions.PlatformItem{Platform: platform}, time.Minute, io.Discard); err == nil {
		t.Error("no error")
	}
}

// interrupted is a client whose context ends with the download.
type interrupted struct {
	remote.Client
	archive []byte
	cancel  func()
}

func (i interrupted) GetVersion(_ context.Context, _ versions.Concrete, _ versions.PlatformItem, out io.Writer) error {
	defer i.cancel()
	_, err := out.Write(i.archive)
	return err
}

func TestProgressOfTheDownload(t *testing.T) {
	written := make(chan string)
	progress := writerFunc(func(p []byte) (int, error) { written <- string(p); return len(p), nil })
	counted := &counter{Writer: io.Discard}
	_, _ = counted.Write(make([]byte, 3<<20))
	done := counted.report(time.Millisecond, progress)
	if got := <-written; got != "  kube-apiserver and etcd: 3 MiB downloaded\n" {
		t.Errorf("got %q", got)
	}
	go func() { // a line that is being written while done waits
		for range written {
			continue
		}
	}()
	done()
}

func TestRunNamesTheReason(t *testing.T) {
	for name, test := range map[string]struct {
		arguments []string
		want      string
	}{
		"no version": {[]string{"--apiserver", "a", "--etcd", "e"}, "No ready-made kube-apiserver : --kubernetes: expected a version such as 1.37.2, got \"\".\n"},
		"a range":    {[]string{"--kubernetes", "1.37.x", "--apiserver", "a", "--etcd", "e"}, "--kubernetes: expected a version"},
		"no file":    {[]string{"--kubernetes", "1.37.2"}, "--apiserver and --etcd are required"},
		"no server": {
			[]string{"--kubernetes", "1.37.2", "--apiserver", "a", "--etcd", "e", "--index", "http://127.0.0.1:1/"},
			"No ready-made kube-apiserver 1.37.2: unable to perform request to get index",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			var printed strings.Builder
			if err := run(t.Context(), test.arguments, &printed); err == nil || !strings.Contains(printed.String(), test.want) || strings.Count(printed.String(), "\n") != 1 {
				t.Errorf("error %v, printed %q", err, printed.String())
			}
		})
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// wantNothing requires an error with a text, and no file.
func wantNothing(t *testing.T, r request, err error, text string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("the error is %v, without %q", err, text)
	}
	for _, file := range found(t, r) {
		if file != "kubernetes" {
			t.Errorf("%s is left", file)
		}
	}
}

func wantFiles(t *testing.T, r request, files ...string) {
	t.Helper()
	if got := found(t, r); !slices.Equal(got, files) {
		t.Errorf("there are %q, not %q", got, files)
	}
}

func found(t *testing.T, r request) (files []string) {
	t.Helper()
	top := filepath.Dir(filepath.Dir(r.apiserver))
	must(t, filepath.Walk(top, func(path string, _ os.FileInfo, err error) error {
		if path != top {
			relative, relErr := filepath.Rel(top, path)
			must(t, relErr)
			files = append(files, relative)
		}
		return err
	}))
	return files
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
