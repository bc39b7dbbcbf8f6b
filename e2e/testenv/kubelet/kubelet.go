// SPDX-License-Identifier: Apache-2.0

// Package kubelet serves the part of a kubelet that `kubectl port-forward` needs, with the kubelet's own code. The Pods are
// processes on loopback.
package kubelet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Kubelet is the kubelet of a node.
type Kubelet struct {
	// Node is the node's name, for a Pod's spec.nodeName.
	Node string

	server *httptest.Server
	mu     sync.Mutex
	ports  map[string]string // addresses by NAMESPACE/NAME:PORT
}

// Start creates a Node and serves the ports of its Pods. The caller must call Stop.
func Start(ctx context.Context, c client.Client, node string) (*Kubelet, error) {
	k := &Kubelet{Node: node, ports: map[string]string{}}
	mux := http.NewServeMux()
	mux.HandleFunc("/portForward/{namespace}/{pod}", k.serve)
	k.server = httptest.NewTLSServer(mux)
	host, port, err := net.SplitHostPort(k.server.Listener.Addr().String())
	if err != nil {
		return nil, errors.Join(err, k.Stop())
	}
	number, err := strconv.ParseInt(port, 10, 32)
	if err != nil {
		return nil, errors.Join(err, k.Stop())
	}
	object := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}
	if err := c.Create(ctx, object); err != nil {
		return nil, errors.Join(err, k.Stop())
	}
	object.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: host}}
	object.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(number)
	return k, c.Status().Update(ctx, object)
}

// Forward maps a port of a Pod to an address.
func (k *Kubelet) Forward(namespace, pod string, port int32, address string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ports[key(namespace, pod, port)] = address
}

// Stop ends the server.
func (k *Kubelet) Stop() error {
	k.server.CloseClientConnections() // else forwarded ports stay open until the client closes them
	k.server.Close()
	return nil
}

func key(namespace, pod string, port int32) string {
	return fmt.Sprintf("%s/%s:%d", namespace, pod, port)
}

func (k *Kubelet) serve(w http.ResponseWriter, request *http.Request) {
	const idle, create = time.Minute, 10 * time.Second
	forwarder := forwarder{k, request.PathValue("namespace")}
	options, err := portforward.NewV4Options(request)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	portforward.ServePortForward(w, request, forwarder, request.PathValue("pod"), "", options, idle, create, portforward.SupportedProtocols)
}

type forwarder struct {
	kubelet   *Kubelet
	namespace string
}

// PortForward implements portforward.PortForwarder.
func (f forwarder) PortForward(ctx context.Context, pod, _ string, port int32, stream io.ReadWriteCloser) error {
	f.kubelet.mu.Lock()
	address := f.kubelet.ports[key(f.namespace, pod, port)]
	f.kubelet.mu.Unlock()
	if address == "" {
		return fmt.Errorf("nothing listens on port %d of Pod %s/%s", port, f.namespace, pod)
	}
	connection, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer connection.Close()
	done := make(chan struct{})
	go func() { defer close(done); _, _ = io.Copy(stream, connection); _ = stream.Close() }()
	_, _ = io.Copy(connection, stream)
	_ = connection.Close()
	<-done
	return nil
}
