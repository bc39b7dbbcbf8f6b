// SPDX-License-Identifier: Apache-2.0

// Package demo runs `make demo` as a person does.
package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/process"
)

// The screen that a person is left with.
const lines, columns = 24, 100

// sections are the titles in their order: first what is built first.
var sections = []string{
	"The patch: istiod's Deployment of Istio's chart (-), and with the agent (+)",
	"The injection in a real API server",
	"istiod's Deployment: as applied (-) and as stored (+)",
	"The webhook's report",
	"What must hold",
	"The CA from Vault",
}

func TestDemo(t *testing.T) {
	d := start(t)
	d.wait(t, "the end", d.ended)
	if code := d.process.ExitCode(); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, process.LastLines(d.process.Output()))
	}
	d.checkSections(t, "Summary", "Next")
	d.checkScreen(t)
	d.checkNothingLeft(t, nil)
}

// What KEEP=1 prints works, and Ctrl-C, which a terminal sends to make and all its children, leaves nothing.
func TestKeep(t *testing.T) {
	const end = "Ctrl-C stops everything and removes it.\n"
	d := start(t, "KEEP=1")
	d.wait(t, "the commands to try", func() error { return d.prints(end) })
	d.checkSections(t, "Summary", "It is still running: try, in another terminal")
	d.checkScreen(t)
	d.checkCommands(t)
	children := d.children(t)
	for _, program := range []string{"demo", "kube-apiserver", "etcd", "istiod-agent-webhook", "istiod-agent", "vault", "pilot-discovery"} {
		if !slices.ContainsFunc(children, func(c child) bool { return c.name == program[:min(len(program), 15)] }) {
			t.Errorf("%s does not run", program)
		}
	}
	d.signal(t, -d.process.PID(), syscall.SIGINT)
	d.wait(t, "the end", func() error { return d.prints("\nEverything is stopped, and no file is left.\n") })
	d.checkNothingLeft(t, children)
}

// A signal to make alone, in the middle of a run, leaves nothing either.
func TestTerminated(t *testing.T) {
	d := start(t)
	d.wait(t, "Vault", func() error { return d.prints("start Vault on loopback") })
	children := d.children(t)
	d.signal(t, d.process.PID(), syscall.SIGTERM)
	d.wait(t, "the end", func() error { return d.prints("demo: interrupted; everything that was started is stopped\n") })
	d.checkNothingLeft(t, children)
}

// demo is a run of `make demo`.
type demo struct {
	process *process.Process
	root    string
	// temporary is where it has its files.
	temporary string
}

func start(t *testing.T, variables ...string) *demo {
	t.Helper()
	root, err := built.Root()
	must(t, err)
	d := &demo{root: root, temporary: t.TempDir()}
	command := exec.Command("make", append([]string{"--no-print-directory", "demo"}, variables...)...)
	command.Dir = root
	command.Env = append(os.Environ(), "MAKEFLAGS=", "TMPDIR="+d.temporary, "PATH="+d.path(t))
	d.process, err = process.Start("make demo", command)
	must(t, err)
	t.Cleanup(func() {
		children := d.children(t)
		must(t, d.process.Kill())
		for _, each := range children { // there are some only after a failure
			_ = syscall.Kill(each.pid, syscall.SIGKILL)
		}
	})
	return d
}

// path has kubectl, if `make node` has built it.
func (d *demo) path(t *testing.T) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(d.root, ".build", "kubernetes-*", "kubectl"))
	must(t, err)
	if len(found) == 0 {
		return os.Getenv("PATH")
	}
	return filepath.Dir(found[len(found)-1]) + ":" + os.Getenv("PATH")
}

// wait waits also for what must be built first.
func (d *demo) wait(t *testing.T, what string, condition func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for ended := false; ; {
		err := condition()
		if err == nil {
			return
		}
		if ended {
			t.Fatalf("make demo ended before %s (%v):\n%s", what, err, process.LastLines(d.process.Output()))
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waiting for %s (%v):\n%s", what, err, process.LastLines(d.process.Output()))
		case <-d.process.Exited():
			ended = true // with one more look
		case <-tick.C:
		}
	}
}

func (d *demo) prints(text string) error {
	if !strings.Contains(d.process.Output(), text) {
		return fmt.Errorf("%q is not printed", text)
	}
	return nil
}

func (d *demo) ended() error {
	select {
	case <-d.process.Exited():
		return nil
	default:
		return errors.New("it runs")
	}
}

