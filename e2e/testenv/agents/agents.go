// SPDX-License-Identifier: Apache-2.0

// Package agents runs the agent's init container and sidecar as local processes, with the rights of istiod's service
// account.
package agents

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/agent"
	agentcluster "github.com/istiod-agent/istiod-agent/agent/cluster"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/check"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/controlplane"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/manifest"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/process"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/serviceaccount"
	"github.com/istiod-agent/istiod-agent/internal/istio"
)

// ServiceAccount is istiod's service account in Istio's charts since 1.11.
const ServiceAccount = "istiod"

// role holds the rights that the agent uses in istiod's namespace.
const role = `
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: istiod-agent}
rules:
- apiGroups: [certificates.mesh.gloo.solo.io]
  resources: [issuedcertificates]
  verbs: [get, list, watch]
- apiGroups: [certificates.mesh.gloo.solo.io]
  resources: [issuedcertificates/status]
  verbs: [patch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [istio-ca-root-cert]
  verbs: [get]
- apiGroups: [""]
  resources: [serviceaccounts/token]
  resourceNames: [istiod]
  verbs: [create]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: istiod-agent}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: istiod-agent}
subjects:
- {kind: ServiceAccount, name: istiod, namespace: NAMESPACE}
`

// requestsRole holds the rights that cert-manager as a source needs in addition.
const requestsRole = `
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: istiod-agent-cert-manager}
rules:
- apiGroups: [cert-manager.io]
  resources: [certificaterequests]
  verbs: [create, get, list, watch, delete]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: istiod-agent-cert-manager}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: istiod-agent-cert-manager}
subjects:
- {kind: ServiceAccount, name: istiod, namespace: NAMESPACE}
`

// Pod holds what a Pod gives the agent's containers: its name, files and environment.
type Pod struct {
	Name, Namespace string
	// CACerts is the volume that istiod and the agent share.
	CACerts string
	// Kubeconfig authenticates as istiod's service account.
	Kubeconfig string
	// TokenFile holds the service account's token.
	TokenFile string
	// IstiodAddress is istiod's TLS port, MonitoringAddress its monitoring port.
	IstiodAddress, MonitoringAddress string
	// Env is added to the guide's variables.
	Env []string

	program  string
	injected []string
}

// Install applies the CRDs and returns once the API server serves them.
func Install(ctx context.Context, c *cluster.Cluster) error {
	root, err := built.Root()
	if err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(root, "config", "crd", "*_*.yaml"))
	if err != nil {
		return err
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := apply(ctx, c, string(content), ""); err != nil {
			return err
		}
	}
	for _, kind := range []schema.GroupVersionKind{
		certificatesv1.GroupVersion.WithKind(certificatesv1.Kind + "List"),
		certificatesv1.GroupVersion.WithKind(certificatesv1.PodBounceDirectiveKind + "List"),
		networkingv1.GroupVersion.WithKind(networkingv1.Kind + "List"),
	} {
		all := &unstructured.UnstructuredList{}
		all.SetGroupVersionKind(kind)
		if err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
			return c.List(ctx, all) == nil, nil
		}); err != nil {
			return fmt.Errorf("waiting until the API server serves %s: %w", kind.Kind, err)
		}
	}
	return nil
}

// Grant binds the agent's role to istiod's service account in a namespace.
func Grant(ctx context.Context, c *cluster.Cluster, namespace string) error {
	return apply(ctx, c, strings.ReplaceAll(role, "NAMESPACE", namespace), namespace)
}

// GrantRequests lets istiod's service account in a namespace request certificates of cert-manager.
func GrantRequests(ctx context.Context, c *cluster.Cluster, namespace string) error {
	return apply(ctx, c, strings.ReplaceAll(requestsRole, "NAMESPACE", namespace), namespace)
}

