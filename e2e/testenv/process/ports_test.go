// SPDX-License-Identifier: Apache-2.0

package process

import (
	"net"
	"strconv"
	"testing"
)

func TestFreePortsStayReserved(t *testing.T) {
	ports, err := FreePorts(3)
	if err != nil {
		t.Fatal(err)
	}
	for _, port := range ports {
		if port < firstPort || port > lastPort {
			t.Errorf("port %d is not between %d and %d", port, firstPort, lastPort)
		}
		if reserve(port) == nil {
			t.Errorf("port %d was given twice", port)
		}
		listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			t.Errorf("a program cannot listen on its port: %v", err)
			continue
		}
		if err := listener.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestAPortInUseIsNotFree(t *testing.T) {
	ports, err := FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[0])))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	// Without its reservation, the port is in use all the same.
	reservations.Lock()
	last := len(reservations.held) - 1
	err = reservations.held[last].Close()
	reservations.held = reservations.held[:last]
	reservations.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	if reserve(ports[0]) == nil {
		t.Errorf("port %d, on which a program listens, was called free", ports[0])
	}
}
