// SPDX-License-Identifier: Apache-2.0

package webhookserver

import (
	"io"
	"net"
	"slices"
	"sync"
)

// Service does the work of the Kubernetes Service: it forwards each new TCP connection to the next of its endpoints. Open
// connections stay when an endpoint is removed.
type Service struct {
	listener net.Listener

	mu          sync.Mutex
	endpoints   []string
	next        int
	connections map[net.Conn]struct{} // nil once closed
	done        sync.WaitGroup
}

// newService listens on a free loopback port.
func newService() (*Service, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Service{listener: listener, connections: map[net.Conn]struct{}{}}
	s.done.Go(s.accept)
	return s, nil
}

// Port returns the Service's port.
func (s *Service) Port() int { return s.listener.Addr().(*net.TCPAddr).Port }

// Add adds an endpoint.
func (s *Service) Add(address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endpoints = append(s.endpoints, address)
}

// Remove removes an endpoint: it gets no new connections.
func (s *Service) Remove(address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endpoints = slices.DeleteFunc(s.endpoints, func(e string) bool { return e == address })
}

func (s *Service) close() {
	s.listener.Close()
	s.mu.Lock()
	for connection := range s.connections {
		connection.Close()
	}
	s.connections = nil
	s.mu.Unlock()
	s.done.Wait()
}

func (s *Service) accept() {
	for {
		connection, err := s.listener.Accept()
		if err != nil {
			return // closed
		}
		s.done.Go(func() { s.forward(connection) })
	}
}

// forward copies both ways until either side closes.
func (s *Service) forward(client net.Conn) {
	defer client.Close()
	address, ok := s.endpoint()
	if !ok {
		return
	}
	replica, err := net.Dial("tcp", address)
	if err != nil {
		return // the connection breaks, as with a Pod that is gone
	}
	defer replica.Close()
	if !s.keep(client, replica) {
		return
	}
	defer s.forget(client, replica)

	var copies sync.WaitGroup
	copies.Go(func() { copyHalf(replica, client) })
	copies.Go(func() { copyHalf(client, replica) })
	copies.Wait()
}

// copyHalf copies one direction and closes it at its end.
func copyHalf(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	_ = to.(*net.TCPConn).CloseWrite()
}

func (s *Service) endpoint() (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.endpoints) == 0 {
		return "", false
	}
	s.next++
	return s.endpoints[s.next%len(s.endpoints)], true
}

// keep records open connections, unless the Service is closed.
func (s *Service) keep(connections ...net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.connections == nil {
		return false
	}
	for _, connection := range connections {
		s.connections[connection] = struct{}{}
	}
	return true
}

func (s *Service) forget(connections ...net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, connection := range connections {
		delete(s.connections, connection)
	}
}