// NewPod creates istiod's service account with the agent's rights, writes its token and kubeconfig below dir, and creates
// the Pod object.
func NewPod(ctx context.Context, c *cluster.Cluster, namespace, name, cacerts, dir string) (*Pod, error) {
	program, err := built.Agent(ctx)
	if err != nil {
		return nil, err
	}
	clients, err := kubernetes.NewForConfig(c.Plane.Config)
	if err != nil {
		return nil, err
	}
	if err := serviceaccount.Ensure(ctx, clients, namespace, ServiceAccount); err != nil {
		return nil, err
	}
	if err := Grant(ctx, c, namespace); err != nil {
		return nil, err
	}
	p := &Pod{Name: name, Namespace: namespace, CACerts: cacerts, program: program, TokenFile: filepath.Join(dir, name+".token")}
	user, groups := controlplane.ServiceAccount(namespace, ServiceAccount)
	if p.Kubeconfig, err = c.Plane.Kubeconfig(user, groups...); err != nil {
		return nil, err
	}
	if err := p.WriteToken(ctx, c); err != nil {
		return nil, err
	}
	// No kubelet runs the Pod, but it must exist: the controller removes the status entries of missing Pods.
	object := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: namespace, Labels: map[string]string{"app": "istiod"},
			Annotations: map[string]string{"istiod-agent.io/inject": "false"}, // the guard would refuse it: it has no agent
		},
		Spec: corev1.PodSpec{ServiceAccountName: ServiceAccount, Containers: []corev1.Container{{Name: "discovery", Image: "registry.example/pilot"}}},
	}
	return p, client.IgnoreAlreadyExists(c.Create(ctx, object))
}

// WriteToken writes a new token of the service account, as the kubelet does before the old one ends. It is valid for an hour.
func (p *Pod) WriteToken(ctx context.Context, c *cluster.Cluster) error {
	clients, err := kubernetes.NewForConfig(c.Plane.Config)
	if err != nil {
		return err
	}
	token, err := serviceaccount.Token(ctx, clients, p.Namespace, ServiceAccount)
	if err != nil {
		return err
	}
	return os.WriteFile(p.TokenFile, []byte(token), 0o600)
}

func apply(ctx context.Context, c *cluster.Cluster, content, namespace string) error {
	objects, err := manifest.Parse([]byte(content))
	if err != nil {
		return err
	}
	for _, object := range objects {
		if namespace != "" {
			object.SetNamespace(namespace)
		}
		if _, err := c.ServerSideApply(ctx, object); err != nil {
			return err
		}
	}
	return nil
}

// Certificate returns an IssuedCertificate for the Pod's istiod and a Vault set up by the guide.
func (p *Pod) Certificate(vault string, change func(vault, certOptions map[string]any)) *unstructured.Unstructured {
	authority := map[string]any{
		"server": vault, "caPath": "pki/root/sign-intermediate", "csrPath": "pki_int/intermediate/generate/exported",
		"kubernetesAuth": map[string]any{"role": "gen-int-ca-istio"},
	}
	options := map[string]any{}
	if change != nil {
		change(authority, options)
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "certificates.mesh.gloo.solo.io/v1", "kind": "IssuedCertificate",
		"metadata": map[string]any{"name": "istiod-istio-system-cluster-1", "namespace": p.Namespace},
		"spec": map[string]any{
			"hosts":       []any{"spiffe://cluster.local/ns/" + p.Namespace + "/sa/" + ServiceAccount},
			"certOptions": options,
			"agentCa":     map[string]any{"vault": authority},
		},
	}}
}

// Report writes a status as the agent of a Pod in the IssuedCertificate's namespace does.
func Report(ctx context.Context, c *cluster.Cluster, certificate types.NamespacedName, pod string, status certificatesv1.IssuedCertificateStatus) error {
	api, err := agentcluster.New(c.Plane.Config, agent.Identity{Pod: pod, Namespace: certificate.Namespace})
	if err != nil {
		return err
	}
	reporter := api.Reporter(logr.Discard())
	reporter.Status(&certificatesv1.IssuedCertificate{ObjectMeta: metav1.ObjectMeta{Namespace: certificate.Namespace, Name: certificate.Name}}, status)
	ctx, end := context.WithCancel(ctx)
	end()
	reporter.Run(ctx) // it writes what remains
	return nil
}

// Renew does what `kubectl annotate issuedcertificate NAME istiod-agent.io/renew=VALUE --overwrite` does.
func Renew(ctx context.Context, c *cluster.Cluster, certificate *unstructured.Unstructured, value string) error {
	return Annotate(ctx, c, certificate, certificatesv1.RenewAnnotation, value)
}

