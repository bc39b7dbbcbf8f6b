// SPDX-License-Identifier: Apache-2.0

package cacerts

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// verified gives sets under one root.
func verified(t testing.TB, h hierarchy, note string) *Set {
	t.Helper()
	key := h.signed.key
	certificate := sign(t, requestedCA(), key, h.root)
	answer := h.answer(t)
	answer.Certificate, answer.Chain = certPEM(certificate), [][]byte{certPEM(certificate), certPEM(h.root)}
	set, err := Verify(answer, requested())
	if err != nil {
		t.Fatal(err)
	}
	set.note = []byte(note)
	return set
}

func open(t *testing.T, dir string) *Directory {
	t.Helper()
	d, err := Open(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestWhatIsPublishedIsReadBack(t *testing.T) {
	h := newHierarchy(t)
	d := open(t, t.TempDir())
	if _, err := d.Published(now); !errors.Is(err, ErrEmpty) {
		t.Fatalf("before: %v", err)
	}
	var roots [][]byte
	for i := range 5 {
		set := verified(t, h, fmt.Sprint("note ", i))
		if err := d.Publish(set, set.note); err != nil {
			t.Fatal(err)
		}
		again, err := open(t, d.path).Published(now)
		if err != nil || again.SerialNumber() != set.SerialNumber() || string(again.note) != fmt.Sprint("note ", i) {
			t.Fatalf("publication %d: %v, %+v", i, err, again)
		}
		if !d.Intact(set) || !d.Intact(again) {
			t.Error("it is not intact")
		}
		root, err := os.ReadFile(d.join(rootFile))
		if err != nil {
			t.Fatal(err)
		}
		roots = append(roots, root)
	}
	for _, root := range roots {
		if !bytes.Equal(root, roots[0]) {
			t.Error("root-cert.pem has changed")
		}
	}
	if !bytes.HasSuffix(roots[0], []byte("-----END CERTIFICATE-----")) {
		t.Error("root-cert.pem ends with something else than the certificate: the guide's last step would find a difference")
	}
	for name, mode := range map[string]os.FileMode{keyFile: 0o600, certFile: 0o644, chainFile: 0o644, rootFile: 0o644} {
		info, err := os.Stat(d.join(name))
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v (%v), want %v", name, info.Mode(), err, mode)
		}
		if target, err := os.Readlink(d.join(name)); err != nil || target != "..data/"+name {
			t.Errorf("%s leads to %q (%v)", name, target, err)
		}
	}
	if entries, err := os.ReadDir(d.staging()); err != nil || len(entries) > 2 {
		t.Errorf("%d staged sets are kept (%v)", len(entries), err)
	}
}

func TestAnExpiredSetIsToldFromNone(t *testing.T) {
	h := newHierarchy(t)
	d := open(t, t.TempDir())
	if err := d.Publish(verified(t, h, ""), nil); err != nil {
		t.Fatal(err)
	}
	set, err := d.Published(now.AddDate(0, 2, 0))
	invalid, ok := errors.AsType[*InvalidError](err)
	if !ok || set != nil || !invalid.Trust.Roots[0].Equal(h.root.Certificate) || !invalid.Trust.Root.Equal(h.root.Certificate) {
		t.Errorf("want the roots in an error, got %v and %v", set, err)
	}
}

func TestADirectoryThatIsNotMemoryIsRefused(t *testing.T) {
	if _, err := Open("/proc", false); err == nil || !strings.Contains(err.Error(), "not in memory") {
		t.Errorf("got %v", err)
	}
	if _, err := Open(filepath.Join(t.TempDir(), "none"), true); err == nil {
		t.Error("a directory that is not there was opened")
	}
}

func TestOthersFilesAreRefusedAndLeft(t *testing.T) {
	for _, name := range []string{"tls.crt", certFile, keyFile} {
		t.Run(name, func(t *testing.T) {
			h, dir := newHierarchy(t), t.TempDir()
			d := open(t, dir)
			if err := os.WriteFile(filepath.Join(dir, name), []byte("somebody's"), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(dir, true); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("Open: %v", err)
			}
			if err := d.Publish(verified(t, h, ""), nil); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("Publish: %v", err)
			}
			if content, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(content) != "somebody's" {
				t.Errorf("it was touched: %q, %v", content, err)
			}
		})
	}
}

