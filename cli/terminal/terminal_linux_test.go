// SPDX-License-Identifier: Apache-2.0

package terminal

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// On a terminal even data is plain, and only the package's own sequences are not.
func TestOnATerminal(t *testing.T) {
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "")
	screen, terminal := pseudoTerminal(t)
	w := NewWriter(terminal)
	if !w.Coloured || Data(w) != w {
		t.Fatal("a terminal is not taken for one")
	}
	fmt.Fprint(Data(w), "a\x1b[2Jb\u202e")
	Paint(w, Red, "c\x1b]0;d\x07")
	progress := NewProgress(w)
	progress.Update("e\x1b[H", "f\x9b")
	progress.Done()
	fmt.Fprint(w, "END")
	got := ""
	for buffer := make([]byte, 1024); !strings.HasSuffix(got, "END"); {
		n, err := screen.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		got += string(buffer[:n])
	}
	if want := `a\u001b[2Jb\u202e` + "\x1b[31m" + `c\u001b]0;d\u0007` + "\x1b[0m" + erase + `0s  e\u001b[H: f\x9b` + erase + "END"; got != want {
		t.Errorf("got %q\nwant %q", got, want)
	}
	t.Setenv("NO_COLOR", "1")
	if NewWriter(terminal).Coloured {
		t.Error("NO_COLOR is not followed")
	}
}

// pseudoTerminal gives both ends of one (pty(7)).
func pseudoTerminal(t *testing.T) (screen, terminal *os.File) {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no terminal can be made here: %v", err)
	}
	t.Cleanup(func() { _ = screen.Close() })
	number, err := unix.IoctlGetInt(int(screen.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(screen.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Skipf("no terminal can be made here: %v", err)
	}
	t.Cleanup(func() { _ = terminal.Close() })
	return screen, terminal
}
