// SPDX-License-Identifier: Apache-2.0

// Package process runs a program beside the tests. On Linux it ends with the test process, even if that is killed.
package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Process is a started program.
type Process struct {
	command *exec.Cmd
	name    string
	output  output
	exited  chan struct{}
	exitErr error // valid once exited is closed
}

// Start runs a command and keeps its standard output and error in memory. Errors call it by the name.
func Start(name string, command *exec.Cmd) (*Process, error) {
	return start(name, command, new(buffer))
}

// StartLogging is Start for a program with much output: it is appended to a file.
func StartLogging(name string, command *exec.Cmd, path string) (*Process, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer file.Close() // the program has its own descriptor
	return start(name, command, logFile{file})
}

// output stores a program's output.
type output interface {
	io.Writer
	fmt.Stringer
}

func start(name string, command *exec.Cmd, to output) (*Process, error) {
	p := &Process{command: command, name: name, output: to, exited: make(chan struct{})}
	command.Stdout, command.Stderr = writer(to), writer(to)
	command.SysProcAttr = attributes()
	started := make(chan error, 1)
	go func() {
		// For the kernel the parent is the thread that started the process (PR_SET_PDEATHSIG in prctl(2)), so the thread
		// must live as long as the process.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := command.Start()
		started <- err
		if err == nil {
			p.exitErr = command.Wait()
			close(p.exited)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	return p, nil
}

// PID of the process.
func (p *Process) PID() int { return p.command.Process.Pid }

// Output returns what the process has written so far to standard output and error.
func (p *Process) Output() string { return p.output.String() }

// Exited is closed when the process has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// ExitCode returns the exit code once Exited is closed: -1 if a signal ended the process.
func (p *Process) ExitCode() int { return p.command.ProcessState.ExitCode() }

// WaitUntil calls ask until it returns no error. It fails, with the last lines of the process's output, when the process
// or the context ends first.
func (p *Process) WaitUntil(ctx context.Context, what string, ask func(context.Context) error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	last := errors.New("not asked yet")
	for {
		select {
		case <-p.exited:
			return fmt.Errorf("%s ended before %s (%w):\n%s", p.name, what, p.exitError(), p.lastLines())
		case <-ctx.Done():
			return fmt.Errorf("waiting until %s: %w; the last answer was %w; %s wrote:\n%s", what, ctx.Err(), last, p.name, p.lastLines())
		case <-tick.C:
			if last = ask(ctx); last == nil {
				return nil
			}
		}
	}
}

// Stop sends SIGTERM, as the kubelet does, and waits for the process to end. After the grace period it kills the process and
// returns an error. An exit code other than 0 is an error as well.
func (p *Process) Stop(grace time.Duration) error {
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.exited:
	case <-time.After(grace):
		return errors.Join(fmt.Errorf("%s did not end %s after SIGTERM:\n%s", p.name, grace, p.lastLines()), p.Kill())
	}
	if p.exitErr != nil {
		return fmt.Errorf("%s ended badly (%w):\n%s", p.name, p.exitErr, p.lastLines())
	}
	return nil
}

// StopIfRunning is Stop for a process that may have ended, or that never started (nil).
func (p *Process) StopIfRunning(grace time.Duration) error {
	if p == nil {
		return nil
	}
	select {
	case <-p.exited:
		return nil
	default:
		return p.Stop(grace)
	}
}

// Kill ends the process at once.
func (p *Process) Kill() error {
	if err := p.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.exited
	return nil
}

// Signal sends a signal, such as SIGSTOP for a server that must not answer. If the process has ended, it does nothing.
func (p *Process) Signal(signal syscall.Signal) error {
	if err := p.command.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("%s to %s: %w", signal, p.name, err)
	}
	return nil
}

func (p *Process) exitError() error {
	if p.exitErr == nil {
		return errors.New("exit status 0")
	}
	return p.exitErr
}

func (p *Process) lastLines() string { return LastLines(p.Output()) }

// LastLines returns the last 20 lines of a log, which hold the reason for an exit.
func LastLines(log string) string {
	lines := strings.Split(strings.TrimSpace(log), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}

// Get returns the body of an HTTP endpoint. A status other than 200 is an error.
func Get(ctx context.Context, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", request.URL.Path, response.Status, strings.TrimSpace(string(body)))
	}
	return string(body), err
}

// writer returns the writer for exec.Cmd, which copies nothing if it is a file.
func writer(to output) io.Writer {
	if log, ok := to.(logFile); ok {
		return log.File
	}
	return to
}

// logFile is an output in a file.
type logFile struct{ *os.File }

func (l logFile) String() string {
	content, err := os.ReadFile(l.Name())
	if err != nil {
		return err.Error()
	}
	return string(content)
}

// buffer is an output in memory that can be read while it is written.
type buffer struct {
	mu      sync.Mutex
	written bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.written.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.written.String()
}
