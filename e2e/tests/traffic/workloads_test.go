// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/manifest"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/meshcluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/process"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/serviceaccount"
	contract "github.com/istiod-agent/istiod-agent/internal/traffic"
	"github.com/istiod-agent/istiod-agent/traffic/proxyless"
)

const (
	namespace = "shop"
	account   = "echo"
	port      = 7070
	// lifetime of the workloads' certificates, which are renewed after half of it.
	lifetime = 12 * time.Second
)

// services are the names of the Services, all of the same Pods: of nearest, a client calls the endpoints of its own region
// while there are any.
var services = []string{"anywhere", "nearest"}

func host(service string) string { return service + "." + namespace + ".svc.cluster.local" }

func target(service string) string { return net.JoinHostPort(host(service), strconv.Itoa(port)) }

// policies are what Istio's guide to proxyless gRPC requires for mutual TLS, in each cluster.
const policies = `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: shop}
spec: {mtls: {mode: STRICT}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: anywhere, namespace: shop}
spec:
  host: anywhere.shop.svc.cluster.local
  trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: nearest, namespace: shop}
spec:
  host: nearest.shop.svc.cluster.local
  trafficPolicy:
    tls: {mode: ISTIO_MUTUAL}
    outlierDetection: {consecutive5xxErrors: 5}
    loadBalancer: {localityLbSetting: {enabled: true}}
`

// prepare creates the namespace with its Services and policies.
func (s *side) prepare(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	must(t, serviceaccount.Ensure(ctx, s.Clients, namespace, account))
	for _, name := range services {
		must(t, s.Create(ctx, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace},
			Spec: corev1.ServiceSpec{
				Selector: map[string]string{"app": account},
				Ports:    []corev1.ServicePort{{Name: "grpc", Port: port, TargetPort: intstr.FromString("grpc")}},
			},
		}))
	}
	objects, err := manifest.Parse([]byte(policies))
	must(t, err)
	for _, object := range objects {
		_, err := s.ServerSideApply(ctx, object)
		must(t, err)
	}
}

// workload is a Pod of the mesh: its object, and a process in place of its container.
type workload struct {
	side    *side
	name    string
	address string // of a server
	process *process.Process
}

// pod creates the Pod object that istiod knows the process by.
func (s *side) pod(t *testing.T, name, ip, app string, ports ...corev1.ContainerPort) {
	t.Helper()
	object := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: podLabels(s, app)},
		Spec:       corev1.PodSpec{ServiceAccountName: account, Containers: []corev1.Container{{Name: "main", Image: "registry.example/traffic", Ports: ports}}},
	}
	must(t, s.Create(t.Context(), object))
	object.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}},
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
	}
	must(t, s.Status().Update(t.Context(), object))
}

// podLabels are those of Istio's template grpc-agent, and tlsMode, which a person sets. Pods without a Node have their region by
// a label.
func podLabels(s *side, app string) map[string]string {
	return map[string]string{
		"app": app, "security.istio.io/tlsMode": "istio", "istio-locality": s.region,
		"service.istio.io/canonical-name": app, "service.istio.io/canonical-revision": "latest",
	}
}

// mounted writes what the kubelet mounts into a Pod: the token, and the roots that istiod has published, kept up to date.
func (s *side) mounted(t *testing.T) proxyless.Options {
	t.Helper()
	dir := t.TempDir()
	options := proxyless.Options{
		Istiod: s.Istiod.SecureAddress, ServerName: "istiod." + meshcluster.Namespace + ".svc", Lifetime: lifetime,
		TokenFile: filepath.Join(dir, "istio-token"), RootFile: filepath.Join(dir, "root-cert.pem"),
	}
	token, err := serviceaccount.Token(t.Context(), s.Clients, namespace, account, "istio-ca")
	must(t, err)
	must(t, os.WriteFile(options.TokenFile, []byte(token), 0o600))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		var last []byte
		for t.Context().Err() == nil {
			if root, err := s.Istiod.PublishedRoot(t.Context(), namespace); err == nil && !bytes.Equal(root, last) {
				next := options.RootFile + ".next"
				if os.WriteFile(next, root, 0o600) == nil && os.Rename(next, options.RootFile) == nil {
					last = root
				}
			}
			<-tick.C
		}
	}()
	t.Cleanup(func() { <-ended }) // before the folder is removed
	return options
}

