// SPDX-License-Identifier: Apache-2.0

// Package plugin runs `kubectl istiod-agent` in the test's process.
package plugin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/cli"
)

// Result of a run.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Run runs a command with text on standard input.
func Run(ctx context.Context, stdin string, arguments ...string) Result {
	var stdout, stderr bytes.Buffer
	code := cli.Run(ctx, arguments, strings.NewReader(stdin), &stdout, &stderr)
	return Result{ownKubeconfig.ReplaceAllString(stdout.String(), ""), ownKubeconfig.ReplaceAllString(stderr.String(), ""), code}
}

// ownKubeconfig is the file of a test in the commands that the plugin prints. Result has them without it.
var ownKubeconfig = regexp.MustCompile(` --kubeconfig=/[^\s;)]+`)

func (r Result) String() string {
	return fmt.Sprintf("exit code %d\n%s\n%s", r.Code, r.Stdout, r.Stderr)
}

// Check returns an error unless the command ended with the code and printed all texts.
func (r Result) Check(code int, texts ...string) error {
	var missing []error
	for _, text := range texts {
		if !strings.Contains(r.Stdout+r.Stderr, text) {
			missing = append(missing, fmt.Errorf("it does not print %q", text))
		}
	}
	if r.Code != code {
		missing = append(missing, fmt.Errorf("want exit code %d", code))
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s", errors.Join(missing...), r)
}

// Wants is Check that fails the test.
func (r Result) Wants(t *testing.T, code int, texts ...string) {
	t.Helper()
	if err := r.Check(code, texts...); err != nil {
		t.Error(err)
	}
}

// Kubeconfig writes a kubeconfig with the current context of each file, by the names given.
func Kubeconfig(file string, contexts map[string]string) error {
	all := clientcmdapi.NewConfig()
	for name, from := range contexts {
		one, err := clientcmd.LoadFromFile(from)
		if err != nil {
			return err
		}
		current := one.Contexts[one.CurrentContext]
		all.Clusters[name], all.AuthInfos[name] = one.Clusters[current.Cluster], one.AuthInfos[current.AuthInfo]
		all.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	}
	content, err := clientcmd.Write(*all)
	if err != nil {
		return err
	}
	return os.WriteFile(file, content, 0o600)
}

// Unreachable writes a kubeconfig with an API server that does not answer.
func Unreachable(file string) error {
	config := clientcmdapi.NewConfig()
	config.Clusters["away"] = &clientcmdapi.Cluster{Server: "https://127.0.0.1:1"}
	config.AuthInfos["away"] = &clientcmdapi.AuthInfo{}
	config.Contexts["away"] = &clientcmdapi.Context{Cluster: "away", AuthInfo: "away"}
	config.CurrentContext = "away"
	return clientcmd.WriteToFile(*config, file)
}

// Parse decodes the output of -o json or yaml. The exit code must be 0.
func (r Result) Parse(t *testing.T, into any) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(r.Stdout), into); err != nil || r.Code != 0 {
		t.Errorf("%v: %s", err, r)
	}
}
