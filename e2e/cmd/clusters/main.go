// SPDX-License-Identifier: Apache-2.0

// Command clusters starts and stops clusters with a node to try things in, for `make cluster-up` and `make cluster-down`.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/node"
)

const usage = `clusters up     starts clusters and leaves them running
clusters down   stops and removes them
clusters hold   starts clusters, and removes them on SIGTERM or Ctrl-C`

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) == 0 {
		return errors.New(usage)
	}
	flags := flag.NewFlagSet("clusters", flag.ExitOnError)
	n := flags.Int("n", 1, fmt.Sprintf("number of clusters, up to %d", node.MaxClusters))
	dir := flags.String("dir", ".build/clusters", "`folder` of the clusters' files")
	_ = flags.Parse(arguments[1:]) // ExitOnError
	if *n < 1 || *n > node.MaxClusters {
		return fmt.Errorf("-n %d: expected 1 to %d", *n, node.MaxClusters)
	}
	path, err := filepath.Abs(*dir)
	if err != nil {
		return err
	}
	k := keeper{dir: path, n: *n}
	switch arguments[0] {
	case "up":
		return k.up()
	case "down":
		return k.down()
	case "hold":
		return k.hold()
	default:
		return errors.New(usage)
	}
}

// keeper starts and stops the process that runs the clusters.
type keeper struct {
	dir string
	n   int
}

func (k keeper) file(name string) string { return filepath.Join(k.dir, name) }

// hold starts the clusters and removes them on a signal.
func (k keeper) hold() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := os.MkdirAll(k.dir, 0o700); err != nil {
		return err
	}
	clusters, err := node.StartSeveral(ctx, k.n, k.dir, os.Stdout)
	if err == nil {
		fmt.Println("ready")
		<-ctx.Done()
	}
	stop() // a second Ctrl-C ends the process at once
	return errors.Join(err, clusters.Stop())
}

// up starts a process that runs hold, and prints its progress until the clusters are ready.
func (k keeper) up() error {
	if pid := k.pid(); pid != 0 {
		return fmt.Errorf("clusters are running already (process %d); remove them first: make cluster-down", pid)
	}
	if err := os.MkdirAll(k.dir, 0o700); err != nil {
		return err
	}
	log, err := os.Create(k.file("log"))
	if err != nil {
		return err
	}
	defer log.Close()
	program, err := os.Executable()
	if err != nil {
		return err
	}
	holder := exec.Command(program, "hold", "-n", strconv.Itoa(k.n), "-dir", k.dir)
	holder.Stdout, holder.Stderr = log, log
	holder.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := holder.Start(); err != nil {
		return err
	}
	if err := os.WriteFile(k.file("pid"), []byte(strconv.Itoa(holder.Process.Pid)), 0o600); err != nil {
		return errors.Join(err, holder.Process.Signal(syscall.SIGTERM))
	}
	ended := make(chan error, 1)
	go func() { ended <- holder.Wait() }()
	reading, err := os.Open(log.Name())
	if err != nil {
		return err
	}
	defer reading.Close()
	var text strings.Builder
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := io.Copy(io.MultiWriter(os.Stdout, &text), reading); err != nil {
			return err
		}
		if strings.HasSuffix(text.String(), "\nready\n") {
			k.next()
			return nil
		}
		select {
		case err := <-ended:
			_, _ = io.Copy(os.Stdout, reading)
			return errors.Join(errors.New("the clusters did not start"), err, os.Remove(k.file("pid")))
		case <-tick.C:
		}
	}
}

func (k keeper) next() {
	fmt.Printf(`
Each cluster is a context:

  export KUBECONFIG=%s PATH=%s:$PATH
  kubectl get nodes --context cluster-1

docs/try-it.md continues from here. To remove everything: make cluster-down
`, k.file("kubeconfig"), k.file("bin"))
}

// down ends the process that runs hold, waits for it, and removes the remains of one that was killed.
func (k keeper) down() error {
	if pid := k.pid(); pid != 0 {
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
			return err
		}
		for deadline := time.Now().Add(2 * time.Minute); k.pid() != 0; time.Sleep(100 * time.Millisecond) {
			if time.Now().After(deadline) {
				return fmt.Errorf("process %d does not end; see %s", pid, k.file("log"))
			}
		}
	}
	if err := node.Clean(k.dir); err != nil {
		return err
	}
	return os.RemoveAll(k.dir)
}

// pid returns the process that runs hold, or 0.
func (k keeper) pid() int {
	content, err := os.ReadFile(k.file("pid"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(string(content))
	if err != nil {
		return 0
	}
	command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !strings.Contains(string(command), "\x00hold\x00") {
		return 0 // another process has the number by now
	}
	return pid
}
