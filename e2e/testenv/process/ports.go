// SPDX-License-Identifier: Apache-2.0

package process

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// The ports for programs under test: below those that a kernel gives to clients and to listeners on port 0 (32768 and up on
// Linux, ip_local_port_range in ip-sysctl.rst) and below Kubernetes' node ports. A program may listen seconds after its port
// was chosen, or again after a restart; till then no client's connection may take the port.
const firstPort, lastPort = 20000, 29999

// reservations holds what reserves the ports, for as long as this process lives.
var reservations struct {
	sync.Mutex
	held []io.Closer
}

// FreePorts returns distinct loopback ports that no program listens on. No other call returns them while this process lives,
// in other processes either.
func FreePorts(n int) ([]int, error) {
	ports := make([]int, 0, n)
	const all = lastPort - firstPort + 1
	start := rand.IntN(all)
	for i := 0; len(ports) < n; i++ {
		if i == all {
			return nil, fmt.Errorf("no %d free ports between %d and %d", n, firstPort, lastPort)
		}
		port := firstPort + (start+i)%all
		if reserve(port) == nil {
			ports = append(ports, port)
		}
	}
	return ports, nil
}

// reserve takes a TCP port that is free by listening on the UDP port of that number, which no program under test uses.
func reserve(port int) error {
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	reservation, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return errors.Join(err, reservation.Close())
	}
	if err := listener.Close(); err != nil {
		return errors.Join(err, reservation.Close())
	}
	reservations.Lock()
	defer reservations.Unlock()
	reservations.held = append(reservations.held, reservation)
	return nil
}
