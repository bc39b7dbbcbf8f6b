// SPDX-License-Identifier: Apache-2.0

package clusters

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"github.com/istiod-agent/istiod-agent/cli/shell"
	"github.com/istiod-agent/istiod-agent/internal/helm"
)

const kubeconfig = `
apiVersion: v1
kind: Config
current-context: one
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: u, user: {}}]
contexts:
- {name: one, context: {cluster: c, user: u, namespace: mesh}}
- {name: it's two, context: {cluster: c, user: u}}
- {name: broken, context: {cluster: gone, user: u}}
`

func write(t *testing.T, content string) *Flags {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return &Flags{Kubeconfig: file}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		flags         *Flags
		context, want string // of the error
		opened        string
	}{
		"the current one":     {write(t, kubeconfig), "", "", "one"},
		"another":             {write(t, kubeconfig), "it's two", "", "it's two"},
		"one that is not":     {write(t, kubeconfig), "gone", `the kubeconfig has no context "gone"; kubectl config get-contexts lists its contexts`, "gone"},
		"one without cluster": {write(t, kubeconfig), "broken", "reading context broken of the kubeconfig", "broken"},
		"no current one":      {write(t, strings.Replace(kubeconfig, "current-context: one\n", "", 1)), "", "the kubeconfig has no current context; name one by --context", ""},
		"no kubeconfig":       {&Flags{Kubeconfig: "/nothing/there"}, "", "reading the kubeconfig", ""},
		"garbage":             {write(t, "{"), "", "reading the kubeconfig", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster, err := test.flags.Open(test.context)
			if cluster.Context != test.opened {
				t.Errorf("opened %q", cluster.Context)
			}
			switch {
			case test.want == "" && (err != nil || cluster.Client == nil):
				t.Errorf("got %v", err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}

// Every context is asked once, and the answers come in the order of the flags; one that fails keeps nobody else.
func TestForEach(t *testing.T) {
	t.Parallel()
	query := func(cluster *Cluster, err error) string {
		if err != nil {
			return cluster.Context + " fails"
		}
		return cluster.Context
	}
	flags := write(t, kubeconfig)
	if got := ForEach(flags, query); !slices.Equal(got, []string{"one"}) {
		t.Errorf("got %q", got)
	}
	flags.Contexts = []string{"gone", "it's two", "one", "it's two"}
	if got := ForEach(flags, query); !slices.Equal(got, []string{"gone fails", "it's two", "one"}) {
		t.Errorf("got %q", got)
	}
	if got := ForEach(&Flags{Kubeconfig: "/nothing/there"}, query); !slices.Equal(got, []string{"(none) fails"}) {
		t.Errorf("got %q", got)
	}
}

// Many contexts are queried in turns, and share the kubeconfig; the user of one with a credential plugin is not shared.
func TestManyContexts(t *testing.T) {
	t.Parallel()
	content := strings.Replace(kubeconfig, "user: {}", "user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: x, interactiveMode: Never, installHint: \"a\\u001bb\"}}", 1)
	flags, want := write(t, content), []string{}
	file, err := os.ReadFile(flags.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 * parallel {
		name := fmt.Sprint("context-", i)
		file = fmt.Appendf(file, "- {name: %s, context: {cluster: c, user: u}}\n", name)
		flags.Contexts, want = append(flags.Contexts, name), append(want, name)
	}
	if err := os.WriteFile(flags.Kubeconfig, file, 0o600); err != nil {
		t.Fatal(err)
	}
	var running atomic.Int32
	full := make(chan struct{})
	fill := sync.OnceFunc(func() { close(full) })
	got := ForEach(flags, func(cluster *Cluster, err error) string {
		defer running.Add(-1)
		switch now := running.Add(1); {
		case now == parallel:
			fill()
		case now > parallel:
			t.Errorf("%d at the same time", now)
		}
		<-full // the first ones wait until as many run
		if err != nil {
			t.Error(err)
		}
		return cluster.Context
	})
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestContextsAreCompleted(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		kubeconfig, flag string
		want             []string
	}{
		{kubeconfig, "context", []string{"broken", "it's two", "one"}},
		{kubeconfig, "cluster", []string{"c"}},
		{kubeconfig, "user", []string{"u"}},
		{"{", "context", nil},
	} {
		flags, cmd := write(t, test.kubeconfig), &cobra.Command{}
		file := flags.Kubeconfig
		flags.AddContexts(cmd, "read")
		flags.Add(cmd)
		flags.Kubeconfig = file
		complete, _ := cmd.GetFlagCompletionFunc(test.flag)
		if got, directive := complete(cmd, nil, ""); !slices.Equal(got, test.want) || directive != cobra.ShellCompDirectiveNoFileComp {
			t.Errorf("--%s: got %q", test.flag, got)
		}
	}
}

// Without --request-timeout, only the limit of the caller counts.
func TestLimit(t *testing.T) {
	t.Parallel()
	for timeout, want := range map[time.Duration]bool{0: false, time.Hour: true} {
		ctx, cancel := (&Cluster{Config: &rest.Config{Timeout: timeout}}).Limit(t.Context())
		if _, limited := ctx.Deadline(); limited != want || ctx.Err() != nil {
			t.Errorf("%s: got %t, %v", timeout, limited, ctx.Err())
		}
		cancel()
	}
}

// A printed command reaches the same cluster as the same user, also from another folder.
func TestArguments(t *testing.T) {
	t.Parallel()
	folder, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	quoted := func(name string) string { return shell.Quote(filepath.Join(folder, name)) }
	flags, cmd := &Flags{}, &cobra.Command{}
	flags.Add(cmd)
	if got := flags.Arguments(); got != "" {
		t.Errorf("got %q", got)
	}
	if err := cmd.ParseFlags([]string{
		"--kubeconfig=it's; mine", "--tls-server-name=$(x)", "--certificate-authority=ca.pem", "--client-certificate=/tls.pem", "--client-key=key.pem", "--token=persons-own",
	}); err != nil {
		t.Fatal(err)
	}
	want := " --kubeconfig=" + quoted("it's; mine") + " --tls-server-name='$(x)' --certificate-authority=" + quoted("ca.pem") + " --client-certificate=/tls.pem --client-key=" + quoted("key.pem")
	if got := flags.Arguments(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// What an API server refuses is said with what was being done, and what to do about it.
func TestExplain(t *testing.T) {
	t.Parallel()
	things := schema.GroupResource{Group: "g", Resource: "things"}
	for name, test := range map[string]struct {
		err  error
		want []string
	}{
		"a missing right": {apierrors.NewForbidden(things, "", errors.New("no")), []string{"listing things: ", "; get the right to list things.g/part (kubectl --context='it'\\''s two' auth can-i list things.g --subresource=part -A)"}},
		"no login":        {apierrors.NewUnauthorized("who are you"), []string{"listing things: who are you; get the right to"}},
		"no CRD":          {&meta.NoKindMatchError{}, []string{"listing things: the cluster has no things.g/part; install the CRDs: " + helm.Install("--set crds.install=true")}},
		"no such object":  {apierrors.NewNotFound(things, "x"), []string{`listing things: things.g "x" not found`}},
		"no answer":       {errors.New("connection refused"), []string{"listing things: connection refused; check the cluster's address and your login: kubectl --context='it'\\''s two' version"}},
	} {
		err := (&Cluster{arguments: ` --context='it'\''s two'`}).Explain("listing things", "list", "things.g/part", test.err)
		for _, want := range test.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want %s", name, err, want)
			}
		}
	}
	if err := (&Cluster{}).Explain("", "", "", nil); err != nil {
		t.Error(err)
	}
}

// What another program has written, or nobody can read, is no reason to fail.
func TestAForeignStatus(t *testing.T) {
	t.Parallel()
	object := &unstructured.Unstructured{Object: map[string]any{
		"metadata": map[string]any{"name": "mesh"}, "spec": map[string]any{"hosts": "text"}, "status": map[string]any{"certificates": "text", "state": int64(3)},
	}}
	if got := IssuedCertificate(object); got.Name != "mesh" || got.Spec.Hosts != nil || got.Status.Certificates != nil {
		t.Errorf("got %+v", got)
	}
}
