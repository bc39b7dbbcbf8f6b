// SPDX-License-Identifier: Apache-2.0

// Package istiodserver runs a real istiod as a process on loopback, against a
// real API server, with the environment that Istio's chart gives its Pod.
package istiodserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/controlplane"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istio"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/process"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/serviceaccount"
)

// Options say how istiod runs.
type Options struct {
	// Plane is the API server.
	Plane *controlplane.ControlPlane
	// CACerts is the folder with the CA, /etc/cacerts in a Pod. Without one istiod
	// makes itself a root.
	CACerts string
	// Kubeconfig is a file; an administrator's by default.
	Kubeconfig string
	// Namespace is made when it is missing; istio-system by default.
	Namespace string
	// Pod is the name of the Pod that istiod takes itself for, the same after a
	// restart; istiod-0 by default. Replicas need different ones.
	Pod string
	// MeshConfig is a YAML document; Istio's defaults when empty.
	MeshConfig string
	// Env is set besides, or instead of, what the chart sets.
	Env map[string]string
	// Arguments of `pilot-discovery discovery` besides its addresses.
	Arguments []string
}

// Server is an istiod, running unless it was stopped or killed.
type Server struct {
	// SecureAddress is host and port of what is port 15012 in a Pod: xDS and the
	// CSR API over TLS.
	SecureAddress string
	// MonitoringAddress is host and port of what is port 15014: /metrics.
	MonitoringAddress string

	options    Options
	namespace  string
	client     kubernetes.Interface
	program    string
	arguments  []string
	readiness  string
	dir        string
	process    *process.Process
	kubeconfig string
}

// timeout is how long each start may take.
const timeout = time.Minute