// checkSections checks the order of the titles, and that nothing is printed for a terminal, and nothing secret.
func (d *demo) checkSections(t *testing.T, last ...string) {
	t.Helper()
	output, at := d.process.Output(), 0
	for _, title := range slices.Concat(sections, last) {
		i := strings.Index(output[at:], "\n"+title+"\n\n")
		if i < 0 {
			t.Errorf("no section %q after those before it", title)
			continue
		}
		at += i
	}
	if i := strings.IndexFunc(output, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); i >= 0 {
		t.Errorf("it prints a control character, after %q", output[max(i-40, 0):i])
	}
	// PEM, PEM in base64, Vault's tokens and that of the demo's Vault, and JSON Web Tokens.
	if found := regexp.MustCompile(`PRIVATE KEY|LS0tLS1|hvs\.|root-[A-Z2-7]{20}|eyJ`).FindString(output); found != "" {
		t.Errorf("it prints a secret that begins with %s", found)
	}
	for _, point := range []string{
		`\n  injected      .* (\d+) of \d+ points hold\n`,
		`\n  root          O=my-org, SHA-256 [0-9a-f]{12}…, given to Vault, and in `,
		`\n  istiod's CA   spiffe://cluster\.local/ns/istio-system/sa/istiod, until \d{4}-`,
		`\n  renewal       serial …[0-9a-f:]{11} to …[0-9a-f:]{11} in \d+\.\d s; istiod is still process \d+\n`,
		`\n  the CA's key  is in memory: \S+/ca-key\.pem \(0600, tmpfs\)\n`,
		`\n                is not in Vault: it created the key, and pki_int/keys is empty\n`,
		`\n                is not in etcd: not in [1-9]\d{0,2}(,\d{3}){2,} bytes`,
	} {
		if !regexp.MustCompile(point).MatchString(output) {
			t.Errorf("the summary has nothing that matches %s", point)
		}
	}
}

// checkScreen checks that the end fits a screen.
func (d *demo) checkScreen(t *testing.T) {
	t.Helper()
	_, end, _ := strings.Cut(d.process.Output(), "\nSummary\n")
	screen := strings.Split(strings.TrimSuffix("Summary\n"+end, "\n"), "\n")
	if len(screen) >= lines { // a prompt follows
		t.Errorf("the end has %d lines", len(screen))
	}
	for _, line := range screen {
		// Folders may be longer here than a person's.
		line = strings.NewReplacer(d.temporary, "/tmp", d.root, "/home/person/istiod-agent").Replace(line)
		if length := utf8.RuneCountInString(line); length > columns {
			t.Errorf("%d columns: %s", length, line)
		}
	}
}

// checkCommands runs each command that is printed, and compares what it shows.
func (d *demo) checkCommands(t *testing.T) {
	t.Helper()
	_, end, _ := strings.Cut(d.process.Output(), "\nIt is still running: try, in another terminal\n\n")
	block, _, _ := strings.Cut(end, "\n\n")
	want := []struct{ command, shows string }{
		{"status", "istiod-demo   Ready "},
		{"check", "ok       Vault "},
		{"verify", "ok    demo: "},
		{"renew", "uses CA certificate"},
		{"kubectl get", "istiod-istio-system-cluster-1 "},
	}
	var set []string // the lines that set up the shell
	for line := range strings.Lines(block) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "cd ") || strings.HasPrefix(line, "export ") {
			set = append(set, line)
			continue
		}
		shell := exec.CommandContext(t.Context(), "sh", "-e", "-c", strings.Join(append(set, line), "\n"))
		shell.Env = append(os.Environ(), "PATH="+d.path(t))
		output, err := shell.CombinedOutput()
		if err != nil || len(want) == 0 || !strings.Contains(line, want[0].command) || !strings.Contains(string(output), want[0].shows) {
			t.Fatalf("%s: %v; want %q\n%s", line, err, want, output)
		}
		want = want[1:]
	}
	if len(want) > 1 || len(set) != 2 { // kubectl may not be there
		t.Errorf("commands are missing: %q, after %q", want, set)
	}
}

func (d *demo) signal(t *testing.T, pid int, signal syscall.Signal) {
	t.Helper()
	must(t, syscall.Kill(pid, signal))
}

// checkNothingLeft checks that the run, with all its processes, is over, and that no file is left.
func (d *demo) checkNothingLeft(t *testing.T, children []child) {
	t.Helper()
	d.wait(t, "the end of make", d.ended)
	for _, each := range children {
		d.wait(t, "the end of "+each.name, func() error {
			if now, found := read(each.pid); found && now.started == each.started {
				return fmt.Errorf("process %d (%s) runs", each.pid, each.name)
			}
			return nil
		})
	}
	left, err := os.ReadDir(d.temporary)
	must(t, err)
	for _, entry := range left {
		t.Errorf("%s is left", entry.Name())
	}
	if match := regexp.MustCompile(`is in memory: (\S+)/ca-key\.pem`).FindStringSubmatch(d.process.Output()); match != nil {
		if _, err := os.Stat(match[1]); !os.IsNotExist(err) {
			t.Errorf("%s is left (%v)", match[1], err)
		}
	}
}

// child is a process below make.
type child struct {
	pid, parent int
	name        string // its first 15 bytes
	started     string
}

// children returns all processes below make.
func (d *demo) children(t *testing.T) (below []child) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	must(t, err)
	all := map[int][]child{} // by parent
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil {
			if found, ok := read(pid); ok {
				all[found.parent] = append(all[found.parent], found)
			}
		}
	}
	for parents := []int{d.process.PID()}; len(parents) > 0; parents = parents[1:] {
		for _, each := range all[parents[0]] {
			below, parents = append(below, each), append(parents, each.pid)
		}
	}
	return below
}

// read reads a running process (proc_pid_stat(5)).
func read(pid int) (child, bool) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return child{}, false
	}
	head, rest, _ := strings.Cut(string(status), ") ")
	_, name, _ := strings.Cut(head, "(")
	fields := strings.Fields(rest) // from the third one on
	parent, err := strconv.Atoi(fields[1])
	return child{pid, parent, name, fields[19]}, err == nil && fields[0] != "Z"
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
