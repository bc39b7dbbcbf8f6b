// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
)

// How and why this program moves another process's clock
//
// Why: the suite proves that a certificate of 32 days is renewed as its end comes near. The clock must move for some
// processes alone (Vault, istiod, the agents, the workloads of one cluster): the machine's clock belongs to everything
// else that runs there, a time namespace has no CLOCK_REALTIME (time_namespaces(7)), and libfaketime replaces functions
// of the C library, which Go programs do not call.
//
// How: a Go program reads the time through the vDSO (vdso(7)): a page of code that the kernel maps into each process
// and that answers clock_gettime without a system call. Root can write to one process's copy of it through
// /proc/PID/mem, as a debugger does to set a breakpoint, though the process itself can only read and execute it.
// setClock writes two things: at the end of the page, a function that makes the system call and adds the seconds when
// the clock is CLOCK_REALTIME (0), and at the start of clock_gettime, a jump to it. CLOCK_MONOTONIC stays as it is, so
// that timers, deadlines and leases run on.
//
// A later call writes the function again with other seconds. The change ends with the process. A thread that executes
// the first five bytes of clock_gettime at the moment of the write would crash; it is there for less than a nanosecond
// per call.

// setClock makes a Go process see a wall clock that is so many seconds fast. Other processes are not affected.
func setClock(pid int, seconds int32) error {
	memory, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer memory.Close()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(maps)) {
		var start, end int64
		if !strings.HasSuffix(line, "[vdso]\n") {
			continue
		}
		if _, err := fmt.Sscanf(line, "%x-%x", &start, &end); err != nil {
			return err
		}
		image := make([]byte, end-start)
		if _, err := memory.ReadAt(image, start); err != nil {
			return err
		}
		entry, err := clockGettime(image)
		if err != nil {
			return err
		}
		code := fastClock(seconds)
		place := len(image) - 64 // behind the code there is nothing to the end of the page
		if rest := image[place:]; !bytes.HasPrefix(rest, code[:12]) && bytes.ContainsFunc(rest, func(r rune) bool { return r != 0 }) {
			return errors.New("the vDSO's last bytes are in use")
		}
		if _, err := memory.WriteAt(code, start+int64(place)); err != nil {
			return err
		}
		const jump, length = 0xe9, 5
		_, err = memory.WriteAt(binary.LittleEndian.AppendUint32([]byte{jump}, uint32(place-entry-length)), start+int64(entry))
		return err
	}
	return errors.New("no vDSO")
}

// clockGettime finds the function in a vDSO.
func clockGettime(image []byte) (int, error) {
	file, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return 0, err
	}
	symbols, err := file.DynamicSymbols()
	if err != nil {
		return 0, err
	}
	for _, symbol := range symbols {
		if symbol.Name == "__vdso_clock_gettime" {
			return int(symbol.Value), nil
		}
	}
	return 0, errors.New("no clock_gettime in the vDSO")
}

// fastClock is clock_gettime with seconds added to CLOCK_REALTIME.
func fastClock(seconds int32) []byte {
	return append(binary.LittleEndian.AppendUint32([]byte{
		0xb8, 228, 0, 0, 0, // mov eax, clock_gettime
		0x0f, 0x05, // syscall
		0x85, 0xff, // test edi, edi
		0x75, 7, // jnz to ret
		0x48, 0x81, 0x06, // add qword ptr [rsi],
	}, uint32(seconds)),
		0xc3) // ret
}
