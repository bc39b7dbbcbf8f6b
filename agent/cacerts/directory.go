// SPDX-License-Identifier: Apache-2.0

// Package cacerts is the directory that istiod reads its CA from: it verifies a set of files, and publishes it in one step. It
// knows nothing of Vault, Kubernetes or a network.
//
// A set is staged where istiod does not look, and published by one rename:
//
//	DIR/.staging/7/{ca-key,ca-cert,cert-chain,root-cert}.pem
//	DIR/..data       -> .staging/7
//	DIR/ca-key.pem   -> ..data/ca-key.pem, and so the others
//
// istiod watches DIR alone and reacts to what is created in it (Istio pilot/pkg/bootstrap/istio_ca.go,
// initCACertsAndCRLWatcher), so that it sees one event for each renewal. After an interruption at any time, the four names lead
// to one complete set, the old or the new one.
package cacerts

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

const (
	stagingName = ".staging"
	dataName    = "..data"
	newLink     = ".new" // in the staging directory, until it is renamed to dataName
)

// ErrEmpty means that nothing was published yet.
var ErrEmpty = errors.New("nothing was published yet")

// maxFile is more than the size of the longest chain of certificates.
const maxFile = 1 << 20

// Directory is istiod's. Only one goroutine of one process writes to it.
type Directory struct {
	path string
	// buffer holds a file while it is read, and is cleared after each read.
	buffer []byte
}

// Open checks a directory, which must exist, and removes what an interrupted publication left. It refuses one that is not in
// memory, unless allowDisk is set, and one that has istiod's files from another source.
func Open(path string, allowDisk bool) (*Directory, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	memory, err := inMemory(path)
	if err != nil {
		return nil, fmt.Errorf("directory %s: %w; mount istiod's volume cacerts there", path, err)
	}
	if !memory && !allowDisk {
		return nil, fmt.Errorf("directory %s is not in memory, so the CA key would be written to a disk; "+
			"mount an emptyDir of medium Memory there (a Secret volume there means that istiod's Deployment was changed back), or allow a disk with --allow-disk, for trials", path)
	}
	d := &Directory{path: path}
	if err := d.checkForeign(); err != nil {
		return nil, err
	}
	return d, d.recover()
}