func TestWhatIsLostIsSeenAndPublishedAgain(t *testing.T) {
	h := newHierarchy(t)
	for name, lose := range map[string]func(d *Directory) error{
		"a link":           func(d *Directory) error { return os.Remove(d.join(certFile)) },
		"the set":          func(d *Directory) error { return os.RemoveAll(d.staging()) },
		"the set's link":   func(d *Directory) error { return os.Remove(d.join(dataName)) },
		"a file's content": func(d *Directory) error { return os.Truncate(d.join(rootFile), 10) },
	} {
		t.Run(name, func(t *testing.T) {
			d := open(t, t.TempDir())
			set := verified(t, h, "")
			if err := d.Publish(set, nil); err != nil {
				t.Fatal(err)
			}
			if err := lose(d); err != nil {
				t.Fatal(err)
			}
			if d.Intact(set) {
				t.Error("the loss is not seen")
			}
			next := verified(t, h, "")
			if err := d.Publish(next, nil); err != nil || !d.Intact(next) {
				t.Errorf("publishing again: %v", err)
			}
		})
	}
}

// Whatever step is the last: of a first publication istiod, which is not running yet, finds the next run whole or
// nothing; of a later one it always finds one whole set.
func TestNoStepLeavesAPart(t *testing.T) {
	h := newHierarchy(t)
	first, second := verified(t, h, "first"), verified(t, h, "second")
	files := func(set *Set) map[string]file {
		key, err := encodeKey(set.key)
		if err != nil {
			t.Fatal(err)
		}
		all := set.files(key)
		set.published = digestsOf(all)
		return all
	}
	firstFiles, secondFiles := files(first), files(second)
	publish := func(d *Directory, set *Set) error {
		again := *set // which keeps its key
		return d.Publish(&again, again.note)
	}
	count := len(open(t, t.TempDir()).steps("1", firstFiles))
	for last := range count + 1 {
		d := open(t, t.TempDir())
		for _, step := range d.steps("1", firstFiles)[:last] {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
		d = open(t, d.path)
		if set, err := d.Published(now); !errors.Is(err, ErrEmpty) && (err != nil || set.SerialNumber() != first.SerialNumber()) {
			t.Errorf("the first, ended after step %d: %v", last, err)
		}
		if err := publish(d, first); err != nil {
			t.Fatal(err)
		}

		_, number := d.numbers()
		for _, step := range d.steps(number, secondFiles)[:last] {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
		if !d.Intact(first) && !d.Intact(second) {
			t.Errorf("the second, ended after step %d: istiod reads neither", last)
		}
		d = open(t, d.path)
		if !d.Intact(first) && !d.Intact(second) {
			t.Errorf("the second, ended after step %d and opened again: istiod reads neither", last)
		}
		if err := publish(d, second); err != nil || !d.Intact(second) {
			t.Errorf("the second, ended after step %d: publishing it again: %v", last, err)
		}
		if entries, err := os.ReadDir(d.staging()); err != nil || len(entries) > 2 {
			t.Errorf("the second, ended after step %d: %d staged sets are left (%v)", last, len(entries), err)
		}
	}
}

// istiod watches the directory itself and waits 100 ms after the first event: there must be one, and it the last thing.
func TestARenewalIsOneEvent(t *testing.T) {
	h := newHierarchy(t)
	d := open(t, t.TempDir())
	if err := d.Publish(verified(t, h, ""), nil); err != nil {
		t.Fatal(err)
	}
	watch, err := unix.InotifyInit1(unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(watch) }()
	if _, err := unix.InotifyAddWatch(watch, d.path, unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_MODIFY|unix.IN_CLOSE_WRITE); err != nil {
		t.Fatal(err)
	}
	if err := d.Publish(verified(t, h, ""), nil); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 4096)
	n, err := unix.Read(watch, buffer)
	if err != nil {
		t.Fatal(err)
	}
	if one := unix.SizeofInotifyEvent + 16; n != one || !bytes.Contains(buffer[:n], []byte(dataName)) {
		t.Errorf("%d bytes of events, want %d for %s: %q", n, one, dataName, buffer[:n])
	}
}

func TestAFullDirectoryKeepsTheOldSet(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=128k"); err != nil {
		t.Skipf("mounting a small tmpfs takes root: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	d, err := Open(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	h := newHierarchy(t)
	set := verified(t, h, "")
	if err := d.Publish(set, nil); err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(dir, "filler")
	// Down to each number of free pages, so that each step is the one that fails.
	for _, size := range []int{1 << 20, 96 << 10, 92 << 10, 88 << 10} {
		_ = os.WriteFile(filler, make([]byte, size), 0o600) // until it is full
		next := verified(t, h, "")
		err := d.Publish(next, nil)
		if err != nil && (!errors.Is(err, syscall.ENOSPC) || !d.Intact(set)) {
			t.Errorf("%d bytes taken: %v, the old set intact: %v", size, err, d.Intact(set))
		}
		if size == 1<<20 && err == nil {
			t.Error("nothing failed")
		}
		if err == nil {
			set = next
		}
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
	}
	next := verified(t, h, "")
	if err := d.Publish(next, nil); err != nil || !d.Intact(next) {
		t.Errorf("with room again: %v", err)
	}
	entries, err := os.ReadDir(d.staging())
	if err != nil || len(entries) > 2 || slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == newLink }) {
		t.Errorf("left behind: %v (%v)", entries, err)
	}
}

