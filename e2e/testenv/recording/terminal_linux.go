// SPDX-License-Identifier: Apache-2.0

package recording

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// Run runs a program at a terminal of the given width, and returns what it prints there and its exit code.
func Run(ctx context.Context, width int, command *exec.Cmd) (output []Event, code int, err error) {
	screen, terminal, err := pseudoTerminal(width)
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = screen.Close() }()
	command.Stdin, command.Stdout, command.Stderr = terminal, terminal, terminal
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	start := time.Now()
	err = command.Start()
	_ = terminal.Close() // the program has its own
	if err != nil {
		return nil, 0, err
	}
	stop := context.AfterFunc(ctx, func() { _ = command.Process.Kill() })
	defer stop()
	pending := ""
	for buffer := make([]byte, 4096); ; {
		n, readErr := screen.Read(buffer)
		pending += string(buffer[:n])
		if end := whole(pending); end > 0 {
			output = append(output, Event{time.Since(start), pending[:end]})
			pending = pending[end:]
		}
		if readErr != nil { // EIO at the program's end
			break
		}
	}
	err = command.Wait()
	if exit, failed := errors.AsType[*exec.ExitError](err); failed && ctx.Err() == nil {
		return output, exit.ExitCode(), nil
	}
	return output, 0, errors.Join(err, ctx.Err())
}

// whole returns the length of a text without a control sequence or a character at its end that is not complete.
func whole(text string) int {
	if escape := strings.LastIndexByte(text, '\x1b'); escape >= 0 && !strings.ContainsAny(text[escape:], "mK") {
		text = text[:escape]
	}
	text = strings.TrimSuffix(text, "\r")
	for n := 1; n < utf8.UTFMax && n <= len(text); n++ {
		if last := text[len(text)-n:]; utf8.RuneStart(last[0]) {
			if !utf8.FullRuneInString(last) {
				return len(text) - n
			}
			break
		}
	}
	return len(text)
}

// pseudoTerminal returns both ends of one (pty(7)).
func pseudoTerminal(width int) (screen, terminal *os.File, err error) {
	screen, err = os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		return nil, nil, err
	}
	fd := int(screen.Fd())
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Col: uint16(width), Row: 50})
	}
	if err == nil {
		terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		_ = screen.Close()
		return nil, nil, err
	}
	return screen, terminal, nil
}