// checkForeign refuses files that istiod would read and that are not the agent's. With tls.crt, istiod reads none of the four.
func (d *Directory) checkForeign() error {
	for _, name := range append([]string{"tls.crt", "istio-generated"}, names...) {
		info, err := os.Lstat(d.join(name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if target, _ := os.Readlink(d.join(name)); info.Mode()&fs.ModeSymlink == 0 || target != filepath.Join(dataName, name) {
			return fmt.Errorf("%s exists and is not the agent's; remove it, since istiod would read it in place of the published files", d.join(name))
		}
	}
	return nil
}

// recover removes an incomplete set, and completes one that only lacks names.
func (d *Directory) recover() error {
	if err := os.Remove(d.staging(newLink)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	current, err := os.Readlink(d.join(dataName))
	if err != nil || !complete(d.join(current)) {
		// istiod does not start with a part of the files, and without any it has not been started.
		for _, name := range append(slices.Clone(names), dataName, stagingName) {
			if err := os.RemoveAll(d.join(name)); err != nil {
				return fmt.Errorf("removing what an interrupted publication left: %w", err)
			}
		}
		return nil
	}
	if err := d.link(); err != nil {
		return err
	}
	return d.prune(filepath.Base(current))
}

func complete(dir string) bool {
	for _, name := range append([]string{noteFile}, names...) {
		if info, err := os.Lstat(filepath.Join(dir, name)); err != nil || !info.Mode().IsRegular() {
			return false
		}
	}
	return true
}

// InvalidError is a published set that is not valid at this time.
type InvalidError struct {
	// Trust is what istiod trusts all the same.
	Trust Trust
	cause error
}

func (e *InvalidError) Error() string { return e.cause.Error() }
func (e *InvalidError) Unwrap() error { return e.cause }

// Published reads and verifies istiod's files. It returns ErrEmpty where there are none, and an *InvalidError where they
// are a set that is not valid at this time.
func (d *Directory) Published(now time.Time) (*Set, error) {
	if _, err := os.Lstat(d.join(dataName)); errors.Is(err, fs.ErrNotExist) {
		return nil, ErrEmpty
	}
	set, err := read(d.path)
	if err != nil {
		return nil, fmt.Errorf("reading the files in %s: %w", d.path, err)
	}
	if set.note, err = os.ReadFile(d.join(dataName, noteFile)); err != nil {
		return nil, err
	}
	if err := set.verify(now); err != nil {
		return nil, &InvalidError{set.Trust(), err}
	}
	set.key = nil
	return set, nil
}

// Intact reports whether istiod would read exactly this set, which Publish or Published has handled.
func (d *Directory) Intact(set *Set) bool {
	for _, name := range names {
		same := false
		err := d.read(name, func(content []byte) { same = sha256.Sum256(content) == set.published[name] })
		if err != nil || !same {
			return false
		}
	}
	return true
}

// read passes the content of a file to use, and clears it then: it may be the key.
func (d *Directory) read(name string, use func(content []byte)) error {
	file, err := os.Open(d.join(name))
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	size := int(info.Size())
	if size >= maxFile {
		return fmt.Errorf("%s is too long", file.Name())
	}
	if len(d.buffer) <= size {
		d.buffer = make([]byte, size+1)
	}
	content := d.buffer[:size+1]
	defer clear(content)
	if n, err := io.ReadFull(file, content); n != size || err == nil {
		return fmt.Errorf("%s changed while it was read", file.Name())
	}
	use(content[:size])
	return nil
}

// key returns the key of a set (PEM): of a published one, a copy of the file.
func (d *Directory) key(set *Set) (key []byte, err error) {
	if set.key != nil {
		return encodeKey(set.key)
	}
	err = d.read(keyFile, func(content []byte) {
		if sha256.Sum256(content) == set.published[keyFile] {
			key = bytes.Clone(content)
		}
	})
	if err == nil && key == nil {
		err = fmt.Errorf("%s does not hold the key of CA certificate %s", d.join(keyFile), set.SerialNumber())
	}
	return key, err
}

// Publish replaces the published set in one step. After an error, and after a crash at any time, the previous set is still
// published. Two publications should be two seconds apart, so that istiod reads each set completely.
//
// The note is kept beside the files. Afterwards the set does not hold its key any more. It can be published again while the
// directory holds it.
func (d *Directory) Publish(set *Set, note []byte) error {
	if set.certificate == nil {
		return errors.New("only a verified set can be published")
	}
	key, err := d.key(set)
	if err != nil {
		return fmt.Errorf("publishing in %s: %w", d.path, err)
	}
	defer clear(key)
	set.note = note
	files := set.files(key)
	if err := d.checkForeign(); err != nil {
		return err
	}
	was, next := d.numbers()
	for _, step := range d.steps(next, files) {
		if err := step(); err != nil {
			_ = os.Remove(d.staging(newLink))
			if now, _ := os.Readlink(d.join(dataName)); now != filepath.Join(stagingName, next) {
				_ = os.RemoveAll(d.staging(next))
			}
			return fmt.Errorf("publishing in %s: %w", d.path, err)
		}
	}
	set.key, set.published = nil, digestsOf(files)
	return d.prune(was, next)
}

// steps are those of Publish; after any number of them istiod reads one complete set, if any.
func (d *Directory) steps(number string, files map[string]file) []func() error {
	staged := d.staging(number)
	steps := []func() error{
		func() error { return os.MkdirAll(staged, 0o755) }, //nolint:gosec // istiod reads it as any user; the key has its own mode
	}
	for _, name := range append([]string{noteFile}, names...) {
		steps = append(steps, func() error { return write(filepath.Join(staged, name), files[name]) })
	}
	return append(steps,
		func() error { return sync(staged) },
		func() error { return os.Symlink(filepath.Join(stagingName, number), d.staging(newLink)) },
		func() error { return os.Rename(d.staging(newLink), d.join(dataName)) },
		d.link, // the first time, and where a name was lost
		func() error { return sync(d.path) },
	)
}

// link creates the missing links to istiod's files, in the order of names.
func (d *Directory) link() error {
	for _, name := range names {
		expected := filepath.Join(dataName, name)
		if target, err := os.Readlink(d.join(name)); err == nil && target == expected {
			continue
		}
		if err := os.Symlink(expected, d.join(name)); err != nil {
			return err
		}
	}
	return nil
}

func write(path string, f file) error {
	to, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, f.mode) //nolint:gosec // a constant name in the staging directory
	if err != nil {
		return err
	}
	_, err = to.Write(f.content)
	// Chmod overrides the umask; Sync keeps a disk from naming what it does not hold yet.
	return errors.Join(err, to.Chmod(f.mode), to.Sync(), to.Close())
}

func sync(dir string) error {
	opened, err := os.Open(dir) //nolint:gosec // the published directory, or a part of it
	if err != nil {
		return err
	}
	return errors.Join(opened.Sync(), opened.Close())
}

// numbers returns the staging directory of the published set and that of the next one.
func (d *Directory) numbers() (current, next string) {
	highest := 0
	entries, _ := os.ReadDir(d.staging()) // none the first time
	for _, entry := range entries {
		if n, err := strconv.Atoi(entry.Name()); err == nil {
			highest = max(highest, n)
		}
	}
	target, _ := os.Readlink(d.join(dataName))
	return filepath.Base(target), strconv.Itoa(highest + 1)
}

// prune removes all other staged sets.
func (d *Directory) prune(keep ...string) error {
	entries, err := os.ReadDir(d.staging())
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if !slices.Contains(keep, entry.Name()) {
			if err := os.RemoveAll(d.staging(entry.Name())); err != nil {
				return fmt.Errorf("removing an old set: %w", err)
			}
		}
	}
	return nil
}

func (d *Directory) join(parts ...string) string {
	return filepath.Join(append([]string{d.path}, parts...)...)
}

func (d *Directory) staging(parts ...string) string {
	return d.join(append([]string{stagingName}, parts...)...)
}
