// SPDX-License-Identifier: Apache-2.0

// Package clisetup tests the plugin's commands vault and check with the webhook and a Vault.
package clisetup

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
	"k8s.io/client-go/kubernetes"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/check"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istiodserver"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/plugin"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/serviceaccount"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
	"github.com/istiod-agent/istiod-agent/e2e/tests/vaultdocs"
)

var must = check.Must

const (
	namespace   = "istio-system"
	clusterName = "cluster-1"
	// asVault has this program stand in for Vault's command line.
	asVault = "CLISETUP_AS_VAULT"
)

var (
	shared *cluster.Cluster
	// kubeconfig is an administrator's.
	kubeconfig string
)

func TestMain(m *testing.M) {
	if os.Getenv(asVault) != "" {
		if err := vaultProgram(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		os.Exit(0)
	}
	cluster.Main(m, &shared, &webhookserver.Options{Values: helm.Values{"clusterName": clusterName}})
}

// vaultProgram does what the printed commands use of Vault's command line.
func vaultProgram(arguments []string) error {
	client, err := api.NewClient(nil) // which reads VAULT_ADDR and VAULT_TOKEN
	if err != nil {
		return err
	}
	ctx := context.Background()
	command := strings.Join(arguments[:min(2, len(arguments))], " ")
	switch {
	case command == "auth list" || command == "secrets list":
		if len(arguments) != 3 || arguments[2] != "-format=json" {
			return fmt.Errorf("the test does not know %q", arguments)
		}
		var mounts any
		if command == "auth list" {
			mounts, err = client.Sys().ListAuthWithContext(ctx)
		} else {
			mounts, err = client.Sys().ListMountsWithContext(ctx)
		}
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(mounts)
	case arguments[0] == "read":
		flags := flag.NewFlagSet("read", flag.ContinueOnError)
		field := flags.String("field", "", "")
		if err := flags.Parse(arguments[1:]); err != nil {
			return err
		}
		answer, err := client.Logical().ReadWithContext(ctx, flags.Arg(0))
		if err != nil {
			return err
		}
		if answer == nil || answer.Data[*field] == nil {
			return errors.New("no value found")
		}
		fmt.Print(answer.Data[*field])
		return nil
	}
	input, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	program := &vaultdocs.CLI{
		Client:  client,
		Read:    func(name string) (string, error) { content, err := os.ReadFile(name); return string(content), err },
		Warning: func(warning string) { fmt.Fprintln(os.Stderr, "warning:", warning) },
	}
	_, err = program.Run(ctx, vaultdocs.Call{Arguments: arguments, Input: string(input)})
	return err
}

// run runs the plugin with a file on standard input.
func run(t *testing.T, stdin string, arguments ...string) plugin.Result {
	t.Helper()
	r := plugin.Run(t.Context(), stdin, arguments...)
	if testing.Verbose() {
		t.Logf("kubectl istiod-agent %s\n%s", strings.Join(arguments, " "), r)
	}
	return r
}

// surroundings are istiod's Pod, the kubeconfig and the files of Vault's login, created once.
func surroundings(t *testing.T) (pod *agents.Pod, dir string) {
	t.Helper()
	ctx := t.Context()
	clients, err := kubernetes.NewForConfig(shared.Plane.Config)
	must(t, err)
	dir = t.TempDir()
	pod, err = agents.NewPod(ctx, shared, namespace, "istiod-0", filepath.Join(istiodserver.TmpfsDir(t), "cacerts"), dir)
	must(t, err)
	must(t, serviceaccount.Ensure(ctx, clients, "vault", "vault"))
	return pod, dir
}

func admin(t *testing.T) string {
	t.Helper()
	if kubeconfig == "" {
		var err error
		kubeconfig, err = shared.Plane.Kubeconfig("admin", "system:masters")
		must(t, err)
	}
	return kubeconfig
}
