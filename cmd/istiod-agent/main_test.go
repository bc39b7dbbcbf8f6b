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
)

func TestCommandsThatNeedVaultFailAndSayWhy(t *testing.T) {
	for _, command := range []string{"init-container", "sidecar"} {
		t.Run(command, func(t *testing.T) {
			log := filepath.Join(t.TempDir(), "termination-log")
			if err := os.WriteFile(log, []byte("of an earlier run, and longer than what follows"+strings.Repeat(".", 200)), 0o600); err != nil {
				t.Fatal(err)
			}
			var stdout, stderr bytes.Buffer
			if code := run([]string{command}, &stdout, &stderr, log); code == 0 {
				t.Error("exit code 0 would let istiod start without certificates")
			}
			const want = "istiod-agent: this build cannot obtain certificates yet, and by design istiod will not start without them\n"
			if got := stderr.String(); got != want {
				t.Errorf("standard error: got %q, want %q", got, want)
			}
			if stdout.Len() > 0 {
				t.Errorf("standard output: want nothing, got %q", &stdout)
			}
			if got, err := os.ReadFile(log); err != nil || string(got) != want {
				t.Errorf("termination log: got %q (%v), want %q", got, err, want)
			}
		})
	}
}

func TestNoTerminationLogIsMadeWhereThereIsNone(t *testing.T) {
	log := filepath.Join(t.TempDir(), "termination-log")
	var stdout, stderr bytes.Buffer
	if code := run([]string{"sidecar"}, &stdout, &stderr, log); code == 0 {
		t.Error("exit code 0")
	}
	if _, err := os.Stat(log); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("want no file, got %v", err)
	}
}

func TestVersionSucceeds(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if code := run([]string{"version"}, &stdout, &stderr, ""); code != 0 {
		t.Errorf("exit code %d: %s", code, &stderr)
	}
	if !strings.Contains(stdout.String(), "v0.0.0-dev") {
		t.Errorf("want the version, got %q", &stdout)
	}
}

func TestAMistypedCommandIsNamed(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if code := run([]string{"side-car"}, &stdout, &stderr, ""); code == 0 {
		t.Error("exit code 0")
	}
	if !strings.Contains(stderr.String(), `"side-car"`) {
		t.Errorf("want the mistyped word, got %q", &stderr)
	}
}