func (s *side) bootstrap(name, ip, app string) string {
	return contract.BootstrapVariable + "=" + contract.Bootstrap(s.Istiod.SecureAddress, contract.Node{
		Name: name, Namespace: namespace, IP: ip, ServiceAccount: account, Cluster: s.Name, Domain: "cluster.local", Labels: podLabels(s, app),
	})
}

// start starts a Pod's process.
func (w *workload) start(t *testing.T, command *exec.Cmd) {
	t.Helper()
	var err error
	w.process, err = process.Start(w.side.Name+" "+w.name, command)
	must(t, err)
	t.Cleanup(func() {
		must(t, w.process.StopIfRunning(20*time.Second))
		if t.Failed() {
			t.Log(w.side.Name, w.name, lastLines(w.process.Output(), 20))
		}
	})
}

// server starts a server and returns once istiod has configured it. Nobody knows it before publish.
func (s *side) server(t *testing.T, name, ip string) *workload {
	t.Helper()
	program, err := built.Traffic(t.Context())
	must(t, err)
	ports, err := process.FreePorts(2)
	must(t, err)
	w := &workload{side: s, name: name, address: net.JoinHostPort(ip, strconv.Itoa(ports[0]))}
	s.pod(t, name, ip, account, corev1.ContainerPort{Name: "grpc", ContainerPort: int32(ports[0])})
	options, ready := s.mounted(t), net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[1]))
	command := exec.Command(program, append([]string{"server", "--address", w.address, "--ready-address", ready, "--name", s.Name}, identityFlags(options)...)...)
	command.Env = []string{s.bootstrap(name, ip, account)}
	w.start(t, command)
	limited, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	must(t, w.process.WaitUntil(limited, "istiod has configured it", func(ctx context.Context) error {
		_, err := process.Get(ctx, "http://"+ready)
		return err
	}))
	return w
}

func identityFlags(options proxyless.Options) []string {
	return []string{
		"--istiod", options.Istiod, "--istiod-name", options.ServerName, "--token-file", options.TokenFile, "--root-file", options.RootFile,
		"--certificate-lifetime", options.Lifetime.String(),
	}
}

// publish adds the server to the Services, as the EndpointSlice controller does with a ready Pod.
func (w *workload) publish(t *testing.T) {
	t.Helper()
	ip, port, err := net.SplitHostPort(w.address)
	must(t, err)
	number, err := strconv.Atoi(port)
	must(t, err)
	for _, service := range services {
		must(t, w.side.Create(t.Context(), &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Name: service + "-" + w.name, Namespace: namespace, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
			AddressType: discoveryv1.AddressTypeIPv4,
			Endpoints: []discoveryv1.Endpoint{{
				Addresses: []string{ip}, Conditions: discoveryv1.EndpointConditions{Ready: new(true), Serving: new(true)},
				TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: namespace, Name: w.name},
			}},
			Ports: []discoveryv1.EndpointPort{{Name: new("grpc"), Port: new(int32(number)), Protocol: new(corev1.ProtocolTCP)}},
		}))
	}
}

// withdraw removes the server from the Services.
func (w *workload) withdraw(t *testing.T) {
	t.Helper()
	for _, service := range services {
		must(t, w.side.Delete(t.Context(), &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: service + "-" + w.name, Namespace: namespace}}))
	}
}