// The file is the only copy of the key once it is published; a set that is published again takes it from there.
func TestPublishForgetsTheKey(t *testing.T) {
	h := newHierarchy(t)
	d := open(t, t.TempDir())
	set := verified(t, h, "")
	if err := d.Publish(set, nil); err != nil {
		t.Fatal(err)
	}
	again, err := open(t, d.path).Published(now)
	if err != nil || set.key != nil || again.key != nil {
		t.Fatalf("the key is kept: %v, %v (%v)", set.key != nil, again.key != nil, err)
	}
	content, err := os.ReadFile(d.join(keyFile))
	if err != nil {
		t.Fatal(err)
	}
	for name, published := range map[string]*Set{"published": set, "read": again} {
		other := sign(t, authority("other", -1), newKey(t, h.signed.key.Curve), nil)
		more, err := published.WithRoots(append(slices.Clone(published.roots), other.Certificate))
		if err != nil {
			t.Fatal(err)
		}
		for i, each := range []*Set{published, more, published} {
			if err := d.Publish(each, nil); err != nil || !d.Intact(each) {
				t.Fatalf("%s, publication %d: %v", name, i, err)
			}
			if same, err := os.ReadFile(d.join(keyFile)); err != nil || !bytes.Equal(same, content) {
				t.Errorf("%s, publication %d: the key is another (%v)", name, i, err)
			}
		}
	}
	if slices.ContainsFunc(d.buffer, func(b byte) bool { return b != 0 }) {
		t.Error("the buffer holds what was read")
	}

	next := verified(t, newHierarchy(t), "")
	if err := d.Publish(next, nil); err != nil {
		t.Fatal(err)
	}
	if err := d.Publish(set, nil); err == nil || !d.Intact(next) {
		t.Errorf("a set whose key is gone was published with another's: %v", err)
	}
}

// No other package can make or change a Set, and an empty one is not published.
func TestOnlyVerifiedSetsArePublished(t *testing.T) {
	for field := range reflect.TypeFor[Set]().Fields() {
		if field.IsExported() {
			t.Errorf("field %s can be set from outside", field.Name)
		}
	}
	d := open(t, t.TempDir())
	for _, published := range []*Set{nil, verified(t, newHierarchy(t), "")} {
		if published != nil {
			if err := d.Publish(published, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.Publish(new(Set), nil); err == nil {
			t.Error("an empty set was published")
		}
		if published != nil && !d.Intact(published) {
			t.Error("the files have changed")
		}
	}
}