// Start installs chart istio/base unless Istio's CRDs are there, and returns
// once istiod is ready. Stop must be called, also after a failed test.
func Start(ctx context.Context, options Options) (*Server, error) {
	s, err := New(ctx, options)
	if err != nil {
		return nil, err
	}
	if err := s.Run(ctx); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// New is Start without the process, for a test of an istiod that does not get
// ready: see Run and Launch.
func New(ctx context.Context, options Options) (*Server, error) {
	program, err := built.Istiod()
	if err != nil {
		return nil, err
	}
	s := &Server{
		options: options, program: program, kubeconfig: options.Kubeconfig,
		namespace: cmp.Or(options.Namespace, "istio-system"),
	}
	if s.client, err = kubernetes.NewForConfig(options.Plane.Config); err != nil {
		return nil, err
	}
	if s.kubeconfig == "" {
		if s.kubeconfig, err = options.Plane.Kubeconfig("istiod", "system:masters"); err != nil {
			return nil, err
		}
	}
	if err := serviceaccount.EnsureNamespace(ctx, s.client, s.namespace); err != nil {
		return nil, err
	}
	if err := s.installBase(ctx); err != nil {
		return nil, fmt.Errorf("installing chart istio/base: %w", err)
	}
	// istiod looks for files of its image relative to its working directory: here there are none.
	if s.dir, err = os.MkdirTemp("", "istiod-agent-istiod-"); err != nil {
		return nil, err
	}
	if err := s.configure(); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

func (s *Server) installBase(ctx context.Context) error {
	_, err := s.client.Discovery().ServerResourcesForGroupVersion("networking.istio.io/v1")
	if !apierrors.IsNotFound(err) {
		return err
	}
	chart, err := istio.Base()
	if err != nil {
		return err
	}
	client, err := helm.NewClient(s.options.Plane.Config)
	if err != nil {
		return err
	}
	// The chart puts a service account into istio-system, wherever istiod itself is.
	if err := serviceaccount.EnsureNamespace(ctx, s.client, "istio-system"); err != nil {
		return err
	}
	return client.Install(ctx, helm.Release{Name: "istio-base", Namespace: "istio-system"}, chart, nil)
}

// configure chooses the ports, all on loopback.
func (s *Server) configure() error {
	flags := []string{"--secureGRPCAddr", "--monitoringAddr", "--httpAddr", "--grpcAddr", "--httpsAddr"}
	ports, err := process.FreePorts(len(flags) + 1)
	if err != nil {
		return err
	}
	mesh := filepath.Join(s.dir, "mesh.yaml")
	if err := os.WriteFile(mesh, []byte(s.options.MeshConfig+"\n"), 0o600); err != nil {
		return err
	}
	s.arguments = []string{
		"discovery", "--kubeconfig", s.kubeconfig, "--meshConfig", mesh, "--log_output_level", "default:info",
		"--ctrlz_port", strconv.Itoa(ports[len(flags)]),
	}
	for i, flag := range flags {
		s.arguments = append(s.arguments, flag, address(ports[i]))
	}
	s.arguments = append(s.arguments, s.options.Arguments...)
	s.SecureAddress, s.MonitoringAddress, s.readiness = address(ports[0]), address(ports[1]), address(ports[2])
	return nil
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// environment is what the chart sets, and nothing of this process's.
func (s *Server) environment() []string {
	all := map[string]string{
		"HOME":                s.dir,
		"REVISION":            "default",
		"PILOT_CERT_PROVIDER": "istiod",
		"POD_NAME":            cmp.Or(s.options.Pod, "istiod-0"),
		"POD_NAMESPACE":       s.namespace,
		"SERVICE_ACCOUNT":     "istiod",
		"CLUSTER_ID":          clusterID,
	}
	if s.options.CACerts != "" {
		all["ROOT_CA_DIR"] = s.options.CACerts
	}
	maps.Copy(all, s.options.Env)
	environment := make([]string, 0, len(all))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		environment = append(environment, name+"="+all[name])
	}
	return environment
}

const clusterID = "Kubernetes"

// Run starts istiod and waits until it is ready. An istiod that ends instead,
// as one with a part of the CA's files does, is an error.
func (s *Server) Run(ctx context.Context) error {
	if err := s.Launch(); err != nil {
		return err
	}
	return s.WaitReady(ctx)
}

// Launch starts istiod and does not wait.
func (s *Server) Launch() (err error) {
	command := exec.Command(s.program, s.arguments...)
	command.Dir, command.Env = s.dir, s.environment()
	s.process, err = process.Start("istiod", command)
	return err
}

// WaitReady returns once /ready answers 200.
func (s *Server) WaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return s.process.WaitUntil(ctx, "it is ready", func(ctx context.Context) error {
		_, err := process.Get(ctx, "http://"+s.readiness+"/ready")
		return err
	})
}

// Process is the one that runs, or ran last; its Output is istiod's log.
func (s *Server) Process() *process.Process { return s.process }

// Metrics is what /metrics answers.
func (s *Server) Metrics(ctx context.Context) (string, error) {
	return process.Get(ctx, "http://"+s.MonitoringAddress+"/metrics")
}

// PublishedRoot is the trust bundle that istiod has put into a namespace, in
// PEM. The error is NotFound as long as there is none.
func (s *Server) PublishedRoot(ctx context.Context, namespace string) ([]byte, error) {
	bundle, err := s.client.CoreV1().ConfigMaps(namespace).Get(ctx, "istio-ca-root-cert", metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return []byte(bundle.Data["root-cert.pem"]), nil
}

// Kill crashes istiod; Restart brings it back.
func (s *Server) Kill() error { return s.process.Kill() }

// Restart starts istiod again at the same addresses, ending it first when it
// runs, and returns once it is ready.
func (s *Server) Restart(ctx context.Context) error {
	if err := s.process.StopIfRunning(30 * time.Second); err != nil {
		return err
	}
	return s.Run(ctx)
}

// Stop ends istiod and removes its files. What it has put into the cluster stays.
func (s *Server) Stop() error {
	return errors.Join(s.process.StopIfRunning(30*time.Second), os.RemoveAll(s.dir))
}