// stop ends the Pod, which lets running calls finish.
func (w *workload) stop(t *testing.T) {
	t.Helper()
	must(t, w.process.StopIfRunning(20*time.Second))
	must(t, w.side.Delete(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: w.name, Namespace: namespace}}, client.GracePeriodSeconds(0)))
}

// reach runs the shipped client once in a Pod of the cluster and returns the outcome of a service, which the server of a side must
// answer.
func (s *side) reach(t *testing.T, ip string, limit time.Duration, service string, server *side) contract.Result {
	t.Helper()
	program, err := built.Traffic(t.Context())
	must(t, err)
	name := fmt.Sprintf("client-%d", time.Now().UnixNano())
	s.pod(t, name, ip, "client")
	report := filepath.Join(t.TempDir(), "report")
	arguments := []string{"client", "--report", report, "--limit", limit.String(), "--target", server.Name + "=" + target(service)}
	command := exec.CommandContext(t.Context(), program, append(arguments, identityFlags(s.mounted(t))...)...)
	command.Env = []string{s.bootstrap(name, ip, "client")}
	if output, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", s.Name, err, output)
	}
	text, err := os.ReadFile(report)
	must(t, err)
	results, err := contract.Decode(string(text), []string{server.Name})
	must(t, err)
	return results[0]
}

// load starts a client that calls a service without pause.
func (s *side) load(t *testing.T, ip, service string) *workload {
	t.Helper()
	name := "load-" + service
	s.pod(t, name, ip, "client")
	options, err := json.Marshal(loadOptions{Identity: s.mounted(t), Service: target(service), Interval: 8 * time.Millisecond, PerConnection: 25})
	must(t, err)
	program, err := os.Executable()
	must(t, err)
	w := &workload{side: s, name: name}
	command := exec.Command(program)
	command.Env = []string{s.bootstrap(name, ip, "client"), loadVariable + "=" + string(options)}
	w.start(t, command)
	return w
}

// report returns the load's newest report.
func (w *workload) report() (report loadReport, err error) {
	last := ""
	for line := range strings.Lines(w.process.Output()) {
		if strings.HasPrefix(line, "{") && strings.HasSuffix(line, "\n") {
			last = line
		}
	}
	if last == "" {
		return report, errors.New("no report yet")
	}
	return report, json.Unmarshal([]byte(last), &report)
}

// renewals counts how often the process has renewed its certificate.
func (w *workload) renewals() int {
	return strings.Count(w.process.Output(), "The certificate is renewed")
}

// renewed waits until each workload has begun and finished a renewal.
func renewed(t *testing.T, workloads ...*workload) {
	t.Helper()
	before := make([]int, len(workloads))
	for i, w := range workloads {
		before[i] = w.renewals()
	}
	for i, w := range workloads {
		cluster.Within(t, 10*lifetime, w.side.Name+" "+w.name+" has renewed its certificate", func() error {
			if now := w.renewals(); now < before[i]+2 {
				return fmt.Errorf("%d of 2 times", now-before[i])
			}
			return nil
		})
	}
}

// onlyBy waits until a load is answered by these servers and no other.
func (w *workload) onlyBy(t *testing.T, servers ...string) {
	t.Helper()
	const enough = 50
	last, err := w.report()
	must(t, err)
	cluster.Within(t, time.Minute, fmt.Sprintf("%s %s is answered by %v alone", w.side.Name, w.name, servers), func() error {
		now, err := w.report()
		if err != nil {
			return err
		}
		since := map[string]int{}
		for server, count := range now.By {
			if count > last.By[server] {
				since[server] = count - last.By[server]
			}
		}
		if now.calls()-last.calls() < enough {
			return fmt.Errorf("%d of %d calls", now.calls()-last.calls(), enough)
		}
		last = now
		if len(since) != len(servers) {
			return fmt.Errorf("answers: %v", since)
		}
		for _, server := range servers {
			if since[server] == 0 {
				return fmt.Errorf("answers: %v", since)
			}
		}
		return nil
	})
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