// Annotate does what `kubectl annotate issuedcertificate NAME KEY=VALUE --overwrite` does.
func Annotate(ctx context.Context, c *cluster.Cluster, certificate *unstructured.Unstructured, key, value string) error {
	patch := client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%q}}}`, key, value))
	return c.Patch(ctx, certificate.DeepCopy(), patch)
}

// Inject replaces the guide's environment by that of an injected container, with its field references resolved.
func (p *Pod) Inject(container corev1.Container) error {
	fields := map[string]string{"metadata.name": p.Name, "metadata.namespace": p.Namespace, "spec.serviceAccountName": ServiceAccount}
	p.injected = []string{}
	for _, variable := range container.Env {
		value := variable.Value
		if from := variable.ValueFrom; from != nil {
			if from.FieldRef == nil || fields[from.FieldRef.FieldPath] == "" {
				return fmt.Errorf("environment variable %s has a source other than a field of the Pod", variable.Name)
			}
			value = fields[from.FieldRef.FieldPath]
		}
		p.injected = append(p.injected, variable.Name+"="+value)
	}
	return nil
}

// Files returns the contents of istiod's files.
func (p *Pod) Files(t *testing.T) map[string]string {
	t.Helper()
	content := map[string]string{}
	for _, name := range []string{istio.CAKeyFile, istio.CACertFile, istio.CertChainFile, istio.RootCertFile} {
		text, err := os.ReadFile(filepath.Join(p.CACerts, name))
		check.Must(t, err)
		content[name] = string(text)
	}
	return content
}

// Empty empties istiod's volume, as for a new Pod.
func (p *Pod) Empty() error {
	entries, err := os.ReadDir(p.CACerts)
	for _, entry := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(p.CACerts, entry.Name())))
	}
	return err
}

// Command returns a command of the agent with its container's environment.
func (p *Pod) Command(ctx context.Context, arguments ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, p.program, arguments...)
	command.Env = p.injected
	if command.Env == nil {
		command.Env = []string{"PILOT_CERT_PROVIDER=istiod", "POD_NAME=" + p.Name, "POD_NAMESPACE=" + p.Namespace, "SERVICE_ACCOUNT=" + ServiceAccount}
	}
	command.Env = append(append(command.Env,
		// These files have fixed paths in a Pod.
		"KUBECONFIG="+p.Kubeconfig, "ISTIOD_AGENT_CACERTS_DIR="+p.CACerts, "ISTIOD_AGENT_TOKEN_FILE="+p.TokenFile,
		"ISTIOD_AGENT_TOKEN_FILE_ANYWHERE=true",
		"ISTIOD_AGENT_LOG_FORMAT=text",
	), p.Env...)
	return command
}

// Init runs the init container and returns its output.
func (p *Pod) Init(ctx context.Context, arguments ...string) (string, error) {
	output, err := p.Command(ctx, append([]string{"init-container"}, arguments...)...).CombinedOutput()
	if err != nil {
		return string(output), fmt.Errorf("init-container: %w:\n%s", err, output)
	}
	return string(output), nil
}

// Sidecar is a running sidecar.
type Sidecar struct {
	*process.Process
	address string
}

// Sidecar starts the sidecar and returns once its health port answers.
func (p *Pod) Sidecar(ctx context.Context, arguments ...string) (*Sidecar, error) {
	ports, err := process.FreePorts(1)
	if err != nil {
		return nil, err
	}
	port := strconv.Itoa(ports[0])
	arguments = append([]string{"sidecar", "--port", port}, arguments...)
	if p.IstiodAddress != "" {
		arguments = append(arguments, "--istiod-address", p.IstiodAddress)
	}
	if p.MonitoringAddress != "" {
		arguments = append(arguments, "--istiod-monitoring", p.MonitoringAddress)
	}
	started, err := process.Start("istiod-agent", p.Command(context.WithoutCancel(ctx), arguments...))
	if err != nil {
		return nil, err
	}
	s := &Sidecar{Process: started, address: "127.0.0.1:" + port}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := started.WaitUntil(ctx, "/healthz answers", func(ctx context.Context) error { _, err := s.Get(ctx, "/healthz"); return err }); err != nil {
		return nil, errors.Join(err, started.Kill())
	}
	return s, nil
}

// Address returns HOST:PORT of the health port.
func (s *Sidecar) Address() string { return s.address }

// Get returns the body of a path of the health port. A status other than 200 is an error.
func (s *Sidecar) Get(ctx context.Context, path string) (string, error) {
	return process.Get(ctx, "http://"+s.address+path)
}

// Metric returns the value of a series, written with all its labels as in the exposition format, or 0 when it is missing.
func (s *Sidecar) Metric(ctx context.Context, name string) (float64, error) {
	text, err := s.Get(ctx, "/metrics")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, nil
}
