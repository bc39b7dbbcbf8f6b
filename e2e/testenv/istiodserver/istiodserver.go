// SPDX-License-Identifier: Apache-2.0

// Package istiodserver runs a real istiod on loopback with the environment that Istio's chart gives its Pod.
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

// Options configure istiod.
type Options struct {
	// Plane is the control plane with istiod's API server.
	Plane *controlplane.ControlPlane
	// CACerts is the folder of the CA, /etc/cacerts in a Pod. Without it istiod makes a root itself.
	CACerts string
	// Kubeconfig is the path of istiod's kubeconfig; an administrator's by default.
	Kubeconfig string
	// Namespace is created if it does not exist; istio-system by default.
	Namespace string
	// Pod is POD_NAME, which must differ between replicas; istiod-0 by default.
	Pod string
	// MeshConfig is a YAML document; Istio's defaults if empty.
	MeshConfig string
	// Env adds to the chart's variables or replaces them.
	Env map[string]string
	// Arguments are added to `pilot-discovery discovery`.
	Arguments []string
}

// Server is an istiod.
type Server struct {
	// SecureAddress is HOST:PORT of xDS and the CSR API over TLS, port 15012 in a Pod.
	SecureAddress string
	// MonitoringAddress is HOST:PORT of /metrics, port 15014 in a Pod.
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

// timeout of each start.
const timeout = time.Minute

// Start installs chart istio/base unless Istio's CRDs exist, starts istiod, and returns once it is ready. The caller must
// call Stop.
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

// New is Start without the process: for a test that calls Run or Launch itself.
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
	// istiod reads files of its image relative to its working directory, which must be empty.
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
	// The chart creates a service account in istio-system, wherever istiod itself is.
	if err := serviceaccount.EnsureNamespace(ctx, s.client, "istio-system"); err != nil {
		return err
	}
	// Without Istio's ValidatingWebhookConfiguration, which istiods with different roots would overwrite as fast as they can.
	return client.Install(ctx, helm.Release{Name: "istio-base", Namespace: "istio-system"}, chart, helm.Values{"defaultRevision": ""})
}

// configure sets the arguments, with free loopback ports.
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

// environment returns the variables that the chart sets. istiod inherits none of this process.
func (s *Server) environment() []string {
	all := map[string]string{
		"HOME":                s.dir,
		"REVISION":            "default",
		"PILOT_CERT_PROVIDER": "istiod",
		"POD_NAME":            cmp.Or(s.options.Pod, "istiod-0"),
		"POD_NAMESPACE":       s.namespace,
		"SERVICE_ACCOUNT":     "istiod",
		"CLUSTER_ID":          s.options.clusterID(),
		"GOGC":                "400", // as kube-apiserver.sh has it
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

// clusterID returns the name of istiod's cluster, by default the chart's.
func (o *Options) clusterID() string { return cmp.Or(o.Env["CLUSTER_ID"], "Kubernetes") }

// Run starts istiod and waits until it is ready. It returns an error if istiod ends instead.
func (s *Server) Run(ctx context.Context) error {
	if err := s.Launch(); err != nil {
		return err
	}
	return s.WaitReady(ctx)
}

// Launch starts istiod without waiting.
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

// Process returns istiod's current or last process. Its Output is istiod's log.
func (s *Server) Process() *process.Process { return s.process }

// Metrics returns the text of /metrics.
func (s *Server) Metrics(ctx context.Context) (string, error) {
	return process.Get(ctx, "http://"+s.MonitoringAddress+"/metrics")
}

// PublishedRoot returns the trust bundle, in PEM, that istiod has published in a namespace. Without one the error is
// NotFound.
func (s *Server) PublishedRoot(ctx context.Context, namespace string) ([]byte, error) {
	bundle, err := s.client.CoreV1().ConfigMaps(namespace).Get(ctx, "istio-ca-root-cert", metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return []byte(bundle.Data["root-cert.pem"]), nil
}

// Kill kills istiod. Restart starts it again.
func (s *Server) Kill() error { return s.process.Kill() }

// Restart stops istiod if it runs, starts it at the same addresses, and returns once it is ready.
func (s *Server) Restart(ctx context.Context) error {
	if err := s.process.StopIfRunning(30 * time.Second); err != nil {
		return err
	}
	return s.Run(ctx)
}

// Stop stops istiod and removes its files. Its objects in the cluster stay.
func (s *Server) Stop() error {
	return errors.Join(s.process.StopIfRunning(30*time.Second), os.RemoveAll(s.dir))
}
