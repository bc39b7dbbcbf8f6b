// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// grace is the time that a program has to end.
const grace = 30 * time.Second

// Stop stops the cluster and removes its processes, containers, mounts, cgroups, network and files.
func (c *Cluster) Stop() error {
	if c.lock == nil {
		return nil // another process has the cluster, or it was never started
	}
	// The kubelet first, which would restart containers; then the containers, which survive containerd.
	var errs []error
	for _, name := range []string{"kubelet", "kube-proxy"} {
		if running, found := c.processes[name]; found {
			errs = append(errs, running.Kill())
		}
	}
	return errors.Join(append(errs, c.clean(), c.release())...)
}

// reserve reserves the cluster's number for this process.
func (c *Cluster) reserve() error {
	file, err := os.OpenFile(c.run+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return errors.Join(fmt.Errorf("%s is running already: another process of this machine has locked %s", c.Name, file.Name()), file.Close())
	}
	c.lock = file
	return nil
}

func (c *Cluster) release() error {
	err := errors.Join(os.Remove(c.lock.Name()), c.lock.Close())
	c.lock = nil
	return err
}

// clean removes everything with the cluster's number, including the remains of other processes' clusters.
func (c *Cluster) clean() error {
	if err := c.killAll(); err != nil {
		return err
	}
	for name, running := range c.processes { // they are killed already: this waits for them
		_ = running.Kill()
		delete(c.processes, name)
	}
	dirs := []string{c.dir, c.run}
	if earlier, err := os.ReadFile(c.dirFile()); err == nil && filepath.IsAbs(string(earlier)) {
		dirs = append([]string{string(earlier)}, dirs...)
	}
	var errs []error
	for _, dir := range dirs {
		errs = append(errs, unmountBelow(dir), os.RemoveAll(dir))
	}
	errs = append(errs, removeShimSockets())
	if _, err := os.Stat("/run/netns/" + c.namespace); err == nil {
		errs = append(errs, ip(context.Background(), "netns", "delete", c.namespace))
	}
	if _, err := os.Stat("/sys/class/net/" + c.link()); err == nil { // it goes with its other end, unless that was never created
		if err := ip(context.Background(), "link", "delete", c.link()); err != nil && !strings.Contains(err.Error(), "Cannot find device") {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, removeCgroup(c.namespace))...)
}

// dirFile is a file with the path of the cluster's folder.
func (c *Cluster) dirFile() string { return filepath.Join(c.run, "dir") }

// killAll kills all processes of the cluster except the programs named: those in its network namespace (its programs, their
// children, and Pods in the node's network) and those in its cgroup (all other Pods).
func (c *Cluster) killAll(except ...string) error {
	deadline := time.Now().Add(grace)
	for {
		all, err := c.pids()
		if err != nil {
			return err
		}
		all = slices.DeleteFunc(all, func(pid int) bool {
			return slices.ContainsFunc(except, func(name string) bool { return c.processes[name] != nil && c.processes[name].PID() == pid })
		})
		if len(all) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v of %s do not end", all, c.Name)
		}
		for _, pid := range all {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended meanwhile
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (c *Cluster) pids() ([]int, error) {
	var all []int
	add := func(text string) {
		for word := range strings.FieldsSeq(text) {
			if pid, err := strconv.Atoi(word); err == nil && pid != os.Getpid() {
				all = append(all, pid)
			}
		}
	}
	if _, err := os.Stat("/run/netns/" + c.namespace); err == nil {
		inside, err := exec.Command("ip", "netns", "pids", c.namespace).Output()
		if err != nil {
			return nil, fmt.Errorf("listing the processes of network namespace %s: %w", c.namespace, err)
		}
		add(string(inside))
	}
	for _, hierarchy := range hierarchies() {
		_ = filepath.WalkDir(filepath.Join(hierarchy, c.namespace), func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.Name() == "cgroup.procs" {
				content, _ := os.ReadFile(path) // it may be gone meanwhile
				add(string(content))
			}
			return nil
		})
	}
	slices.Sort(all)
	all = slices.Compact(all)
	return slices.DeleteFunc(all, zombie), nil
}

// zombie reports whether a process has ended and is not reaped.
func zombie(pid int) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, after, found := strings.Cut(string(status), ") ")
	return found && strings.HasPrefix(after, "Z")
}

