// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/tools/setup-envtest/remote"
	"sigs.k8s.io/controller-runtime/tools/setup-envtest/store"
	"sigs.k8s.io/controller-runtime/tools/setup-envtest/versions"
)

// request describes what is fetched, and the patience for it.
type request struct {
	index           string
	kubernetes      versions.Concrete
	platform        versions.Platform
	apiserver, etcd string
	// answer is the time for the index, download the time for the archive; report is the interval of the progress.
	answer, download, report time.Duration
}

// fetch writes both programs and returns their version. After an error neither is written.
func fetch(ctx context.Context, r request, progress io.Writer) (version versions.Concrete, err error) {
	client := &remote.HTTPClient{Log: logr.Discard(), IndexURL: r.index}
	asking, cancel := context.WithTimeoutCause(ctx, r.answer, fmt.Errorf("no answer within %s", r.answer))
	defer cancel()
	listed, err := client.ListVersions(asking)
	if err != nil {
		return version, because(asking, err)
	}
	version, item, err := choose(listed, r.kubernetes, r.platform)
	if err != nil {
		return version, err
	}

	dir, err := beside(r.apiserver)
	if err != nil {
		return version, err
	}
	defer func() { err = errors.Join(err, remove(dir)) }()
	downloading, cancel := context.WithTimeoutCause(ctx, r.download, fmt.Errorf("the download took more than %s", r.download))
	defer cancel()
	programs, err := unpack(downloading, client, dir, version, item, r.report, progress)
	if err != nil {
		return version, because(downloading, err)
	}
	return version, r.install(ctx, programs, version)
}

// because puts the cause of an expired context in the place of its error.
func because(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// choose returns the pinned version if it is listed, else the last patch release before it: a test may depend on the minor
// release, and a new release must not change what the tests see.
func choose(listed []versions.Set, pinned versions.Concrete, platform versions.Platform) (versions.Concrete, versions.PlatformItem, error) {
	for _, set := range listed { // from the newest on
		version := set.Version
		if version.Major != pinned.Major || version.Minor != pinned.Minor || version.Patch > pinned.Patch {
			continue
		}
		for _, item := range set.Platforms {
			if item.Platform == platform {
				return version, item, nil
			}
		}
	}
	return pinned, versions.PlatformItem{}, fmt.Errorf("the index lists neither it nor an earlier %d.%d for %s", pinned.Major, pinned.Minor, platform)
}

// beside makes a temporary folder where the file can be renamed from.
func beside(file string) (string, error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return "", err
	}
	return os.MkdirTemp(filepath.Dir(file), ".envtest-")
}

// remove also removes the folders that the store makes read-only.
func remove(dir string) error {
	return errors.Join(filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			err = os.Chmod(path, 0o755)
		}
		return err
	}), os.RemoveAll(dir))
}

// unpack downloads an archive, and returns the folder with its programs. The library compares the checksum in the index.
func unpack(ctx context.Context, client remote.Client, dir string, version versions.Concrete, item versions.PlatformItem, interval time.Duration, progress io.Writer) (string, error) {
	archive, err := os.Create(filepath.Join(dir, "archive"))
	if err != nil {
		return "", err
	}
	defer archive.Close()
	counted := &counter{Writer: archive}
	done := counted.report(interval, progress)
	err = client.GetVersion(ctx, version, item, counted)
	done()
	if err != nil {
		return "", err
	}
	if _, err := archive.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	unpacked, entry := store.NewAt(dir), store.Item{Version: version, Platform: item.Platform}
	if err := unpacked.Add(logr.NewContext(ctx, logr.Discard()), entry, untilDone{ctx, archive}); err != nil {
		return "", err
	}
	return unpacked.Path(entry)
}

// install moves both programs to their places, once they have run and reported the version.
func (r *request) install(ctx context.Context, programs string, version versions.Concrete) error {
	apiserver, etcd := filepath.Join(programs, "kube-apiserver"), filepath.Join(programs, "etcd")
	if err := reports(ctx, apiserver, "Kubernetes v"+version.String()+"\n"); err != nil {
		return err
	}
	if err := reports(ctx, etcd, "etcd Version: "); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(r.etcd), 0o755); err != nil {
		return err
	}
	if err := os.Chmod(programs, 0o755); err != nil { // the store made it read-only
		return err
	}
	if err := os.Rename(etcd, r.etcd); err != nil {
		return err
	}
	if err := os.Rename(apiserver, r.apiserver); err != nil {
		return errors.Join(err, os.Remove(r.etcd))
	}
	return nil
}

// untilDone reads until the context is done: the store does not look at it.
type untilDone struct {
	ctx context.Context
	io.Reader
}

func (r untilDone) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

// reports returns an error unless the program's version begins as expected.
func reports(ctx context.Context, program, expected string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	output, err := exec.CommandContext(ctx, program, "--version").Output()
	if err != nil {
		return fmt.Errorf("%s of the archive does not run: %w", filepath.Base(program), err)
	}
	if !strings.HasPrefix(string(output), expected) {
		first, _, _ := strings.Cut(string(output), "\n")
		return fmt.Errorf("%s of the archive reports %.100q, not %q", filepath.Base(program), first, strings.TrimSpace(expected))
	}
	return nil
}

// counter counts what is written.
type counter struct {
	io.Writer
	bytes atomic.Int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.bytes.Add(int64(n))
	return n, err
}

// report prints the progress until the returned function is called.
func (c *counter) report(interval time.Duration, progress io.Writer) (done func()) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				fmt.Fprintf(progress, "  kube-apiserver and etcd: %d MiB downloaded\n", c.bytes.Load()>>20)
			}
		}
	}()
	return func() { close(stop); <-stopped }
}
