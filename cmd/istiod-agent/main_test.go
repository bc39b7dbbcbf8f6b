// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/pflag"

	"github.com/istiod-agent/istiod-agent/agent/ca/vault"
	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/patches"
)

// clear takes away what this test's own environment may have set.
func clearEnvironment(t *testing.T) {
	t.Helper()
	for _, name := range []string{"KUBECONFIG", "KUBERNETES_SERVICE_HOST", "POD_NAME", "POD_NAMESPACE", "SERVICE_ACCOUNT"} {
		t.Setenv(name, "")
	}
}

func TestCommandsThatCannotWorkFailAndSayWhy(t *testing.T) {
	clearEnvironment(t)
	for name, test := range map[string]struct {
		environment map[string]string
		arguments   []string
		want        []string
	}{
		"nobody's": {nil, []string{"init-container"}, []string{"--namespace (POD_NAMESPACE)", "--service-account (SERVICE_ACCOUNT)"}},
		"a directory on a disk": {
			map[string]string{"POD_NAMESPACE": "istio-system", "SERVICE_ACCOUNT": "istiod"},
			[]string{"sidecar", "--cacerts-dir", "/proc"},
			[]string{"/proc is not in memory", "--allow-disk"},
		},
		"no directory": {
			map[string]string{"POD_NAMESPACE": "istio-system", "SERVICE_ACCOUNT": "istiod", "ISTIOD_AGENT_CACERTS_DIR": "/no/such/directory"},
			[]string{"init-container"},
			[]string{"/no/such/directory"},
		},
		"no token for the API server": {
			map[string]string{"POD_NAMESPACE": "istio-system", "SERVICE_ACCOUNT": "istiod", "KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "1"},
			[]string{"init-container", "--cacerts-dir", t.TempDir(), "--allow-disk"},
			[]string{"/var/run/secrets/kubernetes.io/serviceaccount/token", "automountServiceAccountToken"},
		},
		"no API server": {
			map[string]string{"POD_NAMESPACE": "istio-system", "SERVICE_ACCOUNT": "istiod"},
			[]string{"init-container", "--cacerts-dir", t.TempDir(), "--allow-disk"},
			[]string{"run in a Pod, or set --kubeconfig or --spec"},
		},
		"a variable that is no number": {
			map[string]string{"ISTIOD_AGENT_PORT": "many"}, []string{"sidecar", "--spec", "x"}, []string{"environment variable ISTIOD_AGENT_PORT"},
		},
		"a port that is none": {nil, []string{"sidecar", "--spec", "x", "--port", "70000"}, []string{"--port: expected 1 to 65535, or 0 for none, got 70000"}},
		"a log format":        {nil, []string{"sidecar", "--spec", "x", "--log-format", "xml"}, []string{`--log-format: expected json or text, got "xml"`}},
	} {
		t.Run(name, func(t *testing.T) {
			for key, value := range test.environment {
				t.Setenv(key, value)
			}
			log := filepath.Join(t.TempDir(), "termination-log")
			if err := os.WriteFile(log, []byte("of an earlier run, and longer than what follows"+strings.Repeat(".", 200)), 0o600); err != nil {
				t.Fatal(err)
			}
			var stdout, stderr bytes.Buffer
			if code := run(t.Context(), test.arguments, &stdout, &stderr, log); code == 0 {
				t.Error("exit code 0 would let istiod start without certificates")
			}
			said, err := os.ReadFile(log)
			if err != nil || !strings.HasSuffix(stderr.String(), string(said)) || !strings.HasPrefix(string(said), "istiod-agent: ") {
				t.Errorf("termination log: %q (%v), standard error: %q", said, err, &stderr)
			}
			for _, want := range test.want {
				if !strings.Contains(string(said), want) {
					t.Errorf("want %q in %q", want, said)
				}
			}
			if stdout.Len() > 0 {
				t.Errorf("standard output: want nothing, got %q", &stdout)
			}
		})
	}
}

// What others wrote may be in the last words: kubectl describe shows them as they are.
func TestLastWordsArePlain(t *testing.T) {
	clearEnvironment(t)
	log := filepath.Join(t.TempDir(), "termination-log")
	if err := os.WriteFile(log, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	hostile := "a\x00b\x1b[2Jc\u202ed\ne\xff" + strings.Repeat("f", 10)
	var stdout, stderr bytes.Buffer
	_ = run(t.Context(), []string{hostile}, &stdout, &stderr, log)
	said, err := os.ReadFile(log)
	if err != nil || len(said) == 0 || strings.ContainsFunc(strings.TrimSuffix(string(said), "\n"), func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }) {
		t.Errorf("%q, %v", said, err)
	}
	if stderr.String() != string(said) {
		t.Errorf("standard error: %q", &stderr)
	}
}

func TestNoTerminationLogIsMadeWhereThereIsNone(t *testing.T) {
	clearEnvironment(t)
	log := filepath.Join(t.TempDir(), "termination-log")
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"sidecar"}, &stdout, &stderr, log); code == 0 {
		t.Error("exit code 0")
	}
	if _, err := os.Stat(log); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("want no file, got %v", err)
	}
}