// shimSockets is the folder of the sockets of all containerd shims (pkg/shim/util_unix.go in containerd).
const shimSockets = "/run/containerd/s"

// removeShimSockets removes the sockets of killed shims.
func removeShimSockets() error {
	sockets, err := os.ReadDir(shimSockets)
	if err != nil {
		return nil //nolint:nilerr // no shim has run
	}
	var errs []error
	for _, socket := range sockets {
		path := filepath.Join(shimSockets, socket.Name())
		connection, err := net.Dial("unix", path)
		if err == nil {
			_ = connection.Close() // its shim is running
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	for _, dir := range []string{shimSockets, filepath.Dir(shimSockets)} {
		_ = unix.Rmdir(dir) // unless it is in use
	}
	return errors.Join(errs...)
}

// unmountBelow unmounts all mounts below a folder, the newest first.
func unmountBelow(dir string) error {
	mounts, err := mountPoints()
	if err != nil {
		return err
	}
	var errs []error
	for _, mount := range slices.Backward(mounts) {
		if strings.HasPrefix(mount.at, dir+"/") {
			if err := unix.Unmount(mount.at, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
				errs = append(errs, fmt.Errorf("unmounting %s: %w", mount.at, err))
			}
		}
	}
	return errors.Join(errs...)
}

type mount struct{ at, kind string }

// mountPoints returns this process's mounts in the order of their creation (proc_pid_mountinfo(5)).
func mountPoints() ([]mount, error) {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var all []mount
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		before, after, found := strings.Cut(lines.Text(), " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if found && len(fields) > 4 && len(kind) > 0 {
			all = append(all, mount{at: fields[4], kind: kind[0]})
		}
	}
	return all, lines.Err()
}

// hierarchies returns the mount points of cgroups: of v2, of v1, or of both.
func hierarchies() []string {
	mounts, err := mountPoints()
	if err != nil {
		return nil
	}
	var all []string
	for _, mount := range mounts {
		if mount.kind == "cgroup" || mount.kind == "cgroup2" {
			all = append(all, mount.at)
		}
	}
	return all
}

// makeCgroup creates a cgroup in every hierarchy. Two kubelets with one root would kill each other's Pods.
func makeCgroup(name string) error {
	for _, hierarchy := range hierarchies() {
		dir := filepath.Join(hierarchy, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} { // empty at first in v1, where no process can run then
			if content, err := os.ReadFile(filepath.Join(hierarchy, file)); err == nil {
				if err := os.WriteFile(filepath.Join(dir, file), content, 0o644); err != nil {
					return err
				}
			}
		}
		controllers, err := os.ReadFile(filepath.Join(hierarchy, "cgroup.controllers"))
		if err != nil {
			continue // v1
		}
		for controller := range strings.FieldsSeq(string(controllers)) {
			for _, at := range []string{hierarchy, dir} {
				_ = os.WriteFile(filepath.Join(at, "cgroup.subtree_control"), []byte("+"+controller), 0o644) // the kubelet reports missing controllers
			}
		}
	}
	return nil
}

// removeCgroup removes a cgroup from the leaves up, since a cgroup with children cannot be removed.
func removeCgroup(name string) error {
	var errs []error
	for _, hierarchy := range hierarchies() {
		var dirs []string
		_ = filepath.WalkDir(filepath.Join(hierarchy, name), func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for _, dir := range slices.Backward(dirs) {
			if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, fmt.Errorf("removing cgroup %s: %w", dir, err))
			}
		}
	}
	return errors.Join(errs...)
}

func lookup(program string) (string, error) {
	if path, err := exec.LookPath(program); err == nil {
		return path, nil
	}
	return exec.LookPath("/usr/sbin/" + program)
}

// Clean removes the remains of clusters whose process was killed.
func Clean(dir string) error {
	var errs []error
	for index := 1; index <= MaxClusters; index++ {
		c := newCluster(index, dir)
		if _, err := os.Stat(c.run); err != nil {
			continue // no such cluster
		}
		if c.reserve() == nil { // else the cluster runs
			errs = append(errs, c.clean(), c.release())
		}
	}
	return errors.Join(errs...)
}
