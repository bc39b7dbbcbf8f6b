// SPDX-License-Identifier: Apache-2.0

package version

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

func TestVersionCommandLine(t *testing.T) {
	out, err := run(t)
	if err != nil {
		t.Fatal(err)
	}
	if want := Current().String() + "\n"; out != want {
		t.Errorf("got %q, want %q", out, want)
	}
	if fields := strings.Fields(out); len(fields) != 3 || !strings.Contains(fields[2], "/") {
		t.Errorf("want version, Go version and os/arch, got %q", out)
	}
}

func TestVersionCommandJSON(t *testing.T) {
	out, err := run(t, "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var got Build
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%q: %v", out, err)
	}
	if got != Current() {
		t.Errorf("got %+v, want %+v", got, Current())
	}
}

func TestVersionCommandUnknownFormat(t *testing.T) {
	out, err := run(t, "-o", "xml")
	if err == nil || !strings.Contains(err.Error(), `"xml"`) {
		t.Errorf("want an error that names the format, got %v and output %q", err, out)
	}
}

func run(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	var out bytes.Buffer
	cmd := Command()
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	// An empty slice, not nil: cobra takes nil for "the process's own arguments".
	cmd.SetArgs(append([]string{}, args...))
	err = cmd.Execute()
	return out.String(), err
}