func TestVersionSucceeds(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"version"}, &stdout, &stderr, ""); code != 0 {
		t.Errorf("exit code %d: %s", code, &stderr)
	}
	if !strings.Contains(stdout.String(), "v0.0.0-dev") {
		t.Errorf("want the version, got %q", &stdout)
	}
}

func TestAMistypedCommandIsNamed(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"side-car"}, &stdout, &stderr, ""); code == 0 {
		t.Error("exit code 0")
	}
	if !strings.Contains(stderr.String(), `"side-car"`) {
		t.Errorf("want the mistyped word, got %q", &stderr)
	}
}

func TestEveryFlagNamesItsVariable(t *testing.T) {
	for _, cmd := range newCommand().Commands() {
		if cmd.Name() == "version" {
			continue
		}
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Name != "help" && !strings.HasSuffix(f.Usage, "[$"+variable(f)+"]") {
				t.Errorf("%s --%s: %q", cmd.Name(), f.Name, f.Usage)
			}
		})
	}
}

// Both containers plan by istiod's own variable, unless the flag or its variable says otherwise.
func TestTheWorkloadsTTL(t *testing.T) {
	const own = "ISTIOD_AGENT_WORKLOAD_TTL"
	for name, test := range map[string]struct {
		environment map[string]string
		arguments   []string
		want        time.Duration
		warning     string
	}{
		"by default":             {nil, nil, 24 * time.Hour, ""},
		"istiod's":               {map[string]string{istio.WorkloadTTLVariable: "72h"}, nil, 72 * time.Hour, ""},
		"less than a day":        {map[string]string{istio.WorkloadTTLVariable: "90m"}, nil, 90 * time.Minute, ""},
		"the flag before it":     {map[string]string{istio.WorkloadTTLVariable: "72h"}, []string{"--workload-ttl=48h"}, 48 * time.Hour, ""},
		"its own variable":       {map[string]string{istio.WorkloadTTLVariable: "72h", own: "36h"}, nil, 36 * time.Hour, ""},
		"the flag, though wrong": {map[string]string{istio.WorkloadTTLVariable: "x"}, []string{"--workload-ttl=48h"}, 48 * time.Hour, ""},
		"days":                   {map[string]string{istio.WorkloadTTLVariable: "3d"}, nil, 24 * time.Hour, `environment variable DEFAULT_WORKLOAD_CERT_TTL: expected a positive duration such as 24h, got "3d"`},
		"a number":               {map[string]string{istio.WorkloadTTLVariable: "86400"}, nil, 24 * time.Hour, `got "86400"`},
		"nothing":                {map[string]string{istio.WorkloadTTLVariable: "0s"}, nil, 24 * time.Hour, `got "0s"`},
		"negative":               {map[string]string{istio.WorkloadTTLVariable: "-1h"}, nil, 24 * time.Hour, `got "-1h"`},
		"the longest":            {map[string]string{istio.WorkloadTTLVariable: "2562047h47m16.854775807s"}, nil, 1<<63 - 1, ""},
		"longer":                 {map[string]string{istio.WorkloadTTLVariable: "2562048h"}, nil, 24 * time.Hour, `got "2562048h"`},
		"very long":              {map[string]string{istio.WorkloadTTLVariable: strings.Repeat("\x1b", 1<<20)}, nil, 24 * time.Hour, `got "\x1b`},
	} {
		t.Run(name, func(t *testing.T) {
			for _, variable := range []string{istio.WorkloadTTLVariable, own} {
				t.Setenv(variable, test.environment[variable])
			}
			var o options
			flags := pflag.NewFlagSet("", pflag.ContinueOnError)
			o.common(flags)
			if err := errors.Join(flags.Parse(test.arguments), setFromEnvironment(flags)); err != nil {
				t.Fatal(err)
			}
			warning := o.setWorkloadTTL(flags)
			if o.workloadTTL != test.want || !strings.Contains(warning, test.warning) || (warning == "") != (test.warning == "") || len(warning) > 1024 {
				t.Errorf("got %s, %q", o.workloadTTL, warning)
			}
		})
	}
	for _, cmd := range newCommand().Commands() {
		if cmd.Name() != "version" && cmd.Flags().Lookup(workloadTTLFlag) == nil {
			t.Errorf("%s has no such flag", cmd.Name())
		}
	}
}

func TestTheInjectedProbeFindsItsPort(t *testing.T) {
	if healthPort != patches.HealthPort {
		t.Errorf("the sidecar serves on %d, the injected probe asks %d", healthPort, patches.HealthPort)
	}
}

func TestTheInjectedTokenIsFound(t *testing.T) {
	if mounted := patches.VaultTokenPath + "/token"; vault.TokenFile != mounted {
		t.Errorf("the agent reads %s, the injection mounts %s", vault.TokenFile, mounted)
	}
}
