// SPDX-License-Identifier: Apache-2.0

package clitrust

import (
	"context"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/plugin"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/recording"
)

var update = flag.Bool("update", false, "write the recordings in docs/pictures again")

// columns of the recordings' terminal.
const columns = 100

// session records commands for docs/pictures.
type session struct {
	name, dir  string
	kubeconfig string
	recording  recording.Recording
}

// newSession prepares a folder with new-root.pem.
func newSession(t *testing.T, name, title, kubeconfig, root string) *session {
	t.Helper()
	s := &session{name: name, dir: t.TempDir(), kubeconfig: kubeconfig, recording: recording.Recording{Title: title, Width: columns}}
	content, err := os.ReadFile(root)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(s.dir, "new-root.pem"), content, 0o600))
	return s
}

// run runs a shell's command line at a terminal, with the plugin that users have.
func (s *session) run(t *testing.T, line string) plugin.Result {
	t.Helper()
	program, err := built.Plugin(t.Context())
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	script := `kubectl() { shift; "$PLUGIN" "$@"; }; ` + line
	command := exec.CommandContext(ctx, "sh", "-c", script)
	command.Dir = s.dir
	command.Env = append(os.Environ(), "PLUGIN="+program, "KUBECONFIG="+s.kubeconfig, "TERM=xterm", "NO_COLOR=")
	if runtime.GOOS != "linux" { // without a terminal, and so without a recording
		output, err := command.CombinedOutput()
		must(t, err)
		return plugin.Result{Stdout: string(output)}
	}
	output, code, err := recording.Run(ctx, columns, command)
	must(t, err)
	s.recording.Append(line, output)
	printed := recording.Recording{Width: columns, Events: output}
	lines, err := printed.Final()
	must(t, err)
	return plugin.Result{Stdout: strings.Join(lines, "\n"), Code: code}
}

// comment records a comment for the picture's reader.
func (s *session) comment(text string) { s.recording.Append("# "+text, nil) }

// varying is what differs from run to run: serial numbers, fingerprints, times.
var varying = regexp.MustCompile(`[0-9a-f]{2}(?::[0-9a-f]{2})+|[0-9a-f]{8,}|\b(?:\d+[smhdy])+\b`)

func stable(lines []string) (compared []string) {
	for _, line := range lines {
		compared = append(compared, strings.Join(strings.Fields(varying.ReplaceAllString(line, "*")), " "))
	}
	return compared
}

// foreign is what no picture in the documentation may show.
var foreign = regexp.MustCompile(`127\.0\.0\.1|localhost|/tmp|/dev/|/home|/root/|` + secret.String())

// compare expects that the committed recording shows what the commands print now. With -update it writes the recording.
func (s *session) compare(t *testing.T) {
	t.Helper()
	if runtime.GOOS != "linux" {
		return
	}
	root, err := built.Root()
	must(t, err)
	file := filepath.Join(root, "docs", "pictures", s.name)
	if *update {
		content, err := s.recording.Encode()
		must(t, err)
		if found := foreign.Find(content); found != nil {
			t.Fatalf("the recording shows %.12s…", found)
		}
		must(t, os.WriteFile(file+".cast", content, 0o644))
		t.Log("draw it: go test ./testenv/recording -update")
		return
	}
	content, err := os.ReadFile(file + ".cast")
	must(t, err)
	committed, err := recording.Decode(content)
	must(t, err)
	before, err := committed.Final()
	must(t, err)
	now, err := s.recording.Final()
	must(t, err)
	if want, got := stable(before), stable(now); !slices.Equal(want, got) {
		t.Errorf("the recording is out of date: go test ./tests/clitrust -run TestTrust -update && go test ./testenv/recording -update; it shows\n%s\nand the commands print\n%s", strings.Join(want, "\n"), strings.Join(got, "\n"))
	}
}

// record records the commands that show a healthy mesh.
func record(t *testing.T, config, root string) {
	t.Helper()
	s := newSession(t, "status", "Is every istiod's CA in order, and is the root the right one?", config, root)
	// Columns to the right of these do not fit. cut counts bytes.
	s.run(t, "kubectl istiod-agent status --context cluster-1 --context cluster-2 | cut -c1-93").Wants(t, 0, "STATE", "cluster-2   istio-system   istiod-0   Ready")
	s.run(t, "kubectl istiod-agent verify --root new-root.pem --handshake -n default --context cluster-1 --context cluster-2").
		Wants(t, 0, "ok    cluster-1: istio-ca-root-cert in namespace default: is the root", "ok    cluster-2: handshake with cluster-1: succeeds")
	s.compare(t)
}
