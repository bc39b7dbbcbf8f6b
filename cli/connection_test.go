// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/istiod-agent/istiod-agent/cli"
	"github.com/istiod-agent/istiod-agent/cli/clitest"
)

// refusingAPIServer refuses every request and records by whom it was sent.
type refusingAPIServer struct {
	*httptest.Server
	mu    sync.Mutex
	users map[string]bool
}

func newRefusingAPIServer(t *testing.T) *refusingAPIServer {
	t.Helper()
	s := &refusingAPIServer{users: map[string]bool{}}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.users[fmt.Sprintf("%s as %s of %s", r.Header.Get("Authorization"), r.Header.Get("Impersonate-User"), r.Header["Impersonate-Group"])] = true
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","message":"no","code":403}`)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func TestConnectionFlags(t *testing.T) {
	t.Parallel()
	one, two, three := newRefusingAPIServer(t), newRefusingAPIServer(t), newRefusingAPIServer(t)
	file := clitest.Write(t, filepath.Join(t.TempDir(), "config"), fmt.Sprintf(`
apiVersion: v1
kind: Config
clusters: [{name: one, cluster: {server: %q}}, {name: two, cluster: {server: %q}}]
users: [{name: of-context, user: {token: token-of-context}}, {name: other, user: {token: token-of-other}}]
contexts: [{name: one, context: {cluster: one, user: of-context}}, {name: two, context: {cluster: two, user: of-context}}]
`, one.URL, two.URL))
	both := []string{"--kubeconfig", file, "--context", "one", "--context", "two", "--insecure-skip-tls-verify"}
	chosen := " --kubeconfig=" + file + " --insecure-skip-tls-verify=true" // as a printed command names the cluster
	for name, test := range map[string]struct {
		arguments []string
		users     []string // of each server, in order
		printed   string
	}{
		"none":          {both, []string{"Bearer token-of-context as  of []", "Bearer token-of-context as  of []", ""}, "(kubectl --context=two" + chosen + " auth can-i list pods -A)"},
		"impersonation": {append([]string{"--as", "jane doe", "--as-group", "a", "--as-group", "b"}, both...), []string{"Bearer token-of-context as jane doe of [a b]", "Bearer token-of-context as jane doe of [a b]", ""}, "(kubectl --context=two" + chosen + " --as='jane doe' --as-group=a --as-group=b auth can-i list pods -A)"},
		"a token": {
			[]string{"--kubeconfig", file, "--context", "one", "--insecure-skip-tls-verify", "--token", "persons-own"},
			[]string{"Bearer persons-own as  of []", "", ""},
			"(kubectl --context=one" + chosen + " auth can-i list pods -A)",
		},
		"one token for two contexts": {append([]string{"--token", "persons-own"}, both...), []string{"", "", ""}, "--token: expected one --context"},
		"another user":               {append([]string{"--user", "other"}, both...), []string{"Bearer token-of-other as  of []", "Bearer token-of-other as  of []", ""}, "(kubectl --context=two" + chosen + " --user=other auth can-i list pods -A)"},
		"another server": {
			[]string{"--kubeconfig", file, "--context", "one", "--insecure-skip-tls-verify", "--server", three.URL},
			[]string{"", "", "Bearer token-of-context as  of []"},
			"one: listing istiod's Pods: ",
		},
		"another cluster": {
			[]string{"--kubeconfig", file, "--context", "one", "--insecure-skip-tls-verify", "--cluster", "two"},
			[]string{"", "Bearer token-of-context as  of []", ""},
			"(kubectl --context=one --kubeconfig=" + file + " --cluster=two --insecure-skip-tls-verify=true auth can-i list pods -A)",
		},
		"no kubeconfig": {
			[]string{"--kubeconfig", "/dev/null", "--insecure-skip-tls-verify", "--token", "persons-own", "--server", three.URL},
			[]string{"", "", "Bearer persons-own as  of []"},
			"(kubectl --kubeconfig=/dev/null --server=" + three.URL + " --insecure-skip-tls-verify=true auth can-i list pods -A)",
		},
		"one server for two contexts":  {append([]string{"-s", three.URL}, both...), []string{"", "", ""}, "--server and --cluster: expected one --context"},
		"one cluster for two contexts": {append([]string{"--cluster", "one"}, both...), []string{"", "", ""}, "--server and --cluster: expected one --context"},
		"an untrusted certificate":     {both[:len(both)-1], []string{"", "", ""}, "x509: certificate signed by unknown authority"},
		"a unit of time that is not":   {append([]string{"--request-timeout", "1 day"}, both...), []string{"", "", ""}, "Timeout must be a single integer in seconds"},
	} {
		for _, format := range []string{"", "json", "yaml"} {
			for _, server := range []*refusingAPIServer{one, two, three} {
				clear(server.users)
			}
			var out bytes.Buffer
			code := cli.Run(t.Context(), append([]string{"status", "-o", format}, test.arguments...), strings.NewReader(""), &out, &out)
			if code != 2 || format == "" && !strings.Contains(out.String(), test.printed) || strings.Contains(out.String(), "persons-own") {
				t.Errorf("%s: exit code %d\n%s", name, code, &out)
			}
			for i, server := range []*refusingAPIServer{one, two, three} {
				if got := strings.Join(slices.Collect(maps.Keys(server.users)), ", "); got != test.users[i] {
					t.Errorf("%s: server %d was asked by %q, want %q", name, i+1, got, test.users[i])
				}
			}
		}
	}
}

// Commands that read no cluster have no connection flags; the help of the others refers to options, which lists them.
func TestOptions(t *testing.T) {
	t.Parallel()
	const reference = `Use "kubectl istiod-agent options"`
	for command, connects := range map[string]bool{"check": true, "status": true, "verify": true, "renew": true, "rotate-root": true, "vault": true, "inject": false, "uninject": false, "version": false} {
		help := clitest.Run(t, "", command, "--help").Succeeds(t)
		if strings.Contains(help, reference) != connects || strings.Contains(help, "--as-uid") {
			t.Errorf("%s:\n%s", command, help)
		}
		if err := clitest.Run(t, "", command, "--token", "persons-own").Err; !connects && (err == nil || strings.Contains(err.Error(), "persons-own")) {
			t.Errorf("%s: got %v", command, err)
		}
	}
	options := clitest.Run(t, "", "options").Succeeds(t)
	for _, flag := range []string{"as", "as-group", "as-uid", "certificate-authority", "client-certificate", "client-key", "cluster", "insecure-skip-tls-verify", "proxy-url", "server", "tls-server-name", "token", "user"} {
		if !strings.Contains(options, " --"+flag+" ") {
			t.Errorf("options does not list --%s:\n%s", flag, options)
		}
	}
}
